"""For each recipe of configs/ a few rows where it looks for its data, in the layout that its commands leave there."""

import re
import shlex
import string
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from transformers import BertConfig, BertModel, CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from hub_scripts import read_dataset
from processing.records import find_id_column, schema_features
from processing.sources import open_splits, write_splits
from processing.tokenizer import train_tokenizer
from tests import test_readers_mscoco as mscoco
from tests import test_readers_multi30k as multi30k
from tests import test_readers_vatex as vatex
from tests.caption_folders import make_msrvtt, write_captions, write_store
from tests.clips import make_clip
from tests.hub_parts import SPLITS, write_folder
from tests.tiny import SENTENCES, tiny_image
from tests.training_parts import tiny_split


def recipe_commands(path: Path) -> list[list[str]]:
    """The words of each command in the comments of a recipe; a backslash continues a line."""
    comments = re.findall(r"^#(.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = "\n".join(comments).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith(("   leccr ", "   accelerate ", "   python "))]


def option(words: list[str], name: str) -> str:
    """The value behind an option of a command."""
    return words[words.index(name) + 1]


def prepare_data(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Make the data of a recipe in the working folder; returns settings that make small what it draws itself."""
    # Other systems are trained on the data of the recipes of LECCR, whose commands make it.
    name, path = path.stem, path.with_name(re.sub("^(cl2cm|baseline)_", "", path.name))
    makers: dict[str, Callable[[Path, pytest.MonkeyPatch], dict[str, Any] | None]] = {
        "scenes": lambda *_: {"scenes": {"train_size": 12, "validation_size": 4, "test_size": 6}},
        "scenes_video": lambda *_: {"scenes_video": {"train_size": 12, "validation_size": 4, "test_size": 6}},
        "flickr8k_zh": _make_flickr8k,
        "own_pictures": _make_own_pictures,
        **{f"multi30k_{language}": _make_multi30k for language in ("de", "fr", "cs")},
        **{f"mscoco_{language}": _make_mscoco for language in ("zh", "ja")},
        "vatex_zh": _make_vatex,
        "msrvtt_cn": _make_msrvtt_cn,
        "cl2cm_msrvtt_cn": partial(_make_msrvtt_cn, english=True),
    }
    assert path.stem in makers, f"{path.name} is new: say here how a few rows of its data are made"
    return makers[name if name in makers else path.stem](path, monkeypatch) or {}


def save_towers(folder: Path) -> tuple[str, str]:
    """Small towers of the published kinds as pretrained ones, for pictures of another size than a recipe's."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**sizes, image_size=96, patch_size=32, projection_dim=32)
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "vision")
    CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size=96).save_pretrained(folder / "vision")
    # With the names in the captions of the readers' tests: captions of unknown words alone would all be the same one.
    names = [f"{letter} {letter}{letter}" for letter in string.ascii_letters + string.digits]
    tokenizer = train_tokenizer([*(text for row in SENTENCES for text in row), *names], 300, max_length=256)
    text = BertConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=256)
    BertModel(text).save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    return str(folder / "vision"), str(folder / "text")


def _make_flickr8k(*_: Any) -> None:
    for name, size in (("train", 8), ("validation", 4)):
        split = tiny_split(size).add_column("caption_zh_mt", [[f"第{item}张"] for item in range(size)])
        split = split.add_column("caption_zh", [[f"图片{item}", f"照片{item}"] for item in range(size)])
        Path("flickr8k-ccr").mkdir(exist_ok=True)
        split.to_parquet(f"flickr8k-ccr/{name}-00000-of-00001.parquet")


def _make_own_pictures(*_: Any) -> None:
    write_folder(Path("data/translated"))
    _save_pictures(Path("pictures"), [f"{name}/{item}.png" for name, count in SPLITS.items() for item in range(count)])


