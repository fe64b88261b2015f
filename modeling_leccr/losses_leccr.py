"""The training objectives: one pure function a term, over embeddings of the global batch.

No parameters and no `torch.distributed` here. `summarise` turns a model's output into one row an item, which the
trainer gathers over processes; the terms see the gathered rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize

from .matching_leccr import global_scores, min_max, slot_scores
from .objectives_leccr import (
    Criterion,
    LossSettings,
    TwoStreamRows,
    check_negatives,
    check_row_ids,
    contrastive_loss,
    cross_lingual,
    shared_targets,
    soft_cross_entropy,
    source_contrastive,
    target_contrastive,
)
from .pooling_leccr import masked_mean

# Term -> settings in whose place its released form has constants.
_CONSTANT_IN_OFFICIAL = {
    "softened": ("teacher_temperature", "student_temperature", "teacher_global_weight"),
    "slot_vision": ("slot_vision_temperature",),
}


@dataclass(frozen=True)
class LossConfig(LossSettings):
    """Weights and temperatures of the objectives.

    Paper: arXiv:2409.19961. Defaults: the released Multi30K fr recipe where our corrected forms allow it.

    Args:
        guidance: lambda in [0, 1]: the share of English guidance (`softened`) in the target term;
            `target_contrastive` has weight 1 - lambda.
        slot_contrastive, slot_vision, slot_diversity: weights w_c, w_cv, w_r.
        teacher_temperature: of the English scores, which are stretched to [0, 1]. Official: 1.
        student_temperature: of the target-language cosines. Official: 1.
        teacher_global_weight: share of the global scores in the teacher; the rest are slot scores.
        slot_vision_temperature: of the cosines between slots and visual tokens. Official: 1.
        forms: name of a term -> "official", for the released code's form of it (see losses_official_leccr.py).
        without: see `LossSettings`.
    """

    guidance: float = 0.5
    slot_contrastive: float = 0.01
    slot_vision: float = 0.01
    slot_diversity: float = 0.01
    teacher_temperature: float = 0.1
    student_temperature: float = 0.07
    teacher_global_weight: float = 0.8
    slot_vision_temperature: float = 0.07
    forms: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_shares("guidance", "teacher_global_weight")
        self.check_weights("slot_contrastive", "slot_vision", "slot_diversity")
        self.check_positive("teacher_temperature", "student_temperature", "slot_vision_temperature")
        self._check_forms()

    def _check_forms(self) -> None:
        """Refuse a setting that the released form of a term does not read."""
        defaults = {entry.name: entry.default for entry in fields(self)}
        for term, names in _CONSTANT_IN_OFFICIAL.items():
            ignored = [name for name in names if getattr(self, name) != defaults[name]]
            if ignored and self.forms.get(term) == "official":
                raise ValueError(
                    f"the official form of {term} has its own constants, got loss.{ignored[0]} "
                    f"{getattr(self, ignored[0])}; leave it out, or the form."
                )

    def weights(self) -> dict[str, float]:
        """Weight of each term in the total."""
        return {
            "source_contrastive": 1.0,
            "target_contrastive": 1.0 - self.guidance,
            "cross_lingual": 1.0,
            "softened": self.guidance,
            "slot_contrastive": self.slot_contrastive,
            "slot_vision": self.slot_vision,
            "slot_diversity": self.slot_diversity,
        }


@dataclass
class MatchingBatch(TwoStreamRows):
    """One row an item and pair: what the terms read, and what is gathered over processes.

    Args:
        image_ids, image_embeds, source_embeds, target_embeds: see `TwoStreamRows`.
        slot_embeds: (batch, num_slots, embed_dim), or None without slots, as the following.
        slot_summary, patch_summary: (batch, slot_dim), means over the tokens' directions.
        slot_similarity: (batch,) mean cosine between the slots of an item, in [-1, 1].
    """

    slot_embeds: Tensor | None = None
    slot_summary: Tensor | None = None
    patch_summary: Tensor | None = None
    slot_similarity: Tensor | None = None

    def slot_part(self, name: str) -> Tensor:
        """One of the tensors that only items with slots have.

        Raises:
            ValueError: this batch has no slots.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"{name} is None: the model has no slots, so leave the terms {SLOT_TERMS} out.")
        return value


Term = Callable[[MatchingBatch, Tensor, LossConfig], Tensor]


def slot_contrastive(batch: MatchingBatch, logit_scale: Tensor, config: LossConfig) -> Tensor:
    """The best slot of an item against the captions, English plus translated.

    Official: `get_caption_contrastive_loss`. Differs: the global batch and shared positives; there the rows of one
    process and a diagonal target.
    """
    targets = shared_targets(batch.image_ids)
    slot_embeds = batch.slot_part("slot_embeds")
    source_logits = slot_scores(slot_embeds, batch.source_embeds) * logit_scale.exp()
    target_logits = slot_scores(slot_embeds, batch.target_embeds) * logit_scale.exp()
    return contrastive_loss(source_logits, targets) + contrastive_loss(target_logits, targets)


def slot_vision(batch: MatchingBatch, logit_scale: Tensor, config: LossConfig) -> Tensor:
    """Slots find their own image among all images, before the interaction.

    The mean over slots k and tokens p of cosines is the dot product of the two mean directions, so the
    (num_slots x num_patches) block of each pair is never built.

    Official: `caption_vision`. Differs: directions over features, there over tokens; a temperature.
    """
    return one_way_contrastive(batch, config.slot_vision_temperature)


