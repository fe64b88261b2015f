"""The objectives of CL2CM: of its cross-lingual network (first stage) and of its cross-modal one (second stage).

Paper: arXiv:2312.08984. Neither code nor hyper-parameters are published: where a docstring says "ours", the paper
leaves the choice open or we could not read it there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize

from .matching_leccr import global_scores
from .objectives_leccr import (
    BatchRows,
    Criterion,
    LossSettings,
    TwoStreamRows,
    check_negatives,
    check_row_ids,
    cross_lingual,
    source_contrastive,
    target_contrastive,
)
from .transport_cl2cm import marginal_error, transport_plan


@dataclass(frozen=True)
class CrossLingualLossConfig(LossSettings):
    """Weights and temperatures of the first stage. All defaults are ours.

    Args:
        without: see `LossSettings`.
        word_transport: weight of what the optimal alignment of the words costs. With 0, a term is not computed.
        word_alignment: weight of the cross-entropy between soft and optimal alignment.
        transport_epsilon: weight of the entropy in the optimal alignment; smaller is sharper.
        transport_iterations: of Sinkhorn; the term `marginal_error` tells whether they suffice.
        alignment_temperature: of the cosines in the soft alignment.
    """

    word_transport: float = 0.1
    word_alignment: float = 0.1
    transport_epsilon: float = 0.05
    transport_iterations: int = 50
    alignment_temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_weights("word_transport", "word_alignment")
        self.check_positive("transport_epsilon", "alignment_temperature")
        if not isinstance(self.transport_iterations, int) or self.transport_iterations < 1:
            raise ValueError(
                f"loss.transport_iterations must be a whole number, 1 or more, got {self.transport_iterations}."
            )

    def weights(self) -> dict[str, float]:
        """Weight of each term in the total; `marginal_error` is there to be seen."""
        return {
            "cross_lingual": 1.0,
            "word_transport": self.word_transport,
            "word_alignment": self.word_alignment,
            "marginal_error": 0.0,
        }


@dataclass(frozen=True)
class Cl2cmLossConfig(LossSettings):
    """Weights and temperatures of the second stage. All defaults are ours; the temperatures are those of LECCR.

    Args:
        without: see `LossSettings`.
        relational_transfer: weight of what the teacher's relations between captions bring. With 0, a term is not
            computed.
        feature_distillation: weight of the distance to the teacher's embeddings of the translations.
        teacher_temperature: of the teacher's cosines between captions.
        student_temperature: of the student's cosines between images and captions.
    """

    relational_transfer: float = 1.0
    feature_distillation: float = 0.0
    teacher_temperature: float = 0.1
    student_temperature: float = 0.07

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_weights("relational_transfer", "feature_distillation")
        self.check_positive("teacher_temperature", "student_temperature")

    def weights(self) -> dict[str, float]:
        """Weight of each term in the total."""
        return {
            "source_contrastive": 1.0,
            "target_contrastive": 1.0,
            "cross_lingual": 1.0,
            "relational_transfer": self.relational_transfer,
            "feature_distillation": self.feature_distillation,
        }

    @property
    def reads_teacher(self) -> bool:
        """Whether there is a term that the teacher's embeddings are needed for."""
        weights = self.weights()
        return any(weights[name] > 0 and name not in self.without for name in TEACHER_TERMS)


@dataclass
class CrossLingualRows(BatchRows):
    """One row a pair: what the terms of the first stage read.

    Args:
        image_ids: (batch,) integers; rows with one id have the same English caption.
        source_embeds, target_embeds: (batch, embed_dim), unit norm.
        word_transport, word_alignment, marginal_error: (batch,) of each pair by itself; None where no term of words
            is computed.
    """

    source_embeds: Tensor
    target_embeds: Tensor
    word_transport: Tensor | None = None
    word_alignment: Tensor | None = None
    marginal_error: Tensor | None = None


@dataclass
class Cl2cmRows(TwoStreamRows):
    """One row an item and pair: what the terms of the second stage read.

    Args:
        image_ids, image_embeds, source_embeds, target_embeds: see `TwoStreamRows`.
        teacher_source_embeds, teacher_target_embeds: (batch, teacher_dim), unit norm, what the cross-lingual network
            makes of the captions; None where no term reads them.
    """

    teacher_source_embeds: Tensor | None = None
    teacher_target_embeds: Tensor | None = None


def token_cosines(source_states: Tensor, target_states: Tensor) -> Tensor:
    """Each token of a sentence against each of its translation, in the space of the encoder.

    Ours: the states as they are, without a projection, so that words need no parameters.

    Args:
        source_states: (batch, source_length, text_dim).
        target_states: (batch, target_length, text_dim).

    Returns:
        (batch, source_length, target_length) in [-1, 1].
    """
    return normalize(source_states, dim=-1) @ normalize(target_states, dim=-1).transpose(1, 2)