def _make_multi30k(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The files of the reader's tests with a second picture to validate: one alone cannot be ranked.
    names = {**multi30k.NAMES, "val": ["21.jpg", "22.jpg"]}
    monkeypatch.setattr(multi30k, "NAMES", names)
    multi30k.make_task_1(Path("multi30k"))
    multi30k.make_task_2(Path("multi30k"))
    _save_pictures(Path("pictures/flickr30k"), [name for part in names.values() for name in part])
    _run_commands(path)


def _make_mscoco(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As above, with a second picture to validate and to test, in both divisions.
    images = {**mscoco.IMAGES, 6: ("val", "val"), 7: ("val", "test"), 8: ("train", "train")}
    monkeypatch.setattr(mscoco, "IMAGES", images)
    root = Path("mscoco")
    mscoco.make_karpathy(root)
    mscoco.make_stair(root)
    chinese = mscoco.make_coco_cn(root) / "coco-cn-version1805v1.1"
    for name, number in (("train", 8), ("val", 6), ("test", 7)):
        _append(chinese / f"coco-cn_{name}.txt", mscoco.name_of(number))
        _append(chinese / "imageid.human-written-caption.txt", f"{mscoco.name_of(number)}#0\t第{number}张")
    names = [f"{part}2014/{mscoco.name_of(number)}.jpg" for number, (part, _) in images.items()]
    _save_pictures(Path("pictures/mscoco"), names)
    _run_commands(path)


def _make_vatex(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, named = vatex.make_vatex(Path("vatex")), vatex.IDS[vatex.VALIDATION]
    (root / "vatextest_zh.caption.txt").write_text("".join(f"{video_id}#zh#0 人\n" for video_id in named[::2]))
    ids = [*vatex.IDS[vatex.TRAIN], *named]
    draw = np.random.default_rng(0)
    Path("features/vatex_i3d").mkdir(parents=True)
    for number, video_id in enumerate(ids):
        features = draw.standard_normal((1, 2 + number % 3, 1024), np.float32)
        np.save(f"features/vatex_i3d/{video_id}.npy", features)
    _save_clips(Path("clips/vatex"), ids)
    _run_commands(path)


def _make_msrvtt_cn(path: Path, _: pytest.MonkeyPatch, *, english: bool = False) -> None:
    root = make_msrvtt(Path("msrvtt10kcn"))
    # A second clip to validate, and more to train on: one alone cannot be ranked, and two have too few captions.
    captions = root / "TextData"
    _append(captions / "msrvtt10kcnval_zh.caption.txt", "video5#zh#0 中文 video5")
    for video in ("video6", "video7"):
        for number in range(2):
            text = f"english {number} of {video}"
            _append(captions / "msrvtt10kcntrain.caption.txt", f"{video}#enc#{number} {text}")
            _append(captions / "msrvtt10kcntrain_google_enc2zh.caption.txt", f"{video}#enc2zh#{number} 机器 {text}")
    for split, videos in {"val": ("video2", "video5"), "test": ("video4", "video3")}.items() if english else ():
        texts = {video: [f"english 0 of {video}"] for video in videos}
        write_captions(captions / f"msrvtt10kcn{split}_enc.caption.txt", "enc", texts)
    ids, store = [f"video{number}" for number in range(8)], root / "FeatureData" / "resnext101-resnet152"
    write_store(store, ids, dim=4096)
    np.random.default_rng(0).standard_normal((2 * len(ids), 4096), np.float32).tofile(store / "feature.bin")
    _save_clips(Path("clips/msrvtt"), ids)
    _run_commands(path)


def _save_clips(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        # Of different lengths, so that batches are padded.
        make_clip(folder / f"{name}.mp4", 3 + number % 3, picture=np.asarray(tiny_image(number).resize((48, 32))))


def _append(path: Path, line: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + f"{line}\n", encoding="utf-8")


def _save_pictures(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tiny_image(number).save(folder / name)


def _run_commands(path: Path) -> None:
    """What the commands of a recipe do, with stand-ins for the models that write texts."""
    read, describe, following, *_ = recipe_commands(path)
    read_dataset.main([*read[2:], "--no-check-counts"])
    assert option(describe, "--dataset") == option(read, "--out")
    languages, last = [], describe
    if following[1] == "translate":
        assert option(following, "--dataset") == option(describe, "--out")
        start = following.index("--languages") + 1
        languages, last = [word for word in following[start:] if re.fullmatch("[a-z]{2}", word)], following
    splits = open_splits(option(read, "--out"))
    made = {name: _with_texts(split, languages) for name, split in splits.items()}
    write_splits(datasets.DatasetDict(made), option(last, "--out"))


def _with_texts(split: datasets.Dataset, languages: list[str]) -> datasets.Dataset:
    data = split.to_dict()
    data["description"] = [f"A long text about {item}." for item in data[find_id_column(data)]]
    for language in languages:
        data[f"caption_{language}_mt"] = [
            [f"{language} {text}" for text in captions] for captions in data["caption_en"]
        ]
    return datasets.Dataset.from_dict(data, features=schema_features(data), split=split.split)
