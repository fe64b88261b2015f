"""`leccr inspect_dataset`: a data set in, a report, numbers and a picture out."""

import json

import pytest
from PIL import Image

from hub_scripts import inspect_dataset
from hub_scripts.dataset_card import dataset_card
from processing.hub_dataset import push_dataset
from processing.records import schema_features
from processing.sources import write_splits
from tests.hub_parts import write_folder
from tests.hub_server import hub
from tests.test_agreement import save_tiny_clip, tiny_rows
from tests.tiny import tiny_image, tiny_model, tiny_processor


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A saved tiny CLIP."""
    return save_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")


@pytest.fixture
def data_set(tmp_path):
    """A data set of texts in two splits."""
    rows = tiny_rows().remove_columns("image").cast(schema_features(["image_id", "description", "caption_en"]))
    return str(write_splits({"train": rows.select(range(6)), "test": rows.select(range(6, 8))}, tmp_path / "mine"))


@pytest.fixture
def pictures(tmp_path):
    """Pictures of all items but the last."""
    (tmp_path / "pictures").mkdir()
    for i in range(7):
        tiny_image(i).save(tmp_path / "pictures" / f"item-{i}.png")
    return str(tmp_path / "pictures")


def run(capsys, *arguments):
    inspect_dataset.main([str(argument) for argument in arguments])
    return json.loads(capsys.readouterr().out)


def test_texts_alone_need_neither_pictures_nor_an_encoder(data_set, tmp_path, capsys):
    """The common data set has no pixels."""
    printed = run(capsys, "--dataset", data_set, "--out", tmp_path / "out")
    assert printed["rows"] == {"train": 6, "test": 2}
    assert {"columns", "descriptions"} <= set(printed)
    assert "agreement" not in printed
    assert printed == json.loads((tmp_path / "out" / "quality.json").read_text(encoding="utf-8"))
    assert (tmp_path / "out" / "report.md").read_text(encoding="utf-8").startswith("# Quality of mine\n")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["quality.json", "report.md"]


def test_an_encoder_adds_agreement_and_the_worst_items(data_set, pictures, clip_folder, tmp_path, capsys, caplog):
    """Items without a picture are said, and left out of the agreement only."""
    options = ["--dataset", data_set, "--images", pictures, "--encoder", clip_folder, "--out", tmp_path / "out"]
    printed = run(capsys, *options, "--num-worst", 3)
    assert printed["columns"]["description"]["items"] == 8
    assert printed["agreement"]["sample"]["eligible"] == 7
    assert len(printed["agreement"]["worst"]) == 3
    assert "1 items have no image" in caplog.text
    assert Image.open(tmp_path / "out" / "worst.png").width > 500
    assert "](worst.png)" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "agreement" in run(capsys, *options, "--num-worst", 0)


def test_splits_are_chosen_by_name(data_set, tmp_path, capsys):
    """A misspelt split must not give the report of another."""
    assert run(capsys, "--dataset", data_set, "--split", "test", "--out", tmp_path / "out")["rows"] == {"test": 2}
    with pytest.raises(ValueError, match=r"--split must be among \['train', 'test'\], got \['tset'\]"):
        run(capsys, "--dataset", data_set, "--split", "tset", "--out", tmp_path / "out")


def test_an_encoder_without_pictures_is_refused_and_nothing_is_written(data_set, clip_folder, tmp_path, capsys):
    """Found out after an hour of reading texts, it would cost that hour."""
    with pytest.raises(ValueError, match="--encoder needs pictures"):
        run(capsys, "--dataset", data_set, "--encoder", clip_folder, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pictures_without_an_encoder_are_refused(data_set, pictures, tmp_path, capsys):
    """A report without agreement would look as if the pictures had been looked at."""
    with pytest.raises(SystemExit):
        run(capsys, "--dataset", data_set, "--images", pictures, "--out", tmp_path / "out")
    assert "--images without --encoder" in capsys.readouterr().err


def test_a_leccr_that_needs_descriptions_is_refused_by_the_command(data_set, pictures, tmp_path, capsys):
    """Its agreement with descriptions would be circular."""
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="description_dropout=0"):
        run(capsys, "--dataset", data_set, "--images", pictures, "--encoder", tmp_path / "model", "--out", tmp_path)


def test_the_command_explains_itself_with_an_example(capsys):
    """The example of the help is what people type first."""
    with pytest.raises(SystemExit) as stopped:
        inspect_dataset.main(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "leccr inspect_dataset --dataset" in printed
    assert "--images pictures \\\n        --encoder" in printed


def test_a_data_set_with_several_configurations_asks_for_one(tmp_path, capsys):
    """The message of the library names an argument of Python."""
    with hub(tmp_path / "home") as server:
        folder = write_folder(tmp_path / "data")
        push_dataset(folder, "owner/mine", write_card=dataset_card, token=server.token)
        with pytest.raises(ValueError, match=r"choose one of \['de', 'fr'\] with --config"):
            run(capsys, "--dataset", "owner/mine", "--out", tmp_path / "out")
        assert run(capsys, "--dataset", "owner/mine", "--config", "de", "--out", tmp_path / "out")["rows"]
