"""Draw which words of an English sentence a model aligns with which words of its translation.

    leccr draw_alignment --model MODEL --source "A dog runs." --target "Ein Hund läuft." --out alignment.png
    leccr draw_alignment --model MODEL --pairs pairs.jsonl --out alignment.png --json alignment.json

MODEL is best the cross-lingual network of CL2CM, which is trained to align (the folder `teacher` of a run); the other
systems are not, and can be compared with it. Each row of the picture is a source token, and its cells are where optimal
transport sends its mass. The strongest link of each token is printed as JSON; `--json` keeps the whole plans.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hub_scripts.model_options import add_model_arguments, load_model
from modeling_leccr.losses_cl2cm import CrossLingualLossConfig
from processing.files import write_json_atomic
from processing.readers.base import iter_json_lines
from reporting.alignment import draw_alignments
from retrieval.alignments import Alignment, align_pairs


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="leccr draw_alignment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    parser.add_argument("--source", action="append", default=[], help="English sentence; may be given several times")
    parser.add_argument("--target", action="append", default=[], help="its translation, once for each --source")
    parser.add_argument("--pairs", metavar="FILE", help="JSON lines with source and target")
    parser.add_argument("--out", required=True, metavar="FILE", help="the picture, such as alignment.png")
    parser.add_argument("--json", metavar="FILE", help="write the plans as JSON")
    defaults = CrossLingualLossConfig()
    parser.add_argument(
        "--epsilon",
        type=float,
        default=defaults.transport_epsilon,
        help="weight of the entropy; smaller is sharper (default: %(default)s)",
    )
    parser.add_argument(
        "--iterations", type=int, default=defaults.transport_iterations, help="of Sinkhorn (default: %(default)s)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Load, align, draw, and print the links."""
    options = parse_arguments(argv)
    if not Path(options.out).suffix:
        raise ValueError(f"--out must name a picture with its suffix, such as {options.out}.png, got {options.out!r}.")
    pairs = asked_pairs(options.source, options.target, options.pairs)
    model, processor, _ = load_model(options.model, options.revision, options.device)
    found = align_pairs(model, processor, pairs, epsilon=options.epsilon, iterations=options.iterations)
    draw_alignments(found, options.out, title="Optimal alignment of words")
    settings = {"epsilon": options.epsilon, "iterations": options.iterations}
    described = [describe(pair, alignment) for pair, alignment in zip(pairs, found, strict=True)]
    if options.json:
        plans = [alignment.plan.tolist() for alignment in found]
        rows = [{**entry, "plan": plan} for entry, plan in zip(described, plans, strict=True)]
        write_json_atomic(options.json, {**settings, "pairs": rows})
    print(json.dumps({"picture": options.out, **settings, "pairs": described}, ensure_ascii=False, indent=2))


def asked_pairs(sources: Sequence[str], targets: Sequence[str], file: str | None) -> list[tuple[str, str]]:
    """The pairs of the command line and of a file.

    Raises:
        ValueError: there is none, a sentence has no partner, or a line of the file is none of a pair.
    """
    if len(sources) != len(targets):
        raise ValueError(f"--source and --target come in pairs, got {len(sources)} and {len(targets)}.")
    pairs = list(zip(sources, targets, strict=True))
    for number, entry in iter_json_lines(file) if file else ():
        source, target = entry.get("source"), entry.get("target")
        if not isinstance(source, str) or not isinstance(target, str):
            raise ValueError(f"{file}, line {number}: a pair has the texts source and target, got {sorted(entry)}.")
        pairs.append((source, target))
    if not pairs:
        raise ValueError("there is no pair to align; give --source and --target, or --pairs with a line for each pair.")
    return pairs


def describe(pair: tuple[str, str], alignment: Alignment) -> dict[str, Any]:
    """The numbers of a pair: what it costs, and the strongest link of each source token."""
    best = alignment.shares.max(dim=1)
    links = [
        {"source": token, "target": alignment.target_tokens[position], "share": round(share, 4)}
        for token, position, share in zip(
            alignment.source_tokens, best.indices.tolist(), best.values.tolist(), strict=True
        )
    ]
    return {
        "source": pair[0],
        "target": pair[1],
        "source_tokens": alignment.source_tokens,
        "target_tokens": alignment.target_tokens,
        "cost": round(alignment.cost, 6),
        "marginal_error": round(alignment.marginal_error, 6),
        "links": links,
    }


if __name__ == "__main__":
    main()
