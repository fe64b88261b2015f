"""What a data set is like: lengths, duplicates, languages, refusals, and whether its texts fit its pictures or clips.

    leccr inspect_dataset --dataset data/described --images pictures \\
        --encoder openai/clip-vit-base-patch32 --out quality/described

Writes report.md, quality.json and, with an encoder, worst.png: the items whose text fits their picture least. Without
--encoder the texts alone are measured; no picture is opened. The encoder may be a LECCR that needs no descriptions.
Where the items are clips, name their folder with --videos: an encoder of pictures takes the mean of a few frames.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from processing.files import atomic_write
from processing.local_models import process_device
from processing.media import attach_images, attach_videos
from processing.quality import DEFAULT_SAMPLE, inspect_texts
from processing.readers.feature_store import attach_features, warn_of_missing
from processing.records import MEDIA_COLUMNS
from processing.sources import open_splits
from reporting.dataset_pictures import worst_items_sheet
from reporting.dataset_report import write_dataset_report
from retrieval.agreement import DEFAULT_NUM_WORST, Agreement, measure_agreement
from retrieval.dual_encoders import load_dual_encoder
from retrieval.views import ItemViews

PICTURE_FILE = "worst.png"
# Options that name a folder, and how it is joined with texts.
_JOINS: dict[str, Any] = {"images": attach_images, "videos": attach_videos, "features": attach_features}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="leccr inspect_dataset", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="folder or Hub name of a data set in the schema")
    parser.add_argument("--config", help="configuration of a data set that has several")
    parser.add_argument("--split", nargs="+", help="splits to measure together (default: all)")
    parser.add_argument("--images", help="folder of the pictures of a data set of texts, for --encoder")
    parser.add_argument("--videos", help="folder of its clips, likewise")
    parser.add_argument("--features", help="folder of the features of their frames, for a LECCR or CL2CM of these")
    parser.add_argument("--encoder", help="folder or Hub name of a dual encoder: CLIP, SigLIP, LECCR, ...")
    parser.add_argument(
        "--sample", type=int, default=DEFAULT_SAMPLE,
        help="items scored with the encoder, and texts of a column whose language is identified (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--num-worst", type=int, default=DEFAULT_NUM_WORST, help="items shown as the worst (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="items encoded at a time (default: %(default)s)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the report is written")
    options = parser.parse_args(argv)
    for name in _folders(options) if not options.encoder else ():
        parser.error(f"--{name} without --encoder has no effect: name the dual encoder that looks at them.")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write, print."""
    options = parse_arguments(argv)
    splits = _open(options)
    # Before the long part: an encoder that cannot be used should not cost a reading of all texts.
    encoder = None if options.encoder is None else load_dual_encoder(options.encoder, device=process_device())
    pictures = None if encoder is None else _with_media(splits, _folders(options))
    quality = inspect_texts(splits, sample=options.sample, seed=options.seed)
    picture = None
    if encoder is not None and pictures is not None:
        agreement = measure_agreement(
            encoder,
            pictures,
            sample=options.sample,
            seed=options.seed,
            num_worst=options.num_worst,
            batch_size=options.batch_size,
        )
        quality["agreement"] = agreement.to_dict()
        picture = _draw(agreement, pictures, Path(options.out))
    name = Path(options.dataset).name if Path(options.dataset).is_dir() else options.dataset
    write_dataset_report(options.out, quality, title=f"Quality of {name}", picture=picture)
    print(json.dumps(quality, indent=2, ensure_ascii=False))


def _folders(options: argparse.Namespace) -> dict[str, str]:
    return {name: folder for name in _JOINS if (folder := getattr(options, name))}


def _open(options: argparse.Namespace) -> datasets.DatasetDict:
    try:
        splits = open_splits(options.dataset, config_name=options.config)
    except ValueError as error:
        several = re.search(r"Config name is missing.*available configs: (\[.*?\])", str(error), flags=re.DOTALL)
        if several is None:
            raise
        raise ValueError(
            f"{options.dataset} has several configurations; choose one of {several[1]} with --config."
        ) from error
    chosen = options.split or list(splits)
    unknown = sorted(set(chosen) - set(splits))
    if unknown:
        raise ValueError(f"--split must be among {list(splits)}, got {unknown}.")
    return datasets.DatasetDict({name: splits[name] for name in chosen})


def _with_media(splits: datasets.DatasetDict, folders: Mapping[str, str]) -> Any:
    """All rows that have a picture, a clip or features."""
    for name, folder in folders.items():
        splits, missing = _JOINS[name](splits, folder)
        warn_of_missing(missing)
    rows = datasets.concatenate_datasets(list(splits.values()))
    if not set(MEDIA_COLUMNS) & set(rows.column_names):
        raise ValueError(
            f"--encoder needs pictures or clips and the data set has none of the columns {list(MEDIA_COLUMNS)}; give "
            f"--images, --videos or --features."
        )
    return rows


def _draw(agreement: Agreement, rows: Any, folder: Path) -> str | None:
    if not agreement.worst:
        return None
    column, medium = agreement.worst[0].column, agreement.numbers["medium"]
    title = f"The {len(agreement.worst)} items whose {column} fits the {medium} least"
    sheet = worst_items_sheet(agreement.worst, ItemViews(rows), title=title)
    with atomic_write(folder / PICTURE_FILE) as path:
        sheet.save(path)
    return PICTURE_FILE


if __name__ == "__main__":
    main()
