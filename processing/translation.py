"""Machine translations of the English captions of a data set, judged one by one, as columns beside them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

import datasets

from processing.chat_server import ChatServer
from processing.extras import install_hint
from processing.generation import (
    EMPTY_FLAG,
    ERROR_FLAG,
    TRUNCATED_FLAG,
    Answer,
    Generator,
    Outcome,
    Request,
    ask,
)
from processing.jobs import Job
from processing.languages import SOURCE_LANGUAGE, find_language
from processing.prompts import Prompt
from processing.records import (
    OK_FLAG,
    caption_column,
    check_columns,
    flag_column,
    schema_features,
    similarity_column,
)
from processing.translation_answers import clean_answer
from processing.translation_filters import filter_settings, find_fault

SERVER_ATTEMPTS = 3
_BATCH_ROWS = 1000
_NOTHING = Outcome(None, EMPTY_FLAG)


class Translators(Protocol):
    """A source of translators: models in this process, or a server."""

    max_attempts: int

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the translations, for `Job.settings`."""
        ...

    def make(self, source: str, target: str) -> Generator:
        """A generator that translates the prompt of each request, and nothing but that."""
        ...


class ServerTranslators:
    """Translators that ask a chat server.

    Args:
        server: the client.
        prompt: with the fields `{source_language}`, `{target_language}` and `{caption}`.

    Raises:
        ValueError: the prompt lacks a field.
    """

    max_attempts = SERVER_ATTEMPTS

    def __init__(self, server: ChatServer, prompt: Prompt) -> None:
        prompt.fill(source_language="", target_language="", caption="")
        self._server, self._prompt = server, prompt

    @property
    def settings(self) -> dict[str, Any]:
        """Model, decoding and prompt; not the address of the server."""
        return {**self._server.decoding, "max_attempts": self.max_attempts, "prompt": asdict(self._prompt)}

    def make(self, source: str, target: str) -> Generator:
        """A generator that wraps each caption in the prompt and takes the translation out of the answer."""
        return _PromptedTranslator(self._server, self._prompt, source, target)


class _PromptedTranslator:
    def __init__(self, server: Generator, prompt: Prompt, source: str, target: str) -> None:
        self._server, self._prompt, self._target = server, prompt, target
        self._names = {"source_language": find_language(source).name, "target_language": find_language(target).name}

    def generate(self, requests: Sequence[Request], *, attempt: int, events: Counter[str]) -> list[Answer]:
        wrapped = [Request(item.key, self._prompt.fill(**self._names, caption=item.prompt)) for item in requests]
        answers = self._server.generate(wrapped, attempt=attempt, events=events)
        return [
            answer
            if answer.text is None
            else Answer(clean_answer(answer.text, request.prompt, self._target), answer.truncated)
            for request, answer in zip(requests, answers, strict=True)
        ]


class CaptionTranslator:
    """Adds translated captions to rows; the `Worker` of a translation job.

    A caption that occurs several times in a shard is translated once. The text is null where the flag is not "ok".

    Args:
        translators: from English.
        languages: codes of the target languages.
        back_translators: into English; with them each translation is translated back and compared.
        keep_flagged: keep the text of a flagged translation.

    Raises:
        ValueError: a language is unknown, or a model does not know it.
    """

    def __init__(
        self,
        translators: Translators,
        languages: Sequence[str],
        *,
        back_translators: Translators | None = None,
        keep_flagged: bool = False,
    ) -> None:
        self._forth = {language: translators.make(SOURCE_LANGUAGE, language) for language in languages}
        self._back = {
            language: back_translators.make(language, SOURCE_LANGUAGE) for language in languages if back_translators
        }
        self._max_attempts = translators.max_attempts
        self._keep_flagged = keep_flagged

    def __call__(self, rows: datasets.Dataset, events: Counter[str]) -> dict[str, list[Any]]:
        """The new columns; a list for each row with an entry for each English caption."""
        captions = [row or [] for row in rows[caption_column(SOURCE_LANGUAGE)]]
        different = list(dict.fromkeys(caption for row in captions for caption in row if caption and caption.strip()))
        columns: dict[str, list[Any]] = {}
        for language in self._forth:
            outcomes = self._translate(different, language, events)
            name = caption_column(language, translated=True)
            columns[name] = [[outcomes.get(caption, _NOTHING).text for caption in row] for row in captions]
            columns[flag_column(name)] = [[outcomes.get(caption, _NOTHING).flag for caption in row] for row in captions]
            if language in self._back:
                scores = self._compare(outcomes, language, events)
                columns[similarity_column(name)] = [[scores.get(caption) for caption in row] for row in captions]
        return columns

    def _translate(self, captions: Sequence[str], language: str, events: Counter[str]) -> dict[str, Outcome]:
        # The key holds the caption, not its row, so that a caption gets the same translation wherever it stands.
        requests = [Request(f"{language}: {caption}", caption) for caption in captions]
        judge = partial(judge_translation, language=language, keep_flagged=self._keep_flagged)
        outcomes = ask(self._forth[language], requests, judge, max_attempts=self._max_attempts, events=events)
        return dict(zip(captions, outcomes, strict=True))

    def _compare(self, outcomes: Mapping[str, Outcome], language: str, events: Counter[str]) -> dict[str, float]:
        """Similarity of each caption to its back-translation, where there is one."""
        pairs = [(caption, outcome.text) for caption, outcome in outcomes.items() if outcome.text]
        requests = [Request(f"{language} back: {text}", text) for _, text in pairs]
        answers = self._back[language].generate(requests, attempt=0, events=events)
        scores = {}
        for (caption, _), answer in zip(pairs, answers, strict=True):
            if answer.text is None or answer.truncated:
                events["no_back_translation"] += 1
            else:
                scores[caption] = similarity(caption, answer.text)
        return scores


