"""Agreement of pictures and texts: the numbers by hand and by loops, and the encoders behind them."""

import shutil
import tracemalloc

import datasets
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
)

from processing.records import schema_features
from processing.tokenizer import train_tokenizer
from retrieval.agreement import derangement, measure_agreement
from retrieval.dual_encoders import LeccrEncoder, TransformersEncoder, load_dual_encoder
from tests.test_retrieval_encode import lively_model
from tests.tiny import IMAGE_SIZE, SENTENCES, VOCAB_SIZE, tiny_image, tiny_model, tiny_processor, tiny_vision_config

MAX_LENGTH = 12
QUIET = {"progress": False}


class TableEncoder:
    """Knows the vectors of pictures (by position among those given) and of texts."""

    name, model_type, max_length = "table", "table", 3

    def __init__(self, images, texts):
        self.images, self.texts, self.ids = images, texts, []

    def encode_images(self, rows, batch_size, *, progress):
        self.ids = list(rows["image_id"])
        return torch.stack([self.images[image_id] for image_id in self.ids])

    def encode_texts(self, texts, batch_size, *, progress):
        return torch.stack([self.texts[text] for text in texts])

    def token_counts(self, texts):
        return [(len(text.split()), min(len(text.split()), self.max_length)) for text in texts]


def make_rows(rows, columns=("image", "image_id", "description", "caption_en")):
    rows = [{"image": tiny_image(i), **row} for i, row in enumerate(rows)]
    return datasets.Dataset.from_list(rows, features=schema_features(columns))


def tiny_rows(num_items=8):
    return make_rows(
        [
            {"image_id": f"item-{i}", "description": SENTENCES[i][2], "caption_en": [SENTENCES[i][0], f"{i} things"]}
            for i in range(num_items)
        ]
    )


def angle(degrees):
    radians = torch.tensor(degrees).deg2rad()
    return torch.stack([radians.cos(), radians.sin()])


def text_fields():
    return {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "vocab_size": VOCAB_SIZE, "max_position_embeddings": MAX_LENGTH,
    }  # fmt: skip


def processor_parts():
    texts = [text for row in SENTENCES for text in row]
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    image_processor = CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False)
    return image_processor, train_tokenizer(texts, VOCAB_SIZE, max_length=48)


def lively(model):
    """Fresh weights are so small that all texts are nearly one."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(10)
    return model.eval()


def save_tiny_clip(folder):
    """A CLIP with its processor, from configurations."""
    image_processor, tokenizer = processor_parts()
    text = {**text_fields(), "eos_token_id": tokenizer.sep_token_id}
    config = CLIPConfig(text_config=text, vision_config=tiny_vision_config("clip").to_dict(), projection_dim=16)
    torch.manual_seed(0)
    lively(CLIPModel(config)).save_pretrained(folder)
    CLIPProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A saved tiny CLIP."""
    return save_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")


def test_the_numbers_of_four_items_are_those_computed_by_hand():
    """Own and other picture, recalls and cuts, each by its definition."""
    images = {"a": angle(0.0)[None], "b": angle(90.0)[None], "c": angle(180.0)[None]}
    texts = {
        "east": angle(0.0),
        "north by day": angle(90.0),
        "south of the west wind": angle(200.0),
        "wrong": angle(80.0),
    }
    rows = make_rows(
        [
            {"image_id": "a", "description": "east", "caption_en": ["wrong", "east"]},
            {"image_id": "b", "description": "north by day", "caption_en": ["north by day"]},
            {"image_id": "c", "description": "south of the west wind", "caption_en": ["east", "  "]},
            {"image_id": "d", "description": None, "caption_en": ["east"]},
        ]
    )
    measured = measure_agreement(TableEncoder(images, texts), rows, **QUIET)
    report = measured.to_dict()
    assert report["sample"] == {"items": 3, "eligible": 3, "seed": 0}
    described, captioned = report["columns"]["description"], report["columns"]["caption_en"]
    west = float(torch.tensor(20.0).deg2rad().cos())
    close = float(torch.tensor(80.0).deg2rad().cos())
    assert described["own"] == pytest.approx((1 + 1 + west) / 3)
    assert (described["t2i_R@1"], described["t2i_R@5"], described["own_beats_other"]) == (100, 100, 1)
    # "wrong" prefers b, "east" under c prefers a and b.
    assert captioned["own"] == pytest.approx((close + 1 + 1 - 1) / 4)
    assert captioned["t2i_R@1"] == 50
    assert (captioned["items"], captioned["texts"]) == (3, 4)
    # Words are tokens here and three are read: 1, 3 and 5 words.
    assert described["cut_rate"] == pytest.approx(1 / 3)
    assert described["tokens_lost_rate"] == pytest.approx(2 / 9)
    assert captioned["cut_rate"] == 0
    assert [item.item_id for item in measured.worst] == ["c", "a", "b"]
    first = report["worst"][0]
    assert first["score"] == pytest.approx(west)
    assert (first["text"], first["caption"], first["caption_score"]) == (
        "south of the west wind", "east", pytest.approx(-1),
    )  # fmt: skip