def alignment_cross_entropy(
    plan: Tensor, cosines: Tensor, source_mask: Tensor, target_mask: Tensor, *, temperature: float
) -> Tensor:
    """Pull the soft alignment of each token, softmax(cosines / temperature), to its share of the transport plan.

    Both ways: a source token over the target tokens, and a target token over the source tokens. A soft alignment alone
    lets many tokens choose the same one; the plan, in which all must be used, does not.

    Args:
        plan: (batch, source_length, target_length), the target, no gradient.
        cosines: of the same shape.
        source_mask, target_mask: (batch, length), 1 = keep.
        temperature: of the soft alignment.

    Returns:
        (batch,) mean over the real tokens and both ways, in nats.
    """
    forth = _one_way_alignment(plan, cosines, source_mask, target_mask, temperature)
    back = _one_way_alignment(plan.transpose(1, 2), cosines.transpose(1, 2), target_mask, source_mask, temperature)
    return (forth + back) / 2


def _one_way_alignment(
    plan: Tensor, cosines: Tensor, source_mask: Tensor, target_mask: Tensor, temperature: float
) -> Tensor:
    plan = plan.detach()
    targets = plan / plan.sum(dim=2, keepdim=True).clamp_min(torch.finfo(plan.dtype).tiny)  # zeros for padding
    # Not minus infinity, which times a target of zero is NaN.
    low = torch.finfo(cosines.dtype).min / 4
    logits = (cosines / temperature).masked_fill(~target_mask.bool()[:, None, :], low)
    per_token = -(targets * log_softmax(logits, dim=2)).sum(dim=2)
    return per_token.sum(dim=1) / source_mask.sum(dim=1)


def word_transport(batch: CrossLingualRows, logit_scale: Tensor, config: CrossLingualLossConfig) -> Tensor:
    """What it costs to move the words of a caption onto those of its translation: mean of <plan, 1 - cosine>.

    The plan is held fixed: at its optimum, this is the gradient of the entropic cost <plan, cost> - epsilon * entropy,
    and backward needs none of the iterations.
    """
    return _present(batch, "word_transport").mean()


def word_alignment(batch: CrossLingualRows, logit_scale: Tensor, config: CrossLingualLossConfig) -> Tensor:
    """The words align by their cosines as they do by optimal transport: mean of `alignment_cross_entropy`."""
    return _present(batch, "word_alignment").mean()


def transport_error(batch: CrossLingualRows, logit_scale: Tensor, config: CrossLingualLossConfig) -> Tensor:
    """Largest `marginal_error` of a plan in the batch, for the log: far from 0, raise `transport_iterations`."""
    return _present(batch, "marginal_error").detach().max()


def relational_transfer(batch: Cl2cmRows, logit_scale: Tensor, config: Cl2cmLossConfig) -> Tensor:
    """The image relates to the translations of a batch as its English caption does, in the eyes of the teacher.

    Mean of KL( softmax(e x / teacher_temperature) || softmax(v x / student_temperature) ) over the translations x, and
    of the same over the English captions e and the images v. The teacher is detached. Captions of one image need no
    shared positives here: the teacher tells how alike they are. Ours: two temperatures, and equal shares of both ways.

    Returns:
        Scalar, in nats; 0 when both relate alike.
    """
    check_negatives(batch.image_ids.shape[0])
    with torch.no_grad():
        teacher = global_scores(_present(batch, "teacher_source_embeds"), _present(batch, "teacher_target_embeds"))
        teacher = teacher / config.teacher_temperature
    student = global_scores(batch.image_embeds, batch.target_embeds) / config.student_temperature
    return (_divergence(teacher, student) + _divergence(teacher.T, student.T)) / 2


def feature_distillation(batch: Cl2cmRows, logit_scale: Tensor, config: Cl2cmLossConfig) -> Tensor:
    """The translation lies where the teacher puts it: mean of 1 - cosine. Ours: the form, which needs equal widths.

    Raises:
        ValueError: teacher and student have different `embed_dim`.
    """
    teacher = _present(batch, "teacher_target_embeds").detach()
    if teacher.shape != batch.target_embeds.shape:
        raise ValueError(
            f"loss.feature_distillation needs a teacher with the embed_dim of the student, got {teacher.shape[-1]} and "
            f"{batch.target_embeds.shape[-1]}; give both the same model.embed_dim, or set it to 0."
        )
    return (1 - (teacher * batch.target_embeds).sum(dim=1)).mean()


def _divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """KL of each row from the teacher's distribution to the student's: scalar, mean over the rows, in nats."""
    targets = log_softmax(teacher_logits, dim=1)
    return kl_div(log_softmax(student_logits, dim=1), targets, reduction="batchmean", log_target=True)


