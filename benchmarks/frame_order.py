"""Whether the order of the frames of a video matters to what finds it.

    python -m benchmarks.frame_order --write docs/RESULTS.md

Trains the recipe of moving scenes from clips and from frame features, and from each once more without the places of
the frames (`frame_positions: none`, as in the released code); from clips also with frames that read the description
(`interaction: dual`), from which they have the looks without learning to see. Then the clips of the reported split are
searched with the frames that the model samples in order, shuffled (with a seed, each clip in its own way) and reversed:
the same frames each time. Captions are counted apart by whether a verb of theirs needs order (moves left, grows,
appears, turns from red to blue) or not (spins, stands still). Where the split holds a clip's reverse as well, it is
also asked which of the two a caption that needs order fits better.
"""

import argparse
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from benchmarks import checks
from benchmarks.experiments import Result, run_experiments, spread
from benchmarks.trained import Trained, open_trained
from modeling_leccr.training.arguments import DataArguments
from modeling_leccr.training.reading import merged, read_yaml
from processing.records import DESCRIPTION_COLUMN, query_title
from processing.scenes_video import ScenesVideoConfig, plan_split
from processing.visual_rows import COLUMN_OF, VisualRows
from reporting.compare import draw_seeds
from reporting.report import markdown_table
from retrieval.encode import encode_items, encode_texts
from retrieval.evaluation import item_composites, read_captions
from retrieval.items import read_column
from retrieval.ranks import ROUNDING_MARGIN, rank_texts_and_items

NAME = "frame_order"
RECIPE = Path(__file__).parents[1] / "configs" / "scenes_video.yaml"
FEATURES: dict[str, Any] = {"scenes_video": {"form": "features"}, "model": {"vision_input": "features"}}
UNPLACED: dict[str, Any] = {"model": {"frame_positions": "none"}}
READING: dict[str, Any] = {"model": {"interaction": "dual"}}
VARIANTS: dict[str, dict[str, Any]] = {
    "clips": {},
    "features": FEATURES,
    "clips, frames without places": UNPLACED,
    "clips, frames that read descriptions": READING,
    "features, frames without places": merged(FEATURES, UNPLACED),
}
# What is done to the positions of the frames of one clip.
ORDERS: dict[str, Callable[[list[int], random.Random], list[int]]] = {
    "in order": lambda positions, _: positions,
    "shuffled": lambda positions, generator: generator.sample(positions, len(positions)),
    "reversed": lambda positions, _: positions[::-1],
}
NEED_ORDER, NEED_NONE, CHOICE = "need order", "need none", "clip or its reverse"
KINDS = {
    NEED_ORDER: "captions that need order, R@1",
    NEED_NONE: "other captions, R@1",
    CHOICE: "captions that need order, own clip before its reverse",
}

# Language -> kind -> percent.
Shares = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Queries:
    """What is known of the captions and clips of the reported split.

    Args:
        need_order: for each caption, in the order of `read_captions`, whether a verb of it needs order.
        reverses: for each clip the position of the one that shows it backwards, or None.
    """

    need_order: list[bool]
    reverses: list[int | None]


def main(argv: list[str] | None = None) -> int:
    """Train, search, report; see the module's docstring. 1 if a training failed."""
    parser = checks.parser_of(NAME, __doc__, base=False)
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="YAML file that trains on moving scenes")
    options = checks.parse(parser, argv)
    base = read_yaml(options.recipe.read_text(encoding="utf-8"), str(options.recipe))
    if base.get("dataset") != "scenes_video":
        raise SystemExit(f"{options.recipe} must train on moving scenes, whose captions come with their facts.")
    results = run_experiments(base, VARIANTS, options.seeds, options.folder, workers=options.workers, keep_models=True)
    # Training clips are not asked, and those of other splits do not depend on them: one is soon made.
    small = merged(base, {"use_cpu": True, "scenes_video": {"train_size": 1}})
    found = {
        (result.variant, result.seed): measure(
            open_trained(merged(small, VARIANTS[result.variant]), result.model_folder), seed=result.seed
        )
        for result in results
        if result.model_folder is not None and result.error is None
    }
    report(options, base, results, found)
    return int(any(result.error is not None for result in results))


def measure(trained: Trained, *, seed: int) -> dict[str, Shares]:
    """What is found with the frames in each order.

    Args:
        trained: a model of clips or features, with the split that is asked.
        seed: of the shuffling.

    Returns:
        Order -> language -> kind -> percent.
    """
    model, split = trained.model, trained.split
    seen = VisualRows(split, model.config.vision_input, trained.processor.sampling)
    frames = [seen.read(position)[model.config.vision_input] for position in range(len(split))]
    descriptions = read_column(split, DESCRIPTION_COLUMN)
    captions = {language: read_captions(split, language) for language in trained.languages}
    text_embeds = {
        language: encode_texts(model, trained.processor, texts, progress=False)
        for language, (texts, _) in captions.items()
    }
    queries = queries_of(trained.recipe.data)
    found: dict[str, Shares] = {}
    for order in ORDERS:
        rows = [
            {
                COLUMN_OF[model.config.vision_input]: reordered(of_clip, order, f"{seed}/{position}"),
                DESCRIPTION_COLUMN: text,
            }
            for position, (of_clip, text) in enumerate(zip(frames, descriptions, strict=True))
        ]
        items = encode_items(model, trained.processor, rows, progress=False)
        composites = item_composites(*items, scoring="fused", global_weight=model.config.global_weight)
        found[order] = {
            language: shares(composites, text_embeds[language], owners, queries)
            for language, (_, owners) in captions.items()
        }
    return found


