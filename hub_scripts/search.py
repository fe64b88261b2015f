"""Search pictures or videos with text in any language of the model.

    leccr search --model MODEL --items PICTURES --query "zwei Hunde im Schnee" --save-picture hits.png
    leccr search --model MODEL --items CLIPS --query "zwei Hunde im Schnee" --save-picture hits.png

`--items` is a folder of what the model reads (pictures, clips, or features of the frames of clips), a data set (a
folder or a name on the Hub, with `--split`), or an index that `--save-index` wrote. An index keeps its scoring, and is
searched with the model that made it; its items are encoded no more.

`--save-picture` shows each hit by its picture or a strip of frames, and by a text about it where it is features alone;
`--videos` names the folder of their clips.
"""

import argparse
from collections.abc import Sequence
from typing import get_args

from hub_scripts.model_options import (
    add_description_argument,
    add_model_arguments,
    add_split_arguments,
    load_model,
    source_of,
)
from processing.files import atomic_write, write_json_atomic
from retrieval.evaluation import ItemScoring
from retrieval.index import ItemIndex, check_index_place, is_index
from retrieval.items import open_items, pictures_of
from retrieval.pictures import contact_sheet
from retrieval.results import check_queries, format_table, read_queries, search_index
from retrieval.views import ItemViews


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog="leccr search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    parser.add_argument("--items", required=True, help="folder of pictures or clips, data set, or saved index")
    parser.add_argument("--query", action="append", default=[], help="what to look for; may be given several times")
    parser.add_argument(
        "--query-file", help="JSON list of objects with query and, if known, language and image_id or video_id"
    )
    parser.add_argument("--top-k", type=int, default=5, help="hits a query (default: %(default)s)")
    add_split_arguments(parser)
    add_description_argument(parser)
    parser.add_argument("--skip-corrupt", action="store_true", help="leave out items that cannot be read")
    parser.add_argument("--no-descriptions", action="store_true", help="leave descriptions out")
    parser.add_argument("--scoring", choices=get_args(ItemScoring), default="fused", help="(default: %(default)s)")
    parser.add_argument("--global-weight", type=float, help="share of the image embedding in fused scores")
    parser.add_argument("--batch-size", type=int, default=64, help="items encoded at a time (default: %(default)s)")
    parser.add_argument("--save-index", metavar="FOLDER", help="keep the encoded items for later searches")
    parser.add_argument("--save-results", metavar="FILE", help="write the hits as JSON")
    parser.add_argument("--save-picture", metavar="FILE", help="write the hits as one picture, such as hits.png")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Load, index, search, and show the hits."""
    options = parse_arguments(argv)
    asked = [{"query": query} for query in options.query] + read_queries(options.query_file)
    if asked or not options.save_index:
        check_queries([entry["query"] for entry in asked], options.top_k)
    if options.save_index:
        check_index_place(options.save_index)
    model, processor, _ = load_model(options.model, options.revision, options.device)
    if is_index(options.items):
        index = ItemIndex.load(options.items)
        source = dict(index.settings["source"])
    else:
        source = {
            **source_of(options, model, options.items),
            "description_file": options.description_file,
            "skip_corrupt": options.skip_corrupt,
        }
        index = ItemIndex.build(
            model,
            processor,
            open_items(**source, sampling=processor.sampling),
            scoring=options.scoring,
            global_weight=options.global_weight,
            use_descriptions=not options.no_descriptions,
            batch_size=options.batch_size,
            source=source,
        )
    if options.save_index:
        index.save(options.save_index)
    if not asked:
        print(f"{len(index.item_ids)} items are encoded in {options.save_index}; ask them with --items and --query.")
        return
    results = search_index(
        index,
        model,
        processor,
        [entry["query"] for entry in asked],
        top_k=options.top_k,
        languages=[entry.get("language") for entry in asked],
        correct_ids=[entry.get("image_id", entry.get("video_id")) for entry in asked],
    )
    print(format_table(results))
    if options.save_results:
        write_json_atomic(options.save_results, [result.to_dict() for result in results])
    if options.save_picture:
        views = ItemViews(pictures_of(index, source), videos=options.videos or source.get("videos"))
        sheet = contact_sheet(results, views)
        with atomic_write(options.save_picture) as path:
            sheet.save(path)


if __name__ == "__main__":
    main()
