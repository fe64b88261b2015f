"""Ranks of a test split by counting in chunks against sorting the whole score matrix.

    python -m benchmarks.ranks

5,000 items x 25,000 texts, as in MSCOCO 5K. `ranks from scores` starts from the score matrix, `global` and `fused`
from the vectors (1 and 4 an item), so that the products are part of the time. Official: the whole matrix, an argsort
of every row and every column, and a look-up of the correct candidates. Ranks must be equal, one by one: vectors lie
on a grid of 2^-12, where every dot product is exact in float32 in whatever order it is summed. Memory is the growth of
the peak resident memory of a fresh process that ranks the fused scores.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import commands, measuring, official_form
from modeling_leccr.matching_leccr import composite_vectors
from retrieval.ranks import RetrievalRanks, rank_texts_and_items, ranks_from_scores

GRID = 2**12
EMBED_DIM = 256
NUM_SLOTS = 4
GLOBAL_WEIGHT = 0.8
NOISE = 2.5  # of the embeddings of a matching pair, in units of their common part: ranks spread over the split


def main(argv: list[str] | None = None) -> int:
    """Compare and time the two forms; see the module's docstring."""
    parser = commands.form_arguments("ranks", __doc__, repeats=1)
    parser.add_argument("--num-items", type=int)
    parser.add_argument("--captions-per-item", type=int, default=5)
    return commands.main_of(run, parser, argv)


def run(options: argparse.Namespace) -> None:
    """Check, time, measure memory, report."""
    options.num_items = options.num_items or (40 if options.tiny else 5000)
    forms = build_forms(options)
    if options.memory_of:
        print(measuring.peak_growth(forms["fused"][options.memory_of]))
        return
    rows = []
    for name, pair in forms.items():
        # Sorting takes long: the run that is compared is one of the timed ones.
        results, seconds = measuring.timed_results(pair, options.repeats)
        differences = measuring.check_equal(_named(results["ours"]), _named(results["official"]), tolerance=0.0)
        rows.append({**measuring.timing_row(name, seconds), "max_difference": max(differences.values())})
    if not options.no_memory:
        rows[-1] |= commands.form_peaks("ranks", options)
    sizes = {"num_items": options.num_items, "num_texts": options.num_items * options.captions_per_item}
    commands.finish("ranks", options, rows, sizes=sizes)


def build_forms(options: argparse.Namespace) -> dict[str, dict[str, Callable[[], RetrievalRanks]]]:
    """Both forms of each row of the table over one random split."""
    images, slots, texts, text_to_item = random_split(options.num_items, options.captions_per_item)
    composites = {
        "global": composite_vectors(images, None, 1.0),
        "fused": on_grid(composite_vectors(images, slots, GLOBAL_WEIGHT)),
    }

    def pair(name: str) -> dict[str, Callable[[], RetrievalRanks]]:
        vectors = composites[name]
        margin = official_form.rounding_margin(vectors, texts)
        return {
            "official": lambda: _sorted_ranks(official_form.score_matrix(vectors, texts), text_to_item, margin),
            "ours": lambda: rank_texts_and_items(vectors, texts, text_to_item),
        }

    forms = {name: pair(name) for name in composites}
    if options.memory_of:
        return forms
    scores = images @ texts.T
    from_scores: dict[str, Callable[[], RetrievalRanks]] = {
        "official": lambda: _sorted_ranks(scores.numpy(), text_to_item),
        "ours": lambda: ranks_from_scores(scores, text_to_item),
    }
    return {"ranks from scores": from_scores, **forms}


def random_split(num_items: int, captions_per_item: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image, slot and text embeddings whose matching pairs are somewhat alike, and the item of each text."""
    common = torch.randn(num_items, EMBED_DIM)
    text_to_item = torch.arange(num_items).repeat_interleave(captions_per_item)
    images, slots, texts = (
        on_grid(normalize(base + NOISE * torch.randn_like(base), dim=-1))
        for base in (common, common[:, None].repeat(1, NUM_SLOTS, 1), common[text_to_item])
    )
    return images, slots, texts, text_to_item


def on_grid(vectors: Tensor) -> Tensor:
    """Round to multiples of 2^-12: products of two are multiples of 2^-24, and sums below 1 have no more bits."""
    return (vectors * GRID).round() / GRID


def _sorted_ranks(scores: Any, text_to_item: Tensor, margin: float = 0.0) -> RetrievalRanks:
    i2t, t2i = official_form.ranks(scores, text_to_item.numpy(), margin)
    return RetrievalRanks(i2t=torch.from_numpy(i2t), t2i=torch.from_numpy(t2i))


def _named(ranks: RetrievalRanks) -> dict[str, Tensor]:
    return {"i2t": ranks.i2t, "t2i": ranks.t2i}


if __name__ == "__main__":
    sys.exit(main())
