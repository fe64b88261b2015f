"""Evaluate a model on one split in several languages."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from modeling_leccr.matching_leccr import composite_vectors
from processing.records import SOURCE_LANGUAGE, check_columns, query_column
from retrieval.encode import encode_items, encode_texts
from retrieval.metrics import recall_metrics
from retrieval.ranks import DEFAULT_CHUNK_SIZE, RetrievalRanks, rank_texts_and_items, score_spread

logger = logging.getLogger(__name__)

# What an index can rank by: the score of an item and a text that does not depend on other items and texts.
ItemScoring = Literal["fused", "global", "slots"]
Scoring = Literal[ItemScoring, "min_max"]
# Of the image embedding under `min_max`, where the weight of a model, which is one of cosines, means nothing. Official.
MIN_MAX_GLOBAL_WEIGHT = 0.9
TIE_RULE = "pessimistic: a tie counts against the model; ranks start at 1"


def evaluate_retrieval(
    model: Any,
    processor: Any,
    split: Any,
    languages: Sequence[str],
    *,
    scoring: Scoring = "fused",
    global_weight: float | None = None,
    use_descriptions: bool = True,
    batch_size: int = 64,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    name: str | None = None,
    progress: bool = True,
    shared: bool = False,
) -> dict[str, float]:
    """Recalls of human captions against all items of a split, both directions, in each language.

    Args: as `retrieval_ranks`; `name` of the evaluation in the log, by default the split's own.

    Returns:
        For each language `<language>/i2t_R@1` ... (percent), `<language>/sum_r` (0 to 600), median ranks (1 is the
        best), `<language>/num_items` and `<language>/num_texts`; and `mean/sum_r` over the languages.

    Raises:
        ValueError: as `retrieval_ranks`.
    """
    ranks = retrieval_ranks(
        model,
        processor,
        split,
        languages,
        scoring=scoring,
        global_weight=global_weight,
        use_descriptions=use_descriptions,
        batch_size=batch_size,
        chunk_size=chunk_size,
        progress=progress,
        shared=shared,
    )
    metrics: dict[str, float] = {}
    for language, found in ranks.items():
        metrics |= recall_metrics(found, prefix=f"{language}/")
        metrics[f"{language}/num_items"] = float(len(found.i2t))
        metrics[f"{language}/num_texts"] = float(len(found.t2i))
    sums = ", ".join(f"{language} {metrics[f'{language}/sum_r']:.1f}" for language in ranks)
    logger.info("%s, %d items: SumR %s", name or _name_of(split), len(split), sums)
    metrics["mean/sum_r"] = sum(metrics[f"{language}/sum_r"] for language in ranks) / len(ranks)
    return metrics


def retrieval_ranks(
    model: Any,
    processor: Any,
    split: Any,
    languages: Sequence[str],
    *,
    scoring: Scoring = "fused",
    global_weight: float | None = None,
    use_descriptions: bool = True,
    batch_size: int = 64,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    progress: bool = True,
    shared: bool = False,
) -> dict[str, RetrievalRanks]:
    """Rank of each query's best answer, both directions, in each language: what all metrics are made of.

    The items are encoded once for all languages. An item may have any number of captions.

    Args:
        split: a `datasets.Dataset` in the schema, see processing/records.py.
        languages: codes such as `de`; the captions come from `caption_<language>`. `de_mt` asks with the machine
            translations instead, and says so in the name of its metrics.
        scoring: `fused` (global and slots), `global` (image embedding alone), `slots` (best slot alone), or `min_max`:
            as the released code ranks videos, see `min_max_weight`. There each score depends on all other items and
            texts of the split, so that neither is it a score of an index nor comparable between splits.
        global_weight: share of the image embedding in `fused` (None takes the model's own) and in `min_max` (None takes
            the released 0.9).
        use_descriptions: False evaluates as for pictures that nobody described.
        batch_size: items, and a quarter of the texts, in one forward pass.
        chunk_size: see `rank_texts_and_items`.
        progress: show bars.
        shared: the processes of a distributed run share the encoding; each calls this with the same split, and each
            computes the ranks of all of it.

    Returns:
        Language -> its ranks, the items in the order of the split and the texts in that of `read_captions`. Items
        without any translation are neither queries nor candidates of a `_mt` evaluation.

    Raises:
        ValueError: no language, an unknown one, English where English captions are the items, a missing caption column,
            an empty split, an item without a caption, or a scoring that the model does not have.
    """
    if not languages:
        raise ValueError("languages is empty; name at least one, such as ['de'].")
    check_queries(model.config, languages)
    captions = {language: read_captions(split, language) for language in languages}
    image_embeds, slot_embeds = encode_items(
        model,
        processor,
        split,
        batch_size,
        use_descriptions=use_descriptions,
        progress=progress,
        shared=shared,
    )
    weight = chosen_weight(model.config, scoring, global_weight)
    ranks: dict[str, RetrievalRanks] = {}
    for language, (texts, text_to_item) in captions.items():
        text_embeds = encode_texts(model, processor, texts, 4 * batch_size, progress=progress, shared=shared)
        # All items, but for translations: one whose translations were all refused has no text to be found by.
        asked = text_to_item.unique()
        images, slots = image_embeds, slot_embeds
        if len(asked) < len(split):
            images, slots = images[asked], None if slots is None else slots[asked]
        composites = _composites_of(images, slots, text_embeds, scoring, weight, chunk_size)
        owners = torch.searchsorted(asked, text_to_item)
        ranks[language] = rank_texts_and_items(composites, text_embeds, owners, chunk_size=chunk_size)
    return ranks


def _composites_of(
    image_embeds: Tensor,
    slot_embeds: Tensor | None,
    text_embeds: Tensor,
    scoring: Scoring,
    global_weight: float,
    chunk_size: int,
) -> Tensor:
    """The vectors that rank the items for these texts; only `min_max` looks at the texts."""
    if scoring != "min_max":
        return item_composites(image_embeds, slot_embeds, scoring=scoring, global_weight=global_weight)
    if slot_embeds is not None:
        global_weight = min_max_weight(image_embeds, slot_embeds, text_embeds, global_weight, chunk_size=chunk_size)
    return item_composites(image_embeds, slot_embeds, scoring="fused", global_weight=global_weight)


def evaluation_protocol(
    model: Any,
    split: Any,
    languages: Sequence[str],
    *,
    scoring: Scoring = "fused",
    global_weight: float | None = None,
    use_descriptions: bool = True,
    split_name: str | None = None,
) -> dict[str, Any]:
    """What a reader must know to compare recalls: how many candidates and captions, the tie rule and the scoring.

    Args: as `evaluate_retrieval`; `split_name` for a split that does not know its own.

    Returns:
        A dictionary for JSON. `captions_per_item` is [fewest, most].
    """
    check_queries(model.config, languages)
    counts: dict[str, Any] = {}
    for language in languages:
        texts, text_to_item = read_captions(split, language)
        per_item = text_to_item.unique(return_counts=True)[1]
        counts[language] = {
            "num_items": len(per_item),
            "num_texts": len(texts),
            "captions_per_item": [int(per_item.min()), int(per_item.max())],
        }
        if len(per_item) < len(split):
            counts[language]["items_without_translation_left_out"] = len(split) - len(per_item)
    weight = chosen_weight(model.config, scoring, global_weight)
    return {
        "split": split_name or _name_of(split),
        "scoring": scoring,
        "global_weight": weight if scoring in ("fused", "min_max") else None,
        **({"scores_depend_on": "all items and texts of the split"} if scoring == "min_max" else {}),
        "item_source": model.config.item_source,
        **({"vision_input": model.config.vision_input} if model.config.has_frames else {}),
        "descriptions": use_descriptions and model.config.reads_description,
        "directions": ["i2t", "t2i"],
        "tie_rule": TIE_RULE,
        "languages": counts,
    }


def check_queries(config: Any, languages: Sequence[str]) -> None:
    """Refuse to find items by what they are made of.

    Raises:
        ValueError: English captions are asked for by themselves.
    """
    if config.captions_are_items and SOURCE_LANGUAGE in languages:
        raise ValueError(
            f"languages must not have {SOURCE_LANGUAGE!r} for a network of texts: its items are the English captions "
            f"themselves, and each would be found by itself; got {list(languages)}."
        )


def read_captions(split: Any, language: str) -> tuple[list[str], Tensor]:
    """All captions of a split in one language, and the position of the item of each.

    Translations that were refused are null; an item of which all were refused has none among the texts.

    Returns:
        The texts, and (num_texts,) int64.

    Raises:
        ValueError: the language is unknown, the split has no such column or is empty, an item has no human caption,
            or no item a translation.
    """
    column = query_column(language)
    name = _name_of(split)
    if len(split) == 0:
        raise ValueError(f"split {name!r} is empty; evaluation needs at least 2 items.")
    found = getattr(split, "column_names", None)
    check_columns(list(split[0]) if found is None else found, [column], split=name)
    # One column is read alone, or each picture would be decoded for its captions.
    rows: Sequence[Mapping[str, Any]] = split if found is None else split.select_columns(column)
    texts: list[str] = []
    owners: list[int] = []
    for position, row in enumerate(rows):
        captions = [caption for caption in row[column] or [] if caption is not None]
        if not captions and not language.endswith("_mt"):
            raise ValueError(
                f"item {position} of split {name!r} has no caption in {column}; caption it or leave it out."
            )
        texts += captions
        owners += [position] * len(captions)
    if not texts:
        raise ValueError(f"split {name!r} has no text in {column}: all of it was refused; translate it again.")
    return texts, torch.tensor(owners)


def chosen_weight(config: Any, scoring: Scoring, global_weight: float | None) -> float:
    """Share of the image embedding: the one asked for, or the one that a scoring has by default."""
    if global_weight is not None:
        return global_weight
    return MIN_MAX_GLOBAL_WEIGHT if scoring == "min_max" else config.global_weight


def min_max_weight(
    image_embeds: Tensor,
    slot_embeds: Tensor,
    text_embeds: Tensor,
    global_weight: float,
    *,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> float:
    """The weight with which the fused score ranks as the min-max score of the released video script does.

    Official: a * mm(g) + (1 - a) * mm(l), where mm stretches the matrix of the global scores g, and that of the best
    slots l, of all items with all texts to [0, 1]. Both stretchings are linear, so the sum is, but for a constant,
    a positive multiple of b * g + (1 - b) * l with b : (1 - b) = a / spread(g) : (1 - a) / spread(l).

    Args:
        image_embeds: (num_items, embed_dim), all candidates.
        slot_embeds: (num_items, num_slots, embed_dim), of any norm.
        text_embeds: (num_texts, embed_dim), all texts of the evaluation.
        global_weight: a, 0 to 1.
        chunk_size: see `rank_texts_and_items`.

    Returns:
        b, 0 to 1; it changes with any item or text that is added. A half without any spread gets no weight.

    Raises:
        ValueError: `global_weight` is out of range, or as `score_spread`.
    """
    if not 0 <= global_weight <= 1:
        raise ValueError(f"global_weight must lie in [0, 1], got {global_weight}.")
    global_spread = score_spread(image_embeds.unsqueeze(1), text_embeds, chunk_size=chunk_size)
    slot_spread = score_spread(slot_embeds, text_embeds, chunk_size=chunk_size)
    global_part = global_weight / global_spread if global_spread else 0.0
    slot_part = (1 - global_weight) / slot_spread if slot_spread else 0.0
    total = global_part + slot_part
    return global_part / total if total else global_weight


def item_composites(
    image_embeds: Tensor, slot_embeds: Tensor | None, *, scoring: ItemScoring, global_weight: float
) -> Tensor:
    """The vectors of each item whose best dot product with a text is the score asked for.

    Args:
        image_embeds: (num_items, embed_dim), unit norm.
        slot_embeds: (num_items, num_slots, embed_dim), unit norm, or None for a model without slots.
        scoring: `fused`, `global` or `slots`. Without slots `fused` is the same as `global`.
        global_weight: share of the image embedding in `fused`, 0 to 1.

    Returns:
        (num_items, num_vectors, embed_dim), see `matching_leccr.composite_vectors`.

    Raises:
        ValueError: `scoring` is unknown, or `slots` for a model without slots.
    """
    if scoring not in get_args(ItemScoring):
        raise ValueError(
            f"scoring must be one of {list(get_args(ItemScoring))}, got {scoring!r}; 'min_max' belongs to the "
            f"evaluation of a whole split, because each of its scores depends on all items and texts."
        )
    if scoring == "slots" and slot_embeds is None:
        raise ValueError("scoring is 'slots' but this model has no slots; use 'global'.")
    if scoring == "global" or slot_embeds is None:
        return composite_vectors(image_embeds, None, 1.0)
    return composite_vectors(image_embeds, slot_embeds, 0.0 if scoring == "slots" else global_weight)


def _name_of(split: Any) -> str:
    return str(getattr(split, "split", None) or "unnamed")
