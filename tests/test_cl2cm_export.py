"""The models of CL2CM as files: exported, checked by a stranger, pushed, in other tools, in search and evaluation."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor, pipeline

from hub_scripts import encode_descriptions, evaluate, search
from modeling_leccr import Cl2cmModel, CrossLingualModel
from modeling_leccr.check_embeddings import largest_difference
from modeling_leccr.export import save_for_hub
from modeling_leccr.model_files import MODEL_TYPES, foreign_files
from modeling_leccr.publishing import push_model
from reporting.model_card import model_card, read_facts
from reporting.model_record import ModelRecord
from retrieval.dual_encoders import load_dual_encoder
from retrieval.index import ItemIndex
from tests.hub_parts import files_of
from tests.hub_server import HubServer, hub
from tests.loading_worker import HIDE_PACKAGES
from tests.model_card_parts import REPO, blocks, full_record, protocol, scores, section
from tests.test_retrieval_encode import make_split
from tests.tiny import (
    SENTENCES,
    tiny_cl2cm,
    tiny_cl2cm_config,
    tiny_config,
    tiny_cross_lingual,
    tiny_cross_lingual_config,
    tiny_image,
    tiny_model,
    tiny_processor,
)

RECORD = ModelRecord(languages=("de", "zh"), metrics={"test": {"de/sum_r": 1.0}})
MAKERS: dict[str, Callable[..., Any]] = {"cl2cm": tiny_cl2cm, "text": tiny_cross_lingual}
KINDS = list(MAKERS)
TEXTS = [row[1] for row in SENTENCES[:4]]
IMAGES = [tiny_image(i) for i in range(3)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both models as saved for the Hub."""
    folder = tmp_path_factory.mktemp("export")
    return {
        kind: save_for_hub(make(), tiny_processor(max_length=20), folder / kind, record=RECORD)
        for kind, make in MAKERS.items()
    }


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with hub(tmp_path / "home") as running:
        yield running


def record_with(**settings: Any) -> ModelRecord:
    """A record of a recipe in which some settings are others."""
    return full_record(settings={**full_record().settings, "model": {}, "controls": {}, **settings})


def card_of(folder: Path, record: ModelRecord, tmp_path: Path) -> str:
    """The card that a model with a record gets; the folder stays as it is."""
    copy = tmp_path / folder.name
    for name, data in files_of(folder).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(data)
    record.write(copy)
    return model_card(read_facts(copy, REPO))


# Without our packages, beside the folders: the blocks of each card as they stand, then the check of each folder.
STRANGER = """
import re, runpy, sys
for name in ("cl2cm", "text"):
    session = {}
    for block in re.findall(r"^```python\\n(.*?)^```", open(f"{name}/README.md", encoding="utf-8").read(), re.M | re.S):
        exec(block, session)
        print("-----")
    print(type(session["model"]).__module__)
    sys.argv = [f"{name}/check_embeddings.py", "--tolerance", "1e-6"]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, name
"""


