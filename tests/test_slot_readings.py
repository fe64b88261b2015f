"""What slots attend to, how alike they are and which one wins, against slow forms of the same."""

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.slot_winners import (
    KINDS,
    TYPES,
    agreement,
    attention_by_kind,
    cramers_v,
    kind_of_word,
    query_types,
    shuffled_cramers_v,
    types_of_queries,
    winner_counts,
)
from modeling_leccr.slots_leccr import CrossAttentionBlock
from processing.scenes import ScenesConfig, load_scenes
from processing.scenes.world import CaptionFacts, Mention
from reporting.slot_pictures import COLUMN_WIDTH, blended, draw_slot_shares, draw_slot_similarity, slot_attention_sheet
from reporting.style import colour
from reporting.sweeps import draw_sweeps
from retrieval.evaluation import read_captions
from retrieval.pictures import GAP, MARGIN
from retrieval.slot_readings import (
    SlotReading,
    attention_weights,
    mean_of_different,
    mean_slot_cosines,
    read_slots,
    recorded_attention,
    winning_slots,
    word_weights,
)
from tests.tiny import SENTENCES, tiny_config, tiny_items, tiny_model, tiny_processor
from tests.training_parts import tiny_split


@pytest.mark.parametrize("masked", [False, True])
def test_attention_weights_reproduce_the_output_of_the_block(masked: bool):
    """Another scale, head split or mask polarity gives weights that sum to 1 as well, and a picture of nothing."""
    torch.manual_seed(0)
    config = tiny_config()
    config._attn_implementation = "eager"
    block = CrossAttentionBlock(config).eval()
    queries, memory = 3 * torch.randn(2, 4, 32), 3 * torch.randn(2, 6, 32)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]]) if masked else None
    with torch.no_grad():
        weights = attention_weights(block, queries, memory, mask)
        values = block.v_proj(memory).unflatten(-1, (block.num_heads, -1)).transpose(1, 2)
        attended = block.out_proj((weights @ values).transpose(1, 2).flatten(2))
        expected = block(queries, memory, mask)
        found = block.norm(queries + block.down_proj(block.activation(block.up_proj(attended))))
    torch.testing.assert_close(found, expected)
    assert weights.shape == (2, block.num_heads, 4, 6)
    assert weights.std(dim=-1)[0].min() > 0.01  # not so even that any other weights would do


def test_attention_is_recorded_while_the_body_runs_and_no_longer():
    """A hook that stays keeps the weights of every later batch in memory."""
    model, items = tiny_model(num_slot_layers=2), tiny_items()
    block = model.semantic_slots.layers[-1]
    with torch.no_grad(), recorded_attention(block) as recorded:
        model.get_image_features(**items)
    model.get_image_features(**items)
    (weights,) = recorded
    assert weights.shape == (4, 4, 4, 11)
    assert weights[items["description_attention_mask"][:, None, None, :].expand_as(weights) == 0].max() == 0


