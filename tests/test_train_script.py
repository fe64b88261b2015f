"""train.py as people run it: a recipe in, a folder of results out."""

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image
from transformers import AutoModel, AutoProcessor

from hub_scripts import evaluate, search
from modeling_leccr import Cl2cmModel, CrossLingualModel, LeccrModel
from modeling_leccr.training import outputs
from modeling_leccr.training.failures import TrainingStoppedError
from tests.hub_server import HubServer, environment
from tests.test_training_building import data_set_folder
from tests.training_parts import tiny_recipe, tiny_split
from train import main, run_script

REPO = "owner/leccr-scenes"
PICTURES = ("training.png", "retrieval.png", "comparison.png")


def write_recipe(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe(folder / "out", **changes), allow_unicode=True), encoding="utf-8")
    return path


def train(root_dir: Path, cwd: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script from a folder that is not the repository."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(root_dir / "train.py"), *arguments]
    return subprocess.run(command, cwd=cwd, env=inherited | variables, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture(scope="module")
def scenes_run(tmp_path_factory: pytest.TempPathFactory, root_dir: Path, server: HubServer) -> Path:
    """Output of a run on scenes with a control, pushed at its end."""
    folder = tmp_path_factory.mktemp("scenes")
    controls = {"two streams": {"model": {"item_source": "image", "interaction": "none"}}}
    recipe = write_recipe(folder, controls=controls, push_to_hub=True, hub_model_id=REPO, hub_license="mit")
    variables = environment(server, folder / "home") | {"HF_TOKEN": server.token}
    changes = ("--model.num_slots", "3", "--model.description_dropout", "0.1")
    result = train(root_dir, folder, str(recipe), *changes, **variables)
    assert result.returncode == 0, result.stderr[-4000:]
    return folder / "out"


def test_a_run_writes_all_its_results(scenes_run: Path):
    """The main job promises these files, and a run that ends without one has not kept it."""
    for name in (*PICTURES, "metrics.json", "report.md", "searches.json", "model/model.safetensors"):
        assert (scenes_run / name).stat().st_size > 0, name
    for name in PICTURES:
        with Image.open(scenes_run / name) as picture:
            assert min(picture.size) > 100, name


def test_the_metrics_hold_both_systems_in_all_languages(scenes_run: Path):
    """The numbers of the README come from this file alone."""
    record = json.loads((scenes_run / "metrics.json").read_text(encoding="utf-8"))
    assert set(record["systems"]) == {"LECCR", "two streams"}
    assert set(record["systems"]["LECCR"]) == {"validation", "test", "test without descriptions"}
    assert set(record["systems"]["two streams"]) == {"validation", "test"}
    assert record["launch"]["num_processes"] == 1
    for metrics in record["systems"].values():
        for language in ("de", "zh"):
            for key in ("t2i_R@1", "t2i_R@5", "t2i_R@10", "i2t_R@1", "i2t_R@5", "i2t_R@10"):
                assert 0 <= metrics["test"][f"{language}/{key}"] <= 100
            assert 0 <= metrics["test"][f"{language}/sum_r"] <= 600
    assert record["protocol"]["test"]["tie_rule"].startswith("pessimistic")
    assert re.fullmatch("best SumR on validation, step [12] of 2", record["checkpoint_choice"])
    assert record["peak_memory_gib"] > 0.1
    assert {"train LECCR", "train two streams", "prepare data"} <= set(record["seconds"])


def test_anybody_can_score_the_saved_model_again(scenes_run: Path, tmp_path: Path):
    """A number that cannot be repeated from what lies on the disk has to be believed."""
    folders = ["--model", str(scenes_run / "model"), "--dataset", str(scenes_run / "items")]
    evaluate.main([*folders, "--languages", "de", "zh", "--device", "cpu", "--output", str(tmp_path / "again.json")])
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))["metrics"]
    record = json.loads((scenes_run / "metrics.json").read_text(encoding="utf-8"))["systems"]["LECCR"]["test"]
    assert again == {name: value for name, value in record.items() if name in again} and "de/sum_r" in again


def test_the_record_holds_what_was_said_on_the_command_line(scenes_run: Path):
    """A run that cannot be repeated from its record is an anecdote."""
    record = json.loads((scenes_run / "metrics.json").read_text(encoding="utf-8"))
    assert record["settings"]["model"]["num_slots"] == 3
    assert AutoModel.from_pretrained(scenes_run / "model").config.num_slots == 3


def test_the_start_of_a_run_and_its_data_are_on_record(scenes_run: Path, server: HubServer):
    """Weights without the data, versions and settings that they came from cannot be made again."""
    (start,) = json.loads((scenes_run / "run.json").read_text(encoding="utf-8"))["starts"]
    assert start["num_processes"] == 1 and start["settings"]["model"]["num_slots"] == 3
    assert start["settings"]["output_dir"] == str(scenes_run) and "torch" in start["environment"]["libraries"]
    assert {role: entry["num_items"] for role, entry in start["data"].items()} == {
        "train": 12,
        "validation": 4,
        "test": 6,
    }
    assert start["data"]["train"]["num_captions"]["caption_de_mt"] == 12
    checkpoints = (scenes_run / "checkpoints" / "LECCR").glob("checkpoint-*")
    folders = [scenes_run, scenes_run / "model", *checkpoints]
    assert len(folders) >= 3
    for folder in folders:
        assert json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["data"] == start["data"]


