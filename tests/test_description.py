"""Tests of processing/description.py."""

import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from processing import description
from processing.chat_server import MAX_PICTURE_SIDE, ChatServer, ChatSettings
from processing.description import (
    PictureDescriber,
    description_job,
    judge_captions,
    judge_description,
    media_column,
)
from processing.description_models import ImageTextToText
from processing.generation import Answer, Outcome, Request
from processing.jobs import run_job
from processing.missing import MissingReport
from processing.prompts import PROMPTS, Prompt
from processing.records import schema_features
from processing.sources import open_splits
from tests.clips import make_clip, read_numbers
from tests.openai_server import REFUSAL, Body, OpenAiServer, pictures_of
from tests.tiny import tiny_image
from tests.tiny_mllm import tiny_mllm

IMAGE_PROMPT, CAPTIONS_PROMPT, VIDEO_PROMPT = (PROMPTS[name] for name in ("image-v1", "captions-v1", "video-v1"))
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Scripted:
    """A generator that answers by a function of the request and the attempt, and keeps what it was asked."""

    decoding = {"model": "scripted"}  # noqa: RUF012

    def __init__(self, answer: Callable[[Request, int], Answer]) -> None:
        self.calls: list[tuple[int, list[Request]]] = []
        self._answer = answer

    def generate(self, requests: Sequence[Request], *, attempt: int, events: Counter[str]) -> list[Answer]:
        self.calls.append((attempt, list(requests)))
        return [self._answer(request, attempt) for request in requests]


def png(index: int) -> dict[str, Any]:
    """A picture as parquet stores it."""
    buffer = io.BytesIO()
    tiny_image(index).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def picture_rows(count: int, *, broken: Sequence[int] = (), **columns: list[Any]) -> datasets.Dataset:
    """Rows with pictures; those of `broken` cannot be decoded."""
    content = {
        "image_id": [f"picture {index}" for index in range(count)],
        **columns,
        "image": [{"bytes": b"no picture", "path": None} if index in broken else png(index) for index in range(count)],
    }
    return datasets.Dataset.from_dict(content, features=schema_features(content))


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer(" A **dog** runs. "), Outcome("A dog runs.", "ok")),
        (Answer("Here is a description:\nA dog."), Outcome("A dog.", "ok")),
        (Answer(None), Outcome(None, "error")),
        (Answer(""), Outcome(None, "empty")),
        (Answer(" ... \n"), Outcome(None, "empty")),
        (Answer("Sure!\n"), Outcome(None, "empty")),
        (Answer(REFUSAL), Outcome(None, "refusal")),
        (Answer("Sure! I\u2019m sorry, but I can\u2019t see it."), Outcome(None, "refusal")),
        (Answer(REFUSAL, truncated=True), Outcome(None, "refusal")),
        (Answer("A dog runs. A ca", truncated=True), Outcome("A dog runs.", "truncated")),
        (Answer("A dog ru", truncated=True), Outcome(None, "truncated")),
        (Answer("<think>Let me see", truncated=True), Outcome(None, "truncated")),
    ],
)
def test_each_answer_is_judged(answer: Answer, outcome: Outcome):
    """A text that is no description would be trained on; one that is thrown away costs its picture."""
    assert judge_description(Request("key", "prompt"), answer) == outcome


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer("1. A dog.\n2. A cat.\n"), Outcome("A dog.\nA cat.", "ok")),
        (Answer(None), Outcome(None, "error")),
        (Answer("Here are captions:\n"), Outcome(None, "empty")),
        (Answer(f"{REFUSAL}\nWhat else can I do?"), Outcome(None, "refusal")),
        (Answer("A dog.\nA cat.\nA ho", truncated=True), Outcome("A dog.\nA cat.", "truncated")),
        (Answer("A dog and a ca", truncated=True), Outcome(None, "truncated")),
    ],
)
def test_each_answer_with_captions_is_judged(answer: Answer, outcome: Outcome):
    """Half a caption, or a refusal among captions, would be a training pair."""
    assert judge_captions(Request("key", "prompt"), answer) == outcome