def test_a_stranger_runs_the_cards_and_the_checks(folders: dict[str, Path], tmp_path: Path) -> None:
    """In a fresh process, from another folder, with the code of the folders alone; people copy the blocks first."""
    variables = {**os.environ, "HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "-c", HIDE_PACKAGES + STRANGER]
    done = subprocess.run(
        command, cwd=folders["text"].parent, env=variables, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    use, classify, encode, end, second_encode, second_end = done.stdout.split("-----\n")
    assert len(re.findall(r"^-?\d\.\d{3}  ", use, re.MULTILINE)) == 5
    assert "'label': 'a red heart'" in classify and "tensor([[" in encode and "tensor([[" in second_encode
    # After the last block of a model come its module and its check, and then the first block of the other.
    assert len(re.findall(r"^-?\d\.\d{3}  ", end, re.MULTILINE)) > 4
    for told in (end, second_end):
        module, check = told.splitlines()[:2]
        assert re.fullmatch(r"transformers_modules\.\S+\.modeling_cl2cm", module)
        assert json.loads(check)["max_difference"] <= 1e-6


def test_the_folder_holds_what_the_model_needs_and_no_more(folders: dict[str, Path]) -> None:
    """Code of another system, or pictures beside a network of texts, would promise what is not there."""
    names = {kind: set(files_of(folder)) for kind, folder in folders.items()}
    for kind in KINDS:
        assert {"configuration_cl2cm.py", "modeling_cl2cm.py", "streams_leccr.py", "check_embeddings.py"} <= names[kind]
        assert not names[kind] & {"modeling_leccr.py", "losses_leccr.py", "losses_cl2cm.py"}
    assert {name for name in names["cl2cm"] if name.startswith("golden/")} == {
        "golden/inputs.json", "golden/embeds.safetensors", "golden/0.png", "golden/1.png", "golden/2.png",
    }  # fmt: skip
    assert {name for name in names["text"] if name.startswith("golden/")} == {
        "golden/inputs.json",
        "golden/embeds.safetensors",
    }
    golden = {kind: load_file(folder / "golden" / "embeds.safetensors") for kind, folder in folders.items()}
    assert set(golden["cl2cm"]) == {"text_embeds", "image_embeds"} and set(golden["text"]) == {"text_embeds"}
    inputs = {kind: json.loads((folder / "golden" / "inputs.json").read_text()) for kind, folder in folders.items()}
    for kind, modalities in {"cl2cm": {"text", "image"}, "text": {"text"}}.items():
        sentence = json.loads((folders[kind] / "sentence_bert_config.json").read_text())
        assert set(sentence["modality_config"]) == modalities
    assert set(inputs["cl2cm"]) == {"texts", "images"} and set(inputs["text"]) == {"texts"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_save_gives_the_same_bytes_and_a_changed_weight_is_found(
    folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    """Each push would change the repository; and a check that passes on any model tells nothing."""
    model = AutoModel.from_pretrained(folders[kind])
    assert type(model) is {"cl2cm": Cl2cmModel, "text": CrossLingualModel}[kind]
    again = save_for_hub(model, AutoProcessor.from_pretrained(folders[kind]), tmp_path / kind, record=RECORD)
    assert files_of(again) == files_of(folders[kind])
    assert largest_difference(again) <= 1e-6
    weights = load_file(again / "model.safetensors")
    weights["text_projection.weight"] += 0.1 * torch.randn(weights["text_projection.weight"].shape)
    save_file(weights, again / "model.safetensors", metadata={"format": "pt"})
    assert largest_difference(again) > 1e-3


def test_the_auto_classes_find_both_models(folders: dict[str, Path]) -> None:
    """What a stranger types; a network of texts is no classifier of images."""
    for folder in folders.values():
        assert AutoConfig.from_pretrained(folder).model_type in MODEL_TYPES
        assert AutoProcessor.from_pretrained(folder).max_length == 20
        assert type(AutoModel.from_config(AutoConfig.from_pretrained(folder))).__name__ in (
            "Cl2cmModel",
            "CrossLingualModel",
        )
    assert type(AutoModelForZeroShotImageClassification.from_pretrained(folders["cl2cm"])) is Cl2cmModel
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        AutoModelForZeroShotImageClassification.from_pretrained(folders["text"])
    auto_map = json.loads((folders["text"] / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", "AutoModel"}


def test_cl2cm_classifies_images_in_the_pipeline(folders: dict[str, Path]) -> None:
    """The widget of the Hub; it takes no descriptions, and this model needs none."""
    classify = pipeline("zero-shot-image-classification", model=str(folders["cl2cm"]))
    result = classify(IMAGES[0], candidate_labels=TEXTS, hypothesis_template="{}")
    with torch.no_grad():
        output = tiny_cl2cm()(**tiny_processor()(images=IMAGES[:1], text=TEXTS))
    expected = dict(zip(TEXTS, output.logits_per_image.softmax(dim=-1)[0].tolist(), strict=True))
    assert {row["label"]: row["score"] for row in result} == pytest.approx(expected, abs=1e-6)


def test_sentence_transformers_encodes_as_the_models_do(folders: dict[str, Path]) -> None:
    """Texts with both, images with one; the other has to say that it takes none."""
    for kind, make in MAKERS.items():
        encoder = SentenceTransformer(str(folders[kind]))
        with torch.no_grad():
            expected = make().get_text_features(**tiny_processor()(text=TEXTS)).pooler_output
        np.testing.assert_allclose(encoder.encode(TEXTS), expected.numpy(), rtol=0, atol=1e-6)
        assert encoder.max_seq_length == 20 and encoder.get_embedding_dimension() == 16
        if kind == "text":
            with pytest.raises(ValueError, match="image"):
                encoder.encode(IMAGES)
        else:
            with torch.no_grad():
                expected = make().get_image_features(**tiny_processor()(images=IMAGES)).pooler_output
            np.testing.assert_allclose(encoder.encode(IMAGES), expected.numpy(), rtol=0, atol=1e-6)


def test_a_push_brings_both_models_to_the_hub(
    folders: dict[str, Path], server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by their type, they could not be shared at all."""
    monkeypatch.setenv("HF_TOKEN", server.token)
    for kind, folder in folders.items():
        plan = push_model(folder, f"owner/{kind}", license_id="mit", dry_run=True, staging=tmp_path / "staging")
        assert "modeling_cl2cm.py" in plan["would_send"]
        push_model(folder, f"owner/{kind}", license_id="mit")
        assert HfApi().repo_exists(f"owner/{kind}")
        loaded, local = (AutoModel.from_pretrained(name) for name in (f"owner/{kind}", folder))
        for name, value in local.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name


def test_a_save_replaces_a_model_of_another_system(tmp_path: Path) -> None:
    """The folder of a run is written anew when its recipe is trained as another system."""
    for make in (tiny_model, tiny_cl2cm, tiny_cross_lingual):
        folder = save_for_hub(make(), tiny_processor(), tmp_path / "model")
        assert not foreign_files(folder)
    assert not (folder / "golden" / "0.png").exists() and not (folder / "modeling_leccr.py").exists()


@pytest.mark.parametrize("make", [tiny_config, tiny_cl2cm_config, tiny_cross_lingual_config])
def test_cards_know_what_a_model_reads_as_its_configuration_does(
    make: Callable[..., Any], folders: dict[str, Path]
) -> None:
    """A card is written from JSON, in which the systems without a choice say nothing of it."""
    config = make()
    facts = replace(read_facts(folders["cl2cm"], REPO), config=json.loads(config.to_json_string()))
    for name in ("item_source", "reads_image", "reads_description", "needs_description", "has_slots"):
        assert getattr(facts, name) == getattr(config, name), name


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def test_the_card_of_cl2cm_speaks_of_cl2cm(folders: dict[str, Path], tmp_path: Path) -> None:
    """A reader who is told of slots looks for them; a wrong citation gives the credit to others."""
    card = card_of(folders["cl2cm"], record_with(teacher="org/teacher"), tmp_path)
    data = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    assert data["pipeline_tag"] == "zero-shot-image-classification"
    assert data["tags"] == ["image-text-retrieval", "cross-lingual-retrieval", "cl2cm"]
    body = card.partition("\n---\n")[2]
    assert not words(body) & {"slot", "slots", "description", "descriptions", "fused"}
    assert "LECCR" not in body.replace("With the package LECCR for the Hub", "")
    assert "2312.08984" in section(card, "Citation") and "@inproceedings{wang2024cl2cm" in section(card, "Citation")
    assert "A CL2CM model that finds pictures by captions in English, German, Chinese and French" in body
    training = section(card, "Training")
    assert "a cross-lingual network ([org/teacher](https://huggingface.co/org/teacher)) learned from" in training
    assert "Scores: the cosine of item and text." in section(card, "Results")
    assert "| width of visual tokens | 32 |" in section(card, "Model")
    assert "- Captions are cut after 20 tokens." in section(card, "Limits")
    teacher = str(tmp_path / "run" / "teacher")
    assert "a cross-lingual network learned" in card_of(folders["cl2cm"], record_with(teacher=teacher), tmp_path)


def test_the_card_of_the_cross_lingual_network_is_that_of_a_text_encoder(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """It finds no pictures; who loads it for that must learn so from the first sentence."""
    card = card_of(folders["text"], record_with(), tmp_path)
    data = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    assert data["pipeline_tag"] == "sentence-similarity"
    assert data["tags"] == ["text-retrieval", "cross-lingual-retrieval", "cl2cm"]
    (entry,) = data["model-index"]
    names = [result["metrics"][0]["name"] for result in entry["results"]]
    assert entry["results"][0]["task"]["type"] == "text-retrieval"
    assert "German, text to English captions R@1" in names and not [name for name in names if "image" in name]
    body = card.partition("\n---\n")[2]
    assert body.partition("\n\n")[2].startswith("A text encoder that puts captions in English, German, Chinese and Fr")
    assert not words(body) & {"slot", "slots", "description", "descriptions", "image", "fused", "pipeline"}
    assert "It is the first stage of CL2CM" in section(card, "Training")
    assert "; this network read the captions alone." in section(card, "Training")
    assert "Items: an item is the mean of its English captions." in section(card, "Results")
    use = blocks(card)
    assert len(use) == 2 and "PIL" not in use[0] and "get_text_features" in use[0] and "item = caption" in use[1]
    drawn = full_record(
        settings={"dataset": "scenes", "target_languages": ["de"]},
        metrics={"test": scores("de")},
        protocol={"test": protocol("test", "de")},
    )
    limits = section(card_of(folders["text"], drawn, tmp_path), "Limits")
    assert "It was trained on captions that rules wrote; it knows nothing of how people write." in limits
    assert "Languages and uses other than those in Results were not measured" in limits and "photos" not in limits


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    """A folder of four pictures."""
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        tiny_image(i).save(tmp_path / "pictures" / f"{i}.png")
    return str(tmp_path / "pictures")


def test_search_finds_pictures_with_cl2cm_and_says_why_not_with_its_teacher(
    folders: dict[str, Path], pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error must name what this network embeds, not a column that nobody asked for."""
    query = ["--items", pictures, "--query", "ein roter ball", "--top-k", "2"]
    search.main(["--model", str(folders["cl2cm"]), *query, "--save-index", str(tmp_path / "index")])
    assert capsys.readouterr().out.count(".png") == 2
    index = ItemIndex.load(tmp_path / "index")
    assert index.composites.shape == (4, 1, 16) and index.settings["descriptions"] is False
    with pytest.raises(ValueError, match=r"4 of 4 items have no caption_en.* reads no pictures\. .*model of pictures"):
        search.main(["--model", str(folders["text"]), *query])


@pytest.mark.parametrize("kind", KINDS)
def test_evaluate_and_an_index_of_captions_work_with_both(
    folders: dict[str, Path], kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recalls of both stages are printed by one command, with what they were measured on."""
    split = make_split()
    split.to_parquet(str(tmp_path / "test-00000-of-00001.parquet"))
    evaluate.main(["--model", str(folders[kind]), "--dataset", str(tmp_path), "--languages", "de"])
    report = json.loads(capsys.readouterr().out)
    assert 0 <= report["metrics"]["de/sum_r"] <= 600
    assert report["protocol"]["item_source"] == {"cl2cm": "image", "text": "source_captions"}[kind]
    assert report["protocol"]["descriptions"] is False and report["protocol"]["global_weight"] == 1.0
    with pytest.raises(ValueError, match="this model has no slots"):
        evaluate.main(
            ["--model", str(folders[kind]), "--dataset", str(tmp_path), "--languages", "de", "--scoring", "slots"]
        )


def test_tools_of_pictures_and_of_descriptions_refuse_what_reads_none(folders: dict[str, Path], tmp_path: Path) -> None:
    """Each would fail late, in the middle of a tensor."""
    encoder = load_dual_encoder(str(folders["cl2cm"]))
    assert encoder.encode_images(make_split(), 2, progress=False).shape[1:] == (1, 16)
    with pytest.raises(ValueError, match=r"must embed pictures, but .*text has item_source='source_captions'"):
        load_dual_encoder(str(folders["text"]))
    for folder in folders.values():
        options = encode_descriptions.parse_arguments(
            ["--model", str(folder), "--dataset", str(tmp_path), "--out", str(tmp_path / "states")]
        )
        with pytest.raises(ValueError, match="reads no descriptions"):
            encode_descriptions.load_encoder(options)
