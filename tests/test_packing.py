"""Packed texts have the states of padded ones."""

import pytest
import torch
from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

from modeling_leccr.packing_leccr import fill_rows, text_states

TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 99,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def _tower(attention: str = "sdpa") -> BertModel:
    tower = BertModel(BertConfig(**TINY, initializer_range=0.2), add_pooling_layer=False)
    tower.set_attn_implementation(attention)
    return tower


def _texts(lengths: list[int], *, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    mask = mask.flip(1) if left else mask
    return torch.randint(5, 99, mask.shape) * mask, mask


def _shapes_seen(tower: torch.nn.Module) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    tower.embeddings.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape[:2])))
    return shapes


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_states_equal_padded_ones(attention: str):
    """A text that sees its neighbour, or starts at another position, changes with the rest of the batch."""
    tower = _tower(attention)
    ids, mask = _texts([3, 17, 9, 4, 17, 2, 11])
    shapes = _shapes_seen(tower)
    packed = text_states(tower, ids, mask)
    assert shapes[0][0] * shapes[0][1] < 0.9 * ids.numel()
    padded = tower(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(packed * mask[..., None], padded * mask[..., None], atol=1e-5, rtol=1e-5)


def test_packed_gradients_equal_padded_ones():
    """States that are right can still send their gradient to the wrong token."""
    tower = _tower()
    ids, mask = _texts([3, 17, 9, 4, 17, 2, 11])
    weight = torch.randn(7, 17, 32) * mask[..., None]
    gradients = []
    for states in (text_states(tower, ids, mask), tower(input_ids=ids, attention_mask=mask).last_hidden_state):
        gradients.append(torch.autograd.grad((states * weight).sum(), list(tower.parameters())))
    for packed, padded in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, padded, atol=1e-3, rtol=1e-4)
    assert gradients[0][0].abs().sum() > 0


def test_empty_texts_are_left_out_of_packing_and_stay_finite():
    """A missing description is a row without tokens, whose NaN would spread through the slots."""
    tower = _tower()
    ids, mask = _texts([3, 0, 9, 0, 6])
    states = text_states(tower, ids, mask)
    assert torch.isfinite(states).all()
    alone = tower(input_ids=ids[2:3], attention_mask=mask[2:3]).last_hidden_state
    torch.testing.assert_close(states[2:3], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", [[0, 0], [0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]])
def test_padded_forward_stays_finite_with_empty_texts(lengths: list[int]):
    """Softmax over nothing is NaN."""
    mask = (torch.arange(9) < torch.tensor(lengths)[:, None]).long()
    assert torch.isfinite(text_states(_tower("eager"), mask * 7, mask)).all()


def test_left_padding_is_not_packed():
    """Positions of a left-padded text do not start at its first token in every encoder."""
    tower = _tower()
    ids, mask = _texts([3, 17, 9], left=True)
    torch.testing.assert_close(
        text_states(tower, ids, mask), tower(input_ids=ids, attention_mask=mask).last_hidden_state
    )


def test_other_encoders_keep_their_own_forward():
    """Positions of XLM-R start behind its padding token."""
    tower = XLMRobertaModel(XLMRobertaConfig(**TINY, pad_token_id=1), add_pooling_layer=False).eval()
    ids, mask = _texts([3, 17, 9])
    ids = torch.where(mask == 1, ids, 1)
    torch.testing.assert_close(
        text_states(tower, ids, mask), tower(input_ids=ids, attention_mask=mask).last_hidden_state
    )


def test_rows_hold_every_text_once_and_are_nearly_equal():
    """A text that is lost has no states; one row that is far longer than the others pads them all."""
    lengths = [int(n) for n in torch.randint(60, 121, (16,))] + [0]
    rows = fill_rows(lengths)
    assert sorted(text for row in rows for text in row) == list(range(16))
    sizes = [sum(lengths[text] for text in row) for row in rows]
    assert len(rows) * max(sizes) < 1.15 * sum(lengths)