def _present(batch: BatchRows, name: str) -> Tensor:
    value = getattr(batch, name)
    if value is None:
        raise ValueError(
            f"{name} is None in these rows; the weight of each term that reads it was 0 or it is left out."
        )
    return value


CROSS_LINGUAL_TERMS: dict[str, Callable[[CrossLingualRows, Tensor, CrossLingualLossConfig], Tensor]] = {
    "cross_lingual": cross_lingual,
    "word_transport": word_transport,
    "word_alignment": word_alignment,
    "marginal_error": transport_error,
}
WORD_TERMS = ("word_transport", "word_alignment")
CL2CM_TERMS: dict[str, Callable[[Cl2cmRows, Tensor, Cl2cmLossConfig], Tensor]] = {
    "source_contrastive": source_contrastive,
    "target_contrastive": target_contrastive,
    "cross_lingual": cross_lingual,
    "relational_transfer": relational_transfer,
    "feature_distillation": feature_distillation,
}
TEACHER_TERMS = ("relational_transfer", "feature_distillation")


class CrossLingualCriterion(Criterion[CrossLingualRows]):
    """The objectives of the first stage.

    Args:
        config: weights and temperatures.
    """

    def __init__(self, config: CrossLingualLossConfig) -> None:
        weights = config.weights()
        super().__init__(
            config,
            {name: term for name, term in CROSS_LINGUAL_TERMS.items() if weights[name] > 0 or name not in WORD_TERMS},
        )
        self.reads_words = any(name in self.terms for name in WORD_TERMS)
        if not self.reads_words:
            self.terms.pop("marginal_error", None)

    def summarise(self, output: Any, image_ids: Tensor) -> CrossLingualRows:
        """Reduce a `CrossLingualOutput` to one row a pair; what concerns words is computed here, pair by pair.

        The tokens that a tokenizer adds, such as [CLS] and [SEP], take part like words: only the tokenizer knows them,
        the two of a pair find each other, a word without counterpart can go to them, and no caption, however short, is
        without a token.

        Args:
            output: a `CrossLingualOutput` of training pairs.
            image_ids: (batch,) integers, equal for rows with the same English caption.

        Raises:
            ValueError: the number of ids is not the batch size, or a caption has no token.
        """
        check_row_ids(image_ids, output.source_embeds)
        rows = CrossLingualRows(image_ids, output.source_embeds, output.target_embeds)
        if self.reads_words:
            # bf16 steps near a cosine of 1 are 1/256, and the cost is what is left to 1.
            with torch.autocast(image_ids.device.type, enabled=False):
                self._add_words(rows, output)
        return rows

    def _add_words(self, rows: CrossLingualRows, output: Any) -> None:
        masks = output.source_mask, output.target_mask
        cosines = token_cosines(output.source_states.float(), output.target_states.float())
        with torch.no_grad():
            plan = transport_plan(
                1 - cosines,
                *masks,
                epsilon=self.config.transport_epsilon,
                iterations=self.config.transport_iterations,
            )
        rows.word_transport = (plan * (1 - cosines)).sum(dim=(1, 2))
        rows.word_alignment = alignment_cross_entropy(
            plan, cosines, *masks, temperature=self.config.alignment_temperature
        )
        rows.marginal_error = marginal_error(plan, *masks)


class Cl2cmCriterion(Criterion[Cl2cmRows]):
    """The objectives of the second stage.

    Args:
        config: weights and temperatures.
    """

    def __init__(self, config: Cl2cmLossConfig) -> None:
        weights = config.weights()
        super().__init__(
            config,
            {name: term for name, term in CL2CM_TERMS.items() if weights[name] > 0 or name not in TEACHER_TERMS},
        )

    def summarise(self, output: Any, image_ids: Tensor) -> Cl2cmRows:
        """Reduce a `Cl2cmOutput` to one row an item; without a term that reads them, the teacher's stay outside.

        Args:
            output: a `Cl2cmOutput` of training pairs.
            image_ids: (batch,) integers, equal for rows of one image.

        Raises:
            ValueError: the number of ids is not the batch size, or the teacher's embeddings are missing.
        """
        check_row_ids(image_ids, output.image_embeds)
        rows = Cl2cmRows(image_ids, output.image_embeds, output.source_embeds, output.target_embeds)
        if self.config.reads_teacher:
            if output.teacher_source_embeds is None or output.teacher_target_embeds is None:
                raise ValueError(
                    f"the terms {TEACHER_TERMS} read teacher_source_embeds and teacher_target_embeds of the "
                    f"cross-lingual network, got none with this batch; name a teacher, or set their weights to 0."
                )
            rows.teacher_source_embeds = output.teacher_source_embeds.float()
            rows.teacher_target_embeds = output.teacher_target_embeds.float()
        return rows
