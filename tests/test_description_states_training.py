"""Training on stored description states, and the command that makes them ahead of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertModel, CLIPVisionModelWithProjection

from hub_scripts import encode_descriptions
from modeling_leccr import LeccrModel
from modeling_leccr.description_encoder import DescriptionEncoder
from modeling_leccr.export import save_for_hub
from modeling_leccr.training.arguments import build_recipe
from modeling_leccr.training.building import build_processor, load_splits
from modeling_leccr.training.controls import control_recipes
from modeling_leccr.training.run import SystemRun, train_system
from modeling_leccr.training.states import training_states
from processing.description_states import DescriptionStates
from processing.sources import write_shard
from processing.streaming import ParquetSplit
from tests.tiny import tiny_model, tiny_processor, tiny_text_config, tiny_vision_config
from tests.training_parts import tiny_recipe, tiny_split


def frozen_recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    """The tiny recipe with a frozen description encoder, without checkpoints."""
    settings = tiny_recipe(folder, eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
    settings["model"] = {**settings["model"], "description_encoder": "frozen", "description_dropout": 0.2}
    settings["scenes"] = {**settings["scenes"], "description_noise": 0.0}
    return {**settings, "loss": {"guidance": 0.5}, "seed": 3, **changes}


def train(settings: dict[str, Any], folder: Path) -> SystemRun:
    recipe = build_recipe(settings)
    splits = load_splits(recipe.data)
    processor = build_processor(recipe.model, splits["train"], recipe.data.target_languages)
    return train_system(recipe, splits, processor, folder)


def losses(run: SystemRun) -> list[float]:
    return [value for entry in run.log_history for name, value in entry.items() if name.startswith("loss")]


def no_encoding(*_: Any) -> None:
    raise RuntimeError("nothing was left to encode")


def test_a_run_on_stored_states_takes_the_steps_of_one_that_encodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The store saves time and nothing else: dropout, null descriptions and all losses stay, up to float16.

    A second run finds the states of the first and encodes nothing; with another seed the encoder from scratch is
    another one, and its states are refused.
    """
    encoded = train(frozen_recipe(tmp_path), tmp_path / "encoded")
    states = str(tmp_path / "states")
    stored = train(frozen_recipe(tmp_path, description_states=states), tmp_path / "stored")
    assert len(losses(encoded)) > 10
    torch.testing.assert_close(losses(stored), losses(encoded), atol=2e-3, rtol=1e-3)
    assert losses(stored) != losses(encoded), "the store was not read: its states are rounded"
    start = {name: value for name, value in encoded.model.state_dict().items() if name.startswith("description_model")}
    assert all(torch.equal(value, stored.model.state_dict()[name]) for name, value in start.items()) and start

    monkeypatch.setattr(DescriptionEncoder, "__call__", no_encoding)
    again = train(frozen_recipe(tmp_path, description_states=states), tmp_path / "again")
    assert losses(again) == losses(stored)
    with pytest.raises(ValueError, match=r"another description encoder: weights is .*encode_descriptions"):
        train(frozen_recipe(tmp_path, description_states=states, seed=4), tmp_path / "other")


