"""Encode a split once: items and texts to unit vectors on the CPU, in the order they came."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from modeling_leccr.towers_leccr import eval_mode
from processing.records import DESCRIPTION_COLUMN, SOURCE_LANGUAGE, caption_column
from processing.visual_rows import VisualRows, as_processor_inputs
from retrieval.items import read_column, read_ids
from retrieval.ranks import check_finite
from retrieval.sharing import Processes, has_split_weights

_BAR_AFTER_SECONDS = 5.0


def encode_items(
    model: Any,
    processor: Any,
    rows: Sequence[Mapping[str, Any]],
    batch_size: int = 64,
    *,
    use_descriptions: bool = True,
    progress: bool = True,
    shared: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Embed the items of a split, from what the model's `config.item_source` names.

    An item of a network of texts (`source_captions`) is the mean of its English captions.

    Args:
        model: of any system.
        processor: a `LeccrProcessor`.
        rows: rows of the schema (processing/records.py), such as a split of a data set.
        batch_size: items in one forward pass.
        use_descriptions: False leaves descriptions out, as for pictures or videos that nobody described.
        progress: show a bar, if it takes a while.
        shared: the processes of a distributed run share the rows out; each calls this with the same rows, and each
            gets all embeddings.

    Returns:
        image_embeds (num_items, embed_dim), and slot_embeds (num_items, num_slots, embed_dim) or None if the model
        has no slots; float32 on the CPU.

    Raises:
        ValueError: no rows, a picture or clip that is missing or cannot be read, an item without English captions where
            the model reads them, or an embedding that is not finite.
    """
    if model.config.captions_are_items:
        return _mean_captions(model, processor, rows, batch_size, progress=progress, shared=shared), None
    descriptions: list[str | None] = [None] * len(rows)
    if use_descriptions and model.config.reads_description:
        descriptions = read_column(rows, DESCRIPTION_COLUMN)

    # Decided for all batches: where the text tower is split over processes, all must ask it equally often. Without any
    # description the model takes its null description, or says that it cannot.
    has_descriptions = any(descriptions)
    if not has_descriptions and not model.config.reads_image:
        raise ValueError(
            "this model knows items by their descriptions alone, and none of them has one; make them with `leccr "
            "describe`, and do not leave them out."
        )
    seen = VisualRows(rows, model.config.vision_input, processor.sampling) if model.config.reads_image else None

    def embed(batch: list[int]) -> list[Tensor]:
        inputs = processor(
            **as_processor_inputs([] if seen is None else [seen.read(i) for i in batch]),
            descriptions=[descriptions[i] for i in batch] if has_descriptions else None,
            return_tensors="pt",
        ).to(device=model.device, dtype=model.dtype)
        features = model.get_image_features(**inputs)
        return [features.pooler_output, *([] if features.slot_embeds is None else [features.slot_embeds])]

    processes = Processes(shared=shared)
    if processes.count > 1:
        processes.check_same((read_ids(rows), descriptions), name="items")
    lengths = [len(text or "") for text in descriptions]
    image_embeds, *slot_embeds = _encode(model, embed, lengths, batch_size, processes, name="items", progress=progress)
    check_finite(image_embeds, "image_embeds")
    for embeds in slot_embeds:
        check_finite(embeds, "slot_embeds")
    return image_embeds, slot_embeds[0] if slot_embeds else None


def _mean_captions(
    model: Any, processor: Any, rows: Sequence[Mapping[str, Any]], batch_size: int, *, progress: bool, shared: bool
) -> Tensor:
    """(num_items, embed_dim), unit norm: the direction of the mean of each item's English captions."""
    captions = read_source_captions(rows)
    texts = [caption for texts in captions for caption in texts]
    embeds = encode_texts(model, processor, texts, 4 * batch_size, progress=progress, shared=shared)
    means = torch.stack([part.mean(dim=0) for part in embeds.split([len(texts) for texts in captions])])
    return normalize(means, dim=-1)


