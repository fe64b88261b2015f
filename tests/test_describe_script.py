"""Tests of hub_scripts/describe.py, from a folder of pictures to a data set with descriptions."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from hub_scripts import describe, read_dataset
from processing.manifest import read_manifest
from processing.prompts import PROMPTS
from processing.sources import open_splits, write_splits
from tests.clips import make_clip, read_numbers
from tests.openai_server import OpenAiServer, pictures_of, prompt_of
from tests.test_description import picture_rows
from tests.tiny import tiny_image
from tests.tiny_mllm import tiny_mllm


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of five pictures, one of them broken, one with a caption."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(4):
        tiny_image(index).save(folder / f"{index}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "0.txt").write_text("A caption.\n", encoding="utf-8")
    return folder


@pytest.fixture
def data(tmp_path: Path, pictures: Path) -> str:
    """The data set of the folder."""
    read_dataset.main(["folder", "--root", str(pictures), "--out", str(tmp_path / "data")])
    return str(tmp_path / "data")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """The JSON that the command prints."""
    capsys.readouterr()
    describe.main([str(argument) for argument in arguments])
    return json.loads(capsys.readouterr().out)


def test_a_local_model_describes_a_folder_of_pictures(
    data: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The parts may work alone and yet not together, as the README has them."""
    model = tiny_mllm(tmp_path / "tiny-model")
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("describe this picture", encoding="utf-8")
    arguments = ["--dataset", data, "--images", pictures, "--model", model, "--prompt", prompt, "--max-tokens", 12]
    arguments += ["--temperature", 1.0, "--batch-size", 2, "--rows-per-shard", 3, "--max-attempts", 2]
    result = run(capsys, *arguments, "--out", tmp_path / "out")
    assert result["complete"] and result["rows"] == 5 and result["missing"] == {}
    assert result["description_flag"]["unreadable"] == 1
    rows = open_splits(tmp_path / "out")["train"]
    assert rows.column_names == ["image_id", "caption_en", "description", "description_flag"]
    assert rows["image_id"] == ["0.png", "1.png", "2.png", "3.png", "broken.jpg"]
    assert [flag == "unreadable" for flag in rows["description_flag"]] == [False] * 4 + [True]
    read, described = read_manifest(tmp_path / "out").steps
    assert (read.kind, described.kind) == ("read", "describe")
    settings = dict(described.settings)
    assert (settings["model"], settings["temperature"], settings["max_tokens"]) == ("tiny-model", 1.0, 12)
    assert (settings["batch_size"], settings["max_attempts"]) == (2, 2)
    assert settings["revision"].startswith("sha256:") and settings["prompt"]["id"].startswith("custom-")
    assert str(tmp_path) not in json.dumps(settings)
    again = run(capsys, *arguments, "--out", tmp_path / "again")
    assert {**again, "out": ""} == {**result, "out": ""}
    assert open_splits(tmp_path / "again")["train"].to_list() == rows.to_list()
    # The same folder with another seed is another job.
    with pytest.raises(ValueError, match="seed is 0 there, 1 here"):
        run(capsys, *arguments, "--out", tmp_path / "out", "--seed", 1)


