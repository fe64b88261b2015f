"""Encoding and evaluating a split: order, padding, sources of an item, and what is refused."""

import types

import datasets
import pytest
import torch
from transformers.feature_extraction_utils import BatchFeature

from modeling_leccr.matching_leccr import fused_scores, global_scores, slot_scores
from retrieval.encode import encode_items, encode_texts
from retrieval.evaluation import (
    evaluate_retrieval,
    evaluation_protocol,
    item_composites,
    min_max_weight,
    read_captions,
    retrieval_ranks,
)
from retrieval.index import ItemIndex
from retrieval.metrics import recall_metrics
from retrieval.ranks import RetrievalRanks
from tests.reference import min_max_by_loops, ranks_by_loops
from tests.tiny import SENTENCES, tiny_cross_lingual, tiny_image, tiny_model, tiny_processor
from tests.training_parts import tiny_split

QUIET = {"progress": False}


def make_split(*, descriptions=True, num_items=8):
    """A split of the schema with 1 to 3 German captions an item."""
    rows = [
        {
            "image": tiny_image(i),
            "image_id": f"item-{i}",
            "description": SENTENCES[i][2] if descriptions else None,
            "caption_en": [SENTENCES[i][0]],
            "caption_de": [SENTENCES[i][1], "ein bus", "zwei alte männer und ein roter ball"][: 1 + i % 3],
        }
        for i in range(num_items)
    ]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "image_id": datasets.Value("string"),
            "description": datasets.Value("string"),
            "caption_en": datasets.List(datasets.Value("string")),
            "caption_de": datasets.List(datasets.Value("string")),
        }
    )
    return datasets.Dataset.from_list(rows, features=features, split=datasets.Split.TEST)


def lively_model(**fields):
    """A tiny model with large weights: fresh weights are so small that all items are nearly one."""
    model = tiny_model(**fields)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(10)
    return model