def test_rows_get_their_own_descriptions_and_unreadable_pictures_a_flag():
    """One broken picture that is left out would move each later description to the wrong picture."""
    expected = {index: np.asarray(tiny_image(index)) for index in range(4)}

    def answer(request: Request, attempt: int) -> Answer:
        (picture,) = request.pictures
        assert picture.mode == "RGB"
        (index,) = [index for index, pixels in expected.items() if np.array_equal(pixels, np.asarray(picture))]
        assert (request.key, request.prompt) == (f"picture {index}", IMAGE_PROMPT.text)
        return Answer(f"It is {NUMBERS[index]}.")

    rows = picture_rows(4, broken=[1])
    assert PictureDescriber(Scripted(answer), IMAGE_PROMPT)(rows, Counter()) == {
        "description": ["It is zero.", None, "It is two.", "It is three."],
        "description_flag": ["ok", "unreadable", "ok", "ok"],
    }


def test_an_unreadable_picture_is_named_in_the_log(caplog: pytest.LogCaptureFixture):
    """Among 100,000 pictures nobody finds the broken one by its flag's count."""
    with caplog.at_level(logging.WARNING):
        PictureDescriber(Scripted(lambda request, attempt: Answer("A dog.")), IMAGE_PROMPT)(
            picture_rows(2, broken=[1]), Counter()
        )
    assert "item 'picture 1' cannot be decoded" in caplog.text


@pytest.mark.parametrize("broken", [[], [0, 1, 2]])
def test_absent_and_broken_pictures_alone_ask_nothing(broken: list[int]):
    """A request without a picture would be answered with a description of nothing."""
    rows = picture_rows(3, broken=broken)
    if not broken:
        rows = rows.remove_columns("image").add_column("image", [None] * 3, feature=datasets.Image())
    generator = Scripted(lambda request, attempt: Answer("A dog."))
    assert PictureDescriber(generator, IMAGE_PROMPT)(rows, Counter())["description_flag"] == ["unreadable"] * 3
    assert not [request for _, requests in generator.calls for request in requests]


def test_answers_that_will_not_do_are_asked_again_and_counted():
    """A refusal by chance would stay, and nobody would know how often it happened."""
    script = {
        "picture 0": [Answer(REFUSAL), Answer(""), Answer("It is zero.")],
        "picture 1": [Answer("It is one. An"), Answer("It is one. An", truncated=True)],
        "picture 2": [Answer(None), Answer(REFUSAL), Answer("It is two. And", truncated=True), Answer("never")],
    }
    generator = Scripted(lambda request, attempt: script[request.key][attempt])
    events: Counter[str] = Counter()
    found = PictureDescriber(generator, IMAGE_PROMPT, max_attempts=3)(picture_rows(3), events)
    assert found == {
        "description": ["It is zero.", "It is one. An", "It is two."],
        "description_flag": ["ok", "ok", "truncated"],
    }
    assert events == {"retry_refusal": 2, "retry_empty": 1, "retry_error": 1}
    assert [(attempt, len(requests)) for attempt, requests in generator.calls] == [(0, 3), (1, 2), (2, 2)]


def test_few_pictures_are_open_at_once(monkeypatch: pytest.MonkeyPatch):
    """A shard of 256 photos of 12 megapixels takes 9 GB when all are decoded."""
    monkeypatch.setattr(description, "PICTURES_IN_MEMORY", 4)
    generator = Scripted(lambda request, attempt: Answer(f"It is {request.key}."))
    found = PictureDescriber(generator, IMAGE_PROMPT)(picture_rows(10, broken=[2]), Counter())
    assert [len(requests) for _, requests in generator.calls] == [3, 4, 2]
    assert found["description"] == [None if index == 2 else f"It is picture {index}." for index in range(10)]


