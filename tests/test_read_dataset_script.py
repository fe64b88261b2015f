"""The command that reads files into a data set folder."""

import json
from pathlib import Path

import pytest

from hub_scripts.read_dataset import column_map, main, parse_arguments
from processing.manifest import read_manifest
from processing.sources import open_splits
from tests.processing_parts import picture


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures, three of them with a caption."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        picture(number).save(folder / f"{number}.png")
        if number:
            (folder / f"{number}.txt").write_text(f"thing {number}\n")
    return folder


def test_a_folder_becomes_a_data_set_that_says_what_is_missing(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    """An item without a caption must be seen before training stops at it."""
    main(["folder", "--root", str(pictures), "--out", str(tmp_path / "out")])
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == {"train": 4} and printed["missing"] == {"no English caption": {"train": 1}}
    assert open_splits(tmp_path / "out")["train"]["caption_en"] == [[], ["thing 1"], ["thing 2"], ["thing 3"]]
    assert json.loads((tmp_path / "out" / "missing.json").read_text()) == {"no English caption": {"train": ["0.png"]}}
    (step,) = read_manifest(tmp_path / "out").steps
    assert (step.kind, step.settings["reader"], step.counts["rows"]) == ("read", "folder", {"train": 4})
    assert str(tmp_path) not in json.dumps(step.settings)
    assert "train: 1 items have no English caption (first: 0.png)" in caplog.text


def test_a_data_set_that_is_there_is_kept_unless_told(pictures: Path, tmp_path: Path):
    """A second run with a typing mistake must not cost the descriptions made from the first."""
    command = ["folder", "--root", str(pictures), "--out", str(tmp_path / "out")]
    main(command)
    with pytest.raises(ValueError, match="exists and is not empty"):
        main(command)
    main([*command, "--overwrite", "--validation", "0.5"])
    assert set(open_splits(tmp_path / "out")) == {"train", "validation"}


def test_malformed_input_writes_nothing(pictures: Path, tmp_path: Path):
    """Half a data set would be described and translated before anybody looked."""
    (pictures / "metadata.csv").write_text("file_name,caption_en\n0.png,a,b\n")
    with pytest.raises(ValueError, match=r"metadata\.csv, line 2: expected 2 cells, got 3"):
        main(["folder", "--root", str(pictures), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_table_is_read_by_its_column_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The columns of people's tables have other names."""
    (tmp_path / "a.csv").write_text("file|comment\n1.jpg|a\n1.jpg|b\n")
    columns = ["--columns", "image_id=file", "caption_en=comment", "--caption-rows", "--delimiter", "|"]
    main(["table", "--test", str(tmp_path / "a.csv"), *columns, "--out", str(tmp_path / "out")])
    assert open_splits(tmp_path / "out")["test"][:] == {"image_id": ["1.jpg"], "caption_en": [["a", "b"]]}
    assert json.loads(capsys.readouterr().out)["missing"] == {}


def test_a_column_map_names_a_column_once():
    """The later of two would win in silence."""
    assert column_map(["image_id=id", "caption_en"]) == {"image_id": "id", "caption_en": "caption_en"}
    with pytest.raises(ValueError, match="must name each column of the schema once"):
        column_map(["image_id=a", "image_id=b"])


@pytest.mark.parametrize("reader", ["folder", "table", "multi30k", "mscoco", "vatex", "msrvtt_cn", "official"])
def test_each_reader_has_an_example_that_parses(reader: str, capsys: pytest.CaptureFixture[str]):
    """An example with an option that was renamed is worse than none."""
    with pytest.raises(SystemExit):
        main([reader, "--help"])
    example = " ".join(capsys.readouterr().out.partition("example: leccr read_dataset ")[2].split())
    options = parse_arguments(example.split())
    assert options.reader == reader and options.out.startswith("data/")


@pytest.mark.realdata
def test_multi30k_is_read_by_the_command_of_the_readme(data_dir: Path, tmp_path: Path, capsys):
    """The published counts, through the command that people type."""
    for task, languages in (("1", ["de", "fr", "cs"]), ("2", ["de"])):
        command = ["multi30k", "--root", str(data_dir / "multi30k"), "--task", task, "--languages", *languages]
        main([*command, "--out", str(tmp_path / task)])
        printed = json.loads(capsys.readouterr().out)
        assert printed["rows"] == {"train": 29000, "validation": 1014, "test": 1000} and printed["missing"] == {}


def test_the_help_shows_a_command_that_works(pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """People copy the example before they read the options."""
    with pytest.raises(SystemExit):
        main(["--help"])
    example = next(line for line in capsys.readouterr().out.splitlines() if "read_dataset folder" in line)
    for number in range(4, 30):  # Of four pictures, a share of 0.1 may be none.
        picture(number).save(pictures / f"{number}.png")
    monkeypatch.chdir(pictures.parent)
    main(example.split("leccr read_dataset ")[1].split())
    assert Path("data/mine/manifest.json").is_file()