def test_a_store_that_lacks_what_another_machine_encoded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a shared disk, training would stop at the first batch with one of its items."""
    args = build_recipe(tiny_recipe(tmp_path)).training
    monkeypatch.setattr(type(args), "world_size", 2)  # the other process is on a machine with a disk of its own
    monkeypatch.setattr(type(args), "process_index", 1)
    model, split = tiny_model(description_encoder="frozen"), tiny_split()
    with pytest.raises(ValueError, match=rf"all machines share: {len(split)} descriptions have no states in"):
        training_states(tmp_path / "states", model, tiny_processor(), split, args)
    monkeypatch.setattr(type(args), "process_index", 0)
    store = training_states(tmp_path / "states", model, tiny_processor(), split, args)
    assert store is not None and not store.missing(split["description"])


def test_a_store_for_a_description_encoder_that_learns_is_refused(tmp_path: Path):
    """The slots would read what the text tower said before it learned anything."""
    with pytest.raises(ValueError, match=r"description_encoder='shared'; set model\.description_encoder: frozen"):
        build_recipe(tiny_recipe(tmp_path, description_states="states"))
    with pytest.raises(ValueError, match="description_encoder='shared'"):
        training_states(
            tmp_path, tiny_model(), tiny_processor(), tiny_split(), build_recipe(tiny_recipe(tmp_path)).training
        )


def test_a_control_that_encodes_leaves_the_store_of_the_main_system_alone(tmp_path: Path):
    """Comparing both encoders is what one wants a control for, and the data settings of a control are the main ones."""
    changes = {
        "shared": {"model": {"description_encoder": "shared"}},
        "more slots": {"model": {"num_slots": 3}},
        "no slots": {"model": {"description_encoder": "shared", "item_source": "image", "interaction": "none",
                               "description_dropout": 0.0}},
    }  # fmt: skip
    recipes = control_recipes(build_recipe(frozen_recipe(tmp_path, description_states="states", controls=changes)))
    stores = {name: recipe.data.description_states for name, recipe in recipes.items()}
    assert stores == {"shared": None, "more slots": "states", "no slots": None}


def test_the_folder_of_the_states_is_not_published(tmp_path: Path):
    """A path inside a company says more than anybody wants to say on the Hub."""
    (tmp_path / "secret project" / "states").mkdir(parents=True)
    recipe = build_recipe(frozen_recipe(tmp_path, description_states=str(tmp_path / "secret project" / "states")))
    assert recipe.public_settings()["description_states"] == "states"


def test_a_stream_needs_a_store_that_was_made_before(tmp_path: Path):
    """Its descriptions come one by one; the run says which command makes the states of all."""
    stream = ParquetSplit("data", "train", (), ("description",))
    model, args = tiny_model(description_encoder="frozen"), build_recipe(tiny_recipe(tmp_path)).training
    with pytest.raises(ValueError, match="run `leccr encode_descriptions"):
        training_states(tmp_path / "states", model, tiny_processor(), stream, args)


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """A data set folder with a train and a test split."""
    for name, size in (("train", 8), ("test", 3)):
        write_shard(tiny_split(size), tmp_path / "data" / f"{name}-00000-of-00001.parquet")
    return tmp_path / "data"


def encode(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    encode_descriptions.main([str(argument) for argument in arguments])
    return json.loads(capsys.readouterr().out)


def test_the_command_makes_the_store_of_a_saved_model(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A run with the same model then finds every description of its training split."""
    model, processor = tiny_model(description_encoder="frozen"), tiny_processor()
    save_for_hub(model, processor, tmp_path / "model")
    out = tmp_path / "states"
    arguments = ["--model", tmp_path / "model", "--dataset", data_folder, "--out", out, "--batch-size", "3"]
    report = encode(capsys, *arguments, "--dtype", "int8")
    assert report["added"] == report["descriptions"] == 8 and report["bytes"] > 0
    assert encode(capsys, *arguments, "--dtype", "int8")["added"] == 0
    args = build_recipe(tiny_recipe(tmp_path)).training
    store = training_states(out, model, processor, tiny_split(), args)
    assert store is not None and len(store) == 8 and store.dtype == "int8"
    with pytest.raises(ValueError, match="holds int8 states, got float16"):
        encode(capsys, *arguments)
    with pytest.raises(ValueError, match=r"no splits \['dev'\]; name some of \['test', 'train'\]"):
        encode(capsys, *arguments, "--splits", "dev")


def test_the_command_refuses_a_model_whose_encoder_learns(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Its states would be of no run, for in each the text tower learns something else."""
    save_for_hub(tiny_model(), tiny_processor(), tmp_path / "model")
    with pytest.raises(ValueError, match="states can be kept of a model with description_encoder 'frozen'"):
        encode(capsys, "--model", tmp_path / "model", "--dataset", data_folder, "--out", tmp_path / "states")
    assert not (tmp_path / "states").exists()


def test_the_states_of_a_text_tower_by_name_are_those_of_a_model_that_starts_from_it(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The store is made before there is a model; if the two disagreed on one weight, every run would refuse it."""
    text, vision = tmp_path / "text", tmp_path / "vision"
    processor = tiny_processor(max_length=12)
    BertModel(tiny_text_config()).save_pretrained(text)
    processor.tokenizer.save_pretrained(text)
    CLIPVisionModelWithProjection(tiny_vision_config()).save_pretrained(vision)
    arguments = ["--model", text, "--dataset", data_folder, "--out", tmp_path / "states", "--splits", "train", "test"]
    encode(capsys, *arguments, "--max-length", "12")
    model = LeccrModel.from_towers(vision, text, description_encoder="frozen", slot_dim=32, embed_dim=16)
    identity = DescriptionEncoder(model.description_model, processor).identity()
    store = DescriptionStates(tmp_path / "states", encoder=identity)
    inputs = processor(descriptions=tiny_split()["description"])
    ids, mask = inputs["description_input_ids"], inputs["description_attention_mask"]
    read = store.batch(tiny_split()["description"], [str(i) for i in range(8)])
    assert torch.equal(read["description_attention_mask"], mask)
    expected = model.get_description_states(ids, mask) * mask.unsqueeze(-1)
    torch.testing.assert_close(read["description_states"].float(), expected, atol=2e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="max_length is"):
        encode(capsys, *arguments)
