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


@dataclass(frozen=True)
class LossConfig:
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
        without: names of terms that are not computed, for ablations; the weights of the others stay as they are.
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
    without: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.without) - set(TERMS))
        if unknown or set(self.without) >= set(TERMS):
            raise ValueError(
                f"loss.without names terms to leave out, not all of them, among {list(TERMS)}, got {self.without}."
            )
        for name in ("guidance", "teacher_global_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"loss.{name} must lie in [0, 1], got {getattr(self, name)}.")
        for name in ("slot_contrastive", "slot_vision", "slot_diversity"):
            if getattr(self, name) < 0:
                raise ValueError(f"loss.{name} must not be negative, got {getattr(self, name)}.")
        for name in ("teacher_temperature", "student_temperature", "slot_vision_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"loss.{name} must be positive, got {getattr(self, name)}.")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LossConfig":
        """Read the `loss:` section of a recipe.

        Raises:
            ValueError: a name is unknown or a value is out of range.
        """
        known = [entry.name for entry in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown loss settings {unknown}; the known ones are {known}.")
        return cls(**values)

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
class MatchingBatch:
    """One row an item and pair: what the terms read, and what is gathered over processes.

    Args:
        image_ids: (batch,) integers; rows with one id show one image, so all their captions are positives.
        image_embeds, source_embeds, target_embeds: (batch, embed_dim), unit norm.
        slot_embeds: (batch, num_slots, embed_dim), or None without slots, as the following.
        slot_summary, patch_summary: (batch, slot_dim), means over the tokens' directions.
        slot_similarity: (batch,) mean cosine between the slots of an item, in [-1, 1].
    """

    image_ids: Tensor
    image_embeds: Tensor
    source_embeds: Tensor
    target_embeds: Tensor
    slot_embeds: Tensor | None = None
    slot_summary: Tensor | None = None
    patch_summary: Tensor | None = None
    slot_similarity: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "MatchingBatch":
        """Apply a function, such as a gather, to each tensor."""
        present = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return MatchingBatch(**{name: function(value) for name, value in present.items() if value is not None})

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


def shared_targets(image_ids: Tensor) -> Tensor:
    """Target distribution of each row over the batch: all rows that show its image, in equal shares.

    Two captions of one image in a batch are both positives; a diagonal target would punish the second.

    Args:
        image_ids: (batch,).

    Returns:
        (batch, batch), rows sum to 1.
    """
    same = (image_ids[:, None] == image_ids[None, :]).float()
    return same / same.sum(dim=1, keepdim=True)


def contrastive_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Symmetric InfoNCE with shared positives.

    Args:
        logits: (batch, batch).
        targets: (batch, batch), rows sum to 1; symmetric relation, so that it also serves the columns.

    Returns:
        Scalar, the mean of both directions, in nats.

    Raises:
        ValueError: the shapes differ or there is no negative to tell from the positive.
    """
    if logits.shape != targets.shape or logits.shape[0] != logits.shape[1]:
        raise ValueError(f"logits and targets must be one square, got {tuple(logits.shape)}, {tuple(targets.shape)}.")
    _check_negatives(logits.shape[0])
    return (soft_cross_entropy(logits, targets) + soft_cross_entropy(logits.T, targets)) / 2


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each row with a target distribution: scalar, mean over the rows, in nats."""
    return -(targets * log_softmax(logits, dim=1)).sum(dim=1).mean()


def source_contrastive(batch: MatchingBatch, logit_scale: Tensor, config: LossConfig) -> Tensor:
    """Image against English caption. Official: `itc_vs`."""
    logits = global_scores(batch.image_embeds, batch.source_embeds) * logit_scale.exp()
    return contrastive_loss(logits, shared_targets(batch.image_ids))


def target_contrastive(batch: MatchingBatch, logit_scale: Tensor, config: LossConfig) -> Tensor:
    """Image against translated caption. Official: `itc_vt`."""
    logits = global_scores(batch.image_embeds, batch.target_embeds) * logit_scale.exp()
    return contrastive_loss(logits, shared_targets(batch.image_ids))


def cross_lingual(batch: MatchingBatch, logit_scale: Tensor, config: LossConfig) -> Tensor:
    """English caption against its translation. Official: `itc_st`."""
    logits = global_scores(batch.source_embeds, batch.target_embeds) * logit_scale.exp()
    return contrastive_loss(logits, shared_targets(batch.image_ids))


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
    _check_negatives(batch.image_ids.shape[0])
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


def mean_direction(states: Tensor) -> Tensor:
    """Mean over the tokens of their unit vectors: (batch, tokens, width) -> (batch, width)."""
    return normalize(states, dim=-1).mean(dim=1)


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


def _check_negatives(num_items: int) -> None:
    if num_items < 2:
        raise ValueError(
            f"a contrastive loss needs at least 2 items in the global batch, got {num_items}: captions of one item are "
            f"no negatives for each other; raise per_device_train_batch_size, keep dataloader_drop_last, or train on "
            f"more items."
        )


def _zero_of(batch: MatchingBatch, logit_scale: Tensor) -> Tensor:
    """Zero, with a gradient of zero: DDP waits for that of each parameter, also of one whose only term is left out."""
    sums = [value.sum() for value in vars(batch).values() if value is not None and value.is_floating_point()]
    return 0.0 * torch.stack([*sums, logit_scale.sum()]).sum()


class LeccrCriterion:
    """All objectives of a recipe: from a model's output to named scalars and their weighted sum.

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
        self.config = config
        self.terms = {**TERMS, **{name: OFFICIAL_TERMS[name] for name in config.forms}}
        self.mean_direction = official_mean_direction if "slot_vision" in config.forms else mean_direction

    def summarise(self, output: Any, image_ids: Tensor) -> MatchingBatch:
        """Reduce a `LeccrOutput` to one row an item.

        Args:
            output: a `LeccrOutput` of training pairs.
            image_ids: (batch,) integers, equal for rows of one image.

        Raises:
            ValueError: the number of ids is not the batch size.
        """
        if image_ids.shape != output.image_embeds.shape[:1]:
            raise ValueError(
                f"image_ids must be ({output.image_embeds.shape[0]},), one a row, got {tuple(image_ids.shape)}."
            )
        batch = MatchingBatch(image_ids, output.image_embeds, output.source_embeds, output.target_embeds)
        if output.slot_embeds is not None:
            batch.slot_embeds = output.slot_embeds
            batch.slot_summary = self.mean_direction(output.slot_states.float())
            batch.patch_summary = self.mean_direction(output.patch_states.float())
            batch.slot_similarity = mean_slot_similarity(output.slots.float())
        return batch

    def __call__(self, batch: MatchingBatch, logit_scale: Tensor, *, num_items: int | None = None) -> dict[str, Tensor]:
        """Each term of the global batch, before its weight: {name: scalar}. Absent are the terms in `config.without`,
        and those of slots where there are none.

        Args:
            batch: its rows.
            logit_scale: logarithm of the inverse temperature.
            num_items: different items that are known to be among them, at least; None counts them, and waits for the
                device to do so.

        Raises:
            ValueError: there is one item alone.
        """
        _check_negatives(batch.image_ids.unique().numel() if num_items is None else num_items)
        absent = {*self.config.without, *(SLOT_TERMS if batch.slot_embeds is None else ())}
        names = [name for name in self.terms if name not in absent]
        if not names:
            raise ValueError(f"loss.without={self.config.without} leaves no term for a model without slots.")
        # Autocast would compute the logits in bf16, whose steps near 10 are 1/16: too coarse for a softmax.
        with torch.autocast(batch.image_embeds.device.type, enabled=False):
            terms = {name: self.terms[name](batch, logit_scale, self.config) for name in names}
            if self.config.without:
                terms[names[0]] = terms[names[0]] + _zero_of(batch, logit_scale)
            return terms

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the terms: the scalar to minimise."""
        weights = self.config.weights()
        return torch.stack([weights[name] * value for name, value in terms.items()]).sum()
