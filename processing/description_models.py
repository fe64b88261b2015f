"""A vision-language model of transformers in this process, as a generator of texts about pictures."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from processing.chat_server import RETRY_TEMPERATURE
from processing.generation import Answer, Request, seed_of
from processing.local_models import process_device, public_name, resolve_revision


class ImageTextToText:
    """Answers requests with their pictures; a `Generator`.

    The weights are loaded with the first request. Batches are formed inside a call, in order, so that the answers
    depend on the requests of the call alone: greedy answers in float32 not even on the others of their batch, sampled
    ones on the whole batch, whose seed is derived from its keys.

    Args:
        model_name: folder, or name on the Hub, of a model with a chat template.
        revision: branch, tag or commit on the Hub.
        device: where to run; by default the GPU of this process, if there is one.
        dtype: of the weights: "auto" (as stored), "float32", "bfloat16" or "float16".
        max_new_tokens: an answer without an end by then is `truncated`; at least 1.
        temperature: at least 0; 0 is greedy, but attempts after the first sample with at least RETRY_TEMPERATURE.
        top_p: in (0, 1].
        seed: of sampling.
        batch_size: requests in memory at once, at least 1.

    Raises:
        ValueError: a number is out of range, the model reads no pictures or has no chat template.
        ImportError: its processor needs a package that is not installed, such as torchvision.
        OSError: there is no such model.
    """

    def __init__(
        self,
        model_name: str,
        *,
        revision: str | None = None,
        device: torch.device | None = None,
        dtype: str = "auto",
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int = 8,
    ) -> None:
        if max_new_tokens < 1 or batch_size < 1 or temperature < 0 or not 0 < top_p <= 1:
            raise ValueError(
                f"max_new_tokens and batch_size must be at least 1, temperature at least 0, top_p in (0, 1], got "
                f"{max_new_tokens}, {batch_size}, {temperature}, {top_p}."
            )
        version = resolve_revision(model_name, revision)
        self._source = {"pretrained_model_name_or_path": model_name}
        if not Path(model_name).is_dir():
            # All parts come from one commit, though a branch may move between two processes.
            self._source["revision"] = version
        self._processor = _load_processor(self._source)
        self._device, self._dtype = device, dtype
        self._max_new_tokens, self._batch_size, self._seed = max_new_tokens, batch_size, seed
        self._temperature, self._top_p = temperature, top_p
        self._names = {"model": public_name(model_name), "revision": version}

    @property
    def decoding(self) -> dict[str, Any]:
        """What decides the answers, for `Job.settings`."""
        return {
            **self._names,
            "dtype": self._dtype,
            "max_tokens": self._max_new_tokens,
            "temperature": self._temperature,
            "retry_temperature": max(self._temperature, RETRY_TEMPERATURE),
            "top_p": self._top_p,
            "seed": self._seed,
            # A batch is sampled with one seed.
            "batch_size": self._batch_size,
        }

    def generate(self, requests: Sequence[Request], *, attempt: int, events: Counter[str]) -> list[Answer]:
        """Answer each request, in order; see `Generator`."""
        answers: list[Answer] = []
        for start in range(0, len(requests), self._batch_size):
            answers += self._generate_batch(requests[start : start + self._batch_size], attempt)
        return answers

    @cached_property
    def _model(self) -> Any:
        dtype = self._dtype if self._dtype == "auto" else getattr(torch, self._dtype)
        model = AutoModelForImageTextToText.from_pretrained(**self._source, dtype=dtype)
        return model.eval().to(self._device or process_device())

    @torch.inference_mode()
    def _generate_batch(self, requests: Sequence[Request], attempt: int) -> list[Answer]:
        inputs = self._processor.apply_chat_template(
            [_conversation(request) for request in requests],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            # New tokens follow the last one of each row, so that padding must come first.
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(self._model.device, dtype=self._model.dtype)
        seed = seed_of(self._seed, "\n".join(request.key for request in requests), attempt)
        # `generate` takes no generator of its own; the global one is put back as it was.
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            outputs = self._model.generate(**inputs, **self._sampling(attempt), max_new_tokens=self._max_new_tokens)
        prompt_length = inputs["input_ids"].shape[1]
        return [self._read(output[prompt_length:].tolist()) for output in outputs]

    def _sampling(self, attempt: int) -> dict[str, Any]:
        # Set in full, because models bring defaults of their own that no manifest would show.
        temperature = self.decoding["retry_temperature"] if attempt else self._temperature
        if temperature == 0:
            return {"num_beams": 1, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        return {"num_beams": 1, "do_sample": True, "temperature": temperature, "top_p": self._top_p, "top_k": 0}

    def _read(self, tokens: Sequence[int]) -> Answer:
        """The answer in the new tokens of a row."""
        end = self._model.generation_config.eos_token_id
        ends = set(end if isinstance(end, list) else [end, self._processor.tokenizer.eos_token_id])
        length = next((position for position, token in enumerate(tokens) if token in ends), None)
        text = self._processor.tokenizer.decode(tokens[:length], skip_special_tokens=True)
        return Answer(text.strip(), truncated=length is None)


def _load_processor(source: dict[str, str]) -> Any:
    """The processor of a model that reads pictures and chats.

    Raises:
        ValueError: it does not.
    """
    name = source["pretrained_model_name_or_path"]
    kind = AutoConfig.from_pretrained(**source).model_type
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ValueError(
            f"{name} must be a model that writes about pictures, got one of type {kind!r}; look for the tag "
            f"image-text-to-text on the Hub."
        )
    processor = AutoProcessor.from_pretrained(**source)
    if not getattr(processor, "chat_template", None):
        raise ValueError(
            f"the processor of {name} has no chat template, so there is no way to ask it; name a model that follows "
            f"instructions (its name often ends in -Instruct)."
        )
    return processor


def _conversation(request: Request) -> list[dict[str, Any]]:
    pictures = [{"type": "image", "image": picture} for picture in request.pictures]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": request.prompt}]}]
