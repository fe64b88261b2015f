"""Cross-attention blocks, semantic slots and the interaction, against torch's own attention."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from modeling_leccr import LeccrModel, slots_leccr
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig
from modeling_leccr.slots_leccr import CrossAttentionBlock, SemanticSlots, VisualSemanticInteraction, eager_attention
from tests.tiny import tiny_config, tiny_items, tiny_model, tiny_pairs

INTERACTIONS = ["dual", "v2s", "s2v", "co_attention", "none"]


def block_with(implementation: str = "sdpa", **fields: Any) -> CrossAttentionBlock:
    config = tiny_config(**fields)
    config._attn_implementation = implementation
    return CrossAttentionBlock(config).eval()


def block_by_torch(block: CrossAttentionBlock, queries: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
    """The formula of the block with nn.MultiheadAttention."""
    attention = nn.MultiheadAttention(32, block.num_heads, batch_first=True)
    stacked = [block.q_proj, block.k_proj, block.v_proj]
    attention.in_proj_weight.data = torch.cat([part.weight for part in stacked])
    attention.in_proj_bias.data = torch.cat([part.bias for part in stacked])
    attention.out_proj.load_state_dict(block.out_proj.state_dict())
    padding = None if mask is None else mask == 0
    attended, _ = attention(queries, memory, memory, key_padding_mask=padding)
    hidden = block.down_proj(nn.functional.gelu(block.up_proj(attended)))
    return nn.functional.layer_norm(queries + hidden, (32,), block.norm.weight, block.norm.bias, 1e-5)


def slot_cosine(slots: Tensor) -> float:
    """Mean cosine between different slots of an item."""
    cosines = cosine_similarity(slots[:, :, None], slots[:, None, :], dim=-1)
    pairs = ~torch.eye(slots.shape[1], dtype=torch.bool)
    return cosines[:, pairs].mean().item()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("masked", [False, True])
def test_block_equals_the_formula_with_torch_attention(implementation: str, masked: bool) -> None:
    """A second residual, another scale or a mask of the wrong polarity still gives numbers."""
    block, queries, memory = block_with(implementation), torch.randn(3, 4, 32), torch.randn(3, 6, 32)
    mask = torch.tensor([[1] * 6, [1] * 3 + [0] * 3, [1] + [0] * 5]) if masked else None
    with torch.no_grad():
        torch.testing.assert_close(
            block(queries, memory, mask), block_by_torch(block, queries, memory, mask), atol=1e-5, rtol=1e-5
        )


def test_masked_memory_does_not_change_a_block() -> None:
    """Padding of a description must not reach the slots."""
    block, queries, memory = block_with(), torch.randn(2, 4, 32), torch.randn(2, 5, 32)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 0, 0]])
    changed = memory.clone()
    changed[:, 3:] = 1e3
    torch.testing.assert_close(block(queries, changed, mask), block(queries, memory, mask))
    torch.testing.assert_close(block(queries, memory[:, :3], None), block(queries, memory, mask), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("implementation", "masked", "used"),
    [
        ("flash_attention_2", False, "flash_attention_2"),
        ("flash_attention_2", True, "sdpa"),
        ("flash_attention_3", True, "sdpa"),
        ("eager", True, "eager"),
        ("sdpa", False, "sdpa"),
    ],
)
def test_flash_attention_is_used_for_unmasked_memory_only(
    monkeypatch: pytest.MonkeyPatch, implementation: str, masked: bool, used: str
) -> None:
    """Flash kernels ignore an additive mask, so that padding would change the answer in silence."""
    asked: list[str] = []

    class Interfaces:
        def get_interface(self, name: str, default: Any) -> Any:
            asked.append(name)
            return eager_attention

    monkeypatch.setattr(slots_leccr, "ALL_ATTENTION_FUNCTIONS", Interfaces())
    block = block_with()
    monkeypatch.setattr(block, "config", type("Config", (), {"_attn_implementation": implementation})())
    mask = torch.ones(2, 6) if masked else None
    block(torch.randn(2, 4, 32), torch.randn(2, 6, 32), mask)
    assert asked == [used]


def test_slots_differ_at_the_start() -> None:
    """Equal slots are one slot: the whole mechanism would be switched off."""
    slots = tiny_model().get_image_features(**tiny_items()).slots
    assert slot_cosine(slots) < 0.9


def test_official_zero_queries_give_equal_slots() -> None:
    """The documented fault that the random start corrects."""
    model = tiny_model(slot_init_std=0.0)
    features = model.get_image_features(**tiny_items())
    assert slot_cosine(features.slots) > 0.9999
    assert slot_cosine(features.slot_embeds) > 0.9999


@pytest.mark.parametrize(("slot_init_std", "lowest", "highest"), [(1.0, -1.0, 0.9), (0.0, 0.99, 1.001)])
def test_slots_after_training_steps_differ_unless_they_started_equal(
    slot_init_std: float, lowest: float, highest: float
) -> None:
    """Slots that collapse in training, or that a test only looked at before training."""
    model = tiny_model(slot_init_std=slot_init_std, dropout=0.0)
    criterion = LeccrCriterion(LossConfig())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batch, image_ids = tiny_pairs(6), torch.arange(6)
    for _ in range(15):
        output = model(**batch)
        loss = criterion.total(criterion(criterion.summarise(output, image_ids), output.logit_scale))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    cosine = slot_cosine(model(**batch).slots.detach())
    assert lowest <= cosine <= highest


@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_class_row_shortcut_equals_the_full_interaction(interaction: str) -> None:
    """The shortcut saves 144 of 145 rows; it must not change the one that is read."""
    interact = VisualSemanticInteraction(tiny_config(interaction=interaction)).eval()
    patches, slots = torch.randn(3, 7, 32), torch.randn(3, 4, 32)
    full_visual, full_slots = interact(patches, slots)
    row, slots_beside = interact(patches, slots, first_token_only=True)
    assert full_visual.shape == patches.shape
    assert row.shape == (3, 1, 32)
    torch.testing.assert_close(row, full_visual[:, :1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(slots_beside, full_slots)


@pytest.mark.parametrize(
    ("interaction", "visual_changes", "slots_change"),
    [
        ("dual", True, True),
        ("v2s", True, False),
        ("s2v", False, True),
        ("co_attention", True, True),
        ("none", False, False),
    ],
)
def test_each_interaction_changes_what_its_name_says(
    interaction: str, visual_changes: bool, slots_change: bool
) -> None:
    """Two variants of an ablation with the same computation would tie."""
    interact = VisualSemanticInteraction(tiny_config(interaction=interaction)).eval()
    patches, slots = torch.randn(3, 7, 32), torch.randn(3, 4, 32)
    visual, enhanced_slots = interact(patches, slots)
    assert (not torch.equal(visual, patches)) == visual_changes
    assert (not torch.equal(enhanced_slots, slots)) == slots_change


def test_dual_interaction_reads_both_sides_as_they_were_before() -> None:
    """Slots that attend to already enhanced patches are another model."""
    interact = VisualSemanticInteraction(tiny_config(interaction="dual")).eval()
    patches, slots = torch.randn(2, 7, 32), torch.randn(2, 4, 32)
    visual, enhanced = patches, slots
    for layer in interact.visual_layers:
        visual = layer(visual, slots)
    for layer in interact.slot_layers:
        enhanced = layer(enhanced, patches)
    result = interact(patches, slots)
    torch.testing.assert_close(result[0], visual)
    torch.testing.assert_close(result[1], enhanced)


def test_co_attention_is_self_attention_over_both() -> None:
    """Each side must see itself and the other."""
    interact = VisualSemanticInteraction(tiny_config(interaction="co_attention")).eval()
    patches, slots = torch.randn(2, 7, 32), torch.randn(2, 4, 32)
    joint = torch.cat([patches, slots], dim=1)
    for layer in interact.joint_layers:
        joint = layer(joint, joint)
    visual, enhanced = interact(patches, slots)
    torch.testing.assert_close(torch.cat([visual, enhanced], dim=1), joint)


@pytest.mark.parametrize("missing", ["all", "states_of_one"])
def test_missing_description_is_refused_without_description_dropout(missing: str) -> None:
    """An untrained null description would embed items at random."""
    slots = SemanticSlots(tiny_config(), text_dim=32)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    with pytest.raises(ValueError, match=r"no description.*description_dropout > 0"):
        slots(None, None, 2) if missing == "all" else slots(torch.randn(2, 3, 32), mask, 2)


def built_slots(**fields: Any) -> SemanticSlots:
    return tiny_model(**fields).semantic_slots


def test_an_empty_row_reads_the_null_description_alone() -> None:
    """A masked row in softmax is NaN; one beside real rows must not change them."""
    slots = built_slots(description_dropout=0.3)
    states = torch.randn(2, 3, 32)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    mixed = slots(states, mask, 2)
    torch.testing.assert_close(mixed[1:], slots(None, None, 1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mixed[:1], slots(states[:1], mask[:1], 1), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(mixed[0], mixed[1])


def test_description_dropout_replaces_its_share_of_items_in_training_only() -> None:
    """Dropout in evaluation would throw descriptions away; none in training leaves the null description untrained."""
    slots = built_slots(description_dropout=0.25, dropout=0.0)
    states, mask = torch.randn(1, 3, 32).expand(400, -1, -1), torch.ones(400, 3, dtype=torch.long)
    null = slots(None, None, 1)
    kept = slots(states, mask, 400)
    assert torch.allclose(kept, kept[:1].expand_as(kept), atol=1e-5)
    slots.train()
    replaced = torch.isclose(slots(states, mask, 400), null, atol=1e-5).flatten(1).all(dim=1).float().mean().item()
    assert replaced == pytest.approx(0.25, abs=0.07)


def test_without_description_dropout_there_is_no_null_description() -> None:
    """A parameter that nothing trains stalls distributed training."""
    assert built_slots().null_description is None


def test_aligned_slots_start_as_a_reading_of_the_description_in_the_space_of_captions() -> None:
    """The promise of the option: a description about a caption scores high before any training."""
    model = tiny_model(aligned_slots=True)
    states = torch.randn(5, 32)
    direct = states @ model.text_projection.weight.T
    through_slots = (states @ model.semantic_slots.description_projection.weight.T) @ model.slot_projection.weight.T
    torch.testing.assert_close(through_slots, direct, atol=1e-5, rtol=1e-4)
    for layer in (*model.semantic_slots.layers, *model.interaction.visual_layers):
        values = layer.out_proj(layer.v_proj(states))
        torch.testing.assert_close(values, states, atol=1e-5, rtol=1e-4)


def test_loading_does_not_align_trained_slots_again(tmp_path: Path) -> None:
    """The option is a start; applied after loading it would throw the training away."""
    model = tiny_model(aligned_slots=True)
    for parameter in model.semantic_slots.parameters():
        parameter.data.add_(0.1)
    model.slot_projection.weight.data.add_(0.1)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(LeccrModel.from_pretrained(tmp_path).state_dict(), model.state_dict(), atol=0, rtol=0)
