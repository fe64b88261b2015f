"""The recipes of configs/: their commands, the published settings, and three steps of each on a few rows."""

import math
from pathlib import Path

import pytest
import torch
from transformers import set_seed

from hub_scripts import read_dataset
from hub_scripts.cli import COMMANDS
from modeling_leccr.training.arguments import Recipe, parse_recipe
from modeling_leccr.training.building import build_model, build_processor, frame_sampling, load_splits
from modeling_leccr.training.controls import control_recipes
from modeling_leccr.training.run import train_system
from processing.sources import open_splits
from tests.caption_folders import make_multi30k
from tests.recipe_data import option, prepare_data, recipe_commands, save_towers
from tests.test_readme import parse

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(CONFIGS.glob("*.yaml"))

# Written out from the table of the paper's settings: recipe -> lambda, w_r, w_c, w_cv, epochs.
PUBLISHED = {
    "multi30k_de": (0.0, 0.05, 0.01, 0.01, 50),
    "multi30k_fr": (0.5, 0.01, 0.01, 0.01, 70),
    "multi30k_cs": (0.5, 0.01, 0.01, 0.01, 50),
    "mscoco_zh": (0.5, 0.01, 0.01, 0.01, 70),
    "mscoco_ja": (0.3, 0.01, 0.05, 0.01, 50),
}
# The same of the recipes of videos; of VATEX none is published, and ours takes what MSR-VTT-CN has.
PUBLISHED_VIDEO = dict.fromkeys(("msrvtt_cn", "vatex_zh"), (0.3, 0.03, 0.01, 0.01, 50))
FEATURE_WIDTHS = {"msrvtt_cn": 4096, "vatex_zh": 1024}


@pytest.mark.parametrize("name", [*PUBLISHED, *PUBLISHED_VIDEO])
def test_the_published_settings_are_those_of_the_paper(name: str):
    """A digit that is wrong costs whoever reproduces the paper days, and nothing else would show it."""
    recipe = parse_recipe([str(CONFIGS / f"{name}.yaml"), "--use_cpu", "true"])
    model, data, training = recipe.model, recipe.data, recipe.training
    loss = training.loss
    weights = (loss["guidance"], loss["slot_diversity"], loss["slot_contrastive"], loss["slot_vision"])
    assert (*weights, training.num_train_epochs) == (PUBLISHED | PUBLISHED_VIDEO)[name]
    assert (model.text_tower, model.max_length, model.clean_captions) == (
        "google-bert/bert-base-multilingual-cased",
        200,
        True,
    )
    if name in PUBLISHED:
        assert model.model == {"num_slots": 4, "num_slot_layers": 3, "num_interaction_layers": 2}
        assert (model.vision_tower, model.image_size) == ("openai/clip-vit-base-patch32", 384)
        assert data.augmentation == {"scale": [0.5, 1.0], "flip": True}
        assert training.scoring == "global"  # what the authors rank by
    else:
        features = {"vision_input": "features", "feature_dim": FEATURE_WIDTHS[name]}
        assert model.model == {**features, "num_slots": 2, "num_slot_layers": 2, "num_interaction_layers": 2}
        assert training.scoring == "min_max"  # likewise, of videos
    assert (data.target_languages, data.test_split) == ([{"cn": "zh"}.get(name[-2:], name[-2:])], "test")
    optimizer = (training.learning_rate, training.weight_decay, training.adam_beta1, training.adam_beta2)
    assert optimizer == (1e-5, 0.01, 0.9, 0.98) and training.adam_epsilon == 1e-8
    assert training.optim in ("adamw_torch", "adamw_torch_fused")
    assert (training.warmup_steps, str(training.lr_scheduler_type.value)) == (0.1, "linear")
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps, training.seed) == (128, 1, 42)
    assert (training.vision_training, training.text_training) == ("full", "full")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_commands_of_a_recipe_are_read_and_lead_to_its_data(path: Path):
    """They are copied to a shell: an option that was renamed, or another folder, ends there."""
    commands = recipe_commands(path)
    assert commands, "a recipe says how it is started"
    for words in commands:
        if words[0] == "leccr":
            assert words[1] in COMMANDS
            parse(words[1], words[2:])
            continue
        recipe, *settings = words[words.index("train.py") + 1 :]
        assert recipe == f"configs/{path.name}"
        assert parse_recipe([str(path), *settings, "--use_cpu", "true", "--bf16", "false"])
    if path.stem in PUBLISHED:
        data = parse_recipe([str(path), "--use_cpu", "true"]).data
        read, describe, translate, release, train = commands
        assert option(describe, "--dataset") == option(read, "--out")
        assert option(translate, "--dataset") == option(describe, "--out")
        assert data.dataset == option(translate, "--out") == option(release, "--out")
        assert data.images == option(describe, "--images")
        assert set(data.target_languages) <= set(translate) & set(release) & set(read)
        assert "train.py" in train
    if path.stem in PUBLISHED_VIDEO:
        assert {tuple(words[:2]) for words in commands} >= {("leccr", "read_dataset"), ("leccr", "describe")}
        recipe = parse_recipe([str(path), "--use_cpu", "true"])
        made = [words for words in commands if words[0] == "leccr"]
        assert recipe.data.dataset == option(made[-1], "--out")
        from_clips = commands[-1][commands[-1].index("train.py") + 2 :]
        assert option(from_clips, "--videos") == option(made[1], "--videos")
        clips = parse_recipe([str(path), *from_clips, "--use_cpu", "true", "--bf16", "false"])
        assert (clips.config.vision_input, clips.data.features) == ("frames", None)


