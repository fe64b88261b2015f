"""The image data sets of the released LECCR code: Multi30K and MSCOCO with translations and MLLM descriptions.

    TextData/Flickr30ktrain_enc.caption.txt                 <image>#enc#0 <English caption>
    TextData/Flickr30ktrain_google_enc2de.caption.txt       <image>#enc2de#0 <machine translation>
    TextData/multi30kval_de.caption.txt                     <image>#de#0 <human German caption>
    TextData/multi30ktest_de_2016.caption.txt
    img_id/{train_id,val_id,test_id_2016}.txt               one image id a line, without .jpg
    img_id/{image_ids,zh_val_id,zh_test_id,...}.txt         MSCOCO: "<id> <file name>" for all images; ids a language
    <descriptions>/<image id>.txt                           MSCOCO: <file name without .jpg>.txt

The layout is known from the released code, which carries no licence; no copy of the files could be checked. So these
points are assumptions: ids hold no white space; Multi30K has the sizes of its authors. A training id without captions
and a description that is absent or blank are reported, where the released code would stop.
"""

from collections.abc import Sequence
from pathlib import Path

import datasets

from processing.media import attach_images
from processing.readers.base import Corpus, check_count, check_name, iter_lines
from processing.readers.caption_layout import read_layout
from processing.records import ID_COLUMN

MULTI30K_IMAGES = {"train": 29_000, "validation": 1_014, "test": 1_000}


def read_official_layout(
    root: str | Path,
    *,
    languages: Sequence[str] | None = None,
    collection: str | None = None,
    descriptions: str | Path | None = None,
    images: str | Path | datasets.DatasetDict | None = None,
    check_counts: bool = True,
) -> Corpus:
    """A data set of images in the layout of the released LECCR code.

    Args:
        root: the folder with `TextData` and `img_id` (or, in older releases, the lists of ids in `FeatureData`).
        languages: which captions to read besides English; all where None. MSCOCO evaluates Chinese and Japanese on
            images of their own, so they are read one at a time.
        collection: the beginning of the names of the caption files, where `TextData` holds several collections such
            as `Flickr30k` and `multi30k` to train on.
        descriptions: the folder of descriptions; None for no column `description`.
        images: a folder of pictures, or a data set with `image_id` and `image`: who has none is reported.
        check_counts: refuse other sizes than those of Multi30K; those of MSCOCO are not published with the layout.

    Returns:
        Splits "train", "validation" and "test", those that have files. `caption_<language>_mt` lines up with
        `caption_en`, null where a translation is absent; `caption_<language>` holds human captions, for evaluation
        only. MSCOCO has a column `file_name`.

    Raises:
        ValueError: a file is missing, malformed or of another size than published; languages are evaluated on
            different images; not one image of the rows is in `images`.
    """
    folder = Path(root)
    file_names = _read_file_names(folder)
    layout = read_layout(
        folder,
        id_column=ID_COLUMN,
        languages=languages,
        collection=collection,
        descriptions=Path(descriptions) if descriptions is not None else None,
        file_names=file_names,
    )
    if check_counts and file_names is None:
        for split, published in MULTI30K_IMAGES.items():
            found = len(layout.splits[split]) if split in layout.splits else 0
            check_count(found, published, f"images of the split {split!r}", folder)
    if images is not None:
        layout.missing.merge(attach_images(layout.splits, images)[1])
    settings = {
        "reader": "official",
        "languages": list(layout.languages),
        "collection": collection,
        "ignored_files": layout.ignored_files,
    }
    return Corpus(layout.splits, layout.missing, settings)


def _read_file_names(root: Path) -> dict[str, str] | None:
    """Image id -> file name; None where ids are file names already."""
    path = next((path for path in (root / "img_id" / "image_ids.txt", root / "image_ids.txt") if path.is_file()), None)
    if path is None:
        return None
    names: dict[str, str] = {}
    for number, line in iter_lines(path):
        item, _, name = line.strip().partition(" ")
        if not name or item in names:
            raise ValueError(f"{path}, line {number}: expected '<new id> <file name>', got {line[:80]!r}.")
        check_name(name.strip(), source=f"{path}, line {number}")
        names[item] = name.strip()
    return names
