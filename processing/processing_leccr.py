"""LeccrProcessor: pictures or videos, captions and descriptions in, the batch keys of the model out."""

import os
import re
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, TextKwargs, Unpack

from .video_frames_leccr import FrameSampling, sample_frames, sample_positions
from .visual_inputs_leccr import frame_features, pad_frames, plain_video, rgb_image

MIN_VOCABULARY = 10  # beside the special tokens; the letters of any script are more
DEFAULT_MAX_LENGTH = 200  # tokens; the cut of the released evaluation code

_PUNCTUATION = re.compile(r"[,.'!?\"()*#:;~/-]")
_REPEATED_SPACE = re.compile(r"\s{2,}")


def clean_caption(text: str, max_words: int | None = 30) -> str:
    """Lower-case a caption, take out its punctuation and keep the first words, as the released code does.

    Words are what spaces separate. Chinese and Japanese captions have none, so there the limit cuts nothing and
    full-width punctuation stays; leave the cleaning off for them.

    Official: pre_caption.

    Args:
        text: the caption.
        max_words: how many words to keep; None keeps them all.

    Raises:
        ValueError: nothing is left of the caption.
    """
    cleaned = _PUNCTUATION.sub(" ", text.lower()).replace("<person>", "person")
    cleaned = _REPEATED_SPACE.sub(" ", cleaned).rstrip("\n").strip(" ")
    cleaned = " ".join(cleaned.split(" ")[:max_words])
    if not cleaned:
        raise ValueError(f"a caption must hold more than punctuation and spaces, got {text!r}; remove it.")
    return cleaned


class LeccrTextKwargs(TextKwargs, total=False):
    """Those of the tokenizer, and one for tools that know images and texts but no descriptions.

    Attributes:
        describes_images: read `text` as the descriptions of `images` (or videos, or features), where both are given.
    """

    describes_images: bool


class LeccrProcessorKwargs(ProcessingKwargs, total=False):
    """Keyword arguments of a call: those of the tokenizer and of the image processor."""

    text_kwargs: LeccrTextKwargs  # type: ignore[misc]  # the way of transformers to add an argument


