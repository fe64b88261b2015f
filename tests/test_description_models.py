"""Tests of processing/description_models.py: the real transformers path on tiny random models."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig

from processing.description_models import ImageTextToText
from processing.generation import Answer, Request, seed_of
from processing.local_models import process_device, public_name, resolve_revision
from tests.tiny import tiny_image
from tests.tiny_mllm import END_ID, KINDS, tiny_mllm

PROMPT = "describe this picture"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One model of each kind."""
    return {kind: tiny_mllm(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def some_requests(count: int = 5) -> list[Request]:
    """Requests of different lengths, with one to three pictures each."""
    return [
        Request(
            f"item {index}",
            " ".join(PROMPT.split()[: 1 + index % 3]),
            tuple(tiny_image(index * 3 + frame) for frame in range(1 + index % 3)),
        )
        for index in range(count)
    ]


def answer(model: ImageTextToText, requests: Sequence[Request], attempt: int = 0) -> list[Answer]:
    """The answers, without the events."""
    return model.generate(requests, attempt=attempt, events=Counter())


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_what_its_requests_give_alone(folders: dict[str, str], kind: str):
    """Padding on the wrong side, or pictures that slip to the next row, change answers in a batch alone."""
    requests = some_requests()
    alone = answer(ImageTextToText(folders[kind], max_new_tokens=24, batch_size=1), requests)
    assert len({found.text for found in alone}) == len(alone)
    for batch_size in (2, 5, 8):
        assert answer(ImageTextToText(folders[kind], max_new_tokens=24, batch_size=batch_size), requests) == alone


@pytest.mark.parametrize("kind", KINDS)
def test_answers_equal_a_loop_of_single_steps(folders: dict[str, str], kind: str):
    """An oracle without `generate`: prompt tokens are cut off, the end token ends, the limit truncates."""
    model = ImageTextToText(folders[kind], max_new_tokens=24)
    expected = [greedy_loop(model, request, 24) for request in some_requests(12)]
    assert {found.truncated for found in expected} == {True, False}
    assert answer(model, some_requests(12)) == expected


def greedy_loop(model: ImageTextToText, request: Request, limit: int) -> Answer:
    """One token at a time, the whole sequence encoded anew for each."""
    content: list[dict[str, Any]] = [{"type": "image", "image": picture} for picture in request.pictures]
    inputs = model._processor.apply_chat_template(
        [{"role": "user", "content": [*content, {"type": "text", "text": request.prompt}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    tokens: list[int] = []
    for _ in range(limit):
        with torch.no_grad():
            token = int(model._model(**inputs).logits[0, -1].argmax())
        if token == model._processor.tokenizer.eos_token_id:
            return Answer(_decode(model, tokens), truncated=False)
        tokens.append(token)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[token]])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return Answer(_decode(model, tokens), truncated=True)


def _decode(model: ImageTextToText, tokens: list[int]) -> str:
    return model._processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def test_greedy_answers_do_not_depend_on_the_seed_and_retries_sample(folders: dict[str, str]):
    """A greedy answer that will not do would come again, for ever."""
    requests = some_requests()
    first, second = (ImageTextToText(folders["llava"], seed=seed, max_new_tokens=12) for seed in (0, 1))
    assert answer(first, requests) == answer(second, requests)
    retries = [[found.text for found in answer(first, requests, attempt)] for attempt in (0, 1, 2)]
    assert retries[0] != retries[1] != retries[2] != retries[0]
    assert answer(first, requests, 1) != answer(second, requests, 1)


def test_sampling_is_repeated_by_its_seed_alone(folders: dict[str, str]):
    """Answers that depend on what was generated before differ with the number of processes."""
    requests = some_requests()
    settings: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 12, "batch_size": 2}
    model = ImageTextToText(folders["llava"], **settings)
    found = answer(model, requests)
    torch.manual_seed(99)
    assert answer(model, requests[:2]) == found[:2]
    assert answer(model, requests) == found
    assert answer(ImageTextToText(folders["llava"], **settings), requests) == found
    assert answer(ImageTextToText(folders["llava"], seed=1, **settings), requests) != found
    # The same picture under another key is drawn anew.
    renamed = [Request(f"other {item.key}", item.prompt, item.pictures) for item in requests]
    assert answer(model, renamed) != found


def test_sampling_uses_its_temperature_and_top_p(folders: dict[str, str]):
    """A setting that does not arrive would stand in the manifest all the same."""
    requests = some_requests()
    greedy = answer(ImageTextToText(folders["llava"], max_new_tokens=12), requests)
    for settings in ({"temperature": 1e-4}, {"temperature": 5.0, "top_p": 1e-6}):
        assert answer(ImageTextToText(folders["llava"], max_new_tokens=12, **settings), requests) == greedy
    assert answer(ImageTextToText(folders["llava"], max_new_tokens=12, temperature=5.0), requests) != greedy


def test_defaults_that_a_model_brings_do_not_decide(folders: dict[str, str], tmp_path: Path):
    """Many models sample by default, with a top_k that no manifest would show."""
    folder = tmp_path / "model"
    shutil.copytree(folders["llava"], folder)
    path = folder / "generation_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"do_sample": True, "temperature": 3.0, "top_p": 0.5, "top_k": 1, "num_beams": 3, "max_length": 7}
    path.write_text(json.dumps(config), encoding="utf-8")
    requests = some_requests()
    for settings in ({}, {"temperature": 2.0}):
        plain = answer(ImageTextToText(folders["llava"], max_new_tokens=12, **settings), requests)
        assert answer(ImageTextToText(str(folder), max_new_tokens=12, **settings), requests) == plain


def test_several_end_tokens_end(folders: dict[str, str], tmp_path: Path):
    """Chat models end a turn with a token of its own beside the end of the text."""
    folder = tmp_path / "model"
    shutil.copytree(folders["llava"], folder)
    requests = some_requests()
    model = ImageTextToText(folders["llava"], max_new_tokens=12)
    words = str(answer(model, requests)[0].text).split()
    position, word = next((i, word) for i, word in enumerate(words) if word != words[0])
    path = folder / "generation_config.json"
    end = model._processor.tokenizer.convert_tokens_to_ids(word)
    config = json.loads(path.read_text(encoding="utf-8")) | {"eos_token_id": [END_ID, end]}
    path.write_text(json.dumps(config), encoding="utf-8")
    cut = answer(ImageTextToText(str(folder), max_new_tokens=12), requests)[0]
    assert cut == Answer(" ".join(words[:position]), truncated=False)


def test_the_random_state_of_the_process_stays(folders: dict[str, str]):
    """A side effect on the global seed would make the rest of a program depend on the descriptions."""
    model = ImageTextToText(folders["llava"], max_new_tokens=4, temperature=1.0)
    before = torch.random.get_rng_state()
    answer(model, some_requests(2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_seed_of_a_batch_is_derived_from_its_keys(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    """A seed per process or per call would change the answers of a resumed job."""
    seeds: list[int] = []
    plain = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda seed: (seeds.append(seed), plain(seed))[1])
    model = ImageTextToText(folders["llava"], max_new_tokens=2, batch_size=2, seed=7)
    answer(model, some_requests(3), attempt=1)
    assert seeds == [seed_of(7, "item 0\nitem 1", 1), seed_of(7, "item 2", 1)]


def test_weights_are_loaded_with_the_first_request(folders: dict[str, str]):
    """A process that claims no shard would load a model of many GB for nothing."""
    model = ImageTextToText(folders["llava"], max_new_tokens=2)
    assert model.decoding and "_model" not in vars(model)
    assert answer(model, []) == [] and "_model" not in vars(model)
    answer(model, some_requests(1))
    assert "_model" in vars(model)


def test_the_decoding_names_the_model_and_its_version_without_paths(folders: dict[str, str]):
    """A manifest without the version cannot be repeated; one with a path tells of a machine."""
    model = ImageTextToText(folders["llava"], dtype="bfloat16", temperature=1.0, seed=3, batch_size=2)
    found = model.decoding
    assert found == {
        "model": Path(folders["llava"]).name,
        "revision": resolve_revision(folders["llava"]),
        "dtype": "bfloat16",
        "max_tokens": 256,
        "temperature": 1.0,
        "retry_temperature": 1.0,
        "top_p": 1.0,
        "seed": 3,
        "batch_size": 2,
    }
    assert ImageTextToText(folders["llava"]).decoding["retry_temperature"] == 0.7


def test_the_weights_have_the_dtype_and_the_device_asked_for(folders: dict[str, str]):
    """Pictures in float32 make a model in bfloat16 fail."""
    model = ImageTextToText(folders["idefics3"], dtype="bfloat16", device=torch.device("cpu"), max_new_tokens=2)
    assert len(answer(model, some_requests(2))) == 2
    assert model._model.dtype == torch.bfloat16


def test_a_folder_has_the_version_of_its_files(folders: dict[str, str], tmp_path: Path):
    """A model that was trained on would resume a job of the model before."""
    folder = tmp_path / "model"
    shutil.copytree(folders["llava"], folder)
    version = resolve_revision(str(folder))
    assert version == resolve_revision(folders["llava"]) and version.startswith("sha256:")
    (folder / "chat_template.jinja").write_text("another", encoding="utf-8")
    assert resolve_revision(str(folder)) != version
    assert public_name(str(folder)) == "model" and public_name("org/model") == "org/model"


def test_a_model_of_the_hub_has_the_version_of_its_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A branch may hold another model tomorrow."""
    asked = []

    def download(name: str, file: str, *, revision: str | None) -> str:
        asked.append((name, file, revision))
        return str(tmp_path / "models--org--name" / "snapshots" / "0123abcd" / file)

    monkeypatch.setattr("processing.local_models.hf_hub_download", download)
    assert resolve_revision("org/name", "v1") == "0123abcd"
    assert asked == [("org/name", "config.json", "v1")]


def test_all_parts_of_a_model_come_from_one_commit(monkeypatch: pytest.MonkeyPatch):
    """A branch that moves between two processes would give one data set from two models."""
    sources: list[dict[str, str]] = []
    monkeypatch.setattr("processing.description_models.resolve_revision", lambda name, revision: "0123abcd")
    monkeypatch.setattr("processing.description_models._load_processor", sources.append)
    model = ImageTextToText("org/name", revision="main")
    assert sources == [{"pretrained_model_name_or_path": "org/name", "revision": "0123abcd"}]
    assert model.decoding["revision"] == "0123abcd" and model.decoding["model"] == "org/name"


def test_the_process_takes_the_gpu_of_its_rank(monkeypatch: pytest.MonkeyPatch):
    """Eight processes on the first of eight GPUs run out of memory."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert process_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert process_device() == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert process_device() == torch.device("cuda", 3)


@pytest.mark.parametrize(
    "settings", [{"max_new_tokens": 0}, {"batch_size": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_numbers_out_of_range_are_refused(folders: dict[str, str], settings: dict[str, Any]):
    """A limit of 0 would give empty descriptions of every picture."""
    with pytest.raises(ValueError, match="must be at least 1, temperature at least 0"):
        ImageTextToText(folders["llava"], **settings)


def test_a_model_that_cannot_be_asked_is_refused_before_its_weights(folders: dict[str, str], tmp_path: Path):
    """The fault would show when a job was already begun, or as a template error deep inside a library."""
    with pytest.raises(ValueError, match=r"bare has no chat template"):
        ImageTextToText(tiny_mllm(tmp_path / "bare", template=None))
    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="must be a model that writes about pictures, got one of type 'bert'"):
        ImageTextToText(str(tmp_path / "bert"))
    with pytest.raises(FileNotFoundError, match=r"holds no model; there is no config\.json"):
        ImageTextToText(str(tmp_path))
    with pytest.raises(ValueError, match="revision is for models on the Hub"):
        ImageTextToText(folders["llava"], revision="main")