def test_readings_are_those_of_each_item_whatever_the_batch():
    """Padding, or the row of a neighbour, would show one item with the words of another."""
    model, processor, split = tiny_model(), tiny_processor(), tiny_split(5)
    together = read_slots(model, processor, split)
    for position, reading in enumerate(read_slots(model, processor, split, batch_size=2)):
        description = SENTENCES[position][2]
        assert reading.words == description.split()
        torch.testing.assert_close(reading.weights, together[position].weights, atol=1e-5, rtol=0)
        total = reading.weights.sum(dim=-1) + reading.special_weights
        torch.testing.assert_close(total, torch.ones(4))
        assert reading.special_weights.min() > 0  # [CLS] and [SEP] get some
        inputs = processor(images=[split[position]["image"]], descriptions=[description])
        features = model.get_image_features(**inputs)
        torch.testing.assert_close(reading.slots, features.slots[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(reading.slot_embeds, features.slot_embeds[0], atol=1e-5, rtol=1e-4)


def test_slots_that_are_not_there_cannot_be_read():
    """An empty description attends to the null description, which has no words to draw."""
    with pytest.raises(ValueError, match="has no slots"):
        read_slots(tiny_model(item_source="image"), tiny_processor(), tiny_split(2))
    split = tiny_split(2, description=["a red ball", None])
    with pytest.raises(ValueError, match=r"1 of 2 items .*\[1\]"):
        read_slots(tiny_model(description_dropout=0.2), tiny_processor(), split)


def test_tokens_add_up_to_words():
    """A word in two tokens would be drawn twice, or shift all words after it."""
    tokenizer = tiny_processor().tokenizer
    text = "a zebra,  red!"
    encoded = tokenizer(text)
    tokens = encoded.tokens()
    assert len(tokens) > len(text.split()) + 2  # pieces of zebra and punctuation
    weights = torch.rand(2, len(tokens))
    words, found = word_weights(tokenizer, text, weights)
    assert words == ["a", "zebra,", "red!"]
    comma = len(tokenizer("a zebra,").tokens()) - 1
    expected = torch.stack([weights[:, 1], weights[:, 2:comma].sum(dim=1), weights[:, comma:-1].sum(dim=1)], dim=1)
    torch.testing.assert_close(found, expected)
    _, cut = word_weights(tokenizer, text, weights[:, :3])  # [CLS], a, [SEP]
    torch.testing.assert_close(cut, torch.stack([weights[:, 1], torch.zeros(2), torch.zeros(2)], dim=1))


def test_the_space_before_a_word_is_no_part_of_the_word_before():
    """SentencePiece counts it to the token; by the first character, each word would get the weight of the next one."""

    def tokenizer(*_: Any, **__: Any) -> dict[str, Any]:
        return {"offset_mapping": [(0, 0), (0, 1), (1, 5), (5, 6), (0, 0)]}  # <s>, ▁a, ▁red, a lone space, </s>

    _, found = word_weights(tokenizer, "a red ", torch.tensor([[0.1, 0.2, 0.3, 0.15, 0.25]]))
    torch.testing.assert_close(found, torch.tensor([[0.2, 0.3]]))


def test_cosines_and_winners_match_loops():
    """A swapped axis compares items instead of slots."""
    torch.manual_seed(0)
    slots, texts, owners = torch.randn(3, 4, 8), torch.randn(6, 8), torch.tensor([0, 0, 1, 2, 2, 2])
    cosine = torch.nn.functional.cosine_similarity
    expected = [[sum(float(cosine(item[a], item[b], dim=0)) for item in slots) / 3 for b in range(4)] for a in range(4)]
    torch.testing.assert_close(mean_slot_cosines(slots), torch.tensor(expected))
    different = [expected[a][b] for a in range(4) for b in range(4) if a != b]
    assert mean_of_different(mean_slot_cosines(slots)) == pytest.approx(sum(different) / 12, abs=1e-6)
    with pytest.raises(ValueError, match="two slots or more"):
        mean_of_different(torch.ones(1, 1))
    by_hand = [
        max(range(4), key=lambda k: float(slots[owner, k] @ text))
        for text, owner in zip(texts, owners.tolist(), strict=True)
    ]
    assert winning_slots(slots, texts, owners).tolist() == by_hand
    assert winning_slots(torch.ones(3, 4, 8), texts, owners).tolist() == [0] * 6


def test_cramers_v_of_tables_whose_value_is_known():
    """1 where the row tells the column, 0 where it does not; by hand between."""
    assert cramers_v([[5, 0], [0, 5]]) == pytest.approx(1)
    assert cramers_v([[5, 0, 0], [0, 3, 2]]) == pytest.approx(1)
    assert cramers_v([[3, 6, 9], [1, 2, 3]]) == pytest.approx(0)
    # Expected 3 and 2 in each row; chi-squared = 2 * (1 / 3 + 1 / 2) = 5 / 3 of 10 queries.
    assert cramers_v([[4, 1], [2, 3]]) == pytest.approx((1 / 6) ** 0.5)
    assert cramers_v([[4, 1, 0], [2, 3, 0], [0, 0, 0]]) == pytest.approx((1 / 6) ** 0.5)
    assert cramers_v([[4, 0], [3, 0]]) == 0


def test_shuffled_winners_keep_items_together_and_lose_the_types():
    """Captions of an item share its slots, so dealing them out one by one would make any table look meaningful."""
    types = ["red", "red", "blue", "blue"] * 50
    told = torch.tensor([0, 0, 1, 1] * 50)
    counts = winner_counts(told, types, 2)
    assert counts == {"blue": [0, 100], "red": [100, 0]} and cramers_v(list(counts.values())) == pytest.approx(1)
    by_item = shuffled_cramers_v(told, types, 2, captions_per_item=2, shuffles=50)
    alone = shuffled_cramers_v(told, types, 2, captions_per_item=1, shuffles=50)
    assert by_item == sorted(by_item) and max(by_item) < 0.5
    # Half as many independent draws: larger by chance by about the root of two.
    assert sum(by_item) > 1.15 * sum(alone)
    constant = torch.zeros(200, dtype=torch.long)
    assert shuffled_cramers_v(constant, types, 2, captions_per_item=2, shuffles=2) == [0, 0]


def test_agreement_is_counted_over_pairs_of_languages():
    """Chance is what the shares of the slots alone would give."""
    german, french, czech = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1])
    found, chance = agreement([german, french, czech])
    assert found == pytest.approx((0.75 + 1 + 0.75) / 3)
    assert chance == pytest.approx(0.5)  # 0.5 * 0.25 + 0.5 * 0.75, and 0.5 * 0.5 twice
    with pytest.raises(ValueError, match="two languages"):
        agreement([german])


