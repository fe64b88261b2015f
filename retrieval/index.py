"""An index of items for exact search: composite vectors, ids, and how they were made."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from processing.files import atomic_folder
from retrieval.encode import encode_items, encode_texts
from retrieval.evaluation import ItemScoring, item_composites
from retrieval.items import read_ids
from retrieval.ranks import check_finite

VECTORS_FILE = "index.safetensors"
SETTINGS_FILE = "index.json"
FORMAT_VERSION = 1
QUERIES_AT_A_TIME = 1024
PROBE_TEXT = "a probe of the model"
PROBE_MIN_COSINE = 0.98


def check_index_place(folder: str | Path) -> None:
    """Refuse to save an index where something else is.

    Raises:
        ValueError: the folder exists and holds something else than an index.
    """
    if Path(folder).exists() and not (Path(folder) / SETTINGS_FILE).is_file():
        raise ValueError(f"{folder} exists and is not an index; choose another folder to save the index in.")


@dataclass(frozen=True)
class ItemIndex:
    """Items ready for search; a query needs its text alone.

    Attributes:
        composites: (num_items, num_vectors, embed_dim) float32.
        item_ids: one name for each item.
        settings: how the vectors were made (scoring, global_weight, descriptions, where the items lie); saved as JSON.
        probe_embed: (embed_dim,) the model's embedding of `PROBE_TEXT`, by which another model is recognised; or None.
    """

    composites: Tensor
    item_ids: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    probe_embed: Tensor | None = None

    def __post_init__(self) -> None:
        if self.composites.ndim != 3 or len(self.item_ids) != self.composites.shape[0] or len(self.item_ids) == 0:
            raise ValueError(
                f"an index needs (num_items, num_vectors, embed_dim) vectors and as many ids, at least one; "
                f"got {tuple(self.composites.shape)} and {len(self.item_ids)} ids."
            )
        check_finite(self.composites, "composites")

    @classmethod
    def build(
        cls,
        model: Any,
        processor: Any,
        rows: Sequence[Mapping[str, Any]],
        *,
        scoring: ItemScoring = "fused",
        global_weight: float | None = None,
        use_descriptions: bool = True,
        batch_size: int = 64,
        progress: bool = True,
        source: Mapping[str, Any] | None = None,
    ) -> "ItemIndex":
        """Encode items into an index.

        Args:
            rows: rows of the schema, with `image_id`, `image` and `description` as far as the model needs them.
            scoring: see `item_composites`; it is fixed in the vectors.
            global_weight: share of the image embedding in `fused`; None takes the model's own.
            use_descriptions: False leaves descriptions out.
            batch_size: items in one forward pass.
            progress: show a bar.
            source: where the items lie, kept in `settings["source"]` so that pictures can be found again.

        Raises:
            ValueError: as `encode_items` and `item_composites`.
        """
        image_embeds, slot_embeds = encode_items(
            model, processor, rows, batch_size, use_descriptions=use_descriptions, progress=progress
        )
        weight = model.config.global_weight if global_weight is None else global_weight
        composites = item_composites(image_embeds, slot_embeds, scoring=scoring, global_weight=weight)
        settings = {
            "scoring": scoring,
            "global_weight": weight if scoring == "fused" else None,
            "descriptions": use_descriptions and model.config.reads_description,
            "source": dict(source or {}),
        }
        probe_embed = encode_texts(model, processor, [PROBE_TEXT], progress=False)[0]
        return cls(composites.contiguous(), read_ids(rows), settings, probe_embed)

    def check_model(self, probe_embed: Tensor) -> None:
        """Refuse queries of another model: its embeddings may have the right width and still mean nothing here.

        Args:
            probe_embed: (embed_dim,) embedding of `PROBE_TEXT` by the model that embeds the queries.

        Raises:
            ValueError: the embedding differs from that of the model which made the index.
        """
        if self.probe_embed is None:
            return
        # Another machine or precision turns an embedding by far less than another model does.
        same_width = probe_embed.shape == self.probe_embed.shape
        if not same_width or float(probe_embed @ self.probe_embed) < PROBE_MIN_COSINE:
            raise ValueError("this index was made with another model; search with that one, or build the index again.")

    def search(self, query_embeds: Tensor, top_k: int, *, chunk_size: int = 8192) -> tuple[Tensor, Tensor]:
        """The best items for each query, exactly, with memory bounded by the chunk.

        Args:
            query_embeds: (num_queries, embed_dim), see `encode_texts`.
            top_k: hits a query; an index with fewer items gives all of them.
            chunk_size: items scored at a time.

        Returns:
            scores (num_queries, k), highest first, and positions (num_queries, k) int64 into `item_ids`.

        Raises:
            ValueError: the queries do not fit the index or are not finite, or `top_k` or `chunk_size` is below 1.
        """
        embed_dim = self.composites.shape[-1]
        if query_embeds.ndim != 2 or query_embeds.shape[1] != embed_dim:
            raise ValueError(f"query_embeds must be (num_queries, {embed_dim}), got {tuple(query_embeds.shape)}.")
        if top_k < 1 or chunk_size < 1:
            raise ValueError(f"top_k and chunk_size must be at least 1, got {top_k} and {chunk_size}.")
        check_finite(query_embeds, "query_embeds")
        found = [
            self._search_chunk(queries, top_k, chunk_size)
            for queries in query_embeds.to(self.composites).split(QUERIES_AT_A_TIME)
        ]
        return torch.cat([scores for scores, _ in found]), torch.cat([positions for _, positions in found])

    def _search_chunk(self, queries: Tensor, top_k: int, chunk_size: int) -> tuple[Tensor, Tensor]:
        best_scores = queries.new_empty((len(queries), 0))
        best_positions = torch.empty((len(queries), 0), dtype=torch.int64)
        for start in range(0, len(self.item_ids), chunk_size):
            vectors = self.composites[start : start + chunk_size]
            scores = (queries @ vectors.flatten(0, 1).T).unflatten(1, vectors.shape[:2]).amax(dim=2)
            scores, chosen = scores.topk(min(top_k, scores.shape[1]), dim=1)
            best_scores = torch.cat([best_scores, scores], dim=1)
            best_positions = torch.cat([best_positions, chosen + start], dim=1)
            # Equal scores come in the order of the items.
            best_positions, by_position = best_positions.sort(dim=1)
            best_scores, by_score = best_scores.gather(1, by_position).sort(dim=1, descending=True, stable=True)
            best_scores, best_positions = best_scores[:, :top_k], best_positions.gather(1, by_score)[:, :top_k]
        return best_scores, best_positions

    def save(self, folder: str | Path) -> None:
        """Write the index to a folder; an older index there is replaced once the new one is complete.

        Raises:
            ValueError: the folder exists and holds something else than an index.
        """
        target = Path(folder)
        check_index_place(target)
        with atomic_folder(target) as fresh:
            tensors = {"composites": self.composites.contiguous()}
            if self.probe_embed is not None:
                tensors["probe_embed"] = self.probe_embed.contiguous()
            save_file(tensors, fresh / VECTORS_FILE)
            settings = {"format": FORMAT_VERSION, "item_ids": list(self.item_ids), "settings": dict(self.settings)}
            text = json.dumps(settings, ensure_ascii=False, indent=1)
            (fresh / SETTINGS_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "ItemIndex":
        """Read an index that `save` wrote.

        Raises:
            ValueError: a file is missing, of another format, or the vectors do not fit the ids.
        """
        missing = [name for name in (SETTINGS_FILE, VECTORS_FILE) if not (Path(folder) / name).is_file()]
        if missing:
            raise ValueError(
                f"{folder} is not an index: it lacks {missing}; make one with `leccr search --save-index`."
            )
        content = json.loads((Path(folder) / SETTINGS_FILE).read_text(encoding="utf-8"))
        if content.get("format") != FORMAT_VERSION:
            raise ValueError(
                f"{folder} has index format {content.get('format')!r}, this version reads {FORMAT_VERSION}; "
                "build the index again."
            )
        tensors = load_file(Path(folder) / VECTORS_FILE)
        return cls(tensors["composites"], content["item_ids"], content["settings"], tensors.get("probe_embed"))


def is_index(location: str | Path) -> bool:
    """Whether a path is a folder that `ItemIndex.save` wrote."""
    return (Path(location) / SETTINGS_FILE).is_file()
