"""The alignment of words as the command, the picture and the numbers show it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.font_manager import FontProperties
from PIL import Image

from hub_scripts import cli, draw_alignment
from modeling_leccr import CrossLingualModel
from modeling_leccr.losses_cl2cm import CrossLingualCriterion, CrossLingualLossConfig
from processing.processing_leccr import LeccrProcessor
from reporting import alignment as pictures
from reporting.alignment import draw_alignments
from retrieval.alignments import Alignment, align_pairs
from tests.tiny import SENTENCES, tiny_cross_lingual, tiny_model, tiny_processor

PAIRS = [(source, target) for source, target, _ in SENTENCES[:3]]
SETTINGS: dict[str, Any] = {"epsilon": 0.05, "iterations": 50}


@pytest.fixture(scope="module")
def model() -> CrossLingualModel:
    return tiny_cross_lingual()


@pytest.fixture(scope="module")
def processor() -> LeccrProcessor:
    return tiny_processor()


@pytest.fixture
def folder(tmp_path: Path, model: CrossLingualModel, processor: LeccrProcessor) -> str:
    """The model as a run saves it."""
    model.save_pretrained(tmp_path / "teacher")
    processor.save_pretrained(tmp_path / "teacher")
    return str(tmp_path / "teacher")


def test_the_numbers_are_those_of_the_loss(model: CrossLingualModel, processor: LeccrProcessor):
    """A picture of another plan than the one that was trained would explain nothing."""
    found = align_pairs(model, processor, PAIRS, **SETTINGS, batch_size=2)
    sides = {"source": [source for source, _ in PAIRS], "target": [target for _, target in PAIRS]}
    inputs = {f"{side}_{key}": value for side, texts in sides.items() for key, value in processor(text=texts).items()}
    output = model(**{name: value for name, value in inputs.items() if not name.endswith("type_ids")})
    rows = vars(CrossLingualCriterion(CrossLingualLossConfig()).summarise(output, torch.arange(3)))
    assert [alignment.cost for alignment in found] == pytest.approx(rows["word_transport"].tolist(), abs=1e-5)
    assert [alignment.marginal_error for alignment in found] == pytest.approx(rows["marginal_error"].tolist(), abs=1e-5)


def test_tokens_belong_to_the_rows_and_columns_of_their_plan(model: CrossLingualModel, processor: LeccrProcessor):
    """Padding among the tokens, or the tokens of another pair, would shift every label."""
    for pair, alignment in zip(PAIRS, align_pairs(model, processor, PAIRS, **SETTINGS), strict=True):
        sides = (alignment.source_tokens, alignment.target_tokens)
        assert alignment.plan.shape == (len(sides[0]), len(sides[1]))
        assert alignment.plan.sum().item() == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(alignment.shares.sum(dim=1), torch.ones(len(sides[0])))
        for text, tokens in zip(pair, sides, strict=True):
            assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
            assert "".join(tokens[1:-1]).replace("##", "") == text.replace(" ", "")


def test_a_sentence_aligns_with_itself(model: CrossLingualModel, processor: LeccrProcessor):
    """Known answer: each token finds itself at no cost, also after a forward in training mode before."""
    model.train()
    (found,) = align_pairs(model, processor, [("a red ball", "a red ball")], epsilon=0.01, iterations=50)
    assert model.training
    model.eval()
    assert found.shares.argmax(dim=1).tolist() == list(range(len(found.source_tokens)))
    assert found.cost == pytest.approx(0, abs=1e-3)


def test_the_command_draws_prints_and_writes(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Pairs of the command line and of a file, in this order; what is printed is what is written."""
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps({"source": source, "target": target}) + "\n\n" for source, target in PAIRS[1:]), "utf-8"
    )
    out, numbers = tmp_path / "plan.png", tmp_path / "plan.json"
    draw_alignment.main(["--model", folder, "--source", PAIRS[0][0], "--target", PAIRS[0][1], "--out", str(out),
                         "--pairs", str(tmp_path / "pairs.jsonl"), "--json", str(numbers)])  # fmt: skip
    printed, written = json.loads(capsys.readouterr().out), json.loads(numbers.read_text("utf-8"))
    assert [(entry["source"], entry["target"]) for entry in printed["pairs"]] == PAIRS
    for entry, full in zip(printed["pairs"], written["pairs"], strict=True):
        plan = full.pop("plan")
        assert entry == full
        assert [link["source"] for link in entry["links"]] == entry["source_tokens"]
        for row, link in zip(plan, entry["links"], strict=True):
            assert max(row) / sum(row) == pytest.approx(link["share"], abs=1e-3)
            assert entry["target_tokens"][row.index(max(row))] == link["target"]
    assert Image.open(out).height > Image.open(out).width / 2