def queries_of(data: DataArguments) -> Queries:
    """What the plan of the reported split tells of its captions, which are the same in all languages."""
    items = plan_split(ScenesVideoConfig(**data.scenes_video), data.test_split or data.validation_split)
    reverses: list[int | None] = [item.reverse_of for item in items]
    for position, item in enumerate(items):
        if item.reverse_of is not None:
            reverses[item.reverse_of] = position
    return Queries([caption.needs_order for item in items for caption in item.human_captions], reverses)


def reordered(frames: Any, order: str, seed: str) -> Any:
    """The frames of a clip in another order.

    Args:
        frames: list of pictures, or (num_frames, feature_dim) features.
        order: one of `ORDERS`.
        seed: of the shuffling.
    """
    positions = ORDERS[order](list(range(len(frames))), random.Random(seed))
    return [frames[position] for position in positions] if isinstance(frames, list) else frames[positions]


def shares(composites: Tensor, text_embeds: Tensor, owners: Tensor, queries: Queries) -> dict[str, float]:
    """Percent of the captions of each kind that are answered rightly; kinds without captions are left out.

    Args:
        composites: (num_items, num_vectors, embed_dim), see `item_composites`.
        text_embeds: (num_texts, embed_dim).
        owners: (num_texts,) position of each text's item.
        queries: of the same split.
    """
    need_order = torch.tensor(queries.need_order)
    is_first = rank_texts_and_items(composites, text_embeds, owners).t2i == 1
    # A clip without a reverse is its own; it is not counted.
    reverses = torch.tensor([own if other is None else other for own, other in enumerate(queries.reverses)])[owners]
    own, other = (
        torch.einsum("tkd,td->tk", composites[items], text_embeds).amax(dim=-1) for items in (owners, reverses)
    )
    # Who cannot tell the two apart is right half of the time, whatever rounding says.
    is_own = torch.where((own - other).abs() <= ROUNDING_MARGIN, 0.5, (own > other).float())
    answered = {
        NEED_ORDER: is_first[need_order],
        NEED_NONE: is_first[~need_order],
        CHOICE: is_own[need_order & (reverses != owners)],
    }
    return {kind: 100 * float(right.float().mean()) for kind, right in answered.items() if len(right)}


def report(
    options: argparse.Namespace,
    base: Mapping[str, Any],
    results: list[Result],
    found: Mapping[tuple[str, int], dict[str, Shares]],
) -> None:
    """Tables, picture, JSON."""
    texts = ["All models failed; see the logs beside the results."]
    if found:
        place = checks.picture_place(options, f"{NAME}.png")
        draw(found, place)
        texts = [
            "Percent of the captions, mean over languages, with the frames of the searched clips in three orders (± "
            "standard deviation over seeds). A caption asks among all clips, or, in the last row of each model, "
            "between its clip and the one that shows the same backwards: chance is 50 there.",
            markdown_table(["trained on", "asked", *ORDERS], order_rows(found)),
            checks.picture_link(options, place, "What is found with the frames in order, shuffled and reversed"),
            "R@1 of the captions that need order, by language:",
            markdown_table(
                ["trained on", "frames", *map(query_title, base["target_languages"])],
                language_rows(found, base["target_languages"]),
            ),
        ]
    size = ScenesVideoConfig(**base.get("scenes_video", {})).test_size
    data = f"embedded moving scenes, {size} clips of the reported split, {checks.budget(base)}"
    facts = [{"variant": variant, "seed": seed, "percent": orders} for (variant, seed), orders in found.items()]
    checks.finish(NAME, options, "\n\n".join(texts), results, data=data, found=facts)


def percents(found: Mapping[tuple[str, int], dict[str, Shares]], variant: str, order: str, kind: str) -> list[float]:
    """Means over languages, one a seed."""
    return [
        fmean(of_language[kind] for of_language in orders[order].values())
        for (name, _), orders in found.items()
        if name == variant and all(kind in of_language for of_language in orders[order].values())
    ]


def order_rows(found: Mapping[tuple[str, int], dict[str, Shares]]) -> list[list[str]]:
    """A row for each model and kind of question."""
    return [
        [variant, text, *(spread(percents(found, variant, order, kind)) for order in ORDERS)]
        for variant in dict.fromkeys(name for name, _ in found)
        for kind, text in KINDS.items()
    ]


def language_rows(found: Mapping[tuple[str, int], dict[str, Shares]], languages: Sequence[str]) -> list[list[str]]:
    """A row for each model and order of the frames."""
    return [
        [
            variant,
            order,
            *(
                spread([orders[order][language][NEED_ORDER] for (name, _), orders in found.items() if name == variant])
                for language in languages
            ),
        ]
        for variant in dict.fromkeys(name for name, _ in found)
        for order in ORDERS
    ]


def draw(found: Mapping[tuple[str, int], dict[str, Shares]], place: Path) -> None:
    """Bars of R@1: a group for each model and kind of captions, a bar for each order of the frames."""
    shown = {
        (variant, kind): f"{variant}: {kind}"
        for variant in dict.fromkeys(name for name, _ in found)
        for kind in (NEED_ORDER, NEED_NONE)
    }
    draw_seeds(
        {
            order: {text: percents(found, variant, order, kind) for (variant, kind), text in shown.items()}
            for order in ORDERS
        },
        {text: text for text in shown.values()},
        place,
        title="Captions that need the order of frames, and others",
        y_label="R@1, percent, mean over languages",
    )


if __name__ == "__main__":
    sys.exit(main())
