"""Runs that train adapters: their checkpoints, their base, and what they leave to others."""

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

from modeling_leccr import LeccrModel
from modeling_leccr.export import save_for_hub
from modeling_leccr.publishing import check_folder
from modeling_leccr.training.adapters import merge_adapter, prepare_parts, save_adapter
from modeling_leccr.training.arguments import ModelArguments, Recipe, build_recipe
from modeling_leccr.training.building import build_model, build_processor, load_splits
from modeling_leccr.training.outputs import write_metrics, write_pictures_and_report
from modeling_leccr.training.run import SystemRun, train_system
from modeling_leccr.training.sharding import has_adapter
from modeling_leccr.training.weights import load_weights
from processing.processing_leccr import LeccrProcessor
from tests.test_adapters import prepared, with_changed_adapter
from tests.test_peft import PATHS, embeds
from tests.tiny import tiny_model, tiny_processor
from tests.training_parts import tiny_recipe, weights_of

ADAPTER_FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors"}
TOLERANCE = 1e-5


def lora_settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """A recipe with adapters in its text tower, whose best checkpoint by validation is loaded at the end."""
    lora = {"text_training": "lora", "vision_training": "frozen", "lora": {"r": 2, "lora_dropout": 0.1}}
    return tiny_recipe(folder, max_steps=3, learning_rate=0.05, warmup_steps=0, **lora) | changes


def without_towers(settings: dict[str, Any]) -> dict[str, Any]:
    """What a recipe says with a `base_model`."""
    of_the_base = {entry.name for entry in dataclasses.fields(ModelArguments)}
    return {name: value for name, value in settings.items() if name not in of_the_base}


