"""From a recipe to splits, processor and model."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from huggingface_hub import constants
from transformers import BertModel, CLIPImageProcessorPil, CLIPVisionModelWithProjection

from modeling_leccr.training.arguments import DataArguments, ModelArguments
from modeling_leccr.training.building import build_model, build_processor, load_splits, training_texts
from tests.tiny import SENTENCES, tiny_image, tiny_processor, tiny_text_config, tiny_vision_config
from tests.training_parts import TINY_TEXT, TINY_VISION, tiny_split

TINY_MODEL = {"slot_dim": 32, "embed_dim": 16, "num_attention_heads": 4}


def data_set_folder(folder: Path, **sizes: int) -> str:
    """A data set in the schema as parquet files, one split each."""
    for name, size in sizes.items():
        tiny_split(size).to_parquet(str(folder / f"{name}-00000-of-00001.parquet"))
    return str(folder)


def scratch_arguments(**changes: Any) -> ModelArguments:
    settings: dict[str, Any] = {
        "vision_tower": TINY_VISION,
        "text_tower": TINY_TEXT,
        "model": TINY_MODEL,
        "image_size": 32,
        "vocab_size": 99,
        "max_length": 40,
    }
    return ModelArguments(**{**settings, **changes})


def tower_folders(folder: Path) -> tuple[str, str]:
    """Pretrained towers on disk, as a user has them."""
    CLIPVisionModelWithProjection(tiny_vision_config()).save_pretrained(folder / "vision")
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder / "vision")
    BertModel(tiny_text_config()).save_pretrained(folder / "text")
    tiny_processor().tokenizer.save_pretrained(folder / "text")
    return str(folder / "vision"), str(folder / "text")


def test_splits_come_under_their_roles(tmp_path: Path):
    """A data set may call its splits otherwise; the code behind knows three roles."""
    location = data_set_folder(tmp_path, train=6, validation=4, test=3)
    names = {"train_split": "test", "validation_split": "train", "test_split": "validation"}
    splits = load_splits(DataArguments(dataset=location, target_languages=["de"], **names))
    assert {role: len(split) for role, split in splits.items()} == {"train": 3, "validation": 6, "test": 4}


def test_a_data_set_without_test_split_has_two_roles(tmp_path: Path):
    """A test split that exists is not read unless the recipe names it."""
    location = data_set_folder(tmp_path, train=6, validation=4, test=3)
    splits = load_splits(DataArguments(dataset=location, target_languages=["de"]))
    assert set(splits) == {"train", "validation"}


def test_a_quick_look_takes_the_first_items_of_training_only(tmp_path: Path):
    """Validation must stay the same, or its numbers cannot be compared."""
    location = data_set_folder(tmp_path, train=6, validation=4)
    for limit, size in ((2, 2), (100, 6)):
        splits = load_splits(DataArguments(dataset=location, target_languages=["de"], train_items=limit))
        assert {role: len(split) for role, split in splits.items()} == {"train": size, "validation": 4}
        assert splits["train"][0]["image_id"] == "item-0"


def test_an_absent_split_is_an_error_with_the_splits_found(tmp_path: Path):
    """`KeyError: 'dev'` says neither which setting nor what else there is."""
    location = data_set_folder(tmp_path, train=6, validation=4)
    with pytest.raises(ValueError, match=r"validation_split='dev' is absent from .* it has \{.*'validation': 4"):
        load_splits(DataArguments(dataset=location, target_languages=["de"], validation_split="dev"))


@pytest.mark.parametrize("role", ["train", "validation", "test"])
def test_an_empty_split_is_an_error(monkeypatch: pytest.MonkeyPatch, role: str):
    """Zero steps of training, or recalls over nothing, would end without a word."""
    splits = {name: tiny_split(4) for name in ("train", "validation", "test")}
    splits[role] = splits[role].select([])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(splits))
    with pytest.raises(ValueError, match=rf"{role}_split='{role}' is absent from 'owner/x' or empty; .*'{role}': 0"):
        load_splits(DataArguments(dataset="owner/x", target_languages=["de"], test_split="test"))


def test_the_tokenizer_is_trained_on_what_training_sees_and_nothing_else():
    """Human captions of the target language are for evaluation; words learned from them would leak."""
    split = tiny_split(2, caption_de=[["nur menschen"], ["sagen das"]], description=["a long story", None])
    texts = list(training_texts(split, ["de"]))
    assert texts == [SENTENCES[0][0], SENTENCES[0][1], "a long story", SENTENCES[1][0], SENTENCES[1][1]]


def test_towers_from_scratch_fit_tokenizer_and_pictures():
    """A table of another size than the vocabulary, or positions short of the longest text, fail at some batch."""
    arguments = scratch_arguments()
    processor = build_processor(arguments, tiny_split(), ["de"])
    model = build_model(arguments, processor.tokenizer)
    assert model.config.text_config.vocab_size == len(processor.tokenizer)
    assert model.config.text_config.max_position_embeddings == processor.max_length == 40
    assert model.config.text_config.pad_token_id == processor.tokenizer.pad_token_id
    assert model.config.vision_config.image_size == 32
    inputs = processor(images=[tiny_image(0)], text=["ein " * 100], descriptions=["a " * 100])
    assert inputs["pixel_values"].shape[-2:] == (32, 32)
    output = model(**inputs)
    assert torch.isfinite(output.logits_per_image).all()


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "mpnet", "camembert"])
def test_a_tower_that_counts_positions_from_padding_reads_the_longest_text(model_type: str):
    """The table of positions would end before the text does, at the first one that is cut."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    arguments = scratch_arguments(text_tower={"model_type": model_type, **sizes})
    processor = build_processor(arguments, tiny_split(), ["de"])
    model = build_model(arguments, processor.tokenizer)
    inputs = processor(text=["ein " * 100])
    assert inputs["input_ids"].shape[1] == processor.max_length == 40
    assert torch.isfinite(model.get_text_features(**inputs).pooler_output).all()


