"""Draw which words of its description each semantic slot of an item attends to.

    leccr draw_slots --model MODEL --items DATA_SET --out slots.png
    leccr draw_slots --model MODEL --items PICTURES --ids beach.jpg forest.jpg --out slots.png

Each slot has a colour; the deeper it is behind a word, the more of its attention the word has, compared with the other
words of the description. It is the attention of the last slot block, averaged over its heads. The same numbers are
printed as JSON. Items need descriptions: a column of a data set, or `descriptions.jsonl` in a folder of pictures.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from hub_scripts.model_options import (
    add_description_argument,
    add_model_arguments,
    add_split_arguments,
    load_model,
    source_of,
)
from processing.files import atomic_write
from reporting.slot_pictures import slot_attention_sheet
from retrieval.items import open_items, read_ids
from retrieval.slot_readings import SlotReading, read_slots
from retrieval.views import ItemViews


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="leccr draw_slots", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    parser.add_argument("--items", required=True, help="folder of pictures or clips, or data set")
    parser.add_argument("--ids", nargs="+", help="which items, by their ids (default: the first ones)")
    parser.add_argument("--count", type=int, default=3, help="how many, without --ids (default: %(default)s)")
    add_split_arguments(parser)
    add_description_argument(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="the picture, such as slots.png")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Load, read, draw, and print the numbers."""
    options = parse_arguments(argv)
    model, processor, _ = load_model(options.model, options.revision, options.device)
    rows = open_items(**source_of(options, model, options.items), description_file=options.description_file)
    shown = rows.select(positions_of(read_ids(rows), options.ids, options.count))
    readings = read_slots(model, processor, shown)
    sheet = slot_attention_sheet(readings, ItemViews(shown, videos=options.videos))
    with atomic_write(options.out) as path:
        sheet.save(path)
    items = [to_json(name, reading) for name, reading in zip(read_ids(shown), readings, strict=True)]
    print(json.dumps({"picture": options.out, "items": items}, ensure_ascii=False, indent=2))


def positions_of(names: Sequence[str], asked: Sequence[str] | None, count: int) -> list[int]:
    """Positions of the items that were asked for by their ids, or of the first ones.

    Raises:
        ValueError: an id is unknown, or `count` is below 1.
    """
    if asked is None:
        if count < 1:
            raise ValueError(f"--count must be at least 1, got {count}.")
        return list(range(min(count, len(names))))
    places = {name: position for position, name in enumerate(names)}
    if unknown := [name for name in asked if name not in places]:
        raise ValueError(f"--ids names {unknown}, which no item has; the first ids are {list(names[:3])}.")
    return [places[name] for name in asked]


def to_json(name: str, reading: SlotReading) -> dict[str, Any]:
    """The attention of an item: the words once, and for each slot a number for each of them."""
    slots = [
        {"words": [round(weight, 4) for weight in weights], "no_word": round(special, 4)}
        for weights, special in zip(reading.weights.tolist(), reading.special_weights.tolist(), strict=True)
    ]
    return {"image_id": name, "words": reading.words, "slots": slots}


if __name__ == "__main__":
    main()