def test_the_best_of_several_captions_stands_beside_a_bad_description():
    """One good caption shows that the picture is readable and the description at fault."""
    images = {"a": angle(0.0)[None], "b": angle(90.0)[None]}
    texts = {"good": angle(5.0), "poor": angle(100.0), "north": angle(90.0)}
    rows = make_rows(
        [
            {"image_id": "not described", "description": None, "caption_en": ["north"]},
            {"image_id": "b", "description": "north", "caption_en": ["north"]},
            {"image_id": "a", "description": "poor", "caption_en": ["poor", "good"]},
        ]
    )
    worst = measure_agreement(TableEncoder(images, texts), rows, num_worst=1, **QUIET).worst
    assert [(item.position, item.item_id, item.caption) for item in worst] == [(2, "a", "good")]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_items_without_texts_are_left_out_wherever_a_batch_ends(batch_size, monkeypatch):
    """A position inside a batch taken for one of the data set scores the pictures of other items."""
    monkeypatch.setattr("retrieval.agreement._BATCH_SIZE", batch_size)
    usable = {"b", "d", "e"}
    rows = make_rows(
        [{"image_id": i, "description": "x", "caption_en": ["x"] if i in usable else [None, "..."]} for i in "abcde"]
    )
    encoder = TableEncoder(dict.fromkeys("abcde", angle(0.0)[None]), {"x": angle(0.0)})
    worst = measure_agreement(encoder, rows, **QUIET).worst
    assert {(item.position, item.item_id) for item in worst} == {(1, "b"), (3, "d"), (4, "e")}
    assert set(encoder.ids) == usable


def test_random_vectors_match_the_loop_oracle():
    """Several vectors an item, several texts an item, items without texts in one column."""
    generator = torch.Generator().manual_seed(5)

    def unit(*shape):
        return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)

    num_items = 9
    german = {i: [f"de {i} {k}" for k in range(i % 3)] for i in range(num_items)}
    rows = make_rows(
        [{"image_id": str(i), "caption_en": [f"en {i}"], "caption_de": german[i]} for i in range(num_items)],
        ("image", "image_id", "caption_en", "caption_de"),
    )
    images = {str(i): unit(2, 8) for i in range(num_items)}
    texts = {text: unit(8) for i in range(num_items) for text in [*german[i], f"en {i}"]}
    found = measure_agreement(TableEncoder(images, texts), rows, seed=3, **QUIET).to_dict()["columns"]["caption_de"]

    captioned = [i for i in range(num_items) if german[i]]
    others = derangement(len(captioned), seed=3).tolist()

    def score(item, text):
        return max(float(vector @ texts[text]) for vector in images[str(item)])

    own, other, ranks = [], [], []
    for place, item in enumerate(captioned):
        for text in german[item]:
            own.append(score(item, text))
            other.append(score(captioned[others[place]], text))
            ranks.append(1 + sum(score(rival, text) >= own[-1] for rival in captioned if rival != item))
    assert found["items"] == len(captioned) == 6
    assert found["own"] == pytest.approx(sum(own) / len(own), abs=1e-6)
    assert found["other"] == pytest.approx(sum(other) / len(other), abs=1e-6)
    assert found["own_beats_other"] == pytest.approx(sum(a > b for a, b in zip(own, other, strict=True)) / len(own))
    assert found["t2i_R@1"] == pytest.approx(100 * sum(rank <= 1 for rank in ranks) / len(ranks))
    assert found["t2i_R@5"] == pytest.approx(100 * sum(rank <= 5 for rank in ranks) / len(ranks))