def test_types_say_what_the_captions_of_the_data_set_say():
    """Types in another order than the captions would leave every slot without meaning."""
    config = ScenesConfig(train_size=1, validation_size=1, test_size=12, image_size=32, languages=("de",))
    texts, owners = read_captions(load_scenes(config)["test"], "de")
    types = types_of_queries(config, "test")
    assert set(types) == set(TYPES) and all(len(words) == len(texts) == 24 for words in types.values())
    assert owners.tolist() == [i for i in range(12) for _ in range(2)]
    shapes = {"star": "stern", "heart": "herz", "moon": "mond", "flower": "blume", "fish": "fisch", "circle": "kreis"}
    named = [(shapes[word], text.lower()) for word, text in zip(types["shape"], texts, strict=True) if word in shapes]
    assert named and all(word in text for word, text in named)
    night = [text for word, text in zip(types["background"], texts, strict=True) if word == "night"]
    assert all("nacht" in text.lower() for text in night)


def test_types_of_a_caption_by_hand():
    """What is not told is a word of its own, not the attribute of the next object."""
    first, second = Mention("star", "red", size="huge"), Mention("fish", "blue", texture="plain")
    facts = CaptionFacts((first, second), ("left_of",), None, "snow")
    assert query_types(facts) == {
        "colour": "red",
        "shape": "star",
        "texture": "not told",
        "size": "huge",
        "position": "left / right",
        "count": "2",
        "background": "snow",
    }
    third = CaptionFacts((first, second, second), ("left_of", "below"), None, None)
    assert query_types(third)["position"] == "both" and query_types(third)["background"] == "not told"
    assert query_types(CaptionFacts((first,), (), "top", "sky"))["position"] == "place"


