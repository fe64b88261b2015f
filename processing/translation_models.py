"""Translation by a sequence-to-sequence model of transformers in this process."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

from processing.extras import install_hint
from processing.generation import Answer, Request
from processing.languages import SOURCE_LANGUAGE
from processing.local_models import FOLDER_VERSION, process_device, resolve_revision
from processing.translation_families import check_family, find_direction

LANGUAGE_FIELD = "{language}"
# The decoder start token and the language token stand before the new ones.
_TOKENS_BEFORE = 2


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer; several translators may share it, one after the other."""

    model: Any
    tokenizer: Any


def load_model(name: str, *, revision: str | None = None, dtype: str = "float32") -> LoadedModel:
    """Load a model for inference, onto the GPU of this process if there is one.

    Args:
        name: folder, or name on the Hub.
        revision: branch, tag or commit on the Hub.
        dtype: of the weights: "float32", "bfloat16" or "float16". T5 and MADLAD overflow in float16.

    Raises:
        ValueError: the model is of no family that can translate.
        ImportError: the tokenizer needs sentencepiece, which is not installed.
        OSError: there is no such model.
    """
    check_family(AutoConfig.from_pretrained(name, revision=revision).model_type)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except ImportError as error:
        raise ImportError(f"the tokenizer of {name} needs sentencepiece: {install_hint('data')}.") from error
    model = AutoModelForSeq2SeqLM.from_pretrained(name, revision=revision, dtype=getattr(torch, dtype))
    # Marian ends every text that reaches the limit with an end token, so that it would not look cut off.
    model.generation_config.forced_eos_token_id = None
    model.generation_config.max_length = None
    return LoadedModel(model.eval().to(process_device()), tokenizer)


class LocalTranslators:
    """Translators in this process; several languages share the weights of one model.

    Args:
        name: folder, or name on the Hub. `{language}` in it stands for the language that is not English, as in
            `Helsinki-NLP/opus-mt-en-{language}`.
        languages: codes of the languages beside English.
        revision: branch, tag or commit on the Hub.
        dtype: of the weights, see `load_model`.
        num_beams: see `Seq2SeqTranslator`, as for the others.

    Raises:
        ValueError: a model is of no family that can translate, or a revision is given for a folder.
        FileNotFoundError: there is no such model.
    """

    # The same text would come again.
    max_attempts = 1

    def __init__(
        self,
        name: str,
        languages: Sequence[str],
        *,
        revision: str | None = None,
        dtype: str = "float32",
        num_beams: int = 1,
        max_new_tokens: int = 128,
        batch_size: int = 32,
    ) -> None:
        self._name = name
        self._decoding = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
        self._dtype, self._batch_size = dtype, batch_size
        find_version = cache(self._find_version)
        self._revisions = {language: find_version(self._model_for(language), revision) for language in languages}
        self._load = cache(load_model)

    @property
    def settings(self) -> dict[str, Any]:
        """Model, exact version, decoding; not the batch size, which a run with less memory may change."""
        revisions = self._revisions
        is_folder = any(version.startswith(FOLDER_VERSION) for version in revisions.values())
        return {
            # The rest of a path is of this machine.
            "model": Path(self._name).resolve().name if is_folder else self._name,
            "revision": dict(revisions) if LANGUAGE_FIELD in self._name else next(iter(revisions.values()), None),
            "dtype": self._dtype,
            **self._decoding,
        }

    def make(self, source: str, target: str) -> "Seq2SeqTranslator":
        """A translator of one direction; its model is loaded if none before it needed the same."""
        language = source if target == SOURCE_LANGUAGE else target
        version = self._revisions[language]
        revision = None if version.startswith(FOLDER_VERSION) else version
        loaded = self._load(self._model_for(language), revision=revision, dtype=self._dtype)
        return Seq2SeqTranslator(loaded, source, target, batch_size=self._batch_size, **self._decoding)

    def _find_version(self, name: str, revision: str | None) -> str:
        """The exact version of a model of a family that can translate."""
        try:
            version = resolve_revision(name, revision)
        except FileNotFoundError as error:
            if LANGUAGE_FIELD not in self._name:
                raise
            raise FileNotFoundError(
                f"{error} Some models call a language by another code, such as opus-mt-en-jap for Japanese (ja): "
                f"translate such a language in a run of its own, with the whole name of its model."
            ) from error
        check_family(AutoConfig.from_pretrained(name, revision=revision).model_type)
        return version

    def _model_for(self, language: str) -> str:
        return self._name.replace(LANGUAGE_FIELD, language)


