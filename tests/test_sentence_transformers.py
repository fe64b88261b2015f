"""A saved model in sentence-transformers: texts, images, images with descriptions, and what it saves in turn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModel, AutoProcessor

from modeling_leccr import LeccrModel, LeccrProcessor
from modeling_leccr.export import save_for_hub
from modeling_leccr.sentence_files import sentence_files
from tests.tiny import SENTENCES, tiny_image, tiny_model, tiny_processor

MAX_LENGTH = 20
# From one token to more than are kept, in no order.
TEXTS = [SENTENCES[0][1], "x", SENTENCES[2][2] * 3, "两棵树", SENTENCES[1][0]]
IMAGES = [tiny_image(i) for i in range(4)]
DESCRIPTIONS = [SENTENCES[0][2], None, SENTENCES[2][2] * 3, ""]
ITEMS = [{"image": image, "text": text} for image, text in zip(IMAGES, DESCRIPTIONS, strict=True)]


def processor_to_save() -> LeccrProcessor:
    return tiny_processor(max_length=MAX_LENGTH, padding="max_length", clean_captions=True)


def saved_model(folder: Path, **fields: Any) -> Path:
    return save_for_hub(tiny_model(**fields), processor_to_save(), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that embeds items with and without a description."""
    return saved_model(tmp_path_factory.mktemp("sentence") / "model", description_dropout=0.2)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> SentenceTransformer:
    """Loaded as by somebody who has this package: without `trust_remote_code`."""
    return SentenceTransformer(str(folder))


@torch.no_grad()
def text_embeds(texts: list[str], **options: Any) -> np.ndarray:
    return (
        tiny_model(description_dropout=0.2).get_text_features(**processor_to_save()(text=texts, **options))[1].numpy()
    )


@torch.no_grad()
def item_embeds(descriptions: list[str | None] | None) -> np.ndarray:
    inputs = processor_to_save()(images=IMAGES, descriptions=descriptions)
    return tiny_model(description_dropout=0.2).get_image_features(**inputs).pooler_output.numpy()


