"""Recalls of a saved model on one split of a data set in the schema, printed as JSON.

leccr evaluate --model MODEL --dataset DATASET --split test --languages de zh
"""

import argparse
import json
from collections.abc import Sequence
from typing import get_args

from hub_scripts.model_options import add_model_arguments, add_split_arguments, load_model, source_of
from processing.files import write_json_atomic
from retrieval.evaluation import Scoring, evaluate_retrieval, evaluation_protocol
from retrieval.items import open_items


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="leccr evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    parser.add_argument("--dataset", required=True, help="folder or Hub name of a data set in the schema")
    add_split_arguments(parser)
    parser.add_argument("--languages", nargs="+", required=True, help="codes such as de, or de_mt for translations")
    parser.add_argument("--scoring", choices=get_args(Scoring), default="fused", help="(default: %(default)s)")
    parser.add_argument("--global-weight", type=float, help="share of the image embedding in fused scores")
    parser.add_argument("--skip-corrupt", action="store_true", help="leave out items that cannot be read")
    parser.add_argument("--no-descriptions", action="store_true", help="leave descriptions out")
    parser.add_argument("--batch-size", type=int, default=64, help="items encoded at a time (default: %(default)s)")
    parser.add_argument("--output", metavar="FILE", help="also write the JSON to a file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Load, evaluate, print."""
    options = parse_arguments(argv)
    model, processor, commit = load_model(options.model, options.revision, options.device)
    source = source_of(options, model, options.dataset)
    if options.videos and source["vision_input"] == "features":
        raise ValueError(
            f"--videos {options.videos} is for models that read clips, and this one reads their features; give "
            f"--features, or nothing where the data set holds them."
        )
    split = open_items(**source, skip_corrupt=options.skip_corrupt, sampling=processor.sampling)
    settings = {
        "scoring": options.scoring,
        "global_weight": options.global_weight,
        "use_descriptions": not options.no_descriptions,
    }
    report = {
        "model": options.model,
        "revision": commit,
        "dataset": options.dataset,
        "protocol": evaluation_protocol(model, split, options.languages, split_name=options.split, **settings),
        "metrics": evaluate_retrieval(
            model, processor, split, options.languages, batch_size=options.batch_size, **settings
        ),
    }
    print(json.dumps(report, indent=2, ensure_ascii=False))
    if options.output:
        write_json_atomic(options.output, report)


if __name__ == "__main__":
    main()
