"""Which system a recipe trains: what it says of it, how one becomes another, and what it is called."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from modeling_leccr.training.arguments import build_recipe, help_text, parse_recipe
from modeling_leccr.training.controls import control_recipes
from modeling_leccr.training.run import check_texts, training_pairs
from modeling_leccr.training.systems import SYSTEMS, system_of, varied
from processing.collator import LeccrCollator
from tests.tiny import tiny_cl2cm_config, tiny_config, tiny_cross_lingual_config, tiny_processor
from tests.training_parts import TINY_VISION, tiny_recipe, tiny_split


def settings_of(**changes: Any) -> dict[str, Any]:
    return {"target_languages": ["de"], "use_cpu": True, **changes}


def write(folder: Path, **changes: Any) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings_of(**changes)), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({}, "LECCR"),
        ({"model": {"item_source": "image", "interaction": "none"}}, "two streams"),
        ({"model": {"item_source": "description", "interaction": "none"}}, "description alone"),
        ({"system": "cl2cm"}, "CL2CM"),
        ({"system": "cross_lingual"}, "cross-lingual network"),
    ],
)
def test_a_system_is_called_what_it_is(changes: dict[str, Any], title: str):
    """Numbers of a baseline in a table under the name of LECCR are wrong numbers."""
    assert build_recipe(settings_of(**changes)).title == title


def test_the_system_of_a_model_is_found_by_its_configuration():
    """With the losses of another system the first step fails, or worse, does not."""
    configs = {"leccr": tiny_config(), "cl2cm": tiny_cl2cm_config(), "cross_lingual": tiny_cross_lingual_config()}
    for name, config in configs.items():
        assert system_of(config) is SYSTEMS[name]
        assert system_of(config).titles[config.item_source]


def test_every_system_is_a_choice_of_the_recipe_and_in_its_help():
    """A system that is not among the choices cannot be trained, and one without names cannot be set."""
    for name in SYSTEMS:
        assert build_recipe(settings_of(system=name)).model.system == name
    words = " ".join(help_text().split())
    assert "With system cl2cm: dropout, embed_dim, feature_dim" in words and "visual_dim" in words
    assert "With system cl2cm: feature_distillation" in words and "transport_epsilon" in words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"system": "clip"}, r"system must be one of \['leccr', 'cl2cm', 'cross_lingual'\], got 'clip'"),
        ({"system": "cl2cm", "model": {"num_slots": 2}}, r"unknown settings \['num_slots'\] in model"),
        ({"system": "cl2cm", "loss": {"guidance": 0.5}}, r"unknown settings \['guidance'\] in loss"),
        ({"loss": {"relational_transfer": 1}}, r"unknown settings \['relational_transfer'\] in loss"),
        ({"teacher": "x"}, r"\['teacher'\] have no meaning for system: leccr; leave them out, or set the system"),
        ({"system": "cross_lingual", "init_from_teacher": True}, r"\['init_from_teacher'\] have no meaning"),
        ({"system": "cross_lingual", "augmentation": {"flip": True}}, r"\['augmentation'\] have no meaning"),
        ({"system": "cl2cm", "base_model": "x"}, "base_model with system: cl2cm needs its teacher"),
        (
            {"system": "cl2cm", "base_model": "x", "teacher": "y", "init_from_teacher": True},
            r"base_model brings .* so \['init_from_teacher'\] would do nothing",
        ),
        (
            {"system": "cl2cm", "cross_lingual": {"target_languages": ["fr"], "max_length": 9}},
            r"what both stages share, got \['max_length', 'target_languages'\]",
        ),
        ({"system": "cl2cm", "cross_lingual": {"bf16": True}}, r"what both stages share, got \['bf16'\]"),
        ({"system": "cl2cm", "scoring": "slots"}, "scoring must be fused or global for CL2CM, which has no slots"),
        ({"system": "cl2cm", "loss": {"relational_transfer": 0}}, "no term of the losses reads the teacher"),
        ({"system": "cl2cm", "loss": {"without": ["relational_transfer"]}}, "no term of the losses reads the teacher"),
        ({"system": "cl2cm", "cross_lingual": {"text_tower": "a/b"}}, r"got \['text_tower \(by name\)'\]"),
        (
            {"system": "cl2cm", "cross_lingual": {"loss": {"word_alinement": 1}}},
            r"the first stage of this recipe \(cross_lingual\) cannot be trained: unknown .* \['word_alinement'\]",
        ),
        (
            {"system": "cl2cm", "init_from_teacher": True, "cross_lingual": {"model": {"embed_dim": 8}}},
            r"the same choices of the model, got \['model'\] in cross_lingual",
        ),
        ({"system": "cl2cm", "description_states": "x"}, r"\['description_states'\] have no meaning for system: cl2cm"),
        ({"system": "cross_lingual", "vision_training": "frozen"}, r"\['vision_training'\] have no meaning"),
        ({"system": "cross_lingual", "learning_rate_multipliers": {"vision": 2}}, "there is no vision tower"),
    ],
)
def test_what_a_system_does_not_have_is_refused(changes: dict[str, Any], message: str):
    """A setting that does nothing is believed to have done something."""
    with pytest.raises(ValueError, match=message):
        build_recipe(settings_of(**changes))


def test_the_first_stage_of_a_recipe_is_trained_alone_with_one_word(tmp_path: Path):
    """`--system cross_lingual` must give the network that the recipe itself would give."""
    path = write(
        tmp_path,
        system="cl2cm",
        model={"embed_dim": 64, "visual_dim": 32},
        loss={"relational_transfer": 0.5},
        cross_lingual={"max_steps": 7, "loss": {"word_alignment": 0.3}, "model": {"text_pooling": "mean"}},
        learning_rate_multipliers={"vision": 2, "heads": 3},
        vision_training="lora",
        lora={"r": 2},
        augmentation={"flip": True},
        controls={"two streams": {"system": "leccr", "model": {"item_source": "image", "interaction": "none"}}},
        push_to_hub=True,
        hub_model_id="owner/cl2cm",
        max_steps=9,
    )
    alone = parse_recipe([path, "--system", "cross_lingual", "--seed", "5"])
    assert alone.model.model == {"embed_dim": 64, "text_pooling": "mean"}
    assert alone.training.loss == {"word_alignment": 0.3}
    assert (alone.training.max_steps, alone.training.seed) == (7, 5)
    assert alone.training.learning_rate_multipliers == {"heads": 3}
    assert not alone.training.push_to_hub and alone.training.controls == {} and alone.data.augmentation == {}
    whole = parse_recipe([path, "--seed", "5"])
    assert whole.first_stage is not None and whole.training.max_steps == 9
    assert whole.first_stage.settings == alone.settings


def test_a_run_that_goes_on_from_a_folder_goes_on_in_its_second_stage(tmp_path: Path):
    """The checkpoint that was named is one of the second stage; the first would refuse it."""
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    recipe = settings_of(system="cl2cm", resume_from_checkpoint=str(checkpoint))
    changed = varied(recipe, {"system": "cross_lingual"})
    assert changed["resume_from_checkpoint"] is True


def test_changes_within_a_system_are_merged():
    """What the recipe says and the change does not stays."""
    recipe = settings_of(system="cl2cm", model={"embed_dim": 64}, loss={"relational_transfer": 0.5})
    changed = varied(recipe, {"model": {"visual_dim": 8}})
    assert changed["model"] == {"embed_dim": 64, "visual_dim": 8} and changed["loss"] == {"relational_transfer": 0.5}


def test_folders_of_the_first_stage_are_not_published(tmp_path: Path):
    """They travel with the model, and tell of the machine."""
    tower = tmp_path / "towers" / "bert"
    tower.mkdir(parents=True)
    recipe = build_recipe(settings_of(system="cl2cm", teacher=str(tower), text_tower=str(tower)))
    public = recipe.public_settings()
    assert (public["teacher"], public["text_tower"]) == ("bert", "bert")


@pytest.mark.parametrize(("item_source", "reads"), [("description", {"description"}), ("image", {"image"})])
def test_a_baseline_reads_of_an_item_what_it_embeds(tmp_path: Path, item_source: str, reads: set[str]):
    """Pictures that are decoded for nothing cost most of an epoch; descriptions that nobody reads need not be there."""
    recipe = build_recipe(tiny_recipe(tmp_path, model={"item_source": item_source, "interaction": "none"}))
    recipe.data.target_languages = ["de"]
    split = tiny_split(8)
    pairs = training_pairs(recipe, split.remove_columns(list({"image", "description"} - reads)), recipe.config)
    rows = [pairs[position] for position in range(2)]
    assert all({"image", "description"} & set(row or ()) == reads for row in rows)
    batch = LeccrCollator(tiny_processor())(rows)
    assert ("pixel_values" in batch) == ("image" in reads)
    assert ("description_input_ids" in batch) == ("description" in reads)
    with pytest.raises(ValueError, match=f"lacks the columns .*{reads.pop()}|reads the column 'image'"):
        training_pairs(recipe, split.select_columns(["image_id", "caption_en", "caption_de_mt"]), recipe.config)


def test_a_network_of_texts_and_systems_that_find_pictures_are_no_controls_of_each_other(tmp_path: Path):
    """Its numbers would stand in one table with theirs; and it is trained without the pictures that they need."""
    beside = build_recipe(tiny_recipe(tmp_path, controls={"texts": {"system": "cross_lingual", "model": {}}}))
    with pytest.raises(ValueError, match=r"'texts' must find what the main system finds, got .*cross-lingual network"):
        control_recipes(beside)
    texts = varied(tiny_recipe(tmp_path, system="cl2cm", model={"embed_dim": 16}), {"system": "cross_lingual"})
    streams = {"system": "leccr", "model": {"item_source": "image", "interaction": "none"}, "vision_tower": TINY_VISION}
    with pytest.raises(ValueError, match=r"'streams' must find what the main system finds, got two streams"):
        control_recipes(build_recipe({**texts, "controls": {"streams": streams}}))
    hot = {"hot": {"loss": {"alignment_temperature": 0.5}}}
    assert control_recipes(build_recipe({**texts, "controls": hot}))["hot"].title == "cross-lingual network"


def test_captions_that_read_the_same_are_positives_of_the_first_stage():
    """Cleaned, and cut to a length, different sentences become one embedding, which cannot be pushed from itself."""
    rows = [
        {"image_id": str(number), "item_index": number, "source_caption": caption, "target_caption": "ein Hund"}
        for number, caption in enumerate(["A red ball!", "a red ball", "a white dog", "a red ball lies on the grass"])
    ]
    for settings, groups in (({"clean_captions": True}, 3), ({"clean_captions": True, "max_length": 5}, 2), ({}, 4)):
        collator = LeccrCollator(tiny_processor(**settings), captions_are_items=True)
        batch = collator(rows)
        assert len(set(batch["image_ids"].tolist())) == groups
        assert torch.equal(collator(rows[:2])["image_ids"], batch["image_ids"][:2])  # whatever it is padded to


def test_an_evaluated_item_without_english_caption_stops_the_first_stage_before_it_trains():
    """Found by the first evaluation, an epoch later, it costs that epoch."""
    splits = {"train": tiny_split(4), "validation": tiny_split(4, caption_en=[["a dog"], [], ["a cat"], ["a boat"]])}
    with pytest.raises(ValueError, match=r"1 of 4 items have no caption_en \(first rows: \[1\]\)"):
        check_texts(tiny_cross_lingual_config(), splits)
    check_texts(tiny_cl2cm_config(), splits)
    check_texts(tiny_cross_lingual_config(), {"train": splits["validation"], "validation": splits["train"]})