def assert_equal(found: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_embeddings_are_those_of_the_model(encoder: SentenceTransformer, batch_size: int):
    """Another padding, cut or pooling would give a second, worse model under the same name."""
    assert type(encoder.transformers_model) is LeccrModel
    assert_equal(encoder.encode(TEXTS, batch_size=batch_size), text_embeds(TEXTS))
    assert_equal(encoder.encode(IMAGES, batch_size=batch_size), item_embeds(None))
    assert_equal(encoder.encode(ITEMS, batch_size=batch_size), item_embeds(DESCRIPTIONS))


def test_a_description_counts_and_a_missing_one_is_none(encoder: SentenceTransformer):
    """A description that reaches nothing would go unnoticed: every embedding still looks right."""
    alone, described = encoder.encode(IMAGES), encoder.encode(ITEMS)
    differences = np.abs(alone - described).max(axis=-1)
    assert (differences[[0, 2]] > 1e-4).all()
    assert (differences[[1, 3]] < 1e-6).all()
    assert_equal(encoder.encode([dict(reversed(item.items())) for item in ITEMS]), described)
    assert_equal(encoder.encode(ITEMS[0]), described[0])


def test_names_of_pictures_are_opened(encoder: SentenceTransformer, tmp_path: Path):
    """Its users give paths and addresses as often as opened pictures; it hands them on as they are."""
    paths = [str(tmp_path / f"{i}.png") for i in range(len(IMAGES))]
    for image, path in zip(IMAGES, paths, strict=True):
        image.save(path)
    assert_equal(encoder.encode(paths), item_embeds(None))
    assert_equal(encoder.encode([{"image": path} for path in paths]), item_embeds(None))
    described = [{"image": path, "text": text} for path, text in zip(paths, DESCRIPTIONS, strict=True)]
    assert_equal(encoder.encode(described), item_embeds(DESCRIPTIONS))


def test_search_finds_the_facts_that_it_needs(encoder: SentenceTransformer):
    """Vector stores make their tables by the dimension, and compare by the similarity that the model names."""
    queries, items = encoder.encode_query(TEXTS), encoder.encode_document(ITEMS)
    assert_equal(queries, text_embeds(TEXTS))
    assert_equal(items, item_embeds(DESCRIPTIONS))
    assert encoder.get_embedding_dimension() == items.shape[1]
    assert encoder.similarity_fn_name == "cosine"
    np.testing.assert_allclose(encoder.similarity(queries, items), queries @ items.T, atol=1e-6)
    assert encoder.max_seq_length == MAX_LENGTH


def test_half_precision_needs_no_care(tmp_path: Path):
    """Of the vision encoders some cast their input and some stop with an error about types, as Swin does."""
    saved = saved_model(tmp_path / "model", vision="swin", image_pooling="mean", description_dropout=0.2)
    half = SentenceTransformer(str(saved), model_kwargs={"dtype": torch.bfloat16})
    assert half.dtype == torch.bfloat16
    whole = SentenceTransformer(str(saved))
    assert np.abs(half.encode(ITEMS) - whole.encode(ITEMS)).max() < 0.02
    assert np.abs(half.encode(TEXTS) - whole.encode(TEXTS)).max() < 0.02


def test_a_shorter_limit_is_obeyed_and_saved(folder: Path, tmp_path: Path):
    """`max_seq_length` is the setting for it; ignored, it would promise a speed that does not come."""
    encoder = SentenceTransformer(str(folder))
    encoder.max_seq_length = 6
    shorter = text_embeds(TEXTS, max_length=6)
    assert np.abs(shorter - text_embeds(TEXTS)).max() > 1e-4
    assert_equal(encoder.encode(TEXTS), shorter)
    encoder.save_pretrained(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"))
    assert again.max_seq_length == 6
    assert_equal(again.encode(TEXTS), shorter)


def test_what_it_saves_is_a_model_of_ours(encoder: SentenceTransformer, folder: Path, tmp_path: Path):
    """People save from where they are; a folder without our code, settings or card would end there."""
    encoder.save_pretrained(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"))
    assert_equal(again.encode(TEXTS), text_embeds(TEXTS))
    assert_equal(again.encode(ITEMS), item_embeds(DESCRIPTIONS))
    model, processor = AutoModel.from_pretrained(tmp_path / "again"), AutoProcessor.from_pretrained(tmp_path / "again")
    assert type(model) is LeccrModel
    inputs = processor(images=IMAGES, text=TEXTS, descriptions=DESCRIPTIONS)
    with torch.no_grad():
        assert_equal(
            model.eval().get_text_features(inputs["input_ids"], inputs["attention_mask"])[1], text_embeds(TEXTS)
        )
    contents = {name: (tmp_path / "again" / name).read_text(encoding="utf-8") for name in ("README.md", "config.json")}
    assert contents["README.md"] == (folder / "README.md").read_text(encoding="utf-8")
    auto_map = json.loads(contents["config.json"])["auto_map"]
    assert {auto_map["AutoModel"], auto_map["AutoModelForZeroShotImageClassification"]} == {"modeling_leccr.LeccrModel"}
    shipped = {path.name for path in folder.glob("*_leccr.py")}
    assert "modeling_leccr.py" in shipped
    assert {path.name for path in (tmp_path / "again").glob("*_leccr.py")} == shipped


def test_a_model_that_needs_descriptions_says_what_to_run(tmp_path: Path):
    """As everywhere, a missing description is an error that names the script, or a learned null."""
    encoder = SentenceTransformer(str(saved_model(tmp_path / "model")))
    with pytest.raises(ValueError, match=r"4 of 4 items have no description.*hub_scripts\.describe"):
        encoder.encode(IMAGES)
    with pytest.raises(ValueError, match=r"2 of 4 items have no description"):
        encoder.encode(ITEMS)
    assert encoder.encode([ITEMS[0], ITEMS[2]]).shape == (2, 16)


def test_descriptions_are_refused_where_none_are_read(tmp_path: Path):
    """A model of images alone would take the description and ignore it."""
    encoder = SentenceTransformer(str(saved_model(tmp_path / "model", item_source="image")))
    with pytest.raises(ValueError, match="cannot combine them in a single input"):
        encoder.encode(ITEMS)
    assert encoder.encode(IMAGES).shape == (4, 16)


def test_a_model_of_descriptions_alone_reads_them(tmp_path: Path):
    """The control without images is compared by the same tools."""
    model = tiny_model(item_source="description")
    save_for_hub(model, processor_to_save(), tmp_path / "model")
    encoder = SentenceTransformer(str(tmp_path / "model"))
    described = [ITEMS[0], ITEMS[2]]
    inputs = processor_to_save()(descriptions=[item["text"] for item in described])
    with torch.no_grad():
        assert_equal(encoder.encode(described), model.get_image_features(**inputs).pooler_output.numpy())
    with pytest.raises(ValueError, match=r"embeds descriptions, but an item has none.*hub_scripts\.describe"):
        encoder.encode(IMAGES)


def test_text_describes_images_only_where_asked():
    """Captions beside images, as of the zero-shot task, must stay captions: cleaned, and never missing."""
    processor = tiny_processor(clean_captions=True)
    text = ["A red BALL!", "x"]
    asked = processor(images=IMAGES[:2], text=text, text_kwargs={"describes_images": True})
    expected = processor(images=IMAGES[:2], descriptions=text)
    assert asked.keys() == expected.keys()
    assert all(torch.equal(asked[name], expected[name]) for name in expected)
    assert "description_input_ids" not in processor(images=IMAGES[:2], text=text)
    captions = processor(text=text, text_kwargs={"describes_images": True})
    assert torch.equal(captions["input_ids"], processor(text=text)["input_ids"])
    with pytest.raises(ValueError, match="give no descriptions beside it"):
        processor(images=IMAGES[:2], text=text, descriptions=text, text_kwargs={"describes_images": True})


def test_the_files_follow_from_the_settings_alone(folder: Path):
    """These files are pushed: what they hold follows from the configuration and nothing else."""
    settings = json.loads((folder / "processor_config.json").read_text())
    files = sentence_files(AutoConfig.from_pretrained(folder), settings)
    assert all((folder / name).read_text(encoding="utf-8") == content for name, content in files.items())
    assert json.loads(files["modules.json"])[0]["type"].startswith("sentence_transformers.")
    assert json.loads(files["sentence_bert_config.json"])["max_seq_length"] == MAX_LENGTH