def test_large_pictures_are_made_smaller():
    """A model with native resolution would take thousands of tokens for one photo."""
    content = {"image_id": ["large"], "image": [Image.new("RGB", (4000, 1000), "red")]}
    rows = datasets.Dataset.from_dict(content, features=schema_features(content))
    generator = Scripted(lambda request, attempt: Answer("It is red."))
    PictureDescriber(generator, IMAGE_PROMPT)(rows, Counter())
    assert generator.calls[0][1][0].pictures[0].size == (MAX_PICTURE_SIDE, MAX_PICTURE_SIDE // 4)


def test_videos_are_described_by_their_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Frames in a wrong order, or of the next clip, tell another story."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    clips = [make_clip(tmp_path / "long.mp4"), broken, make_clip(tmp_path / "short.mp4", 2)]
    content = {"video_id": ["long", "broken", "short"], "video": [str(clip) for clip in clips]}
    rows = datasets.Dataset.from_dict(content, features=schema_features(content))
    generator = Scripted(lambda request, attempt: Answer(f"A clip of {len(request.pictures)} frames."))
    found = PictureDescriber(generator, VIDEO_PROMPT, num_frames=5)(rows, Counter())
    assert found["description"] == ["A clip of 5 frames.", None, "A clip of 2 frames."]
    assert found["description_flag"] == ["ok", "unreadable", "ok"]
    first, second = generator.calls[0][1]
    assert (read_numbers(first.pictures), read_numbers(second.pictures)) == ([2, 6, 10, 14, 18], [0, 1])
    # Frames count as pictures.
    monkeypatch.setattr(description, "PICTURES_IN_MEMORY", 8)
    PictureDescriber(generator, VIDEO_PROMPT, num_frames=5)(rows, Counter())
    assert [len(requests) for _, requests in generator.calls[1:]] == [1, 0, 1]


def test_captions_are_made_for_pictures_that_have_none():
    """Generated captions in the place of human ones would destroy what people wrote."""
    human = [["A man."], [], ["", " "], None, []]
    answers = {"picture 1": "1. A dog.\n2. A cat.", "picture 2": "A house.", "picture 3": REFUSAL}
    generator = Scripted(lambda request, attempt: Answer(answers[request.key]))
    events: Counter[str] = Counter()
    rows = picture_rows(5, broken=[4], caption_en=human)
    assert PictureDescriber(generator, CAPTIONS_PROMPT, max_attempts=2)(rows, events) == {
        "caption_en": [["A man."], ["A dog.", "A cat."], ["A house."], [], []],
        "caption_en_flag": [[None], ["ok", "ok"], ["ok"], ["refusal"], ["unreadable"]],
    }
    assert events == {"retry_refusal": 1}
    without = picture_rows(2)
    generator = Scripted(lambda request, attempt: Answer("A dog."))
    assert PictureDescriber(generator, CAPTIONS_PROMPT)(without, Counter())["caption_en"] == [["A dog."]] * 2


def test_captions_of_a_job_are_done_again_by_their_flag(tmp_path: Path):
    """A refused row without captions must be found by `--redo refusal`, and only that one."""
    splits = datasets.DatasetDict(train=picture_rows(3, caption_en=[["A man."], [], []]))
    answers = {"picture 1": "A dog.", "picture 2": REFUSAL}
    job = description_job(splits, Scripted(lambda request, attempt: Answer("")), CAPTIONS_PROMPT)

    def worker() -> PictureDescriber:
        return PictureDescriber(Scripted(lambda request, attempt: Answer(answers[request.key])), CAPTIONS_PROMPT)

    manifest = run_job(job, splits, tmp_path / "out", worker)
    assert manifest.steps[-1].counts["caption_en_flag"] == {"ok": 1, "refusal": 1}
    answers |= {"picture 1": "Another dog.", "picture 2": "A cat."}
    manifest = run_job(job, splits, tmp_path / "out", worker, redo=["refusal"])
    assert manifest.steps[-1].counts["caption_en_flag"] == {"ok": 2}
    rows = open_splits(tmp_path / "out")["train"]
    assert rows["caption_en"] == [["A man."], ["A dog."], ["A cat."]]
    assert "image" not in rows.column_names


def test_the_job_holds_what_decides_the_texts():
    """Two runs with other prompts or frames must not share a folder, and a card must say what was asked."""
    splits = {"train": picture_rows(2)}
    generator = Scripted(lambda request, attempt: Answer(""))
    job = description_job(splits, generator, IMAGE_PROMPT, max_attempts=5, rows_per_shard=7)
    assert (job.kind, list(job.features), job.rows_per_shard) == ("describe", ["description", "description_flag"], 7)
    assert job.settings == {
        "model": "scripted",
        "prompt": {"id": "image-v1", "text": IMAGE_PROMPT.text},
        "max_attempts": 5,
        "max_picture_side": MAX_PICTURE_SIDE,
    }
    captions = description_job(splits, generator, CAPTIONS_PROMPT)
    assert list(captions.features) == ["caption_en", "caption_en_flag"]
    content = {"video_id": ["a"], "video": ["a.mp4"]}
    videos = {"train": datasets.Dataset.from_dict(content, features=schema_features(content))}
    missing = MissingReport()
    missing.add("no video", "train", "b")
    job = description_job(videos, generator, VIDEO_PROMPT, num_frames=3, missing=missing)
    assert job.settings["num_frames"] == 3 and job.settings["missing"] == {"no video": {"train": 1}}


def test_rows_that_cannot_be_described_are_refused_before_work_begins():
    """A missing column would show when the model is loaded and the folder is begun."""
    generator = Scripted(lambda request, attempt: Answer(""))
    texts = picture_rows(1).remove_columns("image")
    with pytest.raises(ValueError, match=r"must have one column 'image' or 'video', got \['image_id'\]"):
        description_job({"train": texts}, generator, IMAGE_PROMPT)
    with pytest.raises(ValueError, match="must have one column"):
        media_column(["image", "video"])
    with pytest.raises(ValueError, match="must have one column 'image_id' or 'video_id'"):
        description_job({"train": picture_rows(1).remove_columns("image_id")}, generator, IMAGE_PROMPT)
    for settings in ({"max_attempts": 0}, {"num_frames": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            description_job({"train": picture_rows(1)}, generator, IMAGE_PROMPT, **settings)


def test_a_local_model_gives_the_same_rows_however_the_job_is_cut_short(tmp_path: Path):
    """A resumed job, or one shared by processes, would be another data set than the uninterrupted one."""
    folder = tiny_mllm(tmp_path / "model")
    prompt = Prompt("custom-1", "describe this picture")
    splits = datasets.DatasetDict(train=picture_rows(9, broken=[4]), test=picture_rows(3))

    def local_model() -> ImageTextToText:
        return ImageTextToText(folder, max_new_tokens=12, temperature=1.0, batch_size=2)

    class Interrupted(PictureDescriber):
        def __call__(self, rows: datasets.Dataset, events: Counter[str]) -> dict[str, list[Any]]:
            raise KeyboardInterrupt

    job = description_job(splits, local_model(), prompt, rows_per_shard=4)
    whole = run_job(job, splits, tmp_path / "whole", lambda: PictureDescriber(local_model(), prompt))
    for done in (1, 2, 3):
        shards = iter([PictureDescriber(local_model(), prompt)] * done)

        def worker(shards: Any = shards) -> Any:
            return lambda rows, events: next(shards, Interrupted(local_model(), prompt))(rows, events)

        with pytest.raises(KeyboardInterrupt):
            run_job(job, splits, tmp_path / f"cut {done}", worker)
        manifest = run_job(job, splits, tmp_path / f"cut {done}", lambda: PictureDescriber(local_model(), prompt))
        assert asdict(manifest) == asdict(whole)
        for path in sorted((tmp_path / "whole" / "data").iterdir()):
            assert (tmp_path / f"cut {done}" / "data" / path.name).read_bytes() == path.read_bytes()
    found = [text for rows in open_splits(tmp_path / "whole").values() for text in rows["description"]]
    assert len({text for text in found if text}) > 5


def test_a_server_with_faults_loses_no_row_and_counts_each_fault(tmp_path: Path):
    """Each fault that a server can have must cost a retry, not a row, and stand in the manifest."""
    splits = datasets.DatasetDict(train=picture_rows(10, broken=[7]))
    expected = [f"It is {number}." for number in NUMBERS]
    colours = [np.asarray(tiny_image(index), dtype=float).mean(axis=(0, 1)) for index in range(10)]

    def answer(body: Body) -> str:
        (picture,) = pictures_of(body)
        colour = np.asarray(picture.convert("RGB"), dtype=float).mean(axis=(0, 1))
        return expected[int(np.argmin([np.abs(colour - other).sum() for other in colours]))]

    faults = ["refusal", "empty", "truncated", "http_429", "http_500", "cut", "invalid_utf8", None, "not_json"]
    with OpenAiServer(answer, faults=faults) as server:
        settings = ChatSettings(server.url, "test-model", backoff_s=0.0, concurrency=3)
        job = description_job(splits, ChatServer(settings), IMAGE_PROMPT, rows_per_shard=3)
        manifest = run_job(job, splits, tmp_path / "out", lambda: PictureDescriber(ChatServer(settings), IMAGE_PROMPT))
    rows = open_splits(tmp_path / "out")["train"]
    assert rows["image_id"] == splits["train"]["image_id"]
    assert rows["description"] == [None if index == 7 else text for index, text in enumerate(expected)]
    counts = manifest.steps[-1].counts
    assert counts["rows"] == 10 and counts["description_flag"] == {"ok": 9, "unreadable": 1}
    retries = {name: counts["events"][f"retry_{name}"] for name in ("refusal", "empty", "truncated")}
    assert retries == {"refusal": 1, "empty": 1, "truncated": 1}
    lost = {name: number for name, number in counts["events"].items() if not name.startswith("retry_")}
    assert sum(lost.values()) == 5 and {"http_429", "http_500"} <= set(lost)
    assert server.url not in json.dumps(asdict(manifest))