def test_attention_is_shared_out_over_kinds_of_words():
    """A share of all attention, special tokens included, would depend on how much of it the words get."""
    words = ["A", "red", "star.", "above"]
    assert [kind_of_word(word) for word in words] == ["other", "colour", "shape", "position"]
    weights = torch.tensor([[0.1, 0.3, 0.0, 0.0], [0.1, 0.1, 0.1, 0.1]])
    shares, even = attention_by_kind([(words, weights), (["red"], torch.tensor([[0.2], [0.2]]))])
    found = {kind: shares[:, KINDS.index(kind)].tolist() for kind in ("colour", "shape", "other")}
    assert found["colour"] == pytest.approx([(0.75 + 1) / 2, (0.25 + 1) / 2])
    assert found["shape"] == pytest.approx([0, 0.125]) and found["other"] == pytest.approx([0.125, 0.125])
    assert even[KINDS.index("colour")] == pytest.approx((0.25 + 1) / 2) and even.sum() == pytest.approx(1)


@pytest.fixture
def reading() -> SlotReading:
    return SlotReading(
        words=[f"word{number}" for number in range(16)],
        weights=torch.eye(16)[:2] * 0.5,
        special_weights=torch.tensor([0.5, 0.5]),
        slots=torch.randn(2, 4),
        slot_embeds=torch.randn(2, 4),
    )


def test_a_sheet_shades_the_word_that_a_slot_attends_to(reading: SlotReading):
    """A shade behind another word, or the same for all slots, tells a wrong story."""
    sheet = slot_attention_sheet([reading, reading], lambda _: Image.new("RGB", (20, 20), "black"), title="Slots")
    counts = {pixel: count for count, pixel in sheet.convert("RGB").getcolors(1 << 16)}
    deepest = [blended(colour(slot), 0.75) for slot in range(2)]
    assert all(counts.get(shade, 0) > 100 for shade in deepest)
    for slot, shade in enumerate(deepest):
        # The first slot attends to the first word, the second to the second.
        mask = sheet.crop((0, 0, sheet.width, sheet.height // 2)).convert("RGB")
        inside = [x for x in range(mask.width) for y in range(mask.height) if mask.getpixel((x, y)) == shade]
        column = MARGIN + 180 + GAP + slot * (COLUMN_WIDTH + GAP)
        assert (min(inside) - column > 10) == (slot == 1) and min(inside) >= column - 2
    assert blended("#000000", 0.0) == (255, 255, 255) and blended("#204060", 1.0) == (32, 64, 96)
    one_line = slot_attention_sheet([reading], lambda _: Image.new("RGB", (20, 20)))
    assert one_line.height < sheet.height < 2 * one_line.height + 100
    with pytest.raises(ValueError, match="at least one item"):
        slot_attention_sheet([], lambda _: Image.new("RGB", (20, 20)))


def test_pictures_are_drawn_and_refuse_nothing_to_draw(tmp_path: Any):
    """An empty figure would stand in a report as if nothing had been found."""
    matrix: Tensor = torch.eye(3)
    drawn = [
        draw_slot_similarity({"before": matrix, "after": matrix, "third": matrix}, tmp_path / "a.png", title="Slots"),
        draw_slot_shares({"colour": {"red": [1, 2]}}, tmp_path / "b.png", title="Winners", x_label="queries"),
        draw_sweeps({"one": {"line": [(0.5, 10, 1), (0, 20, 2)]}}, tmp_path / "c.png", title="Noise", x_label="x"),
    ]
    assert all(path.stat().st_size > 5_000 for path in drawn)
    with pytest.raises(ValueError, match="at least one matrix"):
        draw_slot_similarity({}, tmp_path / "d.png", title="")
    with pytest.raises(ValueError, match="at least one group"):
        draw_slot_shares({}, tmp_path / "d.png", title="", x_label="")
    with pytest.raises(ValueError, match="'red' must have a share"):
        draw_slot_shares({"colour": {"red": [0, 0]}}, tmp_path / "d.png", title="", x_label="")
    with pytest.raises(ValueError, match="at least one point"):
        draw_sweeps({"one": {"line": []}}, tmp_path / "d.png", title="", x_label="x")
    with pytest.raises(ValueError, match="got 2 for 1"):
        draw_sweeps({"one": {"line": [(0, 1, 0)]}}, tmp_path / "d.png", title="", x_label=["x", "y"])
    assert not (tmp_path / "d.png").exists()
