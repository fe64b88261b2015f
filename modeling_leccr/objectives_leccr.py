"""What the training objectives of all systems share: rows of a batch, settings, contrastive losses, the criterion."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from .matching_leccr import global_scores


@dataclass
class BatchRows:
    """One row an item and pair: what the terms read, and what is gathered over processes.

    A system adds its own fields, all of them tensors with the rows on the first axis, or None where there are none.

    Args:
        image_ids: (batch,) integers; rows with one id show one item, so all their captions are positives.
    """

    image_ids: Tensor

    def map(self: "Rows", function: Callable[[Tensor], Tensor]) -> "Rows":
        """Apply a function, such as a gather, to each tensor."""
        present = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return type(self)(**{name: function(value) for name, value in present.items() if value is not None})


Rows = TypeVar("Rows", bound=BatchRows)


@dataclass
class TwoStreamRows(BatchRows):
    """Rows of items that are images.

    Args:
        image_embeds, source_embeds, target_embeds: (batch, embed_dim), unit norm.
    """

    image_embeds: Tensor
    source_embeds: Tensor
    target_embeds: Tensor


class PairRows(Protocol):
    """Rows of any system that reads pairs of an English caption and its translation."""

    image_ids: Tensor
    source_embeds: Tensor
    target_embeds: Tensor


@dataclass(frozen=True)
class LossSettings(ABC):
    """Settings that the losses of every system have.

    Args:
        without: names of terms that are not computed, for ablations; the weights of the others stay as they are.
    """

    without: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        known = list(self.weights())
        unknown = sorted(set(self.without) - set(known))
        if unknown or set(self.without) >= set(known):
            raise ValueError(
                f"loss.without names terms to leave out, not all of them, among {known}, got {self.without}."
            )

    @classmethod
    def from_dict(cls: "type[Settings]", values: dict[str, Any]) -> "Settings":
        """Read the `loss:` section of a recipe.

        Raises:
            ValueError: a name is unknown or a value is out of range.
        """
        known = [entry.name for entry in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown loss settings {unknown}; the known ones are {known}.")
        return cls(**values)

    @abstractmethod
    def weights(self) -> dict[str, float]:
        """Weight of each term in the total."""

    @property
    def reads_teacher(self) -> bool:
        """Whether a term reads what another network, a teacher, makes of the rows."""
        return False

    def check_shares(self, *names: str) -> None:
        """Refuse a share that is not one."""
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"loss.{name} must lie in [0, 1], got {getattr(self, name)}.")

    def check_weights(self, *names: str) -> None:
        """Refuse a weight that would maximise what should be minimised."""
        for name in names:
            if not getattr(self, name) >= 0:
                raise ValueError(f"loss.{name} must not be negative, got {getattr(self, name)}.")

    def check_positive(self, *names: str) -> None:
        """Refuse a temperature that divides by zero or turns the order around."""
        for name in names:
            if not getattr(self, name) > 0:
                raise ValueError(f"loss.{name} must be positive, got {getattr(self, name)}.")


Settings = TypeVar("Settings", bound=LossSettings)


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
    check_negatives(logits.shape[0])
    return (soft_cross_entropy(logits, targets) + soft_cross_entropy(logits.T, targets)) / 2


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each row with a target distribution: scalar, mean over the rows, in nats."""
    return -(targets * log_softmax(logits, dim=1)).sum(dim=1).mean()


def matched_contrastive(left: Tensor, right: Tensor, image_ids: Tensor, logit_scale: Tensor) -> Tensor:
    """`contrastive_loss` between two embeddings of the same rows, at the learned temperature."""
    return contrastive_loss(global_scores(left, right) * logit_scale.exp(), shared_targets(image_ids))


def source_contrastive(batch: TwoStreamRows, logit_scale: Tensor, config: LossSettings) -> Tensor:
    """Image against English caption. Official: `itc_vs`."""
    return matched_contrastive(batch.image_embeds, batch.source_embeds, batch.image_ids, logit_scale)


def target_contrastive(batch: TwoStreamRows, logit_scale: Tensor, config: LossSettings) -> Tensor:
    """Image against translated caption. Official: `itc_vt`."""
    return matched_contrastive(batch.image_embeds, batch.target_embeds, batch.image_ids, logit_scale)


def cross_lingual(batch: PairRows, logit_scale: Tensor, config: LossSettings) -> Tensor:
    """English caption against its translation. Official: `itc_st`."""
    return matched_contrastive(batch.source_embeds, batch.target_embeds, batch.image_ids, logit_scale)


def check_negatives(num_items: int) -> None:
    """Refuse a batch in which nothing can be told apart.

    Raises:
        ValueError: there is one item alone.
    """
    if num_items < 2:
        raise ValueError(
            f"a contrastive loss needs at least 2 items in the global batch, got {num_items}: captions of one item are "
            f"no negatives for each other; raise per_device_train_batch_size, keep dataloader_drop_last, or train on "
            f"more items."
        )


def check_row_ids(image_ids: Tensor, embeds: Tensor) -> None:
    """Refuse ids that would broadcast over the rows.

    Raises:
        ValueError: the number of ids is not the batch size.
    """
    if image_ids.shape != embeds.shape[:1]:
        raise ValueError(f"image_ids must be ({embeds.shape[0]},), one a row, got {tuple(image_ids.shape)}.")


class Criterion(ABC, Generic[Rows]):
    """All objectives of a recipe: from a model's output to named scalars and their weighted sum.

    Args:
        config: weights and temperatures.
        terms: the objectives by name; those in `config.without` are left out.
    """

    def __init__(self, config: Any, terms: Mapping[str, Callable[[Rows, Tensor, Any], Tensor]]) -> None:
        self.config = config
        self.terms = {name: term for name, term in terms.items() if name not in config.without}

    @abstractmethod
    def summarise(self, output: Any, image_ids: Tensor) -> Rows:
        """Reduce a model's output to one row an item.

        Args:
            output: of training pairs.
            image_ids: (batch,) integers, equal for rows of one item.
        """

    def names_for(self, batch: Rows) -> list[str]:
        """The terms that these rows have."""
        return list(self.terms)

    def __call__(self, batch: Rows, logit_scale: Tensor, *, num_items: int | None = None) -> dict[str, Tensor]:
        """Each term of the global batch, before its weight: {name: scalar}.

        Args:
            batch: its rows.
            logit_scale: logarithm of the inverse temperature.
            num_items: different items that are known to be among them, at least; None counts them, and waits for the
                device to do so.

        Raises:
            ValueError: there is one item alone, or no term is left.
        """
        check_negatives(batch.image_ids.unique().numel() if num_items is None else num_items)
        names = self.names_for(batch)
        if not names:
            raise ValueError(f"loss.without={self.config.without} leaves no term that these rows have.")
        # Autocast would compute the logits in bf16, whose steps near 10 are 1/16: too coarse for a softmax.
        with torch.autocast(batch.image_ids.device.type, enabled=False):
            terms = {name: self.terms[name](batch, logit_scale, self.config) for name in names}
            if self.config.without:
                terms[names[0]] = terms[names[0]] + _zero_of(batch, logit_scale)
            return terms

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the terms: the scalar to minimise."""
        weights = self.config.weights()
        return torch.stack([weights[name] * value for name, value in terms.items()]).sum()


def _zero_of(batch: BatchRows, logit_scale: Tensor) -> Tensor:
    """Zero, with a gradient of zero: DDP waits for that of each parameter, also of one whose only term is left out."""
    sums = [value.sum() for value in vars(batch).values() if value is not None and value.is_floating_point()]
    return 0.0 * torch.stack([*sums, logit_scale.sum()]).sum()