def train(recipe: Recipe, folder: Path, **options: Any) -> tuple[SystemRun, Any]:
    splits = load_splits(recipe.data)
    processor = build_processor(recipe.model, splits["train"], recipe.data.target_languages)
    return train_system(copy.deepcopy(recipe), splits, processor, folder, **options), processor


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A run folder with `base`, checkpoints, `adapter` and `model`, and the embeddings of the trained model."""
    folder = tmp_path_factory.mktemp("run")
    recipe = build_recipe(lora_settings(folder))
    run, processor = train(recipe, folder / "checkpoints", parts_folder=folder)
    expected = embeds(run.model)
    save_adapter(run.model, folder / "adapter")
    save_for_hub(merge_adapter(run.model), processor, folder / "model", record=run.record)
    record = write_metrics(folder, {"LECCR": run}, seconds={}, peak_gib=0.0, truncation_rate=0.0)
    names: dict[str, Any] = {"split_name": "test", "languages": ["de", "zh"], "searches": []}
    write_pictures_and_report(folder, {"LECCR": run}, record, **names)
    return folder, expected


@pytest.fixture
def base_and_adapter(tmp_path: Path) -> tuple[Path, LeccrModel]:
    """A saved base, and a model with an adapter on it that changes every embedding."""
    base = save_for_hub(tiny_model(), tiny_processor(), tmp_path / "base")
    model = with_changed_adapter(prepared(("full", "lora")))
    model.name_or_path = str(base)
    return base, model


def test_checkpoints_of_adapters_hold_no_tower(finished: tuple[Path, torch.Tensor]):
    """Each would be as large as the model, and most of it the same."""
    folder, _ = finished
    for checkpoint in (folder / "checkpoints").glob("checkpoint-*"):
        names = {path.name for path in checkpoint.iterdir()}
        assert {"adapter_model.safetensors", "adapter_config.json"} <= names
        assert not {name for name in names if name.startswith("model") and name.endswith(".safetensors")}
        weights = load_file(checkpoint / "adapter_model.safetensors")
        assert not [
            name for name in weights if "_model." in name.removeprefix("base_model.model.") and "lora_" not in name
        ]
    assert not (folder / "checkpoints" / "base").exists()


@pytest.mark.parametrize("moved", [False, True])
def test_a_trained_adapter_is_the_same_on_every_path(finished: tuple[Path, torch.Tensor], tmp_path: Path, moved: bool):
    """A head that a path leaves out is that of the base or random, and the embeddings still look right."""
    folder, expected = finished
    base, adapter = folder / "base", folder / "adapter"
    if moved:
        adapter = Path(shutil.copytree(adapter, tmp_path / "elsewhere" / "adapter"))
    assert {path.name for path in adapter.iterdir()} == ADAPTER_FILES
    assert (embeds(AutoModel.from_pretrained(base)) - expected).abs().amax(dim=-1).min() > 1e-3
    for name, load in PATHS.items():
        assert (embeds(load(str(adapter), base)) - expected).abs().max() <= TOLERANCE, name
    merged = PeftModel.from_pretrained(AutoModel.from_pretrained(base), adapter).merge_and_unload()
    assert (embeds(merged) - expected).abs().max() <= TOLERANCE
    assert (embeds(AutoModel.from_pretrained(folder / "model")) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("lora", [{"use_dora": True}, {"use_rslora": True, "r": 4, "target_modules": "all-linear"}])
def test_other_kinds_of_lora_are_the_same_on_every_path(lora: dict[str, Any], tmp_path: Path):
    """transformers does not find the magnitudes of DoRA where peft saves them."""
    base = save_for_hub(tiny_model(), tiny_processor(), tmp_path / "base")
    model = with_changed_adapter(prepared(("full", "lora"), lora))
    model.name_or_path = model.peft_config["default"].base_model_name_or_path = str(base)
    expected = embeds(model)
    save_adapter(model, tmp_path / "adapter")
    for name, load in PATHS.items():
        assert (embeds(load(str(tmp_path / "adapter"), base)) - expected).abs().max() <= TOLERANCE, name


def test_an_adapter_fits_its_base_wherever_both_are(
    finished: tuple[Path, torch.Tensor], tmp_path: Path, root_dir: Path
):
    """The folder of a run is copied to another machine, where the path in the adapter leads nowhere."""
    folder, expected = finished
    copied = Path(shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints")))
    settings = copied / "adapter" / "adapter_config.json"
    config = json.loads(settings.read_text())
    assert config["base_model_name_or_path"] == str((folder / "base").resolve())
    settings.write_text(json.dumps(config | {"base_model_name_or_path": str(tmp_path / "gone")}))
    for name in ("peft", "load_adapter"):
        assert (embeds(PATHS[name](str(copied / "adapter"), copied / "base")) - expected).abs().max() <= TOLERANCE
    assert str(tmp_path.parent) not in (copied / "adapter" / "README.md").read_text()
    # What the document says to do about it.
    document = (root_dir / "docs" / "TRAINING.md").read_text(encoding="utf-8")
    assert "`base_model_name_or_path`" in document and "`outputs/mine/base`" in document
    settings.write_text(json.dumps(config | {"base_model_name_or_path": str(copied / "base")}))
    assert (embeds(AutoModel.from_pretrained(copied / "adapter")) - expected).abs().max() <= TOLERANCE
    assert isinstance(AutoProcessor.from_pretrained(copied / "base"), LeccrProcessor)


def test_the_record_tells_how_much_was_trained(finished: tuple[Path, torch.Tensor]):
    """The point of an adapter is how little it is."""
    counts = json.loads((finished[0] / "metrics.json").read_text())["parameters"]["LECCR"]
    weights = load_file(finished[0] / "adapter" / "adapter_model.safetensors")
    assert counts["trained"] == sum(value.numel() for value in weights.values())
    whole = load_file(finished[0] / "model" / "model.safetensors")
    adapter = sum(value.numel() for name, value in weights.items() if "lora_" in name)
    assert counts["all"] == sum(value.numel() for value in whole.values()) + adapter
    share = f"LECCR {counts['trained']:,} of {counts['all']:,} ({100 * counts['trained'] / counts['all']:.2f} %)"
    report = (finished[0] / "report.md").read_text()
    assert f"- trained parameters: {share}\n" in report and "[adapter](adapter)" in report


def test_a_run_with_adapters_goes_on_from_its_checkpoint_and_its_base(tmp_path: Path):
    """Another version of torch draws other towers; an adapter on them would be noise."""
    settings = lora_settings(tmp_path, eval_strategy="no", load_best_model_at_end=False, max_steps=4)
    whole, _ = train(build_recipe(settings), tmp_path / "whole")
    recipe = build_recipe(settings | {"save_steps": 2, "max_steps": 4})
    train(recipe, tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoint-4")
    resumed_settings = settings | {"save_steps": 2, "resume_from_checkpoint": True}
    resumed, _ = train(build_recipe(resumed_settings), tmp_path / "stopped")
    expected = weights_of(whole.model)
    torch.testing.assert_close(weights_of(resumed.model), expected, rtol=0, atol=0)
    # Towers as if drawn by another torch: the run takes them from its base, and so they come out again.
    file = tmp_path / "stopped" / "base" / "model.safetensors"
    weights = load_file(file)
    name = "vision_model.layernorm.weight"
    save_file({**weights, name: weights[name] + 1}, file, metadata={"format": "pt"})
    again, _ = train(build_recipe(resumed_settings), tmp_path / "stopped")
    assert torch.equal(weights_of(again.model)[name], expected[name] + 1)
    shutil.rmtree(tmp_path / "stopped" / "base")
    with pytest.raises(FileNotFoundError, match=r"the model that it was trained on is not in .*base; put that folder"):
        train(build_recipe(resumed_settings), tmp_path / "stopped")


@pytest.mark.parametrize("text", ["full", "lora"])
def test_training_goes_on_from_a_trained_model(finished: tuple[Path, torch.Tensor], tmp_path: Path, text: str):
    """One's own pictures are few; the towers of the recipe from scratch would forget all that was learned."""
    base = finished[0] / "model"
    changes = {"base_model": str(base), "text_training": text, "lora": {}, "vision_training": "full"}
    settings = without_towers(lora_settings(tmp_path)) | changes | {"augmentation": {"scale": [0.5, 1.0]}}
    if text == "full":
        del settings["lora"]
    recipe = build_recipe(settings | {"learning_rate": 1e-9})
    splits = load_splits(recipe.data)
    processor = build_processor(recipe.model, splits["train"], recipe.data.target_languages)
    assert processor.image_processor.size["height"] == 32
    run, _ = train(recipe, tmp_path / "more")
    assert (embeds(run.model) - finished[1]).abs().max() <= 1e-4
    assert has_adapter(run.model) == (text == "lora")
    assert not (tmp_path / "more" / "base").exists()
    if text == "lora":
        save_adapter(run.model, tmp_path / "adapter")
        config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(base.resolve())


