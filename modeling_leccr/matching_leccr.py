"""Scores between items and captions: the one definition that losses, evaluation and index share.

An item is an image embedding v and, with slots, K slot embeddings s_k. A caption is one embedding t.
All functions return cosines in [-1, 1] for unit-norm inputs, before the logit scale.
"""

import torch
from torch import Tensor


def global_scores(image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
    """Global half of multi-level matching: the image embedding against each caption.

    Args:
        image_embeds: (num_images, embed_dim), unit L2 norm on the last axis.
        text_embeds: (num_texts, embed_dim), unit L2 norm on the last axis.

    Returns:
        (num_images, num_texts) cosines in [-1, 1].

    Raises:
        ValueError: the two embed_dim differ.
    """
    if image_embeds.shape[-1] != text_embeds.shape[-1]:
        raise ValueError(
            f"image_embeds and text_embeds must have one embed_dim, got {tuple(image_embeds.shape)} and "
            f"{tuple(text_embeds.shape)}."
        )
    return image_embeds @ text_embeds.T


def slot_scores(slot_embeds: Tensor, text_embeds: Tensor) -> Tensor:
    """Local half of multi-level matching: each caption is scored by its best slot.

    Paper: arXiv:2409.19961, multi-level matching. Official: get_caption_contrastive_loss.
    Differs: square batches only there; here any (images x texts).

    Args:
        slot_embeds: (num_images, num_slots, embed_dim), unit L2 norm on the last axis (official: raw).
        text_embeds: (num_texts, embed_dim), unit L2 norm on the last axis.

    Returns:
        (num_images, num_texts) cosines in [-1, 1].

    Raises:
        ValueError: `slot_embeds` is not 3-D or the two embed_dim differ.
    """
    if slot_embeds.ndim != 3 or slot_embeds.shape[-1] != text_embeds.shape[-1]:
        raise ValueError(
            f"slot_embeds must be (num_images, num_slots, {text_embeds.shape[-1]}) to match text_embeds, "
            f"got {tuple(slot_embeds.shape)}."
        )
    num_images, num_slots, _ = slot_embeds.shape
    per_slot = slot_embeds.flatten(0, 1) @ text_embeds.T  # (num_images * num_slots, num_texts)
    return per_slot.view(num_images, num_slots, -1).amax(dim=1)


def composite_vectors(image_embeds: Tensor, slot_embeds: Tensor | None, global_weight: float) -> Tensor:
    """Item vectors whose best dot product with a caption is the fused score.

    a * (v . t) + (1 - a) * max_k(s_k . t) = max_k [(a * v + (1 - a) * s_k) . t], so ranking by the fused score is
    plain maximum-inner-product search over K vectors an item.

    Args:
        image_embeds: (num_images, embed_dim).
        slot_embeds: (num_images, num_slots, embed_dim), or None for a model without slots.
        global_weight: a in [0, 1]; 1 ranks by the image embedding alone, 0 by the slots alone.

    Returns:
        (num_images, num_slots, embed_dim); one vector an item when the slots do not count.

    Raises:
        ValueError: `global_weight` is out of range, or it gives weight to slots that are not there.
    """
    if not 0 <= global_weight <= 1:
        raise ValueError(f"global_weight must lie in [0, 1], got {global_weight}.")
    if global_weight == 1:
        return image_embeds.unsqueeze(1)
    if slot_embeds is None:
        raise ValueError(f"global_weight={global_weight} scores by slots, but there are none; use global_weight=1.")
    if slot_embeds.ndim != 3 or slot_embeds.shape[::2] != image_embeds.shape:
        raise ValueError(
            f"slot_embeds must be (num_images, num_slots, embed_dim) with image_embeds {tuple(image_embeds.shape)}, "
            f"got {tuple(slot_embeds.shape)}."
        )
    return global_weight * image_embeds.unsqueeze(1) + (1 - global_weight) * slot_embeds


def fused_scores(image_embeds: Tensor, slot_embeds: Tensor | None, text_embeds: Tensor, global_weight: float) -> Tensor:
    """Both levels in one score: a * global + (1 - a) * best slot.

    Args: as `composite_vectors` and `slot_scores`.

    Returns:
        (num_images, num_texts) in [-1, 1].
    """
    return slot_scores(composite_vectors(image_embeds, slot_embeds, global_weight), text_embeds)


def min_max(scores: Tensor) -> Tensor:
    """Stretch a score matrix to [0, 1] over all its cells.

    Raises:
        ValueError: the matrix has fewer than two cells, so that there is no range to stretch.
    """
    if scores.numel() < 2:
        raise ValueError(
            f"min-max needs at least two scores, got a matrix of {tuple(scores.shape)}; "
            f"raise the batch size to 2 or more."
        )
    low, high = torch.aminmax(scores)
    # A constant matrix has no range: divided by 1 it becomes zeros, with finite gradients, instead of NaN.
    return (scores - low) / torch.where(high > low, high - low, 1)
