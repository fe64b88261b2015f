"""Sequence-to-sequence models of each family, tiny and random, through the real transformers path."""

from collections import Counter

import pytest
import torch
from huggingface_hub import HfApi
from transformers import BertConfig

from processing import translation_models
from processing.generation import Request
from processing.languages import LANGUAGES
from processing.local_models import resolve_revision
from processing.translation_families import find_direction
from processing.translation_models import (
    LocalTranslators,
    Seq2SeqTranslator,
    load_model,
)
from tests.hub_server import hub
from tests.tiny import SENTENCES
from tests.tiny_seq2seq import FAMILIES, make_model, tiny_m2m100, tiny_marian, tiny_mbart50, tiny_nllb, tiny_t5

CAPTIONS = [english for english, _, _ in SENTENCES] + [description for _, _, description in SENTENCES]
# What stands before a source and at the start of a translation, English to German.
SOURCE_STARTS = {"m2m100": "__en__", "nllb": "eng_Latn", "mbart50": "en_XX", "madlad": "▁"}
TARGET_STARTS = {"m2m100": "__de__", "nllb": "deu_Latn", "mbart50": "de_DE"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A loaded model of each family."""
    torch.manual_seed(0)
    return {name: load_model(make_model(name, tmp_path_factory.mktemp(name))) for name in FAMILIES}


@pytest.fixture
def calls(monkeypatch):
    """Inputs and outputs of each batch."""
    seen = []
    original = Seq2SeqTranslator._generate_batch

    def spy(self, sources):
        outputs = original(self, sources)
        seen.append((sources, outputs))
        return outputs

    monkeypatch.setattr(Seq2SeqTranslator, "_generate_batch", spy)
    return seen


def translate(translator, captions=CAPTIONS, events=None):
    requests = [Request(str(position), caption) for position, caption in enumerate(captions)]
    return translator.generate(requests, attempt=0, events=Counter() if events is None else events)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_translates_as_one_by_one(models, family, num_beams):
    """Padding that leaks into attention changes a translation with its neighbours, and so with the shard."""
    translator = Seq2SeqTranslator(models[family], "en", "de", num_beams=num_beams, max_new_tokens=8, batch_size=5)
    together = translate(translator)
    assert together == [translate(translator, [caption])[0] for caption in CAPTIONS]
    assert together[::-1] == translate(translator, CAPTIONS[::-1])
    assert len({answer.text for answer in together}) > 3, "the same text for all would hide a mixed-up order"


@pytest.mark.parametrize("family", sorted(SOURCE_STARTS))
def test_the_languages_reach_the_model(models, calls, family):
    """A code that does not arrive gives fluent text in a wrong language."""
    tokenizer = models[family].tokenizer
    answers = translate(Seq2SeqTranslator(models[family], "en", "de", max_new_tokens=6))
    for sources, outputs in calls:
        for source, output in zip(sources, outputs, strict=True):
            assert tokenizer.convert_ids_to_tokens(source)[0] == SOURCE_STARTS[family]
            if family == "madlad":
                assert tokenizer.convert_ids_to_tokens(source)[1] == "<2de>"
            else:
                assert tokenizer.convert_ids_to_tokens(output[1]) == TARGET_STARTS[family]
    assert not any(answer.text.startswith(TARGET_STARTS.get(family, "?")) for answer in answers)


def test_a_shared_tokenizer_serves_both_directions(models, calls):
    """Translation and back-translation by one NLLB take turns; each must set its own source language."""
    forth = Seq2SeqTranslator(models["nllb"], "en", "de", max_new_tokens=4)
    back = Seq2SeqTranslator(models["nllb"], "de", "en", max_new_tokens=4)
    for translator in (forth, back, forth):
        translate(translator, CAPTIONS[:1])
    starts = [
        [models["nllb"].tokenizer.convert_ids_to_tokens(ids) for ids in (sources[0][0], outputs[0][1])]
        for sources, outputs in calls
    ]
    assert starts == [["eng_Latn", "deu_Latn"], ["deu_Latn", "eng_Latn"], ["eng_Latn", "deu_Latn"]]


def test_a_marian_of_several_languages_gets_a_prefix(tmp_path, calls):
    """Without `>>deu<<` such a model chooses a language by itself."""
    loaded = load_model(tiny_marian(tmp_path, labels=[">>deu<<", ">>fra<<", ">>cmn<<", ">>cmn_Hans<<"]))
    for code, label in (("de", ">>deu<<"), ("fr", ">>fra<<"), ("zh", ">>cmn_Hans<<")):
        translate(Seq2SeqTranslator(loaded, "en", code, max_new_tokens=2), CAPTIONS[:1])
        assert loaded.tokenizer.convert_ids_to_tokens(calls[-1][0][0][0]) == label
    with pytest.raises(ValueError, match=r"cannot translate Czech \('cs'\): it knows \['>>cmn<<', '>>cmn_Hans<<'"):
        Seq2SeqTranslator(loaded, "en", "cs")


def test_a_marian_of_one_pair_is_not_used_for_another(tmp_path):
    """It would translate into its own language, and half of that passes for the one asked for."""
    loaded = load_model(tiny_marian(tmp_path, target_lang="fra"))
    Seq2SeqTranslator(loaded, "en", "fr")
    with pytest.raises(ValueError, match="the target_lang of this Marian model is 'fra'"):
        Seq2SeqTranslator(loaded, "en", "de")
    with pytest.raises(ValueError, match="the source_lang of this Marian model is 'en'"):
        Seq2SeqTranslator(loaded, "de", "fr")


@pytest.mark.parametrize("end_bias", [0.0, 1000.0])
def test_an_output_without_an_end_is_truncated(tmp_path, end_bias):
    """Marian forces an end token at the limit, which would pass a cut sentence off as a whole one."""
    loaded = load_model(tiny_marian(tmp_path, end_bias=end_bias))
    answers = translate(Seq2SeqTranslator(loaded, "en", "de", max_new_tokens=5))
    assert {answer.truncated for answer in answers} == {end_bias == 0}
    assert {bool(answer.text) for answer in answers} == {end_bias == 0}


def test_a_source_that_is_too_long_is_truncated_and_counted(tmp_path):
    """The rest of the sentence would be missing from a translation that looks whole."""
    events = Counter()
    translator = Seq2SeqTranslator(load_model(tiny_marian(tmp_path, end_bias=1000.0)), "en", "de")
    answers = translate(translator, ["a red ball", " ".join(["a red ball and a blue boat"] * 10)], events)
    assert [answer.truncated for answer in answers] == [False, True]
    assert events == {"source_truncated": 1}


def test_nothing_asked_is_nothing_answered(models):
    """A shard may hold no caption at all."""
    assert translate(Seq2SeqTranslator(models["marian"], "en", "de"), []) == []


@pytest.mark.parametrize(
    ("maker", "code", "message"),
    [
        (tiny_m2m100, "te", "M2M100 was not trained for it"),
        (tiny_mbart50, "da", "mBART-50 was not trained for it"),
        (tiny_t5, "cs", "no token '<2cs>'"),
        (tiny_nllb, "xx", "language must be one of"),
    ],
)
def test_a_language_that_the_model_does_not_know_is_refused(tmp_path, maker, code, message):
    """The unknown token as a language code gives text in any language."""
    loaded = load_model(maker(tmp_path))
    with pytest.raises(ValueError, match=message):
        Seq2SeqTranslator(loaded, "en", code)


def test_madlad_knows_hebrew_by_its_older_code(models):
    """Of several codes for a language the one in the vocabulary counts."""
    loaded = models["madlad"]
    assert find_direction("t5", loaded.tokenizer, "en", "he").prefix == "<2iw> "


def test_a_language_token_in_pieces_is_refused(models, monkeypatch):
    """A tokenizer rebuilt from other files may know `<2de>` and yet spell it out."""
    tokenizer = models["madlad"].tokenizer
    monkeypatch.setattr(type(tokenizer), "__call__", lambda self, text, **options: {"input_ids": [7, 8, 1]})
    with pytest.raises(ValueError, match="cuts '<2de>' into pieces"):
        find_direction("t5", tokenizer, "en", "de")


def test_models_of_other_families_are_refused_before_their_weights_are_loaded(tmp_path):
    """The error must name the families, not a missing attribute."""
    plain = load_model(make_model("madlad", tmp_path / "t5", labels=()))
    with pytest.raises(ValueError, match="this T5 model has no language tokens"):
        Seq2SeqTranslator(plain, "en", "de")
    BertConfig().save_pretrained(tmp_path / "bert")
    for refuse in (load_model, lambda name: LocalTranslators(name, ["de"])):
        with pytest.raises(ValueError, match=r"must be of the families Marian .* got the model type 'bert'"):
            refuse(str(tmp_path / "bert"))


@pytest.mark.parametrize("name", ["num_beams", "max_new_tokens", "batch_size"])
def test_numbers_out_of_range_are_refused(models, name):
    """A batch size of 0 would never end."""
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Seq2SeqTranslator(models["marian"], "en", "de", **{name: 0})


def test_more_tokens_than_positions_are_refused(models):
    """Marian fails with an index error, and only on the first long output."""
    with pytest.raises(ValueError, match="max_new_tokens must be at most 158 for this model, got 159"):
        Seq2SeqTranslator(models["marian"], "en", "de", max_new_tokens=159)
    assert len(translate(Seq2SeqTranslator(models["marian"], "en", "de", max_new_tokens=158), CAPTIONS[:2])) == 2


def test_a_missing_sentencepiece_is_named_with_its_remedy(tmp_path, monkeypatch):
    """The extra is optional; transformers names the library but not our extra."""
    name = tiny_marian(tmp_path)

    def refuse(*arguments, **options):
        raise ImportError("requires the SentencePiece library")

    monkeypatch.setattr(translation_models.AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(ImportError, match=r'`pip install -e "\.\[data\]"` in the checkout'):
        load_model(name)


def test_the_table_holds_the_codes_of_the_published_models():
    """A misspelt code would show when somebody first needs that language."""
    from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES as M2M100
    from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES as MBART
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as NLLB

    for language in LANGUAGES.values():
        assert language.flores in NLLB
        assert (language.mbart is None) == (language.code in {"da", "el", "hu", "no"})
        assert language.mbart is None or language.mbart in MBART
        assert (language.m2m100 is None) == (language.code == "te")
        assert language.m2m100 is None or language.m2m100 in M2M100["m2m100"]


def test_one_model_is_loaded_once_for_all_languages(tmp_path, monkeypatch):
    """Three copies of a large model do not fit into memory."""
    loads = []
    monkeypatch.setattr(translation_models, "load_model", lambda *a, **b: loads.append(a) or load_model(*a, **b))
    name = tiny_nllb(tmp_path)
    translators = LocalTranslators(name, ["de", "fr"], max_new_tokens=3)
    assert not loads, "a process without work must not load the model"
    made = [translators.make(*pair) for pair in (("en", "de"), ("en", "fr"), ("de", "en"))]
    assert loads == [(name,)]
    assert len({id(translator._model) for translator in made}) == 1


def test_a_field_in_the_name_gives_each_language_its_model(tmp_path):
    """opus-mt has a model for each pair; settings must tell the version of each, and no path of this machine."""
    for code in ("de", "fr"):
        (tmp_path / f"opus-en-{code}").mkdir()
        tiny_marian(tmp_path / f"opus-en-{code}", target_lang=code)
    translators = LocalTranslators(f"{tmp_path}/opus-en-{{language}}", ["de", "fr"], num_beams=2)
    assert translators.make("en", "fr")._tokenizer.target_lang == "fr"
    settings = translators.settings
    assert settings["model"] == "opus-en-{language}"
    assert {code: version[:7] for code, version in settings["revision"].items()} == {"de": "sha256:", "fr": "sha256:"}
    assert (settings["num_beams"], settings["max_new_tokens"], settings["dtype"]) == (2, 128, "float32")


def test_the_version_of_a_folder_changes_with_its_weights(tmp_path):
    """Two fine-tuned models have the same files of the same sizes; a job that continues with the other mixes two."""
    name = tiny_marian(tmp_path)
    first = LocalTranslators(name, ["de"]).settings
    assert first == LocalTranslators(name, ["de"]).settings
    weights = next(tmp_path.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert LocalTranslators(name, ["de"]).settings["revision"] != first["revision"]


def test_the_weights_are_read_once_for_all_languages(tmp_path, monkeypatch):
    """Ten languages would read 15 GB ten times."""
    read = []
    monkeypatch.setattr(translation_models, "resolve_revision", lambda *a: read.append(a) or resolve_revision(*a))
    name = tiny_nllb(tmp_path)
    LocalTranslators(name, ["de", "fr", "cs"])
    assert read == [(name, None)]


def test_a_model_that_is_not_there_is_named_with_the_way_out(tmp_path):
    """opus-mt has no en-ja: its Japanese is jap."""
    (tmp_path / "opus-en-de").mkdir()
    tiny_marian(tmp_path / "opus-en-de")
    with pytest.raises(FileNotFoundError, match=r"opus-en-ja'.* such as opus-mt-en-jap for Japanese .* run of its own"):
        LocalTranslators(f"{tmp_path}/opus-en-{{language}}", ["de", "ja"])
    with hub(tmp_path / "cache"), pytest.raises(FileNotFoundError, match="no folder 'owner/none', and on the Hub") as e:
        LocalTranslators("owner/none", ["de"])
    assert "opus-mt" not in str(e.value)


def test_a_branch_on_the_hub_becomes_its_commit(tmp_path):
    """`main` moves; a manifest must tell what was used."""
    folder = tmp_path / "model"
    folder.mkdir()
    tiny_nllb(folder)
    with hub(tmp_path / "cache") as server:
        api = HfApi()
        api.create_repo("owner/nllb", token=server.token)
        commit = api.upload_folder(repo_id="owner/nllb", folder_path=folder, token=server.token).oid
        translators = LocalTranslators("owner/nllb", ["de"], max_new_tokens=2)
        assert translators.settings["revision"] == commit
        assert translators.settings["model"] == "owner/nllb"
        assert len(translate(translators.make("en", "de"), CAPTIONS[:2])) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_models_translate_on_a_gpu(tmp_path, dtype):
    """Weights, inputs and the device of the process must agree in each precision."""
    loaded = load_model(tiny_nllb(tmp_path), dtype=dtype)
    assert loaded.model.device.type == "cuda"
    assert loaded.model.dtype == getattr(torch, dtype)
    translator = Seq2SeqTranslator(loaded, "en", "de", max_new_tokens=5)
    assert translate(translator) == translate(translator)


def test_weights_take_the_precision_that_is_asked_for(tmp_path):
    """bfloat16 halves the memory; silently loaded as float32 it would not fit."""
    loaded = load_model(tiny_nllb(tmp_path), dtype="bfloat16")
    assert loaded.model.dtype == torch.bfloat16
    assert len(translate(Seq2SeqTranslator(loaded, "en", "de", max_new_tokens=3), CAPTIONS[:2])) == 2