def test_an_adapter_is_no_base(finished: tuple[Path, torch.Tensor]):
    """A second adapter would need both, and transformers refuses its name without saying why."""
    settings = without_towers(lora_settings(finished[0])) | {"base_model": str(finished[0] / "adapter")}
    with pytest.raises(ValueError, match=r"base_model must be a whole model, got the adapter .*folder `model`"):
        build_model(build_recipe(settings).model, tiny_processor().tokenizer)


def test_an_adapter_is_not_pushed_as_a_model(finished: tuple[Path, torch.Tensor]):
    """That `config.json` is missing sends people to look for a file that is not meant to be there."""
    with pytest.raises(ValueError, match=r"holds an adapter and no whole model; push the folder `model` of its run"):
        check_folder(finished[0] / "adapter")


def _without_lora_b(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in weights.items() if "lora_B" not in name}


def _with_a_stranger(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**weights, "base_model.model.stranger": torch.ones(1)}


def _of_another_rank(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value[:1].clone() if "lora_A" in name else value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_lora_b, "missing_keys .*lora_B"),
        (_with_a_stranger, "unexpected_keys .*stranger"),
        (_of_another_rank, "mismatched_keys .*lora_A"),
    ],
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(
    base_and_adapter: tuple[Path, LeccrModel],
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    message: str,
):
    """peft loads what fits and warns; a resumed run would go on from a mixture."""
    _, model = base_and_adapter
    model.save_pretrained(tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    fresh = prepared(("full", "lora"))
    before = weights_of(fresh)
    with pytest.raises(ValueError, match=f"does not fit .*{message}"):
        load_weights(fresh, tmp_path / "checkpoint")
    torch.testing.assert_close(weights_of(fresh), before, rtol=0, atol=0)


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}])
def test_weights_are_loaded_into_the_parameters_that_an_optimizer_holds(lora: dict[str, Any], tmp_path: Path):
    """A model whose parameters are replaced is not trained any more."""
    model = with_changed_adapter(prepared(("full", "lora"), lora))
    model.save_pretrained(tmp_path / "checkpoint")
    fresh = prepared(("full", "lora"), lora)
    held = dict(fresh.named_parameters())
    load_weights(fresh, tmp_path / "checkpoint")
    torch.testing.assert_close(weights_of(fresh), weights_of(model), rtol=0, atol=0)
    assert all(value is held[name] for name, value in fresh.named_parameters())


def test_a_checkpoint_of_the_other_kind_is_refused(base_and_adapter: tuple[Path, LeccrModel], tmp_path: Path):
    """text_training was changed between the stop and the resume: nothing of the file has a place."""
    base, model = base_and_adapter
    model.save_pretrained(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="holds an adapter, and this run trains whole models"):
        load_weights(tiny_model(), tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="holds no adapter, and this run trains adapters"):
        load_weights(model, base)


def test_a_damaged_adapter_is_named(base_and_adapter: tuple[Path, LeccrModel], tmp_path: Path):
    """`SafetensorError: InvalidHeaderDeserialization` names no file."""
    _, model = base_and_adapter
    model.save_pretrained(tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors of .* is truncated"):
        load_weights(model, tmp_path / "checkpoint")


def test_preparing_parts_leaves_frozen_towers_in_evaluation_after_a_merge(tmp_path: Path):
    """The merged model is saved and loaded anew, where nothing of the training is left."""
    model = tiny_model()
    prepare_parts(model, {"vision_training": "frozen", "text_training": "lora"}, {})
    save_for_hub(merge_adapter(model), tiny_processor(), tmp_path / "model")
    loaded = LeccrModel.from_pretrained(tmp_path / "model").train()
    assert all(part.training for part in loaded.modules())
    torch.testing.assert_close(embeds(loaded), embeds(tiny_model()))
