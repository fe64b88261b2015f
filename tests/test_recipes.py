"""Recipes: what YAML and command line say, and what is refused before anything starts."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError

from modeling_leccr.training.arguments import (
    LeccrTrainingArguments,
    Recipe,
    build_recipe,
    help_text,
    parse_recipe,
    read_overrides,
)
from modeling_leccr.training.controls import control_recipes
from modeling_leccr.training.reading import merged
from modeling_leccr.training.settings import FIXED
from tests.training_parts import tiny_recipe
from train import main

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def write_recipe(folder: Path, text: str = "") -> str:
    """A recipe that is complete but for `text`."""
    path = folder / "recipe.yaml"
    path.write_text(f"target_languages: [de]\noutput_dir: outputs/x\nuse_cpu: true\n{text}\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_of_the_repository_builds_with_its_controls(path: Path):
    """A name that was changed in the code and not in a recipe would show when somebody starts the run."""
    recipe = parse_recipe([str(path), "--use_cpu", "true"])
    assert recipe.data.target_languages
    for control in control_recipes(recipe).values():
        assert control.data == recipe.data
        # Both stages count, where there are two.
        first = recipe.first_stage.training.max_steps if recipe.first_stage else 0
        assert control.training.max_steps == recipe.training.max_steps + max(first, 0)
        assert control.training.seed == recipe.training.seed


def test_a_control_without_vision_tower_leaves_its_factor_out(tmp_path: Path):
    """It shares the recipe of the main system, in which the factor has a meaning."""
    control = "{model: {item_source: description, interaction: none}}"
    factors = "learning_rate_multipliers: {vision: 2, heads: 3}"
    recipe = parse_recipe([write_recipe(tmp_path, f"{factors}\ncontrols: {{texts: {control}}}")])
    assert control_recipes(recipe)["texts"].training.learning_rate_multipliers == {"heads": 3}
    assert recipe.training.learning_rate_multipliers == {"vision": 2, "heads": 3}


def test_there_are_recipes():
    """The test above would pass on an empty folder."""
    assert {"scenes", "flickr8k_zh"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize(("written", "value"), [("1e-5", 1e-5), ("5E-4", 5e-4), ("2.5e-3", 2.5e-3), ("0.01", 0.01)])
def test_a_number_with_an_exponent_is_a_number(tmp_path: Path, written: str, value: float):
    """YAML 1.1 reads 1e-5 as a string, and the optimizer then fails far away, or compares it with a number."""
    from_file = parse_recipe([write_recipe(tmp_path, f"learning_rate: {written}")])
    from_words = parse_recipe([write_recipe(tmp_path), "--learning_rate", written])
    for recipe in (from_file, from_words):
        assert isinstance(recipe.training.learning_rate, float)
        assert recipe.training.learning_rate == value


def test_names_that_look_like_numbers_stay_names(tmp_path: Path):
    """A resolver that is too wide would turn a folder called `e5` or `1e` into a number."""
    recipe = parse_recipe([write_recipe(tmp_path), "--vision_tower", "e5", "--text_tower", "1e", "--dataset", "a/1e-b"])
    assert (recipe.model.vision_tower, recipe.model.text_tower, recipe.data.dataset) == ("e5", "1e", "a/1e-b")


def test_defaults_are_the_published_optimizer_settings(tmp_path: Path):
    """METHOD: AdamW, 1e-5, decay 0.01, betas (0.9, 0.98), 10 % warm-up, batch 128, seed 42, best by validation."""
    args = parse_recipe([write_recipe(tmp_path)]).training
    assert args.learning_rate == 1e-5
    assert args.weight_decay == 0.01
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon) == (0.9, 0.98, 1e-8)
    assert args.warmup_steps == 0.1
    assert str(args.lr_scheduler_type.value) == "linear"
    assert args.per_device_train_batch_size == 128
    assert args.seed == 42
    assert args.metric_for_best_model == "sum_r" and args.greater_is_better and args.load_best_model_at_end


def test_nested_overrides_change_one_name_and_keep_its_neighbours(tmp_path: Path):
    """`--model.num_slots 2` must not drop the rest of the section."""
    path = write_recipe(tmp_path, "model: {num_slots: 4, slot_dim: 64}\nloss: {guidance: 0.5}")
    recipe = parse_recipe([path, "--model.num_slots", "2", "--loss.slot_vision=0.1", "--target_languages", "[fr, cs]"])
    assert recipe.model.model == {"num_slots": 2, "slot_dim": 64}
    assert recipe.training.loss == {"guidance": 0.5, "slot_vision": 0.1}
    assert recipe.data.target_languages == ["fr", "cs"]


def test_overrides_are_read_as_yaml():
    """A value that stays text would make `false` true."""
    words = ["--a", "false", "--b=1", "--c.d.e", "x", "--c.d.f=y=z", "--g", "-1.5", "--h", "null"]
    assert read_overrides(words) == {
        "a": False,
        "b": 1,
        "c": {"d": {"e": "x", "f": "y=z"}},
        "g": -1.5,
        "h": None,
    }


@pytest.mark.parametrize("words", [["--a"], ["a", "1"], ["--a", "1", "b"], ["-a", "1"]])
def test_a_word_that_is_no_override_is_refused(words: list[str]):
    """A forgotten value would take the next name for it."""
    with pytest.raises(ValueError, match="overrides come as `--name value`"):
        read_overrides(words)


def test_merging_leaves_its_arguments_as_they_are():
    """A control that changed the main recipe in passing would change the comparison."""
    settings: dict[str, Any] = {"a": {"b": 1, "c": [1]}, "d": 2}
    assert merged(settings, {"a": {"b": 3}, "d": {"e": 4}}) == {"a": {"b": 3, "c": [1]}, "d": {"e": 4}}
    assert settings == {"a": {"b": 1, "c": [1]}, "d": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rte: 0.1", r"unknown settings \['learning_rte'\] in the recipe; see `python train.py --help`"),
        ("model: {num_slotz: 4}", r"unknown settings \['num_slotz'\] in model; the known ones are .*'num_slots'"),
        ("model: {vision_config: {}}", r"unknown settings \['vision_config'\] in model"),
        ("scenes: {trainsize: 4}", r"unknown settings \['trainsize'\] in scenes; .*'train_size'"),
        ("augmentation: {crop: 1}", r"unknown settings \['crop'\] in augmentation; .*'scale'"),
        ("loss: {guidence: 1}", r"unknown settings \['guidence'\] in loss; .*'guidance'"),
        ("learning_rate_multipliers: {head: 2}", r"unknown settings \['head'\] in learning_rate_multipliers"),
        ("learning_rate_multipliers: {vision: 0}", r"takes positive factors for .*, got {'vision': 0}"),
        ("learning_rate_multipliers: {heads: fast}", r"takes positive factors for .*, got {'heads': 'fast'}"),
        (
            "learning_rate_multipliers: {vision: 2}\nmodel: {item_source: description, interaction: none}",
            "no factor for 'vision' where neither pictures nor frames are read",
        ),
        ("shuffle_buffer: 100", "shuffle_buffer needs streaming, got 100 without it"),
        ("loss: 0.5", "loss must be a mapping of names to values, got 0.5"),
        ("model: [num_slots, 4]", "model must be a mapping"),
        ("loss: {guidance: 1.5}", r"loss.guidance must lie in \[0, 1\], got 1.5"),
        ("loss: {slot_contrastive: -0.1}", "loss.slot_contrastive must not be negative, got -0.1"),
        ("loss: {teacher_temperature: 0}", "loss.teacher_temperature must be positive, got 0"),
        ("scoring: slot", r"scoring must be one of \['fused', 'global', 'slots', 'min_max'\], got 'slot'"),
        ("target_languages: []", "target_languages must name at least one language"),
        ("target_languages: de", r"target_languages must be a list such as \[a, b\], got 'de'"),
        ("evaluation_languages: de", r"evaluation_languages must be a list such as \[a, b\], got 'de'"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str):
    """A misspelt name that is dropped in silence trains with the default, and the result is believed."""
    with pytest.raises(ValueError, match=message):
        parse_recipe([write_recipe(tmp_path, text)])


def test_a_misspelt_control_is_refused_before_the_main_system_trains(tmp_path: Path):
    """Otherwise the mistake shows after the hours of the main run."""
    recipe = parse_recipe([write_recipe(tmp_path, "controls: {two streams: {model: {item_sauce: image}}}")])
    with pytest.raises(ValueError, match=r"unknown settings \['item_sauce'\] in model"):
        control_recipes(recipe)


def test_a_control_is_the_recipe_with_its_changes_and_nothing_else(tmp_path: Path):
    """A control with another seed, budget or data set compares nothing."""
    text = "seed: 7\nmodel: {num_slots: 4, embed_dim: 8}\ncontrols: {c: {model: {num_slots: 2}, loss: {guidance: 0}}}"
    recipe = parse_recipe([write_recipe(tmp_path, text)])
    control = control_recipes(recipe)["c"]
    assert control.model.model == {"num_slots": 2, "embed_dim": 8}
    assert control.training.seed == 7
    assert control.training.controls == {}
    changed = {name for name in recipe.settings if control.settings.get(name) != recipe.settings[name]}
    assert changed == {"model", "controls"}
    assert recipe.model.model == {"num_slots": 4, "embed_dim": 8}


@pytest.mark.parametrize("text", ["controls:", "model:\nscenes: null"])
def test_an_empty_section_means_no_settings(tmp_path: Path, text: str):
    """In YAML a name with nothing behind it is null; so does `--controls null` leave the controls out."""
    assert isinstance(parse_recipe([write_recipe(tmp_path, text)]), Recipe)
    path = write_recipe(tmp_path, "controls: {c: {seed: 1}}")
    assert control_recipes(parse_recipe([path, "--controls", "null"])) == {}


@pytest.mark.parametrize("arguments", [[], ["--learning_rate", "1e-3"]])
def test_the_first_argument_must_be_a_recipe(arguments: list[str]):
    """Without it the first option would be opened as a file."""
    with pytest.raises(ValueError, match=r"first argument is a recipe; usage: train.py RECIPE.yaml"):
        parse_recipe(arguments)


def test_a_recipe_that_does_not_exist_is_named(tmp_path: Path):
    """The message must hold the path that was tried."""
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml"):
        parse_recipe([str(tmp_path / "absent.yaml")])


@pytest.mark.parametrize("text", ["", "- a\n- b", "just words"])
def test_a_recipe_that_is_no_mapping_is_refused(tmp_path: Path, text: str):
    """An empty file is null in YAML, and would fail in the middle of the parser."""
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="must be a mapping of names to values"):
        parse_recipe([str(path)])


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]):
    """What is not in the help is found by nobody."""
    main(["--help"])
    printed = capsys.readouterr().out
    names = {
        name
        for section in (Recipe.__annotations__["model"], Recipe.__annotations__["data"])
        for name in section.__dataclass_fields__
    }
    names |= LeccrTrainingArguments.__annotations__.keys() - FIXED.keys()
    assert not [name for name in names if f"--{name}" not in printed]
    assert "accelerate launch train.py configs/scenes.yaml" in printed
    assert help_text() in printed
    words = " ".join(help_text().split())
    # The names inside the sections too, and what a section that is left out means.
    assert "Names: aligned_slots, description_dropout" in words and "vision_config" not in words
    assert "teacher_temperature, without." in words and "Names: heads, text, vision." in words
    assert "Default: r 16, lora_alpha 32, lora_dropout 0.05, target_modules queries and values." in words


def test_settings_are_kept_for_the_record():
    """`metrics.json` must say what was trained, overrides included."""
    settings = {"target_languages": ["de"], "use_cpu": True, "seed": 3}
    assert build_recipe(settings).settings == settings


def test_settings_are_published_without_places_and_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They travel with the model: a relative folder looks like a name on the Hub, and a token is read by everybody."""
    monkeypatch.chdir(tmp_path)
    for name in ("data/mine", "towers/clip"):
        (tmp_path / name).mkdir(parents=True)
    recipe = build_recipe(
        {
            "dataset": "data/mine",
            "images": str(tmp_path / "pictures" / "flickr"),
            "vision_tower": "towers/clip",
            "text_tower": "org/text-tower",
            "target_languages": ["de"],
            "learning_rate": 1e-4,
            "hub_model_id": "org/name",
            "hub_token": "hf_abcdefghijklmnop",
            "controls": {"other": {"vision_tower": "towers/clip", "hub_token": "secret", "model": {"num_slots": 2}}},
            "output_dir": "runs/mine",
            "use_cpu": True,
        }
    )
    assert recipe.public_settings() == {
        "dataset": "mine",
        "images": "flickr",
        "vision_tower": "clip",
        "text_tower": "org/text-tower",
        "target_languages": ["de"],
        "learning_rate": 1e-4,
        "controls": {"other": {"vision_tower": "clip", "model": {"num_slots": 2}}},
        "use_cpu": True,
    }
    assert recipe.settings["dataset"] == "data/mine"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("smaller pictures", {"image_size": 16}),
        ("other data", {"dataset": "elsewhere"}),
        ("pushed too", {"push_to_hub": True}),
        ("rounded", {"bf16": True}),
        ("LECCR", {"model": {"num_slots": 2}}),
        ("a/b", {"model": {"num_slots": 2}}),
    ],
)
def test_a_control_that_changes_what_all_systems_share_is_refused(tmp_path: Path, name: str, changes: dict):
    """Splits and processor are made once: the change would be ignored and the numbers reported as a control's."""
    recipe = build_recipe(tiny_recipe(tmp_path, controls={name: changes}))
    with pytest.raises(ValueError, match="must have a name of its own"):
        control_recipes(recipe)


def test_contradicting_model_fields_are_refused_before_anything_trains(tmp_path: Path):
    """A control without slots that keeps the interaction would fail after the main system has trained."""
    recipe = build_recipe(tiny_recipe(tmp_path, controls={"two": {"model": {"item_source": "image"}}}))
    with pytest.raises(StrictDataclassClassValidationError, match="set interaction='none'"):
        control_recipes(recipe)


def test_no_is_a_word_and_true_a_truth_value():
    """YAML 1.1 turns `--eval_strategy no` into False, which no strategy is."""
    overrides = read_overrides(["--eval_strategy", "no", "--bf16", "true", "--learning_rate", "1e-5"])
    assert overrides == {"eval_strategy": "no", "bf16": True, "learning_rate": 1e-5}
