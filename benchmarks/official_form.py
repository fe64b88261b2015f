"""The official form of the mathematics: what the released code computes and how, in our words. Slow oracles.

They differ from ours in cost, not in result: every function here has a counterpart that must return the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from modeling_leccr import LeccrModel, LeccrOutput
from modeling_leccr.losses_leccr import LeccrCriterion, MatchingBatch, shared_targets, soft_cross_entropy
from modeling_leccr.slots_leccr import VisualSemanticInteraction
from modeling_leccr.towers_leccr import visual_tokens
from retrieval.ranks import ROUNDING_MARGIN

PADDED_LENGTH = 200  # tokens that the released code pads every caption to at evaluation


def interaction(module: VisualSemanticInteraction, patch_states: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """All visual tokens go through the blocks, although only the class token is read: (batch, 1, width) and slots."""
    visual, enhanced_slots = module(patch_states, slots)
    return visual[:, :1], enhanced_slots


def slot_vision(slot_states: Tensor, patch_states: Tensor, image_ids: Tensor, temperature: float) -> Tensor:
    """Every slot against every visual token of every image: a (batch, batch, slots, patches) block, then its mean."""
    block = torch.einsum("ikd,jpd->ijkp", normalize(slot_states, dim=-1), normalize(patch_states, dim=-1))
    return soft_cross_entropy(block.mean(dim=(2, 3)) / temperature, shared_targets(image_ids))


def slot_diversity(slots: Tensor) -> Tensor:
    """The (slots, slots) matrix of cosines of each item, its diagonal set to zero, then the mean of all cells."""
    directions = normalize(slots, dim=-1)
    cosines = directions @ directions.transpose(1, 2)
    return (cosines * (1 - torch.eye(slots.shape[1]))).mean()


def text_embeds(model: LeccrModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Captions with their padding: (num_texts, embed_dim), unit norm."""
    states = model.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    return normalize(model.text_projection(states[:, 0]).float(), dim=-1)


