"""The command that draws what slots attend to."""

import json
from pathlib import Path

import pytest
from PIL import Image

from hub_scripts import cli, draw_slots
from tests.tiny import SENTENCES, tiny_image, tiny_model, tiny_processor


@pytest.fixture
def places(tmp_path: Path) -> tuple[str, str, str]:
    """A model, a folder of three pictures with descriptions, and a picture to be drawn."""
    tiny_model(num_slots=2).save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    (tmp_path / "pictures").mkdir()
    with (tmp_path / "pictures" / "descriptions.jsonl").open("w", encoding="utf-8") as file:
        for i in range(3):
            tiny_image(i).save(tmp_path / "pictures" / f"{i}.png")
            file.write(json.dumps({"image_id": f"{i}.png", "description": SENTENCES[i][2]}) + "\n")
    return str(tmp_path / "model"), str(tmp_path / "pictures"), str(tmp_path / "slots.png")


def test_slots_of_chosen_items_are_drawn_and_told(places: tuple[str, str, str], capsys: pytest.CaptureFixture[str]):
    """Numbers of another item than the one that was asked for would not be noticed in the picture."""
    model, pictures, out = places
    draw_slots.main(["--model", model, "--items", pictures, "--ids", "2.png", "0.png", "--out", out])
    found = json.loads(capsys.readouterr().out)
    assert [item["image_id"] for item in found["items"]] == ["2.png", "0.png"]
    assert [item["words"] for item in found["items"]] == [SENTENCES[i][2].split() for i in (2, 0)]
    for item in found["items"]:
        assert len(item["slots"]) == 2
        for slot in item["slots"]:
            assert len(slot["words"]) == len(item["words"])
            assert sum(slot["words"]) + slot["no_word"] == pytest.approx(1, abs=0.005)
    assert Image.open(out).height > 2 * 180


def test_items_that_are_not_there_are_named(places: tuple[str, str, str]):
    """A picture of the first items in their place would be taken for theirs."""
    model, pictures, out = places
    with pytest.raises(SystemExit, match=r"leccr draw_slots: --ids names \['9.png'\]"):
        cli.main(["draw_slots", "--model", model, "--items", pictures, "--ids", "0.png", "9.png", "--out", out])
    assert not Path(out).exists()
    assert draw_slots.positions_of(["a", "b"], None, 5) == [0, 1]
    with pytest.raises(ValueError, match="at least 1"):
        draw_slots.positions_of(["a"], None, 0)


def test_a_model_without_slots_says_so(places: tuple[str, str, str]):
    """A two-stream model loads like any other."""
    model, pictures, out = places
    tiny_model(item_source="image").save_pretrained(model)
    with pytest.raises(SystemExit, match="has no slots"):
        cli.main(["draw_slots", "--model", model, "--items", pictures, "--out", out])