def read_source_captions(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The English captions of each item, for a network of texts.

    Raises:
        ValueError: an item has none.
    """
    column = caption_column(SOURCE_LANGUAGE)
    captions = read_column(rows, column)
    if missing := [position for position, texts in enumerate(captions) if not texts]:
        split = getattr(rows, "split", None)
        named = f" of the split '{split}'" if split else ""
        raise ValueError(
            f"{len(missing)} of {len(captions)} items{named} have no {column} (first rows: {missing[:3]}), from which "
            f"this network of texts embeds them; it reads no pictures. Caption them, or take a model of pictures."
        )
    return captions


def encode_texts(
    model: Any,
    processor: Any,
    texts: Sequence[str],
    batch_size: int = 256,
    *,
    progress: bool = True,
    shared: bool = False,
) -> Tensor:
    """Embed captions or queries, each batch padded to its own longest text.

    Texts of like length share a batch. Padding does not change an embedding, so the sorting saves time only.

    Args:
        model: of any system.
        processor: a `LeccrProcessor`.
        texts: any language, any order.
        batch_size: texts in one forward pass.
        progress: show a bar, if it takes a while.
        shared: as in `encode_items`.

    Returns:
        (num_texts, embed_dim) float32 on the CPU, in the order of `texts`.

    Raises:
        ValueError: no texts, or an embedding that is not finite.
    """

    def embed(batch: list[int]) -> list[Tensor]:
        inputs = processor(text=[texts[i] for i in batch], return_tensors="pt").to(device=model.device)
        return [model.get_text_features(inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output]

    processes = Processes(shared=shared)
    processes.check_same(texts, name="texts")
    lengths = [len(text) for text in texts]
    (text_embeds,) = _encode(model, embed, lengths, batch_size, processes, name="texts", progress=progress)
    check_finite(text_embeds, "text_embeds")
    return text_embeds


def _encode(
    model: Any,
    embed: Callable[[list[int]], list[Tensor]],
    lengths: Sequence[int],
    batch_size: int,
    processes: Processes,
    *,
    name: str,
    progress: bool,
) -> list[Tensor]:
    """What `embed` makes of each batch of positions, put where the rows stand; the same in every process."""
    # Smaller batches where each process would else not get one.
    batches = list(_batches_by_length(lengths, min(batch_size, -(-len(lengths) // processes.count)), name=name))
    wholes: list[Tensor] = []
    times_encoded = torch.zeros(len(lengths), dtype=torch.int64)
    # A bar for every evaluation of a long training would bury its log: only those that take a while get one.
    bar = tqdm(total=len(lengths), desc=name, disable=not progress, delay=_BAR_AFTER_SECONDS, leave=False)
    split_weights = processes.count > 1 and has_split_weights(model)
    with processes.all_or_none(split_weights=split_weights), torch.no_grad(), eval_mode(model), bar:
        for batch, counts in processes.own_parts(batches):
            parts = embed(batch)
            if not wholes:
                wholes = [torch.zeros(len(lengths), *part.shape[1:]) for part in parts]
            if counts:
                for whole, part in zip(wholes, parts, strict=True):
                    whole[batch] = part.float().cpu()
                times_encoded[batch] += 1
            bar.update(len(batch) * processes.count)
    for values in (*wholes, times_encoded):
        processes.add_up(values, model.device)
    wrong = (times_encoded != 1).nonzero().flatten().tolist()
    if wrong:
        raise RuntimeError(f"each of the {len(lengths)} {name} must be encoded once; not so are those at {wrong[:3]}.")
    return wholes


def _batches_by_length(lengths: Sequence[int], batch_size: int, *, name: str) -> Iterator[list[int]]:
    """Positions of texts in batches of like length, the longest first, so that too large a batch fails at once."""
    if len(lengths) == 0:
        raise ValueError(f"{name} is empty; there is nothing to encode.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for start in range(0, len(lengths), batch_size):
        yield longest_first[start : start + batch_size]