class Seq2SeqTranslator:
    """Translates from one language into another, always the same way; a `Generator`.

    Batches are formed by length among the requests of one call. In float32 a translation does not depend on the others
    of its batch; in lower precision it may by a rounding error, but not on other calls or processes.

    Args:
        loaded: the model; see `load_model`.
        source: code of the language of the requests.
        target: code of the language of the answers.
        num_beams: at least 1; 1 is greedy.
        max_new_tokens: an answer without an end by then is `truncated`; at least 1.
        batch_size: texts in memory at once, at least 1.

    Raises:
        ValueError: the model does not know a language, or a number is out of range.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        source: str,
        target: str,
        *,
        num_beams: int = 1,
        max_new_tokens: int = 128,
        batch_size: int = 32,
    ) -> None:
        for name, value in (("num_beams", num_beams), ("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        positions = getattr(self._model.config, "max_position_embeddings", None)
        if positions is not None and max_new_tokens > positions - _TOKENS_BEFORE:
            raise ValueError(
                f"max_new_tokens must be at most {positions - _TOKENS_BEFORE} for this model, got {max_new_tokens}."
            )
        self._max_source_tokens = min(self._tokenizer.model_max_length, positions or self._tokenizer.model_max_length)
        self._direction = find_direction(self._model.config.model_type, self._tokenizer, source, target)
        self._batch_size = batch_size
        self._decoding = {"num_beams": num_beams, "max_new_tokens": max_new_tokens, "do_sample": False}
        if self._direction.forced_token is not None:
            self._decoding["forced_bos_token_id"] = self._direction.forced_token

    def generate(self, requests: Sequence[Request], *, attempt: int, events: Counter[str]) -> list[Answer]:
        """Translate the prompt of each request, in order; see `Generator`.

        Args:
            attempt: without effect, for decoding is deterministic.
            events: "source_truncated" is counted for each text that is longer than the model can read.
        """
        sources, cut = self._encode([request.prompt for request in requests])
        events.update("source_truncated" for was_cut in cut if was_cut)
        # Longest first: too large a batch fails at once, not after an hour.
        order = sorted(range(len(sources)), key=lambda position: -len(sources[position]))
        answers: list[Answer] = [Answer(None)] * len(requests)
        for start in range(0, len(order), self._batch_size):
            positions = order[start : start + self._batch_size]
            outputs = self._generate_batch([sources[position] for position in positions])
            for position, output in zip(positions, outputs, strict=True):
                text, ended = self._decode(output)
                answers[position] = Answer(text, truncated=cut[position] or not ended)
        return answers

    def _encode(self, texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Token ids of each text, and whether the text was too long for the model."""
        if self._direction.source_code is not None:
            # Set for each call, because translators of other languages may share the tokenizer.
            self._tokenizer.src_lang = self._direction.source_code
        prefixed = [self._direction.prefix + text for text in texts]
        limit = self._max_source_tokens
        encoded = [self._tokenizer(text, verbose=False)["input_ids"] for text in prefixed]
        cut = [len(ids) > limit for ids in encoded]
        for position, text in enumerate(prefixed):
            if cut[position]:
                encoded[position] = self._tokenizer(text, truncation=True, max_length=limit)["input_ids"]
        return encoded, cut

    @torch.inference_mode()
    def _generate_batch(self, sources: Sequence[list[int]]) -> list[list[int]]:
        inputs = self._tokenizer.pad({"input_ids": list(sources)}, return_tensors="pt").to(self._model.device)
        outputs = self._model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **self._decoding
        )
        return outputs.tolist()

    def _decode(self, output: list[int]) -> tuple[str, bool]:
        """The text of an output, and whether it has an end."""
        # Not every tokenizer counts the language token among the special ones that decoding skips.
        new_tokens = output[1 if self._direction.forced_token is None else _TOKENS_BEFORE :]
        end = self._model.generation_config.eos_token_id
        ends = {end} if isinstance(end, int) else set(end)
        length = next((i for i, token in enumerate(new_tokens) if token in ends), None)
        text = self._tokenizer.decode(new_tokens[:length], skip_special_tokens=True)
        return " ".join(text.split()), length is not None