def test_a_server_writes_captions_and_then_descriptions(
    data: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    """Pictures that nobody captioned need two runs, the second on what the first wrote."""
    caplog.set_level("INFO")
    asked = {PROMPTS["captions-v1"].text: "1. A dog.\n2. A cat.", PROMPTS["image-v1"].text: "A dog and a cat."}
    with OpenAiServer(lambda body: asked[prompt_of(body)], faults=["refusal", "http_429"]) as server:
        shared = ["--images", pictures, "--server", server.url, "--model", "any", "--concurrency", 1]
        captions = run(capsys, "--dataset", data, *shared, "--prompt", "captions-v1", "--out", tmp_path / "captioned")
        assert "caption_en is filled where it is empty" in caplog.text and "are replaced" not in caplog.text
        result = run(capsys, "--dataset", tmp_path / "captioned", *shared, "--out", tmp_path / "out")
    assert captions["caption_en_flag"] == {"ok": 6, "unreadable": 1}
    assert captions["events"] == {"http_429": 1, "retry_refusal": 1}
    assert result["description_flag"] == {"ok": 4, "unreadable": 1}
    rows = open_splits(tmp_path / "out")["train"]
    assert rows["caption_en"] == [["A caption."], *[["A dog.", "A cat."]] * 3, []]
    assert rows["description"] == ["A dog and a cat."] * 4 + [None]
    assert [step.kind for step in read_manifest(tmp_path / "out").steps] == ["read", "describe", "describe"]


def test_videos_are_described_with_their_own_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A clip asked about as a picture is described without its actions."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("a.mp4", "b.mkv"):
        make_clip(clips / name)
    read_dataset.main(["folder", "--root", str(clips), "--videos", "--out", str(tmp_path / "data")])
    with OpenAiServer(lambda body: f"{len(pictures_of(body))} frames.") as server:
        result = run(
            capsys, "--dataset", tmp_path / "data", "--videos", clips, "--num-frames", 3, "--server", server.url,
            "--model", "any", "--out", tmp_path / "out",
        )  # fmt: skip
        assert {prompt_of(body) for body in server.bodies} == {PROMPTS["video-v1"].text}
    assert result["description_flag"] == {"ok": 2}
    rows = open_splits(tmp_path / "out")["train"]
    assert (rows["video_id"], rows["description"]) == (["a.mp4", "b.mkv"], ["3 frames."] * 2)


def test_a_local_model_describes_parts_of_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """From a folder of clips to descriptions of the part that counts, with what is gone counted."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("a.mp4", "b.mkv", "gone.mp4"):
        make_clip(clips / name)
    table = "file_name,caption_en,start,end\na.mp4,one,1.0,1.5\nb.mkv,two,,\ngone.mp4,three,,\n"
    (clips / "metadata.csv").write_text(table, encoding="utf-8")
    read_dataset.main(["folder", "--root", str(clips), "--videos", "--out", str(tmp_path / "data")])
    (clips / "gone.mp4").unlink()
    (clips / "b.mkv").write_bytes((clips / "b.mkv").read_bytes()[:200])
    model = tiny_mllm(tmp_path / "tiny-model")
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("describe this picture", encoding="utf-8")
    arguments = ["--dataset", tmp_path / "data", "--videos", clips, "--num-frames", 2, "--model", model]
    arguments += ["--prompt", prompt, "--max-tokens", 12, "--max-attempts", 1, "--out", tmp_path / "out"]
    with pytest.raises(ValueError, match=r"1 items have no video \(first: gone\.mp4\)"):
        run(capsys, *arguments)
    seen, real = [], describe.ImageTextToText.generate

    def recorded(self: Any, requests: Any, *others: Any, **settings: Any) -> Any:
        seen.extend(requests)
        return real(self, requests, *others, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(describe.ImageTextToText, "generate", recorded)
        result = run(capsys, *arguments, "--skip-missing")
    assert {request.key: read_numbers(request.pictures) for request in seen} == {"a.mp4": [11, 13]}
    assert result["missing"] == {"no video": {"train": 1}} and result["description_flag"]["unreadable"] == 1
    rows = open_splits(tmp_path / "out")["train"]
    assert rows["video_id"] == ["a.mp4", "b.mkv"] and rows["start"] == [1.0, None] and rows["description"][1] is None
    assert dict(read_manifest(tmp_path / "out").steps[1].settings)["num_frames"] == 2


def test_clips_inside_the_data_set_are_described_as_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """With the prompt of pictures, a model is asked for the place and not for what happens."""
    clip = {"bytes": make_clip(tmp_path / "a.mp4").read_bytes(), "path": "a.mp4"}
    features = datasets.Features(
        {
            "video_id": datasets.Value("string"),
            "video": datasets.Video(decode=False),
            "caption_en": datasets.List(datasets.Value("string")),
        }
    )
    rows = {"video_id": ["a", "b"], "video": [clip, None], "caption_en": [["one"], ["two"]]}
    write_splits({"train": datasets.Dataset.from_dict(rows, features=features)}, tmp_path / "data")
    with OpenAiServer(lambda body: f"{len(pictures_of(body))} frames.") as server:
        words = ["--num-frames", 3, "--server", server.url, "--model", "any"]
        result = run(capsys, "--dataset", tmp_path / "data", *words, "--out", tmp_path / "out")
        assert {prompt_of(body) for body in server.bodies} == {PROMPTS["video-v1"].text}
    assert result["description_flag"] == {"ok": 1, "unreadable": 1}
    described = open_splits(tmp_path / "out")["train"]
    assert described.column_names == ["video_id", "caption_en", "description", "description_flag"]


def test_rows_without_a_picture_are_refused_or_left_out_and_reported(
    data: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Rows that are lost in silence are missed when the data set is already published."""
    (pictures / "2.png").unlink()
    with OpenAiServer() as server:
        arguments = ["--dataset", data, "--images", pictures, "--server", server.url, "--model", "any"]
        arguments += ["--out", tmp_path / "out"]
        with pytest.raises(ValueError, match=r"train: 1 items have no image \(first: 2\.png\)\. .*--skip-missing"):
            run(capsys, *arguments)
        assert not (tmp_path / "out").exists()
        result = run(capsys, *arguments, "--skip-missing")
    assert result["missing"] == {"no image": {"train": 1}} and result["rows"] == 4
    rows = open_splits(tmp_path / "out")["train"]
    assert rows["image_id"] == ["0.png", "1.png", "3.png", "broken.jpg"]
    assert read_manifest(tmp_path / "out").steps[-1].settings["missing"] == result["missing"]


def test_rows_of_a_flag_are_done_again(
    data: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    """A server that refused for a while must not cost the whole job again."""
    with OpenAiServer(lambda body: "A dog.", faults=["refusal"] * 2) as server:
        arguments = ["--dataset", data, "--images", pictures, "--server", server.url, "--model", "any"]
        arguments += ["--out", tmp_path / "out", "--max-attempts", 1, "--concurrency", 1]
        assert run(capsys, *arguments)["description_flag"] == {"ok": 2, "refusal": 2, "unreadable": 1}
        tiny_image(9).save(pictures / "broken.jpg")
        again = run(capsys, *arguments, "--redo", "refusal", "unreadable")
        assert again["description_flag"] == {"ok": 5} and len(server.bodies) == 4 + 3
        caplog.clear()
        run(capsys, "--dataset", tmp_path / "out", *arguments[2:8], "--out", tmp_path / "third")
    assert "the columns ['description', 'description_flag']" in caplog.text and "are replaced" in caplog.text


def test_pictures_inside_the_data_set_need_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Data sets on the Hub often hold their pictures."""
    write_splits({"train": picture_rows(2)}, tmp_path / "data")
    with OpenAiServer(lambda body: "A dog.") as server:
        result = run(
            capsys, "--dataset", tmp_path / "data", "--server", server.url, "--model", "any", "--out", tmp_path / "out"
        )
    assert result["description_flag"] == {"ok": 2}


def test_a_plain_folder_of_pictures_points_to_the_reader(pictures: Path, capsys: pytest.CaptureFixture[str]):
    """The words "holds no data set" leave people who have pictures alone with it."""
    with pytest.raises(ValueError, match=r"leccr read_dataset folder --root .*pictures --out data/mine"):
        run(capsys, "--dataset", pictures, "--model", "any", "--out", "out")


@pytest.mark.parametrize("words", ["--timeout 9", "--server http://h/v1 --batch-size 2"])
def test_options_of_the_other_back_end_are_refused(words: str, capsys: pytest.CaptureFixture[str]):
    """An option that is ignored in silence looks as if it had been used."""
    with pytest.raises(SystemExit):
        describe.parse_arguments(f"--dataset d --out o --model m {words}".split())
    assert "would have no effect" in capsys.readouterr().err


def test_the_examples_of_the_help_parse():
    """An option that was renamed would break what people copy."""
    commands = re.findall(r"^ +((?:leccr|accelerate) .*)", str(describe.__doc__).replace("\\\n", " "), re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command)
        command_at = words.index("hub_scripts.describe" if "hub_scripts.describe" in words else "describe")
        options = describe.parse_arguments(words[command_at + 1 :])
        assert options.out == "data/described"


@pytest.mark.slow
def test_two_processes_of_accelerate_give_the_rows_of_one(
    data: str, pictures: Path, tmp_path: Path, root_dir: Path, capsys: pytest.CaptureFixture[str]
):
    """Sampling that depends on the process would give another data set for each number of GPUs."""
    model = tiny_mllm(tmp_path / "tiny-model")
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("describe this picture", encoding="utf-8")
    arguments = ["--dataset", data, "--images", str(pictures), "--model", model, "--prompt", str(prompt)]
    arguments += ["--temperature", "1.0", "--rows-per-shard", "1", "--max-tokens", "12"]
    run(capsys, *arguments, "--out", tmp_path / "one")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    subprocess.run(
        [*launch, "-m", "hub_scripts.describe", *arguments, "--out", str(tmp_path / "two")],
        check=True,
        cwd=root_dir,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        stdout=subprocess.PIPE,
        timeout=300,
    )
    assert open_splits(tmp_path / "two")["train"].to_list() == open_splits(tmp_path / "one")["train"].to_list()
    assert read_manifest(tmp_path / "two") == read_manifest(tmp_path / "one")