def test_the_release_of_the_authors_gives_what_the_recipes_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Their translations and descriptions are the ones that the published numbers were made with."""
    monkeypatch.chdir(tmp_path)
    make_multi30k(Path("multi30k_release"), ("de", "fr", "cs"))
    recipes = [path for path in RECIPES if path.stem.startswith("multi30k_")]
    (release,) = {tuple(recipe_commands(path)[3]) for path in recipes}
    read_dataset.main([*release[2:], "--no-check-counts"])
    for path in recipes:
        data = parse_recipe([str(path), "--use_cpu", "true"]).data
        splits, language = open_splits(data.dataset), data.target_languages[0]
        assert {"caption_en", f"caption_{language}_mt", "description"} <= set(splits["train"].column_names)
        assert {f"caption_{language}", "description"} <= set(splits[str(data.test_split)].column_names)


def small(path: Path, folder: Path, changes: dict[str, object]) -> Recipe:
    """The recipe with its own settings, but for towers by name, the number of steps and pairs, and the evaluations."""
    vision, text = save_towers(folder / "towers")
    found = parse_recipe([str(path), "--use_cpu", "true"])
    settings: dict[str, object] = {
        "use_cpu": True,
        "max_steps": 3,
        "per_device_train_batch_size": 6,  # more than the captions of a picture, so that no batch shows one alone
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "disable_tqdm": True,
        **changes,
    }
    if found.first_stage is not None:
        settings["cross_lingual.max_steps"] = 3
    budgets = [name for name, control in found.training.controls.items() if "max_steps" in control]
    settings |= {f"controls.{name}.max_steps": 3 for name in budgets}
    if isinstance(found.model.vision_tower, str):
        settings |= {"vision_tower": vision, "text_tower": text}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return parse_recipe([str(path), *words])


def train_three_steps(recipe: Recipe, folder: Path) -> None:
    """Train a recipe and its controls; in each system every weight must learn."""
    splits = load_splits(recipe.data, recipe.config, frame_sampling(recipe.model, recipe.config))
    processor = build_processor(recipe.model, splits["train"], recipe.data.target_languages)
    for name, system in {recipe.title: recipe, **control_recipes(recipe)}.items():
        set_seed(system.training.seed)
        before = build_model(system.model, processor.tokenizer).state_dict()
        run = train_system(system, splits, processor, folder / "checkpoints" / name)
        losses = [entry["loss"] for entry in run.log_history if "loss" in entry]
        assert len(losses) == 3 and all(math.isfinite(loss) for loss in losses), (name, losses)
        assert len(set(losses)) == 3
        trained = dict(run.model.named_parameters())
        still = [key for key, weight in trained.items() if weight.requires_grad and torch.equal(weight, before[key])]
        assert not still, (name, still)
        assert run.record.metrics["validation"]["sum_r"] > 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_three_steps_of_each_recipe(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A recipe that nobody started stops at the first batch of whoever has the data: a column, a size, a language."""
    monkeypatch.chdir(tmp_path)
    train_three_steps(small(path, tmp_path, prepare_data(path, monkeypatch)), tmp_path)


@pytest.mark.parametrize("name", PUBLISHED_VIDEO)
def test_a_video_recipe_trains_from_clips_by_its_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Whoever has the clips and no features copies that command; a clip that is gone costs its row, not the run."""
    monkeypatch.chdir(tmp_path)
    path = CONFIGS / f"{name}.yaml"
    prepare_data(path, monkeypatch)
    words = recipe_commands(path)[-1]
    words = words[words.index("train.py") + 2 :]
    changes = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
    changes |= {"bf16": "false", "image_size": "96", "num_frames": "4"}
    gone = {"vatex_zh": "-YouTube_id_000000_000010", "msrvtt_cn": "video6"}[name]
    Path(changes["videos"], f"{gone}.mp4").unlink()
    recipe = small(path, tmp_path, changes)
    assert recipe.config.vision_input == "frames"
    train_three_steps(recipe, tmp_path)
    assert f"train: 1 items have no video (first: {gone}); they are left out" in caplog.text


def test_what_saves_memory_goes_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Adapters, a frozen encoder with stored states and chunks are each tested alone; a small card needs them all."""
    monkeypatch.chdir(tmp_path)
    path = CONFIGS / "multi30k_fr.yaml"
    savings = {
        "text_training": "lora",
        "vision_training": "frozen",
        "model.description_encoder": "frozen",
        "description_states": "states",
        "gradient_cache_chunk_size": 2,
        "gradient_checkpointing": True,
    }
    recipe = small(path, tmp_path, {**prepare_data(path, monkeypatch), **savings})
    splits = load_splits(recipe.data)
    processor = build_processor(recipe.model, splits["train"], recipe.data.target_languages)
    run = train_system(recipe, splits, processor, tmp_path / "checkpoints")
    losses = [entry["loss"] for entry in run.log_history if "loss" in entry]
    assert len(losses) == 3 and all(math.isfinite(loss) for loss in losses)
    trained, all_of_them = run.num_parameters
    assert 0 < trained < all_of_them
    assert Path("states").is_dir() and any(Path("states").iterdir())
    assert run.record.metrics["test"]["sum_r"] > 0