def one_way_contrastive(batch: MatchingBatch, temperature: float) -> Tensor:
    """InfoNCE from the slots to the images only, with shared positives. Scalar, in nats."""
    check_negatives(batch.image_ids.shape[0])
    logits = batch.slot_part("slot_summary") @ batch.slot_part("patch_summary").T / temperature
    return soft_cross_entropy(logits, shared_targets(batch.image_ids))


def slot_diversity(batch: MatchingBatch, logit_scale: Tensor, config: LossConfig) -> Tensor:
    """Keep the slots of an item apart: mean cosine between different slots. Official: `regularization`."""
    return batch.slot_part("slot_similarity").mean()


def softened(batch: MatchingBatch, logit_scale: Tensor, config: LossConfig) -> Tensor:
    """English guidance: captions in the target language match images as softly as their English sources do.

    KL( softmax[w mm(t_e v) + (1 - w) mm(max_k s_k t_e)] || softmax(t_x v) ), teacher detached, mm = `min_max`.

    Official: `dstl_loss`. Differs: both matrices are text x image, there the slot matrix is transposed; temperatures.
    """
    with torch.no_grad():  # of the teacher; autograd would keep a matrix for each slot
        slots = None if batch.slot_embeds is None else slot_scores(batch.slot_embeds, batch.source_embeds).T
    return guidance_divergence(
        batch, slots, config.teacher_global_weight, config.teacher_temperature, config.student_temperature
    )


def guidance_divergence(
    batch: MatchingBatch,
    slots: Tensor | None,
    global_weight: float,
    teacher_temperature: float,
    student_temperature: float,
) -> Tensor:
    """Divergence of the target-language matching from the English one.

    Args:
        slots: (num_texts, num_images) slot scores of the English captions; None leaves them out of the teacher.

    Returns:
        Scalar, mean over the captions, in nats; 0 when both match alike.
    """
    with torch.no_grad():
        teacher = min_max(global_scores(batch.source_embeds, batch.image_embeds))
        if slots is not None:
            teacher = global_weight * teacher + (1 - global_weight) * min_max(slots)
        teacher_log_probs = log_softmax(teacher / teacher_temperature, dim=1)
    student = global_scores(batch.target_embeds, batch.image_embeds) / student_temperature
    return kl_div(log_softmax(student, dim=1), teacher_log_probs, reduction="batchmean", log_target=True)


def mean_direction(states: Tensor, token_mask: Tensor | None = None) -> Tensor:
    """Mean over the tokens of their unit vectors: (batch, tokens, width) -> (batch, width).

    Args:
        states: (batch, tokens, width).
        token_mask: (batch, tokens), 1 = keep; None keeps all.
    """
    return masked_mean(normalize(states, dim=-1), token_mask)


def mean_slot_similarity(slots: Tensor) -> Tensor:
    """Mean cosine between different slots of an item: sum over k != k' divided by K squared.

    Args:
        slots: (batch, num_slots, slot_dim).

    Returns:
        (batch,) in [-1, 1].
    """
    directions = normalize(slots, dim=-1)
    # The sum over all pairs is the squared norm of the sum; the K cosines of a slot with itself are 1 each.
    all_pairs = directions.sum(dim=1).square().sum(dim=-1)
    own = directions.square().sum(dim=(1, 2))
    return (all_pairs - own) / slots.shape[1] ** 2


TERMS: dict[str, Term] = {
    "source_contrastive": source_contrastive,
    "target_contrastive": target_contrastive,
    "cross_lingual": cross_lingual,
    "softened": softened,
    "slot_contrastive": slot_contrastive,
    "slot_vision": slot_vision,
    "slot_diversity": slot_diversity,
}
SLOT_TERMS = ("slot_contrastive", "slot_vision", "slot_diversity")


class LeccrCriterion(Criterion[MatchingBatch]):
    """LECCR's objectives. The terms of slots are absent where there are none.

    Args:
        config: weights, temperatures and forms.

    Raises:
        ValueError: a form or the name of a term is unknown.
    """

    def __init__(self, config: LossConfig) -> None:
        from .losses_official_leccr import OFFICIAL_TERMS, official_mean_direction

        unknown = {
            name: form for name, form in config.forms.items() if name not in OFFICIAL_TERMS or form != "official"
        }
        if unknown:
            raise ValueError(
                f"loss.forms takes {{term: 'official'}} with the terms {sorted(OFFICIAL_TERMS)}, got {unknown}."
            )
        super().__init__(config, {**TERMS, **{name: OFFICIAL_TERMS[name] for name in config.forms}})
        self.mean_direction = official_mean_direction if "slot_vision" in config.forms else mean_direction

    def summarise(self, output: Any, image_ids: Tensor) -> MatchingBatch:
        """Reduce a `LeccrOutput` to one row an item.

        Args:
            output: a `LeccrOutput` of training pairs.
            image_ids: (batch,) integers, equal for rows of one image.

        Raises:
            ValueError: the number of ids is not the batch size.
        """
        check_row_ids(image_ids, output.image_embeds)
        batch = MatchingBatch(image_ids, output.image_embeds, output.source_embeds, output.target_embeds)
        if output.slot_embeds is not None:
            batch.slot_embeds = output.slot_embeds
            batch.slot_summary = self.mean_direction(output.slot_states.float())
            batch.patch_summary = self.mean_direction(output.patch_states.float(), output.patch_mask)
            batch.slot_similarity = mean_slot_similarity(output.slots.float())
        return batch

    def names_for(self, batch: MatchingBatch) -> list[str]:
        """The terms that these rows have: without slots, those of slots are absent."""
        return [name for name in self.terms if batch.slot_embeds is not None or name not in SLOT_TERMS]
