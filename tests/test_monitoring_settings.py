"""Settings of a recipe that are of a wrong type or would do nothing, and the help that names the others."""

from pathlib import Path
from typing import Any

import pytest

from modeling_leccr.training.arguments import build_recipe, help_text, parse_recipe
from modeling_leccr.training.settings import FIXED, WITHOUT_EFFECT


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_steps", "many", "max_steps must be a whole number, got 'many', a str"),
        ("max_steps", 2.5, "max_steps must be a whole number, got 2.5, a float"),
        ("max_steps", True, "max_steps must be a whole number, got True, a bool"),
        ("learning_rate", "fast", "learning_rate must be a number, got 'fast'"),
        ("learning_rate", None, "learning_rate must be a number, got None"),
        ("clean_captions", "no", "clean_captions must be true or false, got 'no'"),
        ("test_split", 3, "test_split must be a text or null, got 3"),
        ("target_languages", "de", "target_languages must be a list .*, got 'de'"),
        ("controls", ["small"], r"controls must be a mapping, got \['small'\]"),
        ("text_training", "half", r"text_training must be one of \['full', 'lora', 'frozen'\], got 'half'"),
        ("gradient_cache_chunk_size", "8", "gradient_cache_chunk_size must be a whole number or null, got '8'"),
        ("gradient_cache_chunk_size", -3, "gradient_cache_chunk_size must be at least 1, or null for none, got -3"),
        ("corrupt_images", "foo", r"corrupt_images must be one of \['error', 'skip'\], got 'foo'"),
        ("train_items", -1, "train_items must be at least 1, or null for none, got -1"),
        ("image_size", 0, "image_size must be at least 1, got 0"),
        ("per_device_train_batch_size", 1, "per_device_train_batch_size must be at least 2, got 1"),
        ("auto_find_batch_size", True, "auto_find_batch_size must be false, got true: it would take negatives away"),
        ("ignore_data_skip", True, "ignore_data_skip must be false, got true: a resumed run would begin"),
        ("train_sampling_strategy", "sequential", "train_sampling_strategy must be 'random', got 'sequential'"),
        ("hub_strategy", "every_save", "hub_strategy must be 'end', got 'every_save'"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(name: str, value: Any, message: str):
    """`no` as a text is true to Python, and a rate in words fails in the first step, after all preparation."""
    with pytest.raises(ValueError, match=message):
        build_recipe({"target_languages": ["de"], "use_cpu": True, name: value})


def test_values_that_fit_pass():
    """A whole number is a number too; null, lists and mappings are values where the setting says so."""
    values: dict[str, Any] = {"learning_rate": 1, "test_split": None, "model": {"num_slots": 2}, "seed": 5}
    values |= {"resume_from_checkpoint": True, "report_to": ["none"], "optim": "adamw_torch", "bf16": False}
    assert build_recipe({"target_languages": ["de"], "use_cpu": True, **values}).training.learning_rate == 1


@pytest.mark.parametrize("name", ["hub_always_push", "label_smoothing_factor", "do_predict", "bf16_full_eval"])
def test_a_setting_that_would_do_nothing_is_refused(name: str):
    """Somebody who smooths labels would report a result of smoothed labels."""
    with pytest.raises(ValueError, match=rf"unknown settings \['{name}'\] in the recipe"):
        build_recipe({"target_languages": ["de"], "use_cpu": True, name: 1})


def test_the_help_leaves_out_what_does_nothing_and_fits_a_screen():
    """The stock help is 500 lines, in which nobody finds the settings of this project."""
    text = help_text()
    assert not [name for name in (*WITHOUT_EFFECT, *FIXED) if name in text]
    lines = text.splitlines()
    assert len(lines) < 150 and max(map(len, lines)) <= 120
    assert "--per_device_train_batch_size" in text and "adam_epsilon" in text


def test_a_recipe_that_is_absent_or_no_yaml_is_refused_in_one_line(tmp_path: Path):
    """The parser of YAML has errors of its own, of many lines."""
    with pytest.raises(FileNotFoundError, match=r"there is no recipe .*absent\.yaml"):
        parse_recipe([str(tmp_path / "absent.yaml")])
    (tmp_path / "broken.yaml").write_text("model: {num_slots: 2\nseed: 1", encoding="utf-8")
    with pytest.raises(ValueError, match=r"the recipe .*broken\.yaml must be YAML") as refused:
        parse_recipe([str(tmp_path / "broken.yaml")])
    assert "\n" not in str(refused.value)
    (tmp_path / "fine.yaml").write_text("target_languages: [de]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"the value of --model must be YAML"):
        parse_recipe([str(tmp_path / "fine.yaml"), "--model", "{a"])