def test_pretrained_towers_keep_their_weights_tokenizer_and_pixels(tmp_path: Path):
    """The published protocol resizes to a square; the centre crop of CLIP would cut what captions mention."""
    vision, text = tower_folders(tmp_path)
    arguments = scratch_arguments(vision_tower=vision, text_tower=text)
    processor = build_processor(arguments, tiny_split(), ["de"])
    model = build_model(arguments, processor.tokenizer)
    assert processor.tokenizer.get_vocab() == tiny_processor().tokenizer.get_vocab()
    saved = BertModel.from_pretrained(text, add_pooling_layer=False).state_dict()
    found = model.text_model.state_dict()
    assert all(found[name].equal(value) for name, value in saved.items())
    wide = tiny_image(0).resize((64, 32))
    square = processor(images=[wide])["pixel_values"]
    assert square.shape[-2:] == (32, 32)
    assert processor.image_processor.do_center_crop is False
    squeezed = processor(images=[wide.resize((32, 32), 3)])["pixel_values"]
    torch.testing.assert_close(square, squeezed, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_tower": "bert"}, "must both be names or both be configurations"),
        ({"vision_tower": {"hidden_size": 32}}, "needs a model_type such as vit or bert"),
        ({"vision_tower": {**TINY_VISION, "hidden_sise": 8}}, r"unknown settings \['hidden_sise'\] .* 'vit'"),
        ({"text_tower": {**TINY_TEXT, "layers": 8}}, r"unknown settings \['layers'\] .* 'bert'"),
    ],
)
def test_towers_that_cannot_be_meant_are_refused(changes: dict[str, Any], message: str):
    """A configuration keeps any name that it is given: a misspelt width would train with 768."""
    with pytest.raises(ValueError, match=message):
        build_model(scratch_arguments(**changes), tiny_processor().tokenizer)


