"""The released code's form of the terms that losses_leccr.py corrects: for parity and for ablations.

Chosen by name in a recipe, for example `loss: {forms: {slot_vision: official}}`.
"""

from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from .losses_leccr import LossConfig, MatchingBatch, Term, guidance_divergence, one_way_contrastive
from .matching_leccr import slot_scores


def official_slot_contrastive(batch: MatchingBatch, logit_scale: Tensor, config: LossConfig) -> Tensor:
    """As `slot_contrastive`, but a second caption of the same image counts as a negative."""
    total = logit_scale.new_zeros(())
    for texts in (batch.source_embeds, batch.target_embeds):
        logits = slot_scores(batch.slot_part("slot_embeds"), texts) * logit_scale.exp()
        labels = batch.image_ids.new_tensor(range(len(logits)))
        total = total + (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
    return total


def official_slot_vision(batch: MatchingBatch, logit_scale: Tensor, config: LossConfig) -> Tensor:
    """As `slot_vision`, without a temperature; its summaries come from `official_mean_direction`."""
    return one_way_contrastive(batch, temperature=1.0)


def official_softened(batch: MatchingBatch, logit_scale: Tensor, config: LossConfig) -> Tensor:
    """As `softened`, with image x text slot scores mixed into text x image ones and no temperatures."""
    slots = None if batch.slot_embeds is None else slot_scores(batch.slot_embeds, batch.source_embeds)
    return guidance_divergence(batch, slots, global_weight=0.8, teacher_temperature=1.0, student_temperature=1.0)


def official_mean_direction(states: Tensor, token_mask: Tensor | None = None) -> Tensor:
    """Mean over tokens after each *feature* was scaled to unit norm over the tokens: grows with their number.

    The mask is not read: padded frames of a video count as the others do.
    """
    return normalize(states, dim=1).mean(dim=1)


OFFICIAL_TERMS: dict[str, Term] = {
    "slot_contrastive": official_slot_contrastive,
    "slot_vision": official_slot_vision,
    "softened": official_softened,
}
