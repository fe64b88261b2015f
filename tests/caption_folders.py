"""Small folders in the layout of NRCCR and LECCR."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def write_captions(path: Path, kind: str | None, captions: Mapping[str, Sequence[str]]) -> None:
    """A caption file; `kind` None leaves it out of the ids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    middle = f"#{kind}#" if kind else "#"
    lines = [
        f"{item}{middle}{number} {text}\n" for item, texts in captions.items() for number, text in enumerate(texts)
    ]
    path.write_text("".join(lines), encoding="utf-8")


def write_store(folder: Path, videos: Sequence[str], *, frames: int = 2, dim: int = 3) -> None:
    """A store with the same number of frames for each video."""
    folder.mkdir(parents=True, exist_ok=True)
    table = {video: [f"{video}_{frame}" for frame in range(frames)] for video in videos}
    np.ones((len(videos) * frames, dim), "<f4").tofile(folder / "feature.bin")
    (folder / "shape.txt").write_text(f"{len(videos) * frames} {dim}")
    (folder / "id.txt").write_text(" ".join(frame for named in table.values() for frame in named))
    (folder / "video2frames.txt").write_text(str(table))


def make_msrvtt(root: Path, *, collection: str = "msrvtt10kcn") -> Path:
    """Two videos to train on with two captions each, one to validate, two to test."""
    text = root / "TextData"
    train = {f"video{n}": [f"english {k} of video{n}" for k in range(2)] for n in (1, 0)}
    write_captions(text / f"{collection}train.caption.txt", "enc", train)
    translated = {video: [f"机器 {caption}" for caption in captions] for video, captions in train.items()}
    write_captions(text / f"{collection}train_google_enc2zh.caption.txt", "enc2zh", translated)
    write_captions(text / f"{collection}val_zh.caption.txt", "zh", {"video2": ["中文 video2"]})
    write_captions(
        text / f"{collection}test_zh.caption.txt", "zh", {"video4": ["中文 video4"], "video3": ["中文 video3"]}
    )
    return root


def make_multi30k(root: Path, languages: Sequence[str] = ("de", "fr")) -> Path:
    """Two images to train on, one to validate, one to test, with lists of ids and descriptions."""
    text = root / "TextData"
    train = {"12.jpg": ["a dog", "one dog"], "11.jpg": ["a cat", "one cat"]}
    write_captions(text / "Flickr30ktrain_enc.caption.txt", "enc", train)
    for language in languages:
        translated = {item: [f"{language} {caption}" for caption in captions] for item, captions in train.items()}
        write_captions(text / f"Flickr30ktrain_google_enc2{language}.caption.txt", f"enc2{language}", translated)
        write_captions(text / f"multi30kval_{language}.caption.txt", language, {"21.jpg": [f"{language} val"]})
        write_captions(text / f"multi30ktest_{language}_2016.caption.txt", language, {"31.jpg": [f"{language} test"]})
    ids = root / "img_id"
    ids.mkdir(parents=True, exist_ok=True)
    for name, listed in (("train_id", "11\n12\n"), ("val_id", "21\n"), ("test_id_2016", "31\n")):
        (ids / f"{name}.txt").write_text(listed)
    descriptions = root / "descriptions"
    descriptions.mkdir(exist_ok=True)
    for item in ("11", "12", "21", "31"):
        (descriptions / f"{item}.txt").write_text(f"A long text about {item}.\n")
    return root