def test_the_report_mentions_both_systems_and_the_protocol(scenes_run: Path):
    """Recalls without split, tie rule and control cannot be compared with anybody's."""
    report = (scenes_run / "report.md").read_text(encoding="utf-8")
    record = json.loads((scenes_run / "metrics.json").read_text(encoding="utf-8"))
    without = record["systems"]["LECCR"]["test without descriptions"]
    assert f"| LECCR without descriptions | {without['de/sum_r']:.1f} | {without['zh/sum_r']:.1f} |" in report
    assert "two streams without" not in report and "| `num_processes` | 1 |" in report
    for words in ("LECCR", "two streams", "German", "Chinese", "pessimistic", "best SumR on validation", "test"):
        assert words in report
    for name in PICTURES:
        assert f"({name})" in report


def test_the_saved_model_embeds_and_is_the_best_checkpoint(scenes_run: Path):
    """The folder is what people push; a model of another step would not have the scores beside it."""
    model = AutoModel.from_pretrained(scenes_run / "model")
    processor = AutoProcessor.from_pretrained(scenes_run / "model")
    assert type(model) is LeccrModel
    assert model.get_text_features(**processor(text=["ein roter Kreis"])).pooler_output.shape == (1, 16)
    own = json.loads((scenes_run / "model" / "metrics.json").read_text(encoding="utf-8"))
    record = json.loads((scenes_run / "metrics.json").read_text(encoding="utf-8"))
    assert own["metrics"] == record["systems"]["LECCR"]
    assert own["protocol"] == record["protocol"] and "tie_rule" in own["protocol"]["test"]


def test_the_pushed_model_is_the_saved_one(scenes_run: Path, server: HubServer):
    """A push of a control, of a checkpoint or of the whole folder would publish another thing than was reported."""
    assert [name for _, name in server.repositories] == [REPO]
    sent = server.files(REPO, "models")
    saved = {
        path.relative_to(scenes_run / "model").as_posix(): path.read_bytes()
        for path in (scenes_run / "model").rglob("*")
        if path.is_file()
    }
    # The card in the folder names the folder, the one on the Hub the repository.
    assert {name: data for name, data in sent.items() if name != "README.md"} == {
        name: data for name, data in saved.items() if name != "README.md"
    }
    card = sent["README.md"].decode()
    assert f'"{REPO}"' in card and "license: mit" in card and "pessimistic" in card
    assert "Global batch: 6 pairs" in card and "not in the second" in card
    assert len(server.repositories["models", REPO].commits) == 2
    private = [str(scenes_run.parent), scenes_run.parent.name, server.token, server.url]
    assert not [word for word in private for data in sent.values() if word.encode() in data]


def test_a_search_was_made_in_each_language(scenes_run: Path):
    """The demo promises search in the languages of the recipe, by the command that a user would type."""
    searches = json.loads((scenes_run / "searches.json").read_text(encoding="utf-8"))
    assert [search["language"] for search in searches] == ["de", "zh"]
    assert all(len(search["hits"]) == 5 and search["query"] for search in searches)


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run searches here, and its model is not loaded again: `scenes_run` has both in processes of their own, of which
    each imports torch."""

    def run(command: list[str], *, cwd: Path | None = None, **_: Any) -> subprocess.CompletedProcess[str]:
        is_search = command[:3] == [sys.executable, "-m", "hub_scripts.search"]
        if is_search:
            with monkeypatch.context() as place:
                place.chdir(cwd)
                search.main(command[3:])
        return subprocess.CompletedProcess(command, 0, "" if is_search else '{"max_difference": 0.0}', "")

    monkeypatch.setattr(outputs, "subprocess", SimpleNamespace(run=run))


@pytest.mark.usefixtures("no_processes")
def test_a_run_on_a_folder_of_parquet_files_without_test_split(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The way to one's own data; without a test split, validation is reported and called so."""
    (tmp_path / "data").mkdir()
    location = data_set_folder(tmp_path / "data", train=8, validation=4)
    recipe = write_recipe(tmp_path, dataset=location, scenes={}, test_split=None, target_languages=["de"])
    with caplog.at_level(logging.INFO, "train"):
        main([str(recipe)])
    # Each of these takes seconds, in which a log without them looks as if the run hung.
    stages = [record.getMessage().split()[0] for record in caplog.records if record.name == "train"]
    assert stages == ["saving", "reloaded", "indexing", "drawing", "report:"]
    record = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert set(record["systems"]) == {"LECCR"}
    assert set(record["systems"]["LECCR"]) == {"validation"}
    assert "split: validation" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for name in PICTURES:
        assert (tmp_path / "out" / name).is_file()


