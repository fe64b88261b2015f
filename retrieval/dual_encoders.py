"""Any model of pictures or clips and texts behind one interface: LECCR, CL2CM, CLIP, SigLIP and the like."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModel, AutoProcessor

from modeling_leccr.model_files import MODEL_TYPES
from processing.processing_leccr import clean_caption
from processing.records import IMAGE_COLUMN, VIDEO_COLUMN
from processing.video_frames_leccr import FrameSampling
from processing.visual_rows import VisualRows
from retrieval.encode import encode_items, encode_texts
from retrieval.evaluation import item_composites

Rows = Sequence[Mapping[str, Any]]

_SEEN_FRAMES = FrameSampling(4)


class DualEncoder(Protocol):
    """Pictures or clips and texts to vectors whose dot products are scores.

    Attributes:
        name: as on the Hub, or of its folder.
        model_type: as in its configuration.
        max_length: tokens of a text that it reads.
    """

    name: str
    model_type: str
    max_length: int

    def encode_images(self, rows: Rows, batch_size: int, *, progress: bool) -> Tensor:
        """(num_items, num_vectors, embed_dim) float32 on the CPU; the best vector of an item scores."""
        ...

    def encode_texts(self, texts: Sequence[str], batch_size: int, *, progress: bool) -> Tensor:
        """(num_texts, embed_dim) float32 on the CPU, unit norm."""
        ...

    def token_counts(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """Of each text: all its tokens, and how many of them are read."""
        ...


def load_dual_encoder(model: str, *, device: str | torch.device = "cpu") -> DualEncoder:
    """A saved model of this library, or any model of transformers with `get_image_features` and `get_text_features`.

    Args:
        model: folder or Hub name.
        device: where it computes.

    Raises:
        ValueError: the model is no dual encoder, or one of this library that needs descriptions or reads no images.
    """
    config = AutoConfig.from_pretrained(model)
    kind: type[LeccrEncoder] | type[TransformersEncoder] = TransformersEncoder
    if config.model_type in MODEL_TYPES:
        check_needs_no_description(config, model)
        kind = LeccrEncoder
    return kind(AutoModel.from_pretrained(model).to(device), AutoProcessor.from_pretrained(model), _name(model))


def _name(model: str) -> str:
    """As on the Hub; of a folder its last part, with its run if it is a checkpoint."""
    if not Path(model).is_dir():
        return model
    folder = Path(model).resolve()
    return f"{folder.parent.name}, {folder.name}" if folder.name.startswith("checkpoint-") else folder.name


def check_needs_no_description(config: Any, name: str) -> None:
    """Refuse a model of this library that cannot embed a picture alone.

    Agreement with a description that went into the vector of the item would be agreement of a text with itself.

    Raises:
        ValueError: as said.
    """
    if not config.reads_image:
        raise ValueError(
            f"the encoder must embed pictures, but {name} has item_source={config.item_source!r}; take one that reads "
            f"images."
        )
    if config.needs_description:
        raise ValueError(
            f"the encoder must embed pictures without their descriptions, but {name} was trained with "
            f"description_dropout=0; take a LECCR with description_dropout above 0 or item_source='image', or another "
            f"dual encoder."
        )


class LeccrEncoder:
    """A model of this library that embeds items from what it sees alone; the score of a LECCR is the fused one.

    Args:
        model: a `LeccrModel` that needs no descriptions, or a `Cl2cmModel`.
        processor: its `LeccrProcessor`.
        name: how reports call it.

    Raises:
        ValueError: the model needs descriptions, or reads no images.
    """

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        check_needs_no_description(model.config, name)
        self.name, self.model_type, self.max_length = name, str(model.config.model_type), int(processor.max_length)
        self._model, self._processor = model, processor

    def encode_images(self, rows: Rows, batch_size: int, *, progress: bool) -> Tensor:
        """See `DualEncoder`."""
        embeds = encode_items(self._model, self._processor, rows, batch_size, use_descriptions=False, progress=progress)
        return item_composites(*embeds, scoring="fused", global_weight=self._model.config.global_weight)

    def encode_texts(self, texts: Sequence[str], batch_size: int, *, progress: bool) -> Tensor:
        """See `DualEncoder`."""
        return encode_texts(self._model, self._processor, texts, batch_size, progress=progress)

    def token_counts(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """See `DualEncoder`; where the processor cleans captions, its limit of words counts as well."""
        whole, kept = list(texts), list(texts)
        if self._processor.clean_captions:
            whole = [clean_caption(text, None) for text in texts]
            kept = [clean_caption(text, self._processor.max_words) for text in texts]
        counts = zip(_lengths(self._processor, whole), _lengths(self._processor, kept), strict=True)
        return [(before, min(after, self.max_length)) for before, after in counts]


class TransformersEncoder:
    """A dual encoder of transformers. It knows pictures: a clip is the mean of a few of its frames to it.

    Args:
        model: with `get_image_features` and `get_text_features`.
        processor: with an image processor and a tokenizer.
        name: how reports call it.

    Raises:
        ValueError: one of these parts is missing.
    """

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        parts = {
            "get_image_features": model,
            "get_text_features": model,
            "image_processor": processor,
            "tokenizer": processor,
        }
        missing = [part for part, owner in parts.items() if not hasattr(owner, part)]
        if missing:
            raise ValueError(
                f"the encoder must be a dual encoder such as CLIP or SigLIP, but {name} ({model.config.model_type}) "
                f"has no {', '.join(missing)}."
            )
        self.name, self.model_type = name, str(model.config.model_type)
        positions = getattr(getattr(model.config, "text_config", None), "max_position_embeddings", None)
        # A tokenizer that was saved without a limit claims one of 10^30 tokens.
        self.max_length = int(min(processor.tokenizer.model_max_length, positions or float("inf")))
        self._model, self._processor = model.eval(), processor
        # SigLIP pools the last position and was trained on texts padded to its full length.
        self._padding: bool | str = "max_length" if self.model_type.startswith("siglip") else True

    @torch.no_grad()
    def encode_images(self, rows: Rows, batch_size: int, *, progress: bool) -> Tensor:
        """See `DualEncoder`; one vector an item."""
        kind = "frames" if _has_clips(rows) else "image"
        seen = VisualRows(rows, kind, _SEEN_FRAMES)
        embeds = []
        for start in tqdm(range(0, len(rows), batch_size), desc="images", disable=not progress):
            batch = range(start, min(start + batch_size, len(rows)))
            items = [seen.read(i)[kind] if kind == "frames" else [seen.read(i)[kind]] for i in batch]
            inputs = self._processor.image_processor([image for item in items for image in item], return_tensors="pt")
            vectors = self._unit(self._model.get_image_features(**self._on_device(inputs)))
            parts = vectors.split([len(item) for item in items])
            embeds += [part[0] if len(part) == 1 else normalize(part.mean(dim=0), dim=0) for part in parts]
        return torch.stack(embeds).unsqueeze(1)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], batch_size: int, *, progress: bool) -> Tensor:
        """See `DualEncoder`."""
        embeds = []
        for start in tqdm(range(0, len(texts), batch_size), desc="texts", disable=not progress):
            inputs = self._processor.tokenizer(
                list(texts[start : start + batch_size]),
                padding=self._padding,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            )
            embeds.append(self._unit(self._model.get_text_features(**self._on_device(inputs))))
        return torch.cat(embeds)

    def token_counts(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """See `DualEncoder`."""
        return [(length, min(length, self.max_length)) for length in _lengths(self._processor, texts)]

    def _on_device(self, inputs: Any) -> dict[str, Tensor]:
        dtype = self._model.dtype
        return {
            key: value.to(self._model.device, dtype if value.is_floating_point() else None)
            for key, value in inputs.items()
        }

    @staticmethod
    def _unit(features: Any) -> Tensor:
        """Unit vectors from the output, of which transformers 5 made an object and older code a tensor."""
        embeds = features if isinstance(features, Tensor) else features.pooler_output
        return normalize(embeds.float(), dim=-1).cpu()


def _has_clips(rows: Rows) -> bool:
    names = getattr(rows, "column_names", ())
    return IMAGE_COLUMN not in names and VIDEO_COLUMN in names


def _lengths(processor: Any, texts: Sequence[str]) -> list[int]:
    """Number of tokens of each text, special tokens included, none cut."""
    encoded = processor.tokenizer(list(texts), truncation=False, verbose=False)
    return [len(row) for row in encoded["input_ids"]]
