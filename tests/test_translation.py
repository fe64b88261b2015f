"""Captions to translated columns: alignment, flags, retries, back-translation, and the whole job."""

import sys
from collections import Counter

import datasets
import pytest
import torch

from processing.chat_server import ChatServer, ChatSettings
from processing.generation import Answer, Request
from processing.jobs import run_job
from processing.prompts import PROMPTS, Prompt
from processing.records import schema_features
from processing.sources import open_splits
from processing.translation import (
    CaptionTranslator,
    ServerTranslators,
    judge_translation,
    similarity,
    translation_job,
)
from processing.translation_models import LocalTranslators
from tests.openai_server import OpenAiServer, prompt_of
from tests.tiny import SENTENCES
from tests.tiny_seq2seq import tiny_marian, tiny_nllb

GERMAN = {english: german for english, german, _ in SENTENCES}
ENGLISH = {german: english for english, german in GERMAN.items()}


class WordList:
    """Translators by a table; what it lacks comes back in capital letters. Notes what it was asked."""

    max_attempts = 1

    def __init__(self, table, **settings):
        self.table, self.settings = table, {"model": "table", **settings}
        self.asked = []

    def make(self, source, target):
        self.asked.append((source, target))
        return self

    def generate(self, requests, *, attempt, events):
        self.asked += [request.prompt for request in requests]
        found = [self.table.get(request.prompt, request.prompt.upper()) for request in requests]
        return [answer if isinstance(answer, Answer) else Answer(answer) for answer in found]


def make_rows(*captions):
    columns = {"image_id": [str(i) for i in range(len(captions))], "caption_en": list(captions)}
    return datasets.Dataset.from_dict(columns, features=schema_features(columns))


def make_splits(*captions):
    return datasets.DatasetDict({"train": make_rows(*captions)})


def test_translations_and_flags_line_up_with_the_captions():
    """A shifted translation is a wrong training pair that nothing later can find."""
    rows = make_rows(["a red ball", "two green trees"], [], ["an old man walks"], ["a blue boat", "", "a red ball"])
    columns = CaptionTranslator(WordList(GERMAN), ["de"])(rows, Counter())
    assert columns == {
        "caption_de_mt": [
            ["ein roter ball", "zwei grüne bäume"],
            [],
            [None],
            ["ein blaues boot", None, "ein roter ball"],
        ],
        "caption_de_mt_flag": [["ok", "ok"], [], ["copy"], ["ok", "empty", "ok"]],
    }  # fmt: skip


def test_rows_without_captions_and_null_captions_stay_aligned():
    """A reader leaves null where nobody wrote a caption."""
    columns = CaptionTranslator(WordList(GERMAN), ["de"])(make_rows(None, [None, "a blue boat"], ["  "]), Counter())
    assert columns["caption_de_mt"] == [[], [None, "ein blaues boot"], [None]]
    assert columns["caption_de_mt_flag"] == [[], ["empty", "ok"], ["empty"]]


def test_equal_captions_are_translated_once():
    """Short captions repeat; a server bills each request."""
    table = WordList(GERMAN)
    CaptionTranslator(table, ["de"])(make_rows(["a red ball", "a red ball"], ["a red ball"]), Counter())
    assert table.asked == [("en", "de"), "a red ball"]


def test_flagged_texts_are_kept_on_request_only():
    """Some want to look at them; by default nothing trains on them."""
    rows = make_rows(["an old man walks", "a blue boat", "a white dog", "a red ball", "the black cat"])
    answers = {
        **GERMAN,
        "a white dog": Answer("ein weißer", truncated=True),
        "a red ball": Answer(None),
        "the black cat": "",
    }
    for keep, texts in ((False, [None, None]), (True, ["AN OLD MAN WALKS", "ein weißer"])):
        columns = CaptionTranslator(WordList(answers), ["de"], keep_flagged=keep)(rows, Counter())
        assert columns["caption_de_mt"] == [[texts[0], "ein blaues boot", texts[1], None, None]]
        assert columns["caption_de_mt_flag"] == [["copy", "ok", "truncated", "error", "empty"]]