@pytest.mark.usefixtures("no_processes")
def test_a_run_on_translations_alone_survives_those_that_were_refused(tmp_path: Path):
    """A null in the first place, or an item without any translation, showed only after hours of training."""
    refused = {"caption_de_mt": [[None, "ein Hund"], [None, None], ["eine Katze", None], ["ein Haus", "Häuser"]]}
    (tmp_path / "data").mkdir()
    for name in ("train", "validation"):
        split = tiny_split(4, caption_en=[["one", "two"]] * 4, **refused).remove_columns(["caption_de"])
        split.to_parquet(str(tmp_path / "data" / f"{name}-00000-of-00001.parquet"))
    data = {"dataset": str(tmp_path / "data"), "scenes": {}, "test_split": None}
    languages = {"target_languages": ["de"], "evaluation_languages": ["de_mt"]}
    main([str(write_recipe(tmp_path, **data, **languages, per_device_train_batch_size=4))])
    record = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    metrics = record["systems"]["LECCR"]["validation"]
    assert (metrics["de_mt/num_items"], metrics["de_mt/num_texts"]) == (3, 4)
    (search,) = json.loads((tmp_path / "out" / "searches.json").read_text(encoding="utf-8"))
    assert search["query"] == "ein Hund"
    assert "German (machine translation)" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("no_processes")
def test_a_run_in_two_stages_leaves_both_networks_and_its_first_stage_alone_needs_texts_only(tmp_path: Path):
    """The pictures of the hits come last: a network that has none must not end the run there."""
    for name in ("train", "validation"):
        (tmp_path / "texts").mkdir(exist_ok=True)
        texts = tiny_split(8).remove_columns(["image", "description"])
        texts.to_parquet(str(tmp_path / "texts" / f"{name}-00000-of-00001.parquet"))
    settings = {"system": "cl2cm", "model": {"embed_dim": 16, "visual_dim": 32}, "target_languages": ["de"]}
    recipe = str(write_recipe(tmp_path, **settings))
    main([recipe])
    record = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert set(record["systems"]) == {"CL2CM"} and set(record["teacher"]["metrics"]) == {"validation", "test"}
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert report.startswith("# CL2CM on scenes") and "cross-lingual network of the first stage" in report
    assert type(AutoModel.from_pretrained(tmp_path / "out" / "model")) is Cl2cmModel
    assert type(AutoModel.from_pretrained(tmp_path / "out" / "teacher")) is CrossLingualModel
    place = ["--dataset", str(tmp_path / "texts"), "--test_split", "null", "--scenes", "null"]
    main([recipe, "--system", "cross_lingual", "--output_dir", str(tmp_path / "alone"), *place])
    assert type(AutoModel.from_pretrained(tmp_path / "alone" / "model")) is CrossLingualModel
    assert json.loads((tmp_path / "alone" / "searches.json").read_text(encoding="utf-8"))
    assert not (tmp_path / "alone" / "retrieval.png").exists()
    assert "retrieval.png" not in (tmp_path / "alone" / "report.md").read_text(encoding="utf-8")


def test_a_wrong_setting_ends_the_script_before_it_writes_anything(tmp_path: Path):
    """A folder of half a run would be taken for results."""
    with pytest.raises(ValueError, match=r"unknown settings \['learning_rte'\]"):
        main([str(write_recipe(tmp_path)), "--learning_rte", "1"])
    assert not (tmp_path / "out").exists()


def test_a_folder_that_the_model_cannot_replace_ends_the_script_before_training(tmp_path: Path):
    """After hours of training it would cost the model its place."""
    (tmp_path / "out" / "model").mkdir(parents=True)
    (tmp_path / "out" / "model" / "notes.md").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=r"holds 1 files .* \(first: \['notes.md'\]\); choose another folder"):
        main([str(write_recipe(tmp_path))])
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["model", "notes.md"]


def test_what_the_user_can_mend_ends_the_script_in_one_line(tmp_path: Path):
    """Forty lines of traceback in each of eight processes hide the one that says what is wrong."""
    with pytest.raises(SystemExit) as stopped:
        run_script([str(write_recipe(tmp_path)), "--learning_rte", "1"])
    message = str(stopped.value.code)
    assert message.startswith("train.py: unknown settings ['learning_rte']") and "\n" not in message
    assert re.search(r" \[modeling_leccr/training/arguments\.py:\d+\]$", message)
    assert isinstance(stopped.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            TrainingStoppedError("the loss of step 3 must be finite"),
            r"^train\.py: the loss of step 3 must be finite \[",
        ),
        (FileNotFoundError("there is no recipe"), r"^train\.py: there is no recipe \["),
        (KeyboardInterrupt(), r"^train\.py: stopped; with `--resume_from_checkpoint true` it goes on\.$"),
    ],
)
def test_a_run_that_stops_says_why(monkeypatch: pytest.MonkeyPatch, error: BaseException, message: str):
    """The end of a log is all that a scheduler shows."""

    def stop(_arguments: list[str]) -> None:
        raise error

    monkeypatch.setattr("train.main", stop)
    with pytest.raises(SystemExit, match=message):
        run_script([])


def test_a_fault_of_the_code_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    """A bug in one line cannot be found."""
    monkeypatch.setattr("train.main", lambda _arguments: [].pop())
    with pytest.raises(IndexError):
        run_script([])