def test_a_tower_setting_under_an_alias_is_known():
    """DistilBERT calls its width `dim` and also answers to `hidden_size`."""
    tower = {"model_type": "distilbert", "hidden_size": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    model = build_model(scratch_arguments(text_tower=tower), tiny_processor().tokenizer)
    assert model.config.text_config.dim == 32


def test_a_data_set_of_texts_gets_its_pictures_from_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Data sets of descriptions travel without pixels; what has no picture is left out and told."""
    split = tiny_split(4)
    for name in ("train", "validation"):
        split.remove_columns(["image"]).to_parquet(str(tmp_path / "texts" / f"{name}-00000-of-00001.parquet"))
    (tmp_path / "pictures").mkdir()
    for row in split.select(range(3)):
        row["image"].save(tmp_path / "pictures" / f"{row['image_id']}.png")
    data = DataArguments(dataset=str(tmp_path / "texts"), images=str(tmp_path / "pictures"), target_languages=["de"])
    splits = load_splits(data)
    assert splits["train"]["image_id"] == split["image_id"][:3]
    assert splits["train"][2]["image"].size == split[2]["image"].size
    assert f"1 items have no image (first: {split['image_id'][3]}); they are left out" in caplog.text
    with pytest.raises(ValueError, match=r"reads the column 'image', .*name the folder of their images \(`images` in"):
        load_splits(DataArguments(dataset=str(tmp_path / "texts"), target_languages=["de"]))


def test_a_split_whose_pictures_are_elsewhere_is_an_error(tmp_path: Path):
    """Validation over nothing chooses any checkpoint."""
    split = tiny_split(4)
    texts = split.remove_columns(["image"])
    texts.to_parquet(str(tmp_path / "texts" / "train-00000-of-00001.parquet"))
    strangers = texts.remove_columns(["image_id"]).add_column("image_id", [f"stranger-{i}" for i in range(4)])
    strangers.to_parquet(str(tmp_path / "texts" / "validation-00000-of-00001.parquet"))
    split.select_columns(["image", "image_id"]).to_parquet(str(tmp_path / "pictures" / "train.parquet"))
    data = DataArguments(dataset=str(tmp_path / "texts"), images=str(tmp_path / "pictures"), target_languages=["de"])
    with pytest.raises(ValueError, match=r"images='.*' holds nothing for the splits \['validation'\]"):
        load_splits(data)


def test_a_damaged_picture_of_an_evaluated_split_is_found_before_training(tmp_path: Path):
    """It stopped the run at the first evaluation, an epoch later, though the recipe said to skip such pictures."""
    damaged = {"bytes": b"no picture", "path": None}
    whole = [tiny_image(i) for i in range(3)]
    for name, images in (("train", [*whole, damaged]), ("validation", [damaged, *whole])):
        tiny_split(4, image=images).to_parquet(str(tmp_path / f"{name}-00000-of-00001.parquet"))
    data = {"dataset": str(tmp_path), "target_languages": ["de"]}
    with pytest.raises(ValueError, match=r"the validation split has 1 pictures that cannot be read .*'item-0'"):
        load_splits(DataArguments(**data))
    splits = load_splits(DataArguments(**data, corrupt_images="skip"))
    assert splits["validation"]["image_id"] == ["item-1", "item-2", "item-3"] and len(splits["train"]) == 4


@pytest.mark.parametrize("streaming", [False, True])
def test_a_recipe_without_its_data_says_where_to_read_how_they_are_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, streaming: bool
):
    """The recipes of benchmarks name folders that their first comments make, and a stranger starts them at once."""
    monkeypatch.chdir(tmp_path)
    for name in ("data/none", "none"):
        arguments = DataArguments(dataset=name, target_languages=["de"], streaming=streaming)
        with pytest.raises(FileNotFoundError, match=f"no folder {name} here, .*comments at the top of a recipe"):
            load_splits(arguments)


def test_towers_that_are_nowhere_are_named_with_their_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`We couldn't connect to 'https://huggingface.co'` says neither which name nor that HF_HUB_OFFLINE is set."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    vision, text = tower_folders(tmp_path)
    rows = tiny_split()
    offline = r"is no folder here, and the Hub is offline \(HF_HUB_OFFLINE\), and not all of it is in the cache"
    with pytest.raises(OSError, match=f"^text_tower 'owner/none' {offline}"):
        build_processor(ModelArguments(vision_tower=vision, text_tower="owner/none"), rows, ["de"])
    with pytest.raises(OSError, match=f"^vision_tower 'owner/none' {offline}"):
        build_processor(ModelArguments(vision_tower="owner/none", text_tower=text), rows, ["de"])
    with pytest.raises(OSError, match=f"^vision_tower 'owner/none' {offline}"):
        build_model(ModelArguments(vision_tower="owner/none", text_tower=text), tiny_processor().tokenizer)
    for build in (
        lambda arguments: build_processor(arguments, rows, ["de"]),
        lambda arguments: build_model(arguments, tiny_processor().tokenizer),
    ):
        with pytest.raises(OSError, match=f"^base_model 'owner/none' {offline}"):
            build(ModelArguments(base_model="owner/none"))