def test_a_truncated_answer_is_not_taken_for_a_whole_one():
    """Its text alone may look fine."""
    request = Request("k", "a blue boat")
    outcome = judge_translation(request, Answer("ein blaues boot", truncated=True), language="de", keep_flagged=False)
    assert (outcome.text, outcome.flag) == (None, "truncated")
    assert judge_translation(request, Answer("", truncated=True), language="de", keep_flagged=True).text is None


def test_back_translations_are_compared_with_the_captions():
    """A perfect round trip scores 100, a wrong one less; null where there is nothing to compare."""
    rows = make_rows(["a red ball", "an old man walks"], ["a blue boat", "two green trees", "the small bird"])
    back = WordList({**ENGLISH, "ein blaues boot": "a red ball", "zwei grüne bäume": Answer("two", truncated=True),
                     "der kleine vogel": Answer(None)})  # fmt: skip
    events = Counter()
    columns = CaptionTranslator(WordList(GERMAN), ["de"], back_translators=back)(rows, events)
    (perfect, none), (wrong, cut, lost) = columns["caption_de_mt_similarity"]
    assert perfect == pytest.approx(100)
    assert 0 <= wrong < 60
    assert (none, cut, lost) == (None, None, None)
    assert back.asked[0] == ("de", "en")
    assert "AN OLD MAN WALKS" not in back.asked, "a refused translation is not worth another"
    assert events == {"no_back_translation": 2}


