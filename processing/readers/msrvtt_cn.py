"""MSR-VTT-CN in the layout that NRCCR and LECCR read: caption files and memory-mapped frame features.

    TextData/msrvtt10kcntrain.caption.txt                   video0#enc#0 <English caption>
    TextData/msrvtt10kcntrain_google_enc2zh.caption.txt     video0#enc2zh#0 <machine translation>
    TextData/msrvtt10kcnval_zh.caption.txt, ...test_zh...   video7010#zh#0 <human Chinese caption>
    FeatureData/<name>/{feature.bin,id.txt,shape.txt,video2frames.txt}
    video_id/{train_id,val_id,test_id}.txt                  (LECCR) one id a line

The layout is known from the released code, which carries no licence; the files themselves lie behind links that are
dead for most, so these points are assumptions: there are no English captions for validation and test (where
`msrvtt10kcntest_enc.caption.txt` exists it is read), and the number of videos is that of one of `PARTITIONS`. The
recalls that NRCCR prints are of the size that only a test set of 1,000 videos with one caption each can give.
The same files exist for VATEX, and this reader takes them with `check_counts=False`.
"""

from collections.abc import Sequence
from pathlib import Path

from processing.media import attach_videos
from processing.readers.base import Corpus
from processing.readers.caption_layout import read_layout
from processing.readers.feature_store import attach_features
from processing.records import VIDEO_ID_COLUMN

# Videos of train, validation and test: the split of the data set's authors; 1k-A (Yu et al., 2018) with all other
# videos to train on; 1k-A and 1k-B (Miech et al., 2018) with a validation set, as dual encoding publishes them.
PARTITIONS = {
    "official": (6_513, 497, 2_990),
    "1k-A": (9_000, 0, 1_000),
    "1k-A with validation": (7_010, 1_000, 1_000),
    "1k-B with validation": (6_656, 1_000, 1_000),
}


def read_msrvtt_cn(
    root: str | Path,
    *,
    languages: Sequence[str] | None = None,
    collection: str | None = None,
    descriptions: str | Path | None = None,
    features: str | Path | None = None,
    clips: str | Path | None = None,
    check_counts: bool = True,
) -> Corpus:
    """MSR-VTT-CN, or another data set of videos in its layout.

    Args:
        root: the folder with `TextData`.
        languages: which captions to read besides English; all where None.
        collection: the beginning of the names of the caption files, where `TextData` holds several collections.
        descriptions: a folder with `<video id>.txt`; None for no column `description`.
        features: a folder of frame features, see processing/readers/feature_store.py; where None, the one store in
            `FeatureData`, if there is one. Videos without are reported.
        clips: a folder of video files named after the ids. Videos without are reported.
        check_counts: refuse sizes that are in no partition of `PARTITIONS`.

    Returns:
        Splits "train", "validation" and "test", those that have files. `caption_zh_mt` lines up with `caption_en`,
        null where a translation is absent; `caption_zh` holds human captions, for evaluation only.

    Raises:
        ValueError: a file is missing, malformed or of another size than published; not one row has a clip.
    """
    folder = Path(root)
    layout = read_layout(
        folder,
        id_column=VIDEO_ID_COLUMN,
        languages=languages,
        collection=collection,
        descriptions=Path(descriptions) if descriptions is not None else None,
    )
    splits, missing = layout.splits, layout.missing
    counts = tuple(len(splits[split]) if split in splits else 0 for split in ("train", "validation", "test"))
    partition = next((name for name, sizes in PARTITIONS.items() if sizes == counts), None)
    if check_counts and partition is None:
        raise ValueError(
            f"{folder} gives {counts} videos to train, validate and test on, and published are {PARTITIONS}; pass "
            f"check_counts=False to read it all the same."
        )
    store = features if features is not None else _only_store(folder / "FeatureData")
    if store is not None:
        missing.merge(attach_features(splits, store)[1])
    if clips is not None:
        missing.merge(attach_videos(splits, clips)[1])
    settings = {
        "reader": "msrvtt_cn",
        "languages": list(layout.languages),
        "collection": collection,
        "partition": partition,
        "ignored_files": layout.ignored_files,
    }
    return Corpus(splits, missing, settings)


def _only_store(folder: Path) -> Path | None:
    stores = sorted(path.parent for path in folder.glob("*/feature.bin"))
    if len(stores) > 1:
        raise ValueError(f"{folder} holds several stores, {[store.name for store in stores]}; give one as features.")
    return stores[0] if stores else None