def test_a_collapsed_encoder_agrees_with_nothing():
    """Equal scores must not count as a picture found."""
    rows = tiny_rows(6)
    same = angle(30.0)
    texts = {text: same for i in range(6) for text in (SENTENCES[i][2], SENTENCES[i][0], f"{i} things")}
    columns = measure_agreement(TableEncoder({f"item-{i}": same[None] for i in range(6)}, texts), rows, **QUIET)
    found = columns.to_dict()["columns"]["description"]
    assert (found["own_beats_other"], found["t2i_R@1"], found["t2i_R@5"]) == (0, 0, 0)
    assert found["own"] == pytest.approx(found["other"])


@pytest.mark.parametrize("num_items", [2, 3, 50])
def test_nobody_is_compared_with_itself(num_items):
    """A fixed point in the baseline would raise it towards what it is compared with."""
    others = derangement(num_items, seed=1)
    assert sorted(others.tolist()) == list(range(num_items))
    assert not (others == torch.arange(num_items)).any()
    assert torch.equal(others, derangement(num_items, seed=1))


def test_the_sample_is_seeded_and_its_size_is_kept():
    """Two runs must give the same report, and a large data set must not be encoded whole."""
    texts = {text: angle(float(i)) for i in range(8) for text in (SENTENCES[i][2], SENTENCES[i][0], f"{i} things")}
    images = {f"item-{i}": angle(2.0 * i)[None] for i in range(8)}
    reports, ids = [], []
    for seed in (0, 0, 1):
        encoder = TableEncoder(images, texts)
        reports.append(measure_agreement(encoder, tiny_rows(), sample=4, seed=seed, **QUIET).to_dict())
        ids.append(encoder.ids)
    assert reports[0] == reports[1]
    assert reports[0]["sample"] == {"items": 4, "eligible": 8, "seed": 0}
    assert len(ids[0]) == 4
    assert ids[0] != ids[2]


def test_a_sample_of_a_large_data_set_does_not_hold_all_its_texts():
    """Ten items are scored; the texts of hundreds of thousands need not lie in memory for that."""
    num_items = 5000
    own = {"description": ["word " * 40] * num_items, "caption_en": [["word " * 40] * 5] * num_items}
    columns = ("image", "image_id", *own)
    rows = {"image": [None] * num_items, "image_id": [str(i) for i in range(num_items)], **own}
    rows = datasets.Dataset.from_dict(rows, features=schema_features(columns))
    encoder = TableEncoder(dict.fromkeys(rows["image_id"], angle(0.0)[None]), {"word " * 40: angle(0.0)})
    tracemalloc.start()
    try:
        measured = measure_agreement(encoder, rows, sample=10, **QUIET)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert measured.to_dict()["sample"] == {"items": 10, "eligible": num_items, "seed": 0}
    # All texts are 6 MB.
    assert peak < 4e6


@pytest.mark.parametrize(
    ("rows", "sample", "message"),
    [
        (lambda: tiny_rows(3), 1, "sample must be at least 2"),
        (lambda: tiny_rows(3).remove_columns("image"), 4, "must have one of the columns"),
        (lambda: tiny_rows(3).remove_columns(["description", "caption_en"]), 4, "must have the column 'description'"),
        (lambda: tiny_rows(1), 4, "at least 2 items with texts"),
    ],
)
def test_what_cannot_be_measured_is_refused(rows, sample, message):
    """Before a picture is encoded."""
    with pytest.raises(ValueError, match=message):
        measure_agreement(TableEncoder({}, {}), rows(), sample=sample, **QUIET)
    with pytest.raises(ValueError, match="num_items must be at least 2"):
        derangement(1, seed=0)


def test_a_clip_is_read_as_its_own_forward_does(clip_folder):
    """Wrong pooling, padding or preprocessing gives scores that look like scores."""
    encoder = load_dual_encoder(str(clip_folder))
    assert isinstance(encoder, TransformersEncoder)
    assert (encoder.name, encoder.model_type, encoder.max_length) == ("tiny-clip", "clip", MAX_LENGTH)
    rows, texts = tiny_rows(5), [SENTENCES[i][0] for i in range(5)]
    model, processor = CLIPModel.from_pretrained(clip_folder), CLIPProcessor.from_pretrained(clip_folder)
    with torch.no_grad():
        images = [row["image"].convert("RGB") for row in rows]
        output = model(**processor(text=texts, images=images, padding=True, return_tensors="pt"))
        expected = output.logits_per_image / model.logit_scale.exp()
    vectors = encoder.encode_images(rows, 2, **QUIET)
    assert vectors.shape == (5, 1, 16)
    torch.testing.assert_close(vectors[:, 0] @ encoder.encode_texts(texts, 2, **QUIET).T, expected)
    assert expected.std() > 0.01


