"""The five commands of the README, one after the other, on pictures of the embedded data set."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image

import train
from hub_scripts import cli
from processing.scenes import ScenesConfig, load_scenes
from tests.hub_server import HubServer, hub
from tests.openai_server import Body, OpenAiServer, pictures_of, prompt_of
from tests.training_parts import tiny_recipe

NUM_PICTURES = 24


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=np.float32)


def write_pictures(folder: Path) -> datasets.Dataset:
    """Scenes as a folder of pictures with a metadata file, as somebody has them who wrote English captions."""
    config = ScenesConfig(
        train_size=NUM_PICTURES, validation_size=1, test_size=1, image_size=32, languages=("de", "fr")
    )
    scenes = load_scenes(config)["train"]
    folder.mkdir()
    lines = []
    for number, row in enumerate(scenes):
        row["image"].save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "caption_en": row["caption_en"]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return scenes


def model_that_knows(scenes: datasets.Dataset) -> Callable[[Body], str]:
    """Answers of a multimodal model: the description of a picture, or the translation of a caption."""
    known = np.stack([pixels(row["image"]) for row in scenes])
    translations = {
        (language, source): target
        for row in scenes
        for language, column in (("German", "caption_de_mt"), ("French", "caption_fr_mt"))
        for source, target in zip(row["caption_en"], row[column], strict=True)
    }

    def answer(body: Body) -> str:
        pictures = pictures_of(body) if not isinstance(body["messages"][-1]["content"], str) else []
        if pictures:
            # Pictures travel as JPEG, so the nearest is meant.
            return scenes["description"][int(np.abs(known - pixels(pictures[0])).mean(axis=(1, 2, 3)).argmin())]
        prompt = prompt_of(body)
        found = [key for key in translations if key[0] in prompt and key[1] in prompt]
        return translations[max(found, key=lambda key: len(key[1]))]

    return answer


def five_commands(readme: str) -> list[list[str]]:
    """The block of the README that leads from pictures to a trained model, without its activation."""
    (block,) = [
        block for block in re.findall(r"^```bash\n(.*?)^```", readme, re.M | re.S) if "--images pictures" in block
    ]
    lines = block.replace("\\\n", "").splitlines()  # a command may go on in the next line
    return [shlex.split(line) for line in lines if not line.startswith(". ")]


def with_server(command: list[str], url: str) -> list[str]:
    """The command with its model on a chat server instead of the Hub."""
    place = command.index("--model")
    return [*command[:place], "--model", "any", "--server", url, *command[place + 2 :]]


def tiny_training(command: list[str], folder: Path, root_dir: Path) -> list[str]:
    """The arguments of train.py with the README's recipe on tiny towers."""
    recipe = yaml.safe_load((root_dir / command[command.index("train.py") + 1]).read_text(encoding="utf-8"))
    shared = ("vision_tower", "text_tower", "image_size", "vocab_size", "max_length", "per_device_train_batch_size")
    steps = ("max_steps", "eval_strategy", "save_strategy", "eval_steps", "save_steps", "logging_steps", "use_cpu")
    tiny = tiny_recipe(folder)
    recipe |= {name: tiny[name] for name in (*shared, *steps, "disable_tqdm")}
    recipe["model"] |= tiny["model"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return [str(folder / "recipe.yaml"), *command[command.index("train.py") + 2 :]]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with hub(tmp_path / "home") as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        monkeypatch.chdir(tmp_path)
        yield server


def test_the_five_commands_of_the_readme_lead_from_pictures_to_a_model(
    server: HubServer, tmp_path: Path, root_dir: Path, capsys: pytest.CaptureFixture[str]
):
    """Each command may pass its own tests and yet not take what the one before it wrote."""
    read, describe, translate, push, launch = five_commands((root_dir / "README.md").read_text(encoding="utf-8"))
    scenes = write_pictures(tmp_path / "pictures")
    with OpenAiServer(model_that_knows(scenes), faults=["http_429", None, "refusal", "empty"]) as model:
        for command in (read, with_server(describe, model.url), with_server(translate, model.url), push):
            assert command[0] == "leccr"
            cli.main(command[1:])
    rows = datasets.load_dataset("YOUR-NAME/pets", "de")
    assert sum(len(split) for split in rows.values()) == NUM_PICTURES and len(rows["validation"]) > 0
    by_id = {row["image_id"]: row for split in rows.values() for row in split}
    for number, scene in enumerate(scenes):
        row = by_id[f"{number}.png"]
        assert row["caption_en"] == scene["caption_en"] and row["description"] == scene["description"]
        for found, flag, expected in zip(
            row["caption_de_mt"], row["caption_de_mt_flag"], scene["caption_de_mt"], strict=True
        ):
            assert found == (expected if flag == "ok" else None)
    steps = json.loads((tmp_path / "data" / "translated" / "manifest.json").read_text(encoding="utf-8"))["steps"]
    assert [step["kind"] for step in steps] == ["read", "describe", "translate"]
    assert steps[1]["counts"]["description_flag"] == {"ok": NUM_PICTURES}
    assert steps[1]["counts"]["events"]["http_429"] == 1
    assert steps[2]["counts"]["caption_de_mt_flag"]["ok"] > NUM_PICTURES
    (tmp_path / "run").mkdir()
    train.main([*tiny_training(launch, tmp_path / "run", root_dir), "--output_dir", str(tmp_path / "out")])
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["systems"]["LECCR"]["validation"]["de_mt/num_items"] == len(rows["validation"])
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