def test_other_systems_can_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """What alignment training brings shows beside a model without it."""
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    arguments = ["--source", "a red ball", "--target", "ein roter ball", "--out", str(tmp_path / "plan.png")]
    draw_alignment.main(["--model", str(tmp_path / "model"), *arguments])
    assert json.loads(capsys.readouterr().out)["pairs"][0]["cost"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no pair to align"),
        (["--source", "a dog"], "--source and --target come in pairs, got 1 and 0"),
        (["--source", "a dog", "--target", " "], "1 pairs of which 1 have an empty one"),
        (["--source", "a dog", "--target", "ein hund", "--epsilon", "0"], "epsilon must be positive"),
        (["--source", "a dog", "--target", "ein hund", "--iterations", "0"], "iterations must be at least 1"),
        (["--pairs", "bad.jsonl"], r"bad.jsonl, line 2: a pair has the texts source and target, got \['source'\]"),
        (["--source", "a dog", "--target", "ein hund"] * 25, "1 to 24 alignments, got 25"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
):
    """Half a picture, or one of other pairs than those asked for, would be believed."""
    monkeypatch.chdir(tmp_path)
    good, bad = {"source": "a dog", "target": "ein hund"}, {"source": "a dog"}
    Path("bad.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n", "utf-8")
    with pytest.raises(SystemExit, match=rf"leccr draw_alignment: .*{message}"):
        cli.main(["draw_alignment", "--model", folder, "--out", "plan.png", *arguments])
    assert not Path("plan.png").exists()


def an_alignment(targets: list[str], plan: torch.Tensor) -> Alignment:
    return Alignment([f"word{i}" for i in range(len(plan))], targets, plan / plan.sum(), 0.5, 0.0)


def test_a_picture_without_suffix_is_refused_before_it_is_drawn(folder: str, tmp_path: Path):
    """The format is told by it; what was drawn would be lost, and a hidden file stay."""
    with pytest.raises(ValueError, match=r"--out must name a picture with its suffix, such as .*align\.png"):
        draw_alignment.main(["--model", folder, "--source", "a", "--target", "b", "--out", str(tmp_path / "align")])
    assert not list(tmp_path.glob("*align*"))


def test_the_picture_is_dark_where_the_mass_goes(tmp_path: Path):
    """A transposed plan is still a heat map."""
    dark = {}
    for name, plan in (("forth", [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), ("back", [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])):
        path = draw_alignments([an_alignment(["a", "b", "c"], torch.tensor(plan))], tmp_path / f"{name}.png", title="t")
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        blue = (pixels[..., 2] - pixels[..., 0] > 60) & (pixels[..., 2] < 140)
        dark[name] = np.nonzero(blue)[1].mean() / pixels.shape[1]
    assert dark["forth"] < 0.5 < dark["back"]


@pytest.mark.filterwarnings("error:Glyph")
def test_tokens_of_every_script_are_drawn_or_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Empty boxes in place of Chinese look like a fault of the model."""
    seen: list[str] = []

    def spy(fname: str, size: int) -> FontProperties:
        seen.append(fname)
        return FontProperties(fname=fname, size=size)

    monkeypatch.setattr(pictures, "FontProperties", spy)
    alignments = [an_alignment(["红", "球"], torch.eye(2)), an_alignment(["rot", "\U0010fffe"], torch.eye(2))]
    draw_alignments(alignments, tmp_path / "plan.png", title="t")
    assert len(seen) == 2 + 2 + 1 + 2  # all labels but the one that no font has
    assert len(set(seen[:4])) == 2  # Chinese has another font than Latin