class LeccrProcessor(ProcessorMixin):
    """Turns pictures or videos, captions and descriptions into the tensors that the model takes.

    The settings and both parts are saved together, so that a reloaded processor gives the same tensors; also where
    another back end for images (torchvision or PIL, which resize differently) is installed.

    Args:
        image_processor: a transformers image processor.
        tokenizer: a transformers tokenizer with a padding token.
        max_length: captions and descriptions are cut to this many tokens, the end token kept. None takes the
            smaller of 200 and the limit of the tokenizer.
        clean_captions: pass captions (not descriptions) through `clean_caption`. Off by default: wrong for
            languages without spaces, and pretrained text towers know punctuation.
        max_words: the word limit of `clean_caption`, without effect unless `clean_captions`; None is no limit.
        padding: "longest" (of the batch) or "max_length" (one fixed shape of texts, for export and compilation).
        num_frames: frames that are sampled of a video at most, and features of frames that are kept at most. None
            takes what `FrameSampling` takes of a video, and all features.
        frame_rate: frames that are sampled of a second of a video, `num_frames` being the most; None: no limit.

    Attributes:
        num_texts: captions and descriptions tokenized so far, in this process (a data loader's workers count
            on their own).
        num_truncated: how many of them were cut.

    Raises:
        ValueError: a setting is out of its range, or the tokenizer has no padding token or no vocabulary.
    """

    valid_processor_kwargs = LeccrProcessorKwargs  # type: ignore[assignment]

    # No keyword-only arguments: the loading code of transformers does not see them and would drop these settings.
    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        max_length: int | None = None,
        clean_captions: bool = False,
        max_words: int | None = 30,
        padding: str = "longest",
        num_frames: int | None = None,
        frame_rate: float | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer)
        longest = int(tokenizer.model_max_length)
        shortest = tokenizer.num_special_tokens_to_add() + 1
        max_length = min(DEFAULT_MAX_LENGTH, longest) if max_length is None else max_length
        if not shortest <= max_length <= longest:
            raise ValueError(
                f"max_length must be between {shortest} (one token between the special ones) and {longest} "
                f"(the tokenizer's model_max_length), got {max_length}."
            )
        if padding not in ("longest", "max_length"):
            raise ValueError(f"padding must be 'longest' or 'max_length', got {padding!r}.")
        if max_words is not None and max_words < 1:
            raise ValueError(f"max_words must be at least 1, or None for no limit, got {max_words}.")
        if tokenizer.pad_token_id is None:
            raise ValueError("tokenizer must have a padding token, got none; set tokenizer.pad_token.")
        # transformers makes an empty tokenizer where the file with the vocabulary is missing, and reads [UNK] alone.
        num_words = len(tokenizer) - len(set(tokenizer.all_special_ids))
        if num_words < MIN_VOCABULARY:
            raise ValueError(
                f"tokenizer must know more than its special tokens, got {num_words} others; its tokenizer.json is "
                f"missing or damaged: copy or download it again."
            )
        if frame_rate is not None and num_frames is None:
            raise ValueError(f"frame_rate needs num_frames, the most frames of a video, got {frame_rate} alone.")
        if num_frames is not None:
            FrameSampling(num_frames, frame_rate)  # checks both
        self.max_length = max_length
        self.clean_captions = clean_captions
        self.max_words = max_words
        self.padding = padding
        self.num_frames = num_frames
        self.frame_rate = frame_rate
        self.num_texts = 0
        self.num_truncated = 0

    @property
    def truncation_rate(self) -> float:
        """Share of the captions and descriptions seen so far that were cut, 0 to 1."""
        return self.num_truncated / self.num_texts if self.num_texts else 0.0

    @property
    def sampling(self) -> FrameSampling | None:
        """Which frames, or features of frames, are taken of a video; None without `num_frames`."""
        return None if self.num_frames is None else FrameSampling(self.num_frames, self.frame_rate)

    @property
    def model_input_names(self) -> list[str]:
        """The keys that a call can return."""
        texts = ["input_ids", "attention_mask", "description_input_ids", "description_attention_mask"]
        return [*self.image_processor.model_input_names, *texts, "frame_features", "frame_mask"]

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        descriptions: str | Sequence[str | None] | None = None,
        videos: Any = None,
        features: Any = None,
        **kwargs: Unpack[LeccrProcessorKwargs],
    ) -> BatchFeature:
        """Pictures or videos, captions and descriptions → tensors; each group is optional and padded on its own.

        Args:
            images: a PIL image, the path or URL of one, or a list of them (arrays pass through); converted to RGB,
                camera rotation applied. Nothing else is opened or fetched: a text is never taken for a path.
            text: captions or queries; any number of them.
            descriptions: what an MLLM wrote about each image or video; None or an empty text is a missing one.
            videos: instead of images, the path of a clip or of a folder of its frames, the bytes of a clip, a list of
                PIL images or an array (num_frames, height, width, 3) of uint8; or a list of them. What is longer than
                `num_frames` is sampled. Reading clips needs PyAV.
            features: instead of images, features of the frames of a video, (num_frames, dim), as an array, a tensor or
                the path of a `.npy` file; or a list of them, in which lists of numbers do too.
            **kwargs: as of any transformers processor, checked: `return_tensors` (default "pt"), `padding`,
                `truncation`, `max_length`, ..., `text_kwargs`, `images_kwargs`.

        Returns:
            `pixel_values` (num_images, channels, height, width), of videos (num_videos, num_frames, channels, height,
            width) with `frame_mask` (num_videos, num_frames), or `frame_features` (num_videos, num_frames, dim) with
            that mask, which is 0 where the zeros behind a shorter video are; `input_ids`, `attention_mask`
            (num_texts, length); `description_input_ids`, `description_attention_mask` (num_descriptions, length), where
            the mask of a missing description is all zero.

        Raises:
            ValueError: no input at all, two of images, videos and features, one of them that is missing, unreachable or
                unreadable, an empty caption, or descriptions and images differ in number; the message names the index.
            TypeError: an unknown keyword argument, or an input of the wrong type.
        """
        given = {"images": images, "videos": videos, "features": features}
        visual = {name: _as_items(values, name) for name, values in given.items() if values is not None}
        if len(visual) > 1:
            raise ValueError(f"give the processor one of images, videos and features; got {sorted(visual)}.")
        if not visual and text is None and descriptions is None:
            raise ValueError("give the processor images, videos, features, text or descriptions; got none of them.")
        merged = self._checked_kwargs(dict(kwargs))
        num_items = next((len(values) for values in visual.values()), None)
        batch = self._encode_visual(visual, merged["images_kwargs"])
        text_kwargs = merged["text_kwargs"]
        tensor_type = text_kwargs.pop("return_tensors")
        if text_kwargs.pop("describes_images", False) and visual and text is not None:
            if descriptions is not None:
                raise ValueError("with describes_images the text is the descriptions; give no descriptions beside it.")
            text, descriptions = None, text
        if text is not None:
            batch |= self._encode_captions(_as_list(text, "text"), text_kwargs)
        if descriptions is not None:
            rows = _as_list(descriptions, "descriptions")
            if num_items is not None and len(rows) != num_items:
                raise ValueError(
                    f"descriptions must be one for each image (None where it is missing), "
                    f"got {len(rows)} for {num_items} {next(iter(visual))}."
                )
            encoded = self._encode_descriptions(rows, text_kwargs)
            batch |= {f"description_{key}": value for key, value in encoded.items()}
        return BatchFeature(batch, tensor_type=tensor_type)

    def _encode_visual(self, visual: dict[str, list[Any]], images_kwargs: dict[str, Any]) -> dict[str, Any]:
        """Tensors of pictures, of frames or of features, whichever is given."""
        if "images" in visual:
            images = [rgb_image(image, f"images[{i}]") for i, image in enumerate(visual["images"])]
            return {"pixel_values": self.image_processor(images, **images_kwargs)["pixel_values"]}
        if "videos" in visual:
            frames = [self._frames_of(video, f"videos[{i}]") for i, video in enumerate(visual["videos"])]
            # All at once: an image processor has an overhead for each call.
            pictures = [picture for pictures in frames for picture in pictures]
            pixels = self.image_processor(pictures, **{**images_kwargs, "return_tensors": "pt"})["pixel_values"]
            padded, mask = pad_frames(pixels.split([len(pictures) for pictures in frames]))
            return {"pixel_values": padded, "frame_mask": mask}
        if "features" in visual:
            items = [self._features_of(item, f"features[{i}]") for i, item in enumerate(visual["features"])]
            if len({item.shape[1] for item in items}) > 1:
                widths = [item.shape[1] for item in items]
                raise ValueError(f"features must be of one width, got {widths}; keep those of different models apart.")
            padded, mask = pad_frames(items)
            return {"frame_features": padded, "frame_mask": mask}
        return {}

    def _frames_of(self, video: Any, name: str) -> list[Image.Image]:
        try:
            return sample_frames(plain_video(video), self.sampling or FrameSampling())
        except TypeError as error:
            found = type(video).__name__
            raise TypeError(f"{name} must be a path, bytes, pictures or an array, got {found}.") from error
        except (ValueError, OSError) as error:
            raise ValueError(f"{name} must be a readable video: {error}") from error

    def _features_of(self, item: Any, name: str) -> torch.Tensor:
        features = frame_features(item, name)
        return features if self.num_frames is None else features[sample_positions(len(features), self.num_frames)]

    def _checked_kwargs(self, kwargs: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Sort the keyword arguments of a call by part, with our settings as defaults; a typo is an error."""
        fields = LeccrProcessorKwargs.__annotations__
        known = {"common_kwargs", *fields}
        for group in ("text_kwargs", "images_kwargs"):
            known |= set(fields[group].__annotations__)
        known |= set(getattr(getattr(self.image_processor, "valid_kwargs", None), "__annotations__", {}))
        unknown = sorted(set(kwargs) - known)
        if unknown:
            raise TypeError(f"LeccrProcessor got unknown keyword arguments {unknown}; known: {sorted(known)}.")
        merged = self._merge_kwargs(**kwargs)
        text_defaults = {"padding": self.padding, "truncation": True, "max_length": self._limit()}
        merged["text_kwargs"] = {"return_tensors": "pt", **text_defaults, **merged["text_kwargs"]}
        merged["images_kwargs"] = {"return_tensors": "pt", **merged["images_kwargs"]}
        return merged

    def _encode_captions(self, captions: list[Any], text_kwargs: dict[str, Any]) -> dict[str, list[list[int]]]:
        """Token ids and masks of captions, each of which must hold at least one token."""
        for i, caption in enumerate(captions):
            if not isinstance(caption, str):
                raise TypeError(f"text[{i}] must be a string, got {type(caption).__name__}.")
        if self.clean_captions:
            captions = [clean_caption(caption, self.max_words) for caption in captions]
        encoded, has_tokens = self._tokenize(captions, text_kwargs)
        if not all(has_tokens):
            i = has_tokens.index(False)
            raise ValueError(f"text[{i}] must hold at least one token, got {captions[i]!r}; remove empty captions.")
        return encoded

    def _encode_descriptions(self, rows: list[Any], text_kwargs: dict[str, Any]) -> dict[str, list[list[int]]]:
        """Token ids and masks of descriptions; a missing one is a row of padding under an all-zero mask."""
        for i, row in enumerate(rows):
            if row is not None and not isinstance(row, str):
                raise TypeError(f"descriptions[{i}] must be a string or None, got {type(row).__name__}.")
        encoded, has_tokens = self._tokenize([row or "" for row in rows], text_kwargs)
        for i, present in enumerate(has_tokens):
            if not present:
                length = len(encoded["input_ids"][i])
                encoded["input_ids"][i] = [self.tokenizer.pad_token_id] * length
                encoded["attention_mask"][i] = [0] * length
        self.num_texts -= has_tokens.count(False)
        return encoded

    def _tokenize(self, texts: list[str], text_kwargs: dict[str, Any]) -> tuple[dict[str, list[list[int]]], list[bool]]:
        """Tokenize, count what was cut, and say of each text whether it holds more than special tokens."""
        fixed = {"return_attention_mask": True, "return_special_tokens_mask": True, "return_token_type_ids": False}
        encoded = self.tokenizer(texts, **{**text_kwargs, **fixed})
        self.num_texts += len(texts)
        if text_kwargs["truncation"] not in (False, "do_not_truncate"):
            limit = text_kwargs["max_length"]
            full = [text for text, row in zip(texts, encoded["attention_mask"], strict=True) if sum(row) >= limit]
            # A full row was either cut or fits exactly; only its real length tells, and full rows are few.
            lengths = [len(self.tokenizer(text, truncation=False, verbose=False)["input_ids"]) for text in full]
            self.num_truncated += sum(length > limit for length in lengths)
        has_tokens = [0 in row for row in encoded["special_tokens_mask"]]
        return {key: [list(row) for row in encoded[key]] for key in ("input_ids", "attention_mask")}, has_tokens

    def _limit(self) -> int:
        """Tokens that are kept of a text. sentence-transformers lowers the tokenizer's own limit to read less."""
        return min(self.max_length, int(self.tokenizer.model_max_length))

    def to_dict(self) -> dict[str, Any]:
        """The saved settings, with the back end of the image processor, which transformers leaves out."""
        backend = getattr(self.image_processor, "backend", "pil")
        settings = super().to_dict()
        settings["image_processor"].pop("auto_map", None)  # set while saving; it is the one of the processor
        return {**settings, "max_length": self._limit(), "image_backend": backend}

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """As `ProcessorMixin.save_pretrained`, but the processor stays as it is."""
        files = super().save_pretrained(save_directory, push_to_hub, **kwargs)
        for part in (self, self.image_processor):
            vars(part).pop("auto_map", None)
        return files

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        """Load both parts, the image processor with the back end that it was saved with (where installed)."""
        image_processor, tokenizer = super()._get_arguments_from_pretrained(
            pretrained_model_name_or_path, processor_dict, **kwargs
        )
        # transformers takes torchvision wherever it is installed, and its resize gives other pixels than PIL's.
        backend = (processor_dict or {}).get("image_backend", "pil")
        if "backend" not in kwargs and getattr(image_processor, "backend", backend) != backend:
            image_processor = AutoImageProcessor.from_pretrained(
                pretrained_model_name_or_path, **{**kwargs, "backend": backend}
            )
        return [image_processor, tokenizer]


def _as_items(values: Any, name: str) -> list[Any]:
    """As `_as_list`, where one video may be a list of pictures and many an array."""
    if getattr(values, "ndim", None) == {"videos": 5, "features": 3}.get(name, -1):
        values = list(values)
    if name == "videos" and isinstance(values, Sequence) and values and isinstance(values[0], Image.Image):
        values = [values]
    return _as_list(values, name)


def _as_list(values: Any, name: str) -> list[Any]:
    """One value or many → a list with at least one entry."""
    rows = list(values) if isinstance(values, Sequence) and not isinstance(values, str | bytes) else [values]
    if not rows:
        raise ValueError(f"{name} must hold at least one entry, got an empty list.")
    return rows


__all__ = ["LeccrProcessor", "LeccrProcessorKwargs", "clean_caption"]