def test_a_checkpoint_is_called_by_its_run(clip_folder, tmp_path):
    """Every run has a "checkpoint-500", so a report that names it alone names nothing."""
    shutil.copytree(clip_folder, tmp_path / "mine" / "checkpoint-500")
    assert load_dual_encoder(str(tmp_path / "mine" / "checkpoint-500")).name == "mine, checkpoint-500"


def test_tokens_that_a_clip_cuts_are_counted(clip_folder):
    """A description of 200 words read by its first 77 tokens must not be judged in silence."""
    encoder = load_dual_encoder(str(clip_folder))
    long_text = " ".join(["ball"] * 30)
    (short, kept), (long, cut) = encoder.token_counts(["a red ball", long_text])
    assert short == kept < MAX_LENGTH
    assert long >= 32
    assert cut == MAX_LENGTH
    again = encoder.encode_texts([long_text, " ".join(["ball"] * 31)], 2, **QUIET)
    torch.testing.assert_close(again[0], again[1])


def test_a_siglip_text_is_padded_to_its_full_length():
    """Padded to the longest of a batch, SigLIP gives other vectors for the same text."""
    image_processor, tokenizer = processor_parts()
    tokenizer.model_input_names = ["input_ids"]
    config = SiglipConfig(text_config=text_fields(), vision_config=tiny_vision_config("siglip").to_dict())
    model = lively(SiglipModel(config))
    encoder = TransformersEncoder(model, SiglipProcessor(image_processor, tokenizer), "siglip")
    texts = ["a red ball", "a blue boat on a lake"]
    together = encoder.encode_texts(texts, 2, **QUIET)
    ids = tokenizer(texts, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = model.get_text_features(input_ids=ids["input_ids"]).pooler_output
    torch.testing.assert_close(together, torch.nn.functional.normalize(expected, dim=-1))
    torch.testing.assert_close(encoder.encode_texts(texts[:1], 2, **QUIET), together[:1])


def test_a_leccr_sees_the_pictures_without_their_descriptions(tmp_path):
    """With its description inside the item, a text would agree with itself."""
    lively_model(description_dropout=0.1).save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    encoder = load_dual_encoder(str(tmp_path))
    assert isinstance(encoder, LeccrEncoder)
    rows = tiny_rows(4)
    vectors = encoder.encode_images(rows, 2, **QUIET)
    assert vectors.ndim == 3
    torch.testing.assert_close(vectors, encoder.encode_images(rows.remove_columns("description"), 2, **QUIET))
    report = measure_agreement(encoder, rows, **QUIET).to_dict()
    assert report["encoder"]["model_type"] == "leccr"
    assert -1 <= report["columns"]["description"]["own"] <= 1


@pytest.mark.parametrize("fields", [{}, {"item_source": "description"}])
def test_a_leccr_that_needs_descriptions_is_refused(fields, tmp_path):
    """It would fail late, or be circular."""
    model = tiny_model(**fields)
    with pytest.raises(ValueError, match="the encoder must embed pictures"):
        LeccrEncoder(model, tiny_processor(), "mine")
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the encoder must embed pictures"):
        load_dual_encoder(str(tmp_path))


def test_a_two_stream_leccr_is_accepted():
    """It never reads descriptions, whatever its description_dropout."""
    encoder = LeccrEncoder(lively_model(item_source="image"), tiny_processor(), "two streams")
    assert encoder.encode_images(tiny_rows(3), 2, **QUIET).shape[:2] == (3, 1)


def test_the_word_limit_of_a_cleaning_processor_counts_as_a_cut():
    """Thirty words are kept of a description then, and the tokenizer alone would not tell."""
    processor = tiny_processor(clean_captions=True, max_words=3)
    encoder = LeccrEncoder(tiny_model(item_source="image"), processor, "mine")
    (short, short_kept), (long, long_kept) = encoder.token_counts(["a red, ball!", "a red ball and a red ball"])
    assert short == short_kept
    assert long_kept == short < long


def test_a_model_of_texts_alone_is_refused(tmp_path):
    """A typo in --encoder should say what is expected."""
    BertModel(BertConfig(**text_fields())).save_pretrained(tmp_path)
    processor_parts()[1].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no get_image_features, get_text_features"):
        load_dual_encoder(str(tmp_path))