class FakeModel(torch.nn.Module):
    """Embeds a text as its mean token; remembers the shapes of its batches and its mode."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self):
        super().__init__()
        self.shapes = []

    def get_text_features(self, input_ids, attention_mask):
        self.shapes.append((tuple(input_ids.shape), self.training, torch.is_grad_enabled()))
        mean = (input_ids * attention_mask).sum(dim=1) / attention_mask.sum(dim=1)
        return types.SimpleNamespace(pooler_output=torch.stack([mean, -mean], dim=1))


def fake_processor(text, return_tensors):
    """One token a character: its code point."""
    length = max(map(len, text))
    ids = torch.tensor([[ord(c) for c in t] + [0] * (length - len(t)) for t in text])
    return BatchFeature({"input_ids": ids, "attention_mask": (ids > 0).long()})


def test_texts_are_sorted_by_length_for_padding_and_come_back_in_their_order():
    """Padding a batch to the longest caption of the split costs several times the work; a lost order ruins recall."""
    texts = ["ccc", "a", "bbbbbbbb", "dd", "eeeeeee"]
    model = FakeModel()
    embeds = encode_texts(model, fake_processor, texts, batch_size=2, progress=False)
    assert [shape for shape, _, _ in model.shapes] == [(2, 8), (2, 3), (1, 1)]
    assert embeds[:, 0].tolist() == [float(ord(text[0])) for text in texts]


def test_encoding_runs_in_evaluation_mode_without_gradient_and_restores_the_mode():
    """Dropout in evaluation makes recalls random; a model left in evaluation mode trains without dropout."""
    model = FakeModel().train()
    encode_texts(model, fake_processor, ["a"], progress=False)
    assert model.shapes[0][1:] == (False, False)
    assert model.training


@pytest.mark.parametrize("use_descriptions", [True, False])
def test_items_in_batches_equal_items_one_by_one(use_descriptions):
    """Another batch means other padding and another order; neither may change an embedding."""
    model, processor, split = lively_model(description_dropout=0.1), tiny_processor(), make_split()
    images, slots = encode_items(model, processor, split, 3, use_descriptions=use_descriptions, **QUIET)
    for i in range(len(split)):
        row = split.select([i])
        image, slot = encode_items(model, processor, row, 1, use_descriptions=use_descriptions, **QUIET)
        torch.testing.assert_close(images[i], image[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(slots[i], slot[0], atol=1e-5, rtol=0)


def test_some_items_without_description_get_the_null_description():
    """A folder where half of the pictures are described must embed both halves as each would be alone."""
    model, processor, split = lively_model(description_dropout=0.1), tiny_processor(), make_split()
    rows = [{**row, "description": row["description"] if i % 2 else None} for i, row in enumerate(split)]
    mixed, _ = encode_items(model, processor, rows, 8, **QUIET)
    described, _ = encode_items(model, processor, split, 8, **QUIET)
    plain, _ = encode_items(model, processor, split, 8, use_descriptions=False, **QUIET)
    torch.testing.assert_close(mixed[1::2], described[1::2], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[::2], plain[::2], atol=1e-5, rtol=0)
    assert float((described - plain).norm(dim=-1).min()) > 1e-3


def test_each_batch_asks_the_text_tower_if_any_item_has_a_description(monkeypatch):
    """Where the tower is split over processes each call gathers it; processes that call unequally often hang."""
    model, processor, split = lively_model(description_dropout=0.1), tiny_processor(), make_split()
    rows = [{**row, "description": row["description"] if i == 5 else None} for i, row in enumerate(split)]
    together, _ = encode_items(model, processor, rows, 8, **QUIET)
    asked = []
    states = model._description_states
    monkeypatch.setattr(model, "_description_states", lambda ids, mask: asked.append(ids is None) or states(ids, mask))
    alone, _ = encode_items(model, processor, rows, 2, **QUIET)
    assert asked == [False] * 4
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


def test_items_that_are_descriptions_alone_need_some():
    """ "Give the processor images" would be the wrong advice."""
    model = tiny_model(item_source="description", interaction="none")
    with pytest.raises(ValueError, match="by their descriptions alone, and none of them has one"):
        encode_items(model, tiny_processor(), make_split(), use_descriptions=False, **QUIET)


def test_missing_descriptions_are_an_error_without_description_dropout():
    """A model that never saw the null description would embed noise."""
    with pytest.raises(ValueError, match="description"):
        encode_items(tiny_model(description_dropout=0.0), tiny_processor(), make_split(descriptions=False), **QUIET)


@pytest.mark.parametrize("item_source", ["image", "description"])
def test_controls_read_only_their_own_source(item_source):
    """A control that sees the other source is no control: the other column may be absent."""
    model, processor, split = tiny_model(item_source=item_source), tiny_processor(), make_split()
    unused = "description" if item_source == "image" else "image"
    images, slots = encode_items(model, processor, split, **QUIET)
    assert slots is None
    without, _ = encode_items(model, processor, split.remove_columns(unused), **QUIET)
    assert torch.equal(images, without)


def test_evaluation_equals_the_loops_in_each_language_and_scoring():
    """The chunked path with composite vectors must give the recalls of the plain score definitions."""
    model, processor, split = lively_model(), tiny_processor(), make_split()
    images, slots = encode_items(model, processor, split, **QUIET)
    for scoring in ("fused", "global", "slots", "min_max"):
        metrics = evaluate_retrieval(model, processor, split, ["de", "en"], scoring=scoring, chunk_size=3, **QUIET)
        for language in ("de", "en"):
            texts, owners = read_captions(split, language)
            embeds = encode_texts(model, processor, texts, **QUIET)
            scores = {
                "fused": lambda e: fused_scores(images, slots, e, model.config.global_weight),
                "global": lambda e: global_scores(images, e),
                "slots": lambda e: slot_scores(slots, e),
                "min_max": lambda e: (
                    0.9 * min_max_by_loops(global_scores(images, e)) + 0.1 * min_max_by_loops(slot_scores(slots, e))
                ),
            }[scoring](embeds)
            # The tiny model repeats captions, so ties are real; they stay within the rounding margin.
            i2t, t2i = ranks_by_loops((scores * 1e5).round(), owners)
            expected = recall_metrics(RetrievalRanks(torch.tensor(i2t), torch.tensor(t2i)), prefix=f"{language}/")
            assert {key: metrics[key] for key in expected} == pytest.approx(expected)
            assert metrics[f"{language}/num_texts"] == len(texts)
        assert metrics["mean/sum_r"] == pytest.approx((metrics["de/sum_r"] + metrics["en/sum_r"]) / 2)


def test_min_max_scores_of_translations_are_stretched_over_their_candidates_alone():
    """An item that nobody can find would else change the ranks of the others."""
    model, processor = lively_model(), tiny_processor()
    split = make_split().remove_columns("caption_de")
    captions = [[None] if i == 3 else [SENTENCES[i][1]] for i in range(8)]
    split = split.add_column("caption_de_mt", captions)
    settings = {"scoring": "min_max", "global_weight": 0.3, **QUIET}
    ranks = retrieval_ranks(model, processor, split, ["de_mt"], **settings)["de_mt"]
    rest = split.select([0, 1, 2, 4, 5, 6, 7])
    images, slots = encode_items(model, processor, rest, **QUIET)
    embeds = encode_texts(model, processor, [texts[0] for texts in rest["caption_de_mt"]], **QUIET)
    scores = 0.3 * min_max_by_loops(global_scores(images, embeds)) + 0.7 * min_max_by_loops(slot_scores(slots, embeds))
    i2t, t2i = ranks_by_loops((scores * 1e5).round(), torch.arange(7))
    assert ranks.i2t.tolist() == i2t and ranks.t2i.tolist() == t2i
    everything = encode_items(model, processor, split, **QUIET)
    assert min_max_weight(images, slots, embeds, 0.3) != min_max_weight(*everything, embeds, 0.3)


def test_min_max_gives_no_weight_to_scores_that_differ_by_rounding_alone():
    """Stretched to [0, 1], the last bits of a collapsed half would rank the items."""
    texts = torch.nn.functional.normalize(torch.randn(6, 8), dim=-1)
    same = torch.nn.functional.normalize(torch.ones(5, 8), dim=-1)
    flat = torch.nn.functional.normalize(torch.ones(6, 8), dim=-1)
    slots = torch.nn.functional.normalize(torch.randn(5, 2, 8), dim=-1)
    noisy = same + 1e-8 * torch.randn(5, 8)
    assert min_max_weight(noisy, slots, flat, 0.9) == 0.0
    assert min_max_weight(slots[:, 0], same.unsqueeze(1), flat, 0.1) == 1.0
    assert min_max_weight(noisy, noisy.unsqueeze(1), flat, 0.4) == 0.4
    assert 0 < min_max_weight(slots[:, 0], slots, texts, 0.5) < 1


def test_min_max_reads_the_slots_at_the_scale_they_have():
    """Raw slot embeddings of the official form are many times longer than an image embedding."""
    images, slots, texts = torch.randn(5, 8), torch.randn(5, 2, 8), torch.randn(6, 8)
    weight = min_max_weight(images, slots, texts, 0.5, chunk_size=2)
    odds, odds_of_long_slots = (w / (1 - w) for w in (weight, min_max_weight(images, 10 * slots, texts, 0.5)))
    assert odds_of_long_slots == pytest.approx(10 * odds, rel=1e-4)
    with pytest.raises(ValueError, match=r"global_weight must lie in \[0, 1\], got 1.5"):
        min_max_weight(images, slots, texts, 1.5)


def test_min_max_belongs_to_an_evaluation_and_not_to_an_index():
    """An index does not know the queries that would be asked, so its scores cannot be stretched over them."""
    model, processor, split = tiny_model(), tiny_processor(), make_split()
    with pytest.raises(ValueError, match=r"scoring must be one of \['fused', 'global', 'slots'\], got 'min_max'; "):
        ItemIndex.build(model, processor, split, scoring="min_max", progress=False)
    protocol = evaluation_protocol(model, split, ["de"], scoring="min_max")
    assert (protocol["scoring"], protocol["global_weight"]) == ("min_max", 0.9)
    assert protocol["scores_depend_on"] == "all items and texts of the split"
    assert "scores_depend_on" not in evaluation_protocol(model, split, ["de"])


def test_min_max_is_the_global_score_where_there_are_no_slots():
    """As `fused` is."""
    model, processor, split = tiny_model(item_source="image"), tiny_processor(), make_split()
    of = {s: retrieval_ranks(model, processor, split, ["de"], scoring=s, **QUIET)["de"] for s in ("global", "min_max")}
    assert torch.equal(of["global"].t2i, of["min_max"].t2i) and torch.equal(of["global"].i2t, of["min_max"].i2t)


def test_ranks_come_in_the_order_of_the_split_and_of_its_captions():
    """What compares two systems query by query would otherwise compare different queries."""
    model, processor, split = lively_model(), tiny_processor(), make_split()
    ranks = retrieval_ranks(model, processor, split, ["de", "en"], **QUIET)
    images, slots = encode_items(model, processor, split, **QUIET)
    for language, found in ranks.items():
        texts, owners = read_captions(split, language)
        embeds = encode_texts(model, processor, texts, **QUIET)
        scores = fused_scores(images, slots, embeds, model.config.global_weight)
        i2t, t2i = ranks_by_loops((scores * 1e5).round(), owners)
        assert found.i2t.tolist() == list(i2t) and found.t2i.tolist() == list(t2i)
    assert len(set(ranks["de"].t2i.tolist())) > 2  # or the order would not show


def test_translations_ask_only_under_their_own_name():
    """Recalls of machine translations are easier; under the name of the language they would pass for the protocol."""
    columns = {"caption_de": [["mensch"], ["leute"]], "caption_de_mt": [["maschine", None], ["automat"]]}
    split = datasets.Dataset.from_dict({"image_id": ["0", "1"], **columns})
    texts, owners = read_captions(split, "de_mt")
    assert texts == ["maschine", "automat"] and owners.tolist() == [0, 1]
    assert read_captions(split, "de")[0] == ["mensch", "leute"]
    refused = split.remove_columns(["caption_de_mt"]).add_column("caption_de_mt", [[None], ["automat"]])
    assert read_captions(refused, "de_mt")[1].tolist() == [1]
    with pytest.raises(ValueError, match="no text in caption_de_mt: all of it was refused"):
        read_captions(refused.select([0]), "de_mt")


def test_items_without_any_translation_are_no_candidates_and_told():
    """One refused translation in a validation split must not stop the training that it was to choose from."""
    model, processor = tiny_model(), tiny_processor()
    rows = {
        "image": [tiny_image(i) for i in range(4)],
        "image_id": list("abcd"),
        "description": [description for _, _, description in SENTENCES[:4]],
        "caption_de_mt": [["ein Hund"], [None], ["zwei Katzen", None], ["ein Haus"]],
    }
    split = datasets.Dataset.from_dict(rows)
    metrics = evaluate_retrieval(model, processor, split, ["de_mt"], **QUIET)
    rest = evaluate_retrieval(model, processor, split.select([0, 2, 3]), ["de_mt"], **QUIET)
    assert metrics == rest and (metrics["de_mt/num_items"], metrics["de_mt/num_texts"]) == (3, 3)
    counts = evaluation_protocol(model, split, ["de_mt"])["languages"]["de_mt"]
    assert counts == {
        "num_items": 3,
        "num_texts": 3,
        "captions_per_item": [1, 1],
        "items_without_translation_left_out": 1,
    }


def test_evaluation_reads_pictures_only_to_encode_them(monkeypatch):
    """Captions and ids of a large split must not cost a decoding of each picture."""
    split = make_split()
    decoded = []
    original = datasets.Image.decode_example
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *a, **k: decoded.append(1) or original(*a, **k))
    evaluate_retrieval(tiny_model(), tiny_processor(), split, ["de", "en"], **QUIET)
    assert len(decoded) <= len(split) + 1


def test_the_protocol_names_what_recalls_depend_on():
    """Recalls were compared across caption counts, splits and tie rules; the report must state them."""
    protocol = evaluation_protocol(tiny_model(), make_split(), ["de"], scoring="fused", global_weight=0.5)
    assert protocol["languages"]["de"] == {"num_items": 8, "num_texts": 15, "captions_per_item": [1, 3]}
    assert (protocol["split"], protocol["global_weight"], protocol["descriptions"]) == ("test", 0.5, True)
    assert protocol["tie_rule"].startswith("pessimistic")


def test_evaluation_refuses_bad_requests():
    """Each names the argument before a picture is encoded."""
    model, processor, split = tiny_model(), tiny_processor(), make_split()
    with pytest.raises(ValueError, match="languages is empty"):
        evaluate_retrieval(model, processor, split, [])
    with pytest.raises(ValueError, match="language must be one of"):
        evaluate_retrieval(model, processor, split, ["xx"])
    with pytest.raises(ValueError, match=r"lacks the columns \['caption_fr'\]"):
        evaluate_retrieval(model, processor, split, ["fr"])
    with pytest.raises(ValueError, match="split 'test' is empty"):
        evaluate_retrieval(model, processor, split.select([]), ["de"])
    rows = [{**row, "caption_de": []} if i == 2 else row for i, row in enumerate(split)]
    with pytest.raises(ValueError, match="item 2 of split 'unnamed' has no caption in caption_de"):
        evaluate_retrieval(model, processor, rows, ["de"])


def test_scoring_must_fit_the_model():
    """`slots` on a model without slots would silently be `global`."""
    images = torch.randn(3, 8)
    with pytest.raises(ValueError, match="scoring is 'slots' but this model has no slots"):
        item_composites(images, None, scoring="slots", global_weight=0.8)
    with pytest.raises(ValueError, match="scoring must be one of"):
        item_composites(images, None, scoring="best", global_weight=0.8)
    assert torch.equal(item_composites(images, None, scoring="fused", global_weight=0.8), images[:, None])


def test_nothing_to_encode_and_bad_batch_sizes_are_refused():
    """An empty list would end in a message about torch.cat."""
    with pytest.raises(ValueError, match="texts is empty"):
        encode_texts(FakeModel(), fake_processor, [], progress=False)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        encode_texts(FakeModel(), fake_processor, ["a"], batch_size=0, progress=False)


def test_a_corrupt_picture_is_named():
    """A batch of 64 says nothing about which file to repair."""
    split = make_split().cast_column("image", datasets.Image(decode=False))
    rows = [dict(row) for row in split]
    rows[3]["image"] = {"bytes": rows[3]["image"]["bytes"][:40], "path": None}
    broken = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    with pytest.raises(ValueError, match=r"item 'item-3' \(row 3\): its image must be readable"):
        encode_items(tiny_model(), tiny_processor(), broken, **QUIET)
    with pytest.raises(ValueError, match="item 0: its image must be readable"):
        encode_items(tiny_model(), tiny_processor(), [{"image": None}], **QUIET)


def test_embeddings_that_are_not_finite_stop_the_encoding():
    """A diverged checkpoint must not be ranked."""
    model = tiny_model()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN or infinite"):
        encode_items(model, tiny_processor(), make_split(), **QUIET)


def test_an_item_of_a_network_of_texts_is_the_mean_of_its_english_captions():
    """Items have several captions, and not equally many; batches are sorted by length and not by item."""
    captions = [
        ["a dog", "a brown dog runs over the sand in the sun"],
        ["two cats"],
        ["a boat", "a ship", "a blue boat"],
    ]
    split = tiny_split(3, caption_en=captions).remove_columns(["image", "description"])
    model, processor = tiny_cross_lingual(), tiny_processor()
    embeds, slots = encode_items(model, processor, split, batch_size=1)
    assert slots is None and embeds.shape == (3, 16)
    for item, texts in enumerate(captions):
        vectors = [encode_texts(model, processor, [text])[0] for text in texts]
        mean = sum(vectors) / len(vectors)
        torch.testing.assert_close(embeds[item], mean / mean.norm())
    metrics = evaluate_retrieval(model, processor, split, ["de"])
    assert metrics["de/num_items"] == 3 and 0 < metrics["de/sum_r"] <= 600


def test_an_item_without_english_captions_is_named_where_the_model_reads_them():
    """The mean of no captions is NaN, which ranks anything."""
    split = tiny_split(3, caption_en=[["a dog"], [], ["a boat"]])
    with pytest.raises(ValueError, match=r"1 of 3 items have no caption_en \(first rows: \[1\]\)"):
        encode_items(tiny_cross_lingual(), tiny_processor(), split)