def slow_chrf(source, other):
    """chrF by its definition: the mean over orders 1 to 6 of precision and of recall, then F with beta 2."""
    precisions, recalls = [], []
    reference, hypothesis = (text.replace(" ", "") for text in (source, other))
    for order in range(1, 7):
        grams = [Counter(text[i : i + order] for i in range(len(text) - order + 1)) for text in (reference, hypothesis)]
        if not all(grams):
            continue
        shared = sum((grams[0] & grams[1]).values())
        recalls.append(shared / sum(grams[0].values()))
        precisions.append(shared / sum(grams[1].values()))
    precision, recall = (sum(values) / max(1, len(values)) for values in (precisions, recalls))
    return 500 * precision * recall / (4 * precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("other", ["a red ball", "a red bell", "the balls are red", "zzz", "b"])
def test_similarity_is_chrf_with_the_caption_as_reference(other):
    """Swapped arguments weigh recall for precision; another metric has another scale."""
    assert similarity("a red ball", other) == pytest.approx(slow_chrf("a red ball", other), abs=1e-6)


def test_a_missing_sacrebleu_is_named_with_its_remedy(monkeypatch):
    """The extra is optional."""
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.chrf", None)
    with pytest.raises(ImportError, match=r'`pip install -e "\.\[data\]"` in the checkout'):
        similarity("a", "b")


def server_translators(server, **options):
    settings = ChatSettings(server.url, "test-model", backoff_s=0.0, timeout_s=5.0, **options)
    return ServerTranslators(ChatServer(settings), PROMPTS["translate-v1"])


def caption_of(body):
    return prompt_of(body).rpartition("\n\n")[2]


def test_a_server_is_asked_for_the_language_by_name_and_its_answer_is_unwrapped():
    """Models know "German", not "de"; quotes around an answer are not part of the sentence."""
    with OpenAiServer(lambda body: f'German: "{GERMAN[caption_of(body)]}"') as server:
        columns = CaptionTranslator(server_translators(server), ["de"])(make_rows(["a red ball"]), Counter())
        assert "from English to German" in prompt_of(server.bodies[0])
    assert columns["caption_de_mt"] == [["ein roter ball"]]


def test_a_server_is_asked_again_after_a_bad_answer():
    """Another seed gives another text; what stays bad is flagged after the last attempt."""
    seen = Counter()

    def answer(body):
        caption = caption_of(body)
        seen[caption] += 1
        if caption == "a red ball" and seen[caption] < 3:
            return "I am sorry, but I cannot help with that."
        return GERMAN[caption] if caption != "a blue boat" else "a blue boat"

    events = Counter()
    with OpenAiServer(answer) as server:
        rows = make_rows(["a red ball", "a blue boat", "a white dog"])
        columns = CaptionTranslator(server_translators(server), ["de"])(rows, events)
        seeds = [body["seed"] for body in server.bodies if caption_of(body) == "a blue boat"]
    assert columns["caption_de_mt"] == [["ein roter ball", None, "ein weißer hund"]]
    assert columns["caption_de_mt_flag"] == [["ok", "copy", "ok"]]
    assert seen == {"a red ball": 3, "a blue boat": 3, "a white dog": 1}
    assert len(set(seeds)) == 3
    assert events["retry_copy"] == 2


def test_faults_of_a_server_are_counted_and_no_caption_is_lost():
    """429, 500, a cut connection and an empty answer in one shard."""
    events = Counter()
    faults = ["http_429", "http_500", "cut", "empty", "truncated", "invalid_utf8"]
    with OpenAiServer(lambda body: GERMAN[caption_of(body)], faults=faults) as server:
        rows = make_rows(*[[english] for english in GERMAN])
        columns = CaptionTranslator(server_translators(server, concurrency=2), ["de"])(rows, events)
    assert columns["caption_de_mt"] == [[german] for german in GERMAN.values()]
    assert {"http_429", "http_500", "retry_empty"} <= set(events)


def test_a_prompt_without_a_field_is_refused_before_the_work():
    """Each caption would get the same answer."""
    with OpenAiServer() as server, pytest.raises(ValueError, match="must hold the fields"):
        ServerTranslators(ChatServer(ChatSettings(server.url, "m")), Prompt("x", "Translate {caption}."))


@pytest.mark.parametrize("languages", [[], ["de", "de"], ["en"], ["xx"]])
def test_impossible_languages_are_refused(languages):
    """After a night of work, a column that overwrites another is found too late."""
    with pytest.raises(ValueError):
        translation_job(make_splits(["a"]), languages, WordList({}))


def test_a_data_set_without_english_captions_is_refused():
    """The message must name the column, before a model is loaded."""
    splits = datasets.DatasetDict({"train": make_rows(["a"]).remove_columns("caption_en")})
    with pytest.raises(ValueError, match="lacks the columns"):
        translation_job(splits, ["de"], WordList({}))


def test_settings_tell_what_decides_the_translations():
    """Two runs that differ in any of these must not share a folder."""
    splits = make_splits(["a"])
    job = translation_job(splits, ["de", "fr"], WordList({}), back_translators=WordList({}, revision="abc"))
    assert job.settings["back_translation"] == {"model": "table", "revision": "abc"}
    assert job.settings["languages"] == ["de", "fr"]
    assert job.settings["filters"]["min_script_share"] == 0.5
    assert list(job.features) == [
        f"caption_{code}_mt{suffix}" for code in ("de", "fr") for suffix in ("", "_flag", "_similarity")
    ]
    with OpenAiServer() as server:
        settings = translation_job(splits, ["de"], server_translators(server, seed=7)).settings
    assert settings["prompt"]["id"] == "translate-v1"
    assert (settings["model"], settings["seed"], settings["back_translation"]) == ("test-model", 7, None)
    assert "127.0.0.1" not in str(settings)


def run(out, splits, translators, *, rows_per_shard=2, **options):
    job = translation_job(splits, ["de"], translators, rows_per_shard=rows_per_shard, **options)
    return run_job(job, splits, out, lambda: CaptionTranslator(translators, ["de"], **options), progress=False)


def test_captions_that_nobody_wrote_are_not_translated():
    """A folder of bare pictures gave a complete data set without one translation."""
    for bare in (make_splits(None, [], ["", " "]), make_splits()):
        with pytest.raises(ValueError, match=r"has a text in caption_en; .*`leccr describe --prompt captions-v1`"):
            translation_job(bare, ["de"], WordList({}))
    splits = datasets.DatasetDict({"train": make_rows([]), "test": make_rows(*[[]] * 2000, [None, "a"])})
    translation_job(splits, ["de"], WordList({}))


def test_a_job_writes_columns_counts_and_loads(tmp_path):
    """The whole path with a table: rows, flags and their counts in the manifest."""
    splits = make_splits(*[[english, description] for english, _, description in SENTENCES])
    manifest = run(tmp_path / "out", splits, WordList(GERMAN), back_translators=WordList(ENGLISH))
    rows = open_splits(tmp_path / "out")["train"]
    assert rows["caption_de_mt"][:2] == [["ein roter ball", None], ["ein blaues boot", None]]
    assert rows[0]["caption_de_mt_similarity"] == [pytest.approx(100), None]
    assert manifest.steps[-1].counts["caption_de_mt_flag"] == {"copy": 8, "ok": 8}


def test_errors_are_done_again_and_nothing_else(tmp_path):
    """A server that was down for an hour must not cost the other hours."""
    splits = make_splits(["a red ball"], ["a blue boat"], ["a white dog"])
    broken = WordList({**GERMAN, "a blue boat": Answer(None)})
    run(tmp_path / "out", splits, broken)
    repaired = WordList(GERMAN)
    job = translation_job(splits, ["de"], repaired, rows_per_shard=2)
    manifest = run_job(job, splits, tmp_path / "out", lambda: CaptionTranslator(repaired, ["de"]), redo={"error"})
    assert repaired.asked == [("en", "de"), "a blue boat"]
    assert manifest.steps[-1].counts["caption_de_mt_flag"] == {"ok": 3}
    assert open_splits(tmp_path / "out")["train"]["caption_de_mt"] == [[GERMAN[c]] for c in list(GERMAN)[:2]] + [
        ["ein weißer hund"]
    ]


@pytest.fixture(scope="module")
def nllb(tmp_path_factory):
    """A tiny NLLB that translates both ways."""
    torch.manual_seed(1)
    return tiny_nllb(tmp_path_factory.mktemp("nllb"))


def test_a_real_model_goes_through_the_whole_job(tmp_path, nllb):
    """From captions through transformers to parquet, translated back by the same model."""
    splits = make_splits(*[[english, description] for english, _, description in SENTENCES])
    models = LocalTranslators(nllb, ["de"], max_new_tokens=8, batch_size=3)
    manifest = run(tmp_path / "out", splits, models, back_translators=models, keep_flagged=True)
    rows = open_splits(tmp_path / "out")["train"]
    assert len(rows) == 8
    for row in rows:
        assert len(row["caption_de_mt"]) == len(row["caption_de_mt_flag"]) == len(row["caption_de_mt_similarity"]) == 2
    assert sum(manifest.steps[-1].counts["caption_de_mt_flag"].values()) == 16
    assert manifest.steps[-1].settings["revision"].startswith("sha256:")


def test_a_continued_job_equals_an_uninterrupted_one(tmp_path, nllb):
    """Batches are formed inside a shard, so who wrote the others must not matter."""
    splits = make_splits(*[[english, description] for english, _, description in SENTENCES])

    def translators():
        return LocalTranslators(nllb, ["de"], max_new_tokens=8, batch_size=3)

    run(tmp_path / "whole", splits, translators(), keep_flagged=True)
    broken = translators()
    make, calls = broken.make, []

    def make_failing(source, target):
        inner = make(source, target)
        generate = inner.generate

        def failing(requests, **options):
            calls.append(1)
            if len(calls) == 3:
                raise RuntimeError("killed")
            return generate(requests, **options)

        inner.generate = failing
        return inner

    broken.make = make_failing
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "parts", splits, broken, keep_flagged=True)
    assert len(list((tmp_path / "parts" / "data").glob("*.parquet"))) == 2
    run(tmp_path / "parts", splits, translators(), keep_flagged=True)
    whole, parts = (open_splits(tmp_path / name)["train"] for name in ("whole", "parts"))
    assert whole.to_list() == parts.to_list()
    assert any(text for row in whole["caption_de_mt"] for text in row)


def test_another_model_does_not_continue_a_job(tmp_path, nllb):
    """Two halves by two models are one bad data set."""
    (tmp_path / "marian").mkdir()
    other = tiny_marian(tmp_path / "marian", target_lang="de")
    splits = make_splits(["a red ball"])
    run(tmp_path / "out", splits, LocalTranslators(nllb, ["de"], max_new_tokens=4))
    with pytest.raises(ValueError, match="holds another job"):
        run(tmp_path / "out", splits, LocalTranslators(other, ["de"], max_new_tokens=4))
