"""Slow oracles: each objective and score as loops, straight from its formula; nothing is shared with the code."""

import math

import torch
from torch import Tensor


def cosine(left: Tensor, right: Tensor) -> Tensor:
    """Cosine of two vectors, in [-1, 1]."""
    return (left * right).sum() / (left.square().sum().sqrt() * right.square().sum().sqrt())


def global_scores_by_loops(image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
    """(num_images, num_texts) dot products."""
    return torch.stack([torch.stack([(image * text).sum() for text in text_embeds]) for image in image_embeds])


def slot_scores_by_loops(slot_embeds: Tensor, text_embeds: Tensor) -> Tensor:
    """(num_images, num_texts) dot product of each text with the best of an image's slots."""
    rows = []
    for slots in slot_embeds:
        rows.append(torch.stack([torch.stack([(slot * text).sum() for slot in slots]).max() for text in text_embeds]))
    return torch.stack(rows)


def fused_scores_by_loops(
    image_embeds: Tensor, slot_embeds: Tensor, text_embeds: Tensor, global_weight: float
) -> Tensor:
    """The weighted sum of both levels, added up after each was scored."""
    return global_weight * global_scores_by_loops(image_embeds, text_embeds) + (
        1 - global_weight
    ) * slot_scores_by_loops(slot_embeds, text_embeds)


def min_max_by_loops(scores: Tensor) -> Tensor:
    """(s - min) / (max - min) over all cells; zeros for a constant matrix."""
    cells = scores.flatten().tolist()
    low, high = min(cells), max(cells)
    if high == low:
        return torch.zeros_like(scores)
    return torch.tensor([[(cell - low) / (high - low) for cell in row] for row in scores.tolist()])


def cross_entropy_by_loops(logits: Tensor, image_ids: Tensor) -> Tensor:
    """Rows against columns: minus the mean log-probability of a row's positives, averaged over the rows, in nats."""
    losses = []
    for row, own in zip(logits, image_ids.tolist(), strict=True):
        log_sum = torch.logsumexp(row, dim=0)
        positives = [column for column, other in enumerate(image_ids.tolist()) if other == own]
        losses.append(-sum(row[column] - log_sum for column in positives) / len(positives))
    return torch.stack(losses).mean()


def contrastive_loss_by_loops(logits: Tensor, image_ids: Tensor) -> Tensor:
    """Mean of both directions of `cross_entropy_by_loops`."""
    return (cross_entropy_by_loops(logits, image_ids) + cross_entropy_by_loops(logits.T, image_ids)) / 2


def slot_vision_scores_by_loops(slot_states: Tensor, patch_states: Tensor) -> Tensor:
    """(num_items, num_items): mean over all slots of one item and all tokens of another of their cosines."""
    rows = []
    for slots in slot_states:
        row = [
            torch.stack([cosine(slot, patch) for slot in slots for patch in patches]).mean() for patches in patch_states
        ]
        rows.append(torch.stack(row))
    return torch.stack(rows)


def official_slot_vision_scores(slot_states: Tensor, patch_states: Tensor) -> Tensor:
    """The released form: unit norm over the *token* axis, then the full block of (slots x tokens) for each pair."""
    slots = slot_states / slot_states.norm(dim=1, keepdim=True)
    patches = patch_states / patch_states.norm(dim=1, keepdim=True)
    return torch.einsum("ikh,jph->ijkp", slots, patches).mean(dim=(2, 3))


def slot_diversity_by_loops(slots: Tensor) -> Tensor:
    """Sum of the cosines between different slots of an item, over K squared, averaged over the items."""
    num_slots = slots.shape[1]
    values = []
    for item in slots:
        pairs = [cosine(item[k], item[m]) for k in range(num_slots) for m in range(num_slots) if k != m]
        values.append(sum(pairs) / num_slots**2)
    return torch.stack([torch.as_tensor(value) for value in values]).mean()


def guidance_by_loops(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) of each row, averaged over the rows, in nats."""
    values = []
    for teacher_row, student_row in zip(teacher, student, strict=True):
        p, q = teacher_row.softmax(dim=0), student_row.softmax(dim=0)
        values.append(sum(p[i] * (torch.log(p[i]) - torch.log(q[i])) for i in range(len(p))))
    return torch.stack(values).mean()


def ranks_by_loops(scores: Tensor, text_to_item: Tensor) -> tuple[list[int], list[int]]:
    """Ranks (first = 1) of each item's best caption and of each text's item; ties count against the model.

    An item's other captions do not stand between it and its best one.
    """
    owners = text_to_item.tolist()
    image_to_text, text_to_image = [], []
    for item, row in enumerate(scores.tolist()):
        best = max(score for score, owner in zip(row, owners, strict=True) if owner == item)
        wrong = [score for score, owner in zip(row, owners, strict=True) if owner != item]
        image_to_text.append(1 + sum(score >= best for score in wrong))
    for text, owner in enumerate(owners):
        column = scores[:, text].tolist()
        others = [score for item, score in enumerate(column) if item != owner]
        text_to_image.append(1 + sum(score >= column[owner] for score in others))
    return image_to_text, text_to_image


def sinkhorn_by_loops(cost: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Transport plan of one pair without padding, (S, T): masses of 1/S and 1/T, columns scaled before rows."""
    num_rows, num_columns = cost.shape
    kernel = [[math.exp(-float(cost[i, j]) / epsilon) for j in range(num_columns)] for i in range(num_rows)]
    u, v = [1.0] * num_rows, [1.0] * num_columns
    for _ in range(iterations):
        for j in range(num_columns):
            v[j] = 1 / num_columns / sum(u[i] * kernel[i][j] for i in range(num_rows))
        for i in range(num_rows):
            u[i] = 1 / num_rows / sum(kernel[i][j] * v[j] for j in range(num_columns))
    return torch.tensor([[u[i] * kernel[i][j] * v[j] for j in range(num_columns)] for i in range(num_rows)])


def marginal_error_by_loops(plan: Tensor) -> float:
    """Largest deviation of a row from 1/S or of a column from 1/T, of one plan without padding."""
    rows = [abs(sum(row) - 1 / len(plan)) for row in plan.tolist()]
    columns = [abs(sum(column) - 1 / len(plan.T)) for column in plan.T.tolist()]
    return max(rows + columns)


def alignment_cross_entropy_by_loops(plan: Tensor, cosines: Tensor, temperature: float) -> Tensor:
    """Of one pair without padding: soft alignments against shares of the plan, mean over tokens, then both ways."""
    ways = []
    for shares, scores in ((plan, cosines), (plan.T, cosines.T)):
        values = []
        for share, row in zip(shares, scores, strict=True):
            probabilities = torch.softmax(row / temperature, dim=0)
            values.append(-sum(share[j] / share.sum() * torch.log(probabilities[j]) for j in range(len(row))))
        ways.append(sum(values) / len(values))
    return (ways[0] + ways[1]) / 2
