"""The frozen encoder of descriptions outside of the model: whose states a store holds, and how it is filled."""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from modeling_leccr.packing_leccr import text_states
from processing.description_states import DescriptionStates
from processing.processing_leccr import LeccrProcessor

logger = logging.getLogger(__name__)

DEFAULT_BATCH_SIZE = 64
DEFAULT_DESCRIPTIONS_PER_SHARD = 1000
# What a tokenizer remembers of its last call.
_CALL_SETTINGS = frozenset({"padding", "truncation"})


class DescriptionEncoder:
    """Descriptions → token states, as the model itself computes them.

    Args:
        tower: the `description_model` of a LECCR model, or the text encoder that it will be a copy of.
        processor: the processor of the model; its tokenizer and `max_length` are read.
    """

    def __init__(self, tower: PreTrainedModel, processor: LeccrProcessor) -> None:
        self.tower = tower.eval()
        self.processor = processor
        self.width: int = tower.config.hidden_size

    def identity(self) -> dict[str, Any]:
        """What the states depend on: digests of weights and tokenizer, and where descriptions are cut.

        All weights are read for it, about a gigabyte a second.
        """
        weights = hashlib.sha256()
        for name, value in sorted(self.tower.state_dict().items()):
            weights.update(f"\n{name} {tuple(value.shape)}\n".encode())
            weights.update(value.detach().float().cpu().contiguous().numpy())
        tokenizer = self.processor.tokenizer
        rules = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else tokenizer.get_vocab()
        kept = {name: value for name, value in rules.items() if name not in _CALL_SETTINGS}
        return {
            "weights": weights.hexdigest()[:16],
            "tokenizer": hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16],
            "max_length": min(self.processor.max_length, int(tokenizer.model_max_length)),
        }

    @torch.no_grad()
    def __call__(self, descriptions: Sequence[str]) -> list[Tensor]:
        """The states of each description, (length, width) on the CPU."""
        inputs = self.processor(descriptions=list(descriptions)).to(self.tower.device)
        mask = inputs["description_attention_mask"]
        states = text_states(self.tower, inputs["description_input_ids"], mask)
        return [rows[kept].cpu() for rows, kept in zip(states, mask.bool(), strict=True)]


def fill_store(
    store: DescriptionStates,
    encoder: DescriptionEncoder,
    descriptions: Iterable[str | None],
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    rows_per_shard: int = DEFAULT_DESCRIPTIONS_PER_SHARD,
    process_index: int = 0,
    num_processes: int = 1,
    progress: bool = True,
) -> int:
    """Compute and add the states that a store lacks; after a kill, what was written counts.

    Args:
        store: of this encoder.
        encoder: computes what is missing.
        descriptions: of the items; those without are left out.
        batch_size: descriptions in one forward pass.
        rows_per_shard: descriptions in a file, and the most that a kill can lose.
        process_index, num_processes: each of several processes with the same arguments takes its share of the files.
        progress: show a bar.

    Returns:
        Number of descriptions that this process added.

    Raises:
        ValueError: a size is below 1, or a state does not fit into the store.
    """
    if batch_size < 1 or rows_per_shard < 1:
        raise ValueError(f"batch_size and rows_per_shard must be at least 1, got {batch_size} and {rows_per_shard}.")
    wanted = list(dict.fromkeys(descriptions))
    # Cut before looking at what is there: a process that starts later sees more of it, and must cut alike.
    starts = range(process_index * rows_per_shard, len(wanted), num_processes * rows_per_shard)
    shards = [missing for start in starts if (missing := store.missing(wanted[start : start + rows_per_shard]))]
    num_missing = sum(map(len, shards))
    if num_missing:
        logger.info("encoding %d descriptions once, for %s", num_missing, store.folder)
    with tqdm(total=num_missing, desc="descriptions", disable=not (progress and num_missing)) as bar:
        for shard in shards:
            # Texts of like length share a batch; the longest come first, so that too large a batch fails at once.
            shard.sort(key=len, reverse=True)
            states: list[Tensor] = []
            for start in range(0, len(shard), batch_size):
                states += encoder(shard[start : start + batch_size])
                bar.update(min(batch_size, len(shard) - start))
            store.add(shard, states)
    store.reload()
    return num_missing