def description_states(model: LeccrModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Descriptions with their padding, without gradient: (batch, length, text_dim)."""
    was_training = model.text_model.training
    model.text_model.train(was_training and not model.config.description_encoder_in_eval_mode)
    with torch.no_grad():
        states = model.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    model.text_model.train(was_training)
    return states


def forward(model: LeccrModel, batch: Mapping[str, Tensor]) -> LeccrOutput:
    """A training forward: descriptions in one padded block, source and target captions in a forward each."""
    ids, mask = batch["description_input_ids"], batch["description_attention_mask"]
    patch_states = model.visual_projection(visual_tokens(model.vision_model, batch["pixel_values"]))
    slots = model.semantic_slots(description_states(model, ids, mask), mask, len(ids))
    visual, enhanced_slots = interaction(model.interaction, patch_states, slots)
    return LeccrOutput(
        image_embeds=model._image_embeds(visual, None),
        slot_embeds=normalize(model.slot_projection(enhanced_slots), dim=-1),
        source_embeds=text_embeds(model, batch["source_input_ids"], batch["source_attention_mask"]),
        target_embeds=text_embeds(model, batch["target_input_ids"], batch["target_attention_mask"]),
        logit_scale=model.logit_scale(),
        slots=slots,
        slot_states=model.slot_vision_slots(slots),
        patch_states=model.slot_vision_patches(patch_states),
    )


def losses(criterion: LeccrCriterion, output: Any, image_ids: Tensor) -> dict[str, Tensor]:
    """The terms of a batch, those with slots in their official form."""
    batch = MatchingBatch(
        image_ids, output.image_embeds, output.source_embeds, output.target_embeds, output.slot_embeds
    )
    own_forms = ("slot_vision", "slot_diversity")
    terms = {
        name: term(batch, output.logit_scale, criterion.config)
        for name, term in criterion.terms.items()
        if name not in own_forms
    }
    terms["slot_vision"] = slot_vision(
        output.slot_states, output.patch_states, image_ids, criterion.config.slot_vision_temperature
    )
    terms["slot_diversity"] = slot_diversity(output.slots)
    return terms


def optimizer(model: LeccrModel, **settings: Any) -> torch.optim.Optimizer:
    """Plain AdamW, which walks over the parameters one by one on the CPU."""
    return torch.optim.AdamW(model.parameters(), **settings)


@torch.no_grad()
def encode_texts(model: LeccrModel, processor: Any, texts: Sequence[str], batch_size: int) -> Tensor:
    """Captions in the order they come, each padded to 200 tokens: (num_texts, embed_dim)."""
    embeds = []
    for start in range(0, len(texts), batch_size):
        inputs = processor(text=list(texts[start : start + batch_size]), padding="max_length", max_length=PADDED_LENGTH)
        embeds.append(text_embeds(model, inputs["input_ids"], inputs["attention_mask"]))
    return torch.cat(embeds)


@torch.no_grad()
def encode_items(
    model: LeccrModel, processor: Any, rows: Sequence[Mapping[str, Any]], batch_size: int
) -> tuple[Tensor, Tensor]:
    """Items in the order they come, descriptions padded to 200 tokens, all visual tokens through the interaction."""
    image_embeds, slot_embeds = [], []
    for start in range(0, len(rows), batch_size):
        part = [rows[i] for i in range(start, min(start + batch_size, len(rows)))]
        inputs = processor(
            images=[row["image"] for row in part],
            descriptions=[row["description"] for row in part],
            padding="max_length",
            max_length=PADDED_LENGTH,
        )
        mask = inputs["description_attention_mask"]
        patch_states = model.visual_projection(visual_tokens(model.vision_model, inputs["pixel_values"]))
        states = description_states(model, inputs["description_input_ids"], mask)
        slots = model.semantic_slots(states, mask, len(part))
        visual, enhanced_slots = interaction(model.interaction, patch_states, slots)
        image_embeds.append(model._image_embeds(visual, None))
        slot_embeds.append(normalize(model.slot_projection(enhanced_slots), dim=-1))
    return torch.cat(image_embeds), torch.cat(slot_embeds)


def rounding_margin(composites: Tensor, text_embeds: Tensor) -> float:
    """Scores that are closer than this are ties, in both forms."""
    return ROUNDING_MARGIN * float(composites.norm(dim=-1).max() * text_embeds.norm(dim=-1).max())


def score_matrix(composites: Tensor, text_embeds: Tensor) -> np.ndarray:
    """(num_items, num_texts): the whole matrix, best slot of each item."""
    scores = composites[:, 0] @ text_embeds.T
    for k in range(1, composites.shape[1]):
        scores = torch.maximum(scores, composites[:, k] @ text_embeds.T)
    return scores.numpy()


def ranks(scores: np.ndarray, text_to_item: np.ndarray, margin: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Ranks by sorting every row and every column of the matrix and looking the correct ones up: (i2t, t2i).

    Not in the released code, which leaves ties to the sort: a wrong candidate whose score is within `margin` of the
    correct one goes first, as in ours.
    """
    captions: dict[int, list[int]] = {}
    for text, item in enumerate(text_to_item.tolist()):
        captions.setdefault(item, []).append(text)
    i2t = [_rank(row, captions[item], margin) for item, row in enumerate(scores)]
    t2i = [_rank(column, [text_to_item[text]], margin) for text, column in enumerate(scores.T)]
    return np.array(i2t), np.array(t2i)


def _rank(scores: np.ndarray, correct: Sequence[int], margin: float) -> int:
    order = np.argsort(scores)[::-1]
    best = min(int(np.where(order == candidate)[0][0]) for candidate in correct)
    threshold = scores[order[best]] - np.float32(margin)
    follower = best + 1
    equal_before = best > 0 and scores[order[best - 1]] == scores[order[best]]
    if not equal_before and (follower == len(order) or scores[order[follower]] < threshold):
        return 1 + best
    return 1 + len(set(np.flatnonzero(scores >= threshold).tolist()) - set(correct))
