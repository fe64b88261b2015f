"""The benchmark of frame order runs at toy size, and tells what order is worth to whom."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn.functional import normalize

from benchmarks import experiments, frame_order
from benchmarks.frame_order import CHOICE, NEED_NONE, NEED_ORDER, ORDERS, Queries, queries_of, reordered, shares
from modeling_leccr.training.arguments import DataArguments
from processing.scenes_video import ScenesVideoConfig, load_scenes_video
from retrieval.evaluation import read_captions
from tests.check_parts import document_with, made_up, run_here

SCENES: dict[str, object] = {
    "train_size": 8,
    "validation_size": 4,
    "test_size": 12,
    "image_size": 64,
    "captions_per_item": 1,
    "languages": ["de", "zh"],
}


def test_frames_are_the_same_ones_in_another_order():
    """A shuffle that loses or repeats a frame would cost recall whether order matters or not."""
    features = np.arange(16.0).reshape(8, 2)
    names = list("abcdefgh")
    for order in ORDERS:
        assert sorted(reordered(names, order, "0/1")) == names
        # Pictures and features of a clip in the same way.
        assert [names[int(row[0]) // 2] for row in reordered(features, order, "0/1")] == reordered(names, order, "0/1")
    assert reordered(names, "in order", "0/1") == names and reordered(names, "reversed", "0/1") == names[::-1]
    shuffles = {tuple(reordered(names, "shuffled", f"0/{clip}")) for clip in range(20)}
    assert len(shuffles) == 20 and reordered(names, "shuffled", "0/1") == reordered(names, "shuffled", "0/1")


def test_shares_are_those_of_a_loop_over_captions():
    """The captions of a kind, of a language or of a clip with a reverse are each a part of all; a mask that is shifted
    by one would still give plausible percentages."""
    generator = torch.Generator().manual_seed(0)
    composites = normalize(torch.randn(6, 3, 8, generator=generator), dim=-1)
    text_embeds = normalize(torch.randn(14, 8, generator=generator), dim=-1)
    owners = torch.arange(14) % 6
    text_embeds[:7] += 0.7 * composites[owners[:7], 0]
    draw = random.Random(1)
    queries = Queries([draw.random() < 0.6 for _ in owners], [1, 0, None, 4, 3, None])
    found = shares(composites, text_embeds, owners, queries)
    answered: dict[str, list[bool]] = {NEED_ORDER: [], NEED_NONE: [], CHOICE: []}
    for text, owner in enumerate(owners.tolist()):
        scores = [max(float(vector @ text_embeds[text]) for vector in item) for item in composites]
        needs = queries.need_order[text]
        answered[NEED_ORDER if needs else NEED_NONE].append(max(scores) == scores[owner])
        reverse = queries.reverses[owner]
        if needs and reverse is not None:
            answered[CHOICE].append(scores[owner] > scores[reverse])
    expected = {kind: 100 * sum(right) / len(right) for kind, right in answered.items()}
    assert found == pytest.approx(expected) and all(0 < value < 100 for value in expected.values())
    # Nothing to tell of a kind that no caption is of.
    assert set(shares(composites, text_embeds, owners, Queries([False] * 14, [None] * 6))) == {NEED_NONE}


def test_who_cannot_tell_a_clip_from_its_reverse_is_right_half_of_the_time():
    """Rounding would decide, and a model without an idea of order seem to prefer the reverse."""
    composites = normalize(torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0)), dim=-1)[:1].repeat(2, 1, 1)
    composites[1] += 1e-8
    owners = torch.tensor([0, 1])
    found = shares(composites, composites[:, 0], owners, Queries([True, True], [1, 0]))
    assert found[CHOICE] == 50


def test_what_is_known_of_the_captions_is_in_the_order_in_which_they_are_read():
    """Facts of another caption or clip would make the two kinds of captions the same mixture."""
    data = DataArguments(dataset="scenes_video", scenes_video={**SCENES, "captions_per_item": 2}, test_split="test")
    queries = queries_of(data)
    split = load_scenes_video(ScenesVideoConfig(**data.scenes_video, form="features"))["test"]
    texts, owners = read_captions(split, "de")
    assert len(texts) == len(queries.need_order) and len(split) == len(queries.reverses) == 12
    stills = ("dreh", "rotier", "blink", "zitter", "wackel", "steh", "bewegt sich nicht", "nicht bewegt")
    for text, needs_order in zip(texts, queries.need_order, strict=True):
        assert needs_order or any(verb in text for verb in stills), text
    assert 0 < sum(queries.need_order) < len(texts)
    paired = [position for position, other in enumerate(queries.reverses) if other is not None]
    assert paired and all(queries.reverses[queries.reverses[position]] == position for position in paired)
    # Of a clip and its reverse, all captions need order: without it the two could not be told apart.
    assert all(queries.need_order[text] for text, owner in enumerate(owners.tolist()) if owner in paired)


def toy_recipe(folder: Path) -> Path:
    """Moving scenes in three steps, with towers of width 32."""
    transformer = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    settings = {
        "dataset": "scenes_video",
        "scenes_video": SCENES,
        "test_split": "test",
        "target_languages": ["de", "zh"],
        "vision_tower": {"model_type": "convnextv2", "num_stages": 2, "hidden_sizes": [16, 32], "depths": [1, 1]},
        "text_tower": {"model_type": "bert", **transformer},
        "image_size": 16,
        "num_frames": 4,
        "vocab_size": 300,
        "max_length": 64,
        "model": {
            "slot_dim": 32,
            "embed_dim": 16,
            "num_slots": 2,
            "num_slot_layers": 1,
            "num_interaction_layers": 1,
            "image_pooling": "mean",
            "vision_input": "frames",
        },
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "learning_rate": 1e-3,
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file


def test_the_benchmark_runs_from_training_to_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The parts are right on their own; a model of another variant would make the tables tell of nothing."""
    monkeypatch.setattr(experiments, "run_jobs", run_here)
    document = document_with(tmp_path, "frame_order")
    options = ["--recipe", str(toy_recipe(tmp_path)), "--folder", str(tmp_path / "out"), "--write", str(document)]
    assert frame_order.main([*options, "--seeds", "3", "--workers", "1"]) == 0
    text = document.read_text(encoding="utf-8")
    assert text.split("<!-- end")[0].removeprefix("<!-- frame_order -->").strip() in capsys.readouterr().out
    assert "](results/frame_order.png)" in text and (tmp_path / "results" / "frame_order.png").is_file()
    record = json.loads((tmp_path / "out" / "frame_order.json").read_text(encoding="utf-8"))
    found = {entry["variant"]: entry["percent"] for entry in record["found"]}
    assert list(found) == list(frame_order.VARIANTS) and not record["failed"]
    for variant, orders in found.items():
        assert list(orders) == list(ORDERS) and all(set(of_order) == {"de", "zh"} for of_order in orders.values())
        # Two steps teach nothing, but frames without places are the same in any order.
        same = orders["in order"] == orders["shuffled"] == orders["reversed"]
        assert same or "without places" not in variant
    assert f"| features | {frame_order.KINDS[NEED_ORDER]} |" in text and "12 clips of the reported split" in text


def test_a_recipe_of_pictures_is_refused(tmp_path: Path):
    """Pictures have no order, and the captions of other data sets come without facts."""
    file = tmp_path / "recipe.yaml"
    file.write_text("dataset: scenes\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="moving scenes"):
        frame_order.main(["--recipe", str(file), "--folder", str(tmp_path / "out")])


def test_models_that_failed_leave_the_others_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """An hour of trainings must not end without a table because one of them failed."""
    monkeypatch.setattr(frame_order, "run_experiments", made_up(lambda settings, seed: -1.0))
    document = document_with(tmp_path, "frame_order")
    options = ["--recipe", str(toy_recipe(tmp_path)), "--folder", str(tmp_path / "out"), "--write", str(document)]
    assert frame_order.main([*options, "--seeds", "0"]) == 1
    assert "All models failed" in capsys.readouterr().out