def judge_translation(request: Request, answer: Answer, *, language: str, keep_flagged: bool) -> Outcome:
    """What is kept of the translation of a caption, see `processing.generation.ask`.

    Args:
        request: its prompt is the English caption.
        language: code of the language that was asked for.
        keep_flagged: keep the text of a flagged translation.
    """
    if answer.text is None:
        return Outcome(None, ERROR_FLAG)
    if answer.truncated:
        flag = TRUNCATED_FLAG
    else:
        flag = find_fault(request.prompt, answer.text, source_language=SOURCE_LANGUAGE, target_language=language)
    return Outcome(answer.text if flag == OK_FLAG or (keep_flagged and answer.text) else None, flag)


def similarity(source: str, back_translation: str) -> float:
    """How much of a text came back after translation there and back: chrF of sacrebleu.

    Returns:
        A number in [0, 100]; 100 for the same text.

    Raises:
        ImportError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise ImportError(f"comparing back-translations needs sacrebleu: {install_hint('data')}.") from error
    return float(CHRF().sentence_score(back_translation, [source]).score)


def translation_job(
    splits: Mapping[str, datasets.Dataset],
    languages: Sequence[str],
    translators: Translators,
    *,
    back_translators: Translators | None = None,
    keep_flagged: bool = False,
    rows_per_shard: int = 256,
) -> Job:
    """The job that adds translations to some splits.

    Args:
        splits: with `caption_en`.
        languages: codes of the target languages, each once.
        translators: from English.
        back_translators: into English, to compare with the captions.
        keep_flagged: keep the text of a flagged translation.
        rows_per_shard: see `Job`.

    Raises:
        ValueError: there is no language, one twice, an unknown one or English; a split lacks the captions, or not one
            row has a caption.
    """
    if not languages or len(set(languages)) != len(languages):
        raise ValueError(f"languages must be codes such as de, each once and at least one, got {list(languages)}.")
    columns = []
    for language in languages:
        name = caption_column(language, translated=True)
        columns += [name, flag_column(name)] + [similarity_column(name)] * (back_translators is not None)
    for name, rows in splits.items():
        check_columns(rows.column_names, [caption_column(SOURCE_LANGUAGE)], split=name)
    if not any(_has_captions(rows) for rows in splits.values()):
        raise ValueError(
            f"not one row of the splits {list(splits)} has a text in {caption_column(SOURCE_LANGUAGE)}; write captions "
            f"first with `leccr describe --prompt captions-v1`."
        )
    settings = {
        **translators.settings,
        "source_language": SOURCE_LANGUAGE,
        "languages": list(languages),
        "keep_flagged": keep_flagged,
        "filters": filter_settings(),
        "back_translation": back_translators.settings if back_translators else None,
    }
    return Job("translate", settings, schema_features(columns), rows_per_shard)


def _has_captions(rows: datasets.Dataset) -> bool:
    """Whether any row has an English caption; reads no further than the first."""
    name = caption_column(SOURCE_LANGUAGE)
    batches = rows.select_columns([name]).iter(_BATCH_ROWS)
    return any(caption and caption.strip() for batch in batches for cell in batch[name] for caption in cell or ())
