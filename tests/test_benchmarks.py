"""The benchmarks run as commands at toy sizes and refuse to time forms that differ. No test asserts a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import commands, evaluation_encode, interaction, measuring, official_form, ranks, sizes, training_step

BENCHMARKS = {
    "training_step": (training_step, "slot_vision"),
    "interaction": (interaction, "interaction"),
    "evaluation_encode": (evaluation_encode, "text_embeds"),
    "ranks": (ranks, "ranks"),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_runs_as_a_command_and_writes_its_json(name: str, tmp_path: Path, root_dir: Path):
    """A benchmark that nobody runs breaks with the first change of the model."""
    output = tmp_path / "folder" / "report.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--tiny", "--no-memory", "--repeats", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [*command, "--output", str(output)], cwd=root_dir, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["benchmark"] == name and report["tiny"] is True and report["threads"] == 1
    assert {"machine", "seed", "sizes", "matrix_peak_gflops"} <= set(report)
    for row in report["rows"]:
        assert row["official_seconds"] > 0 and row["our_seconds"] > 0 and row["speed_up"] > 0
        assert row["name"] in finished.stdout


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_fails_when_the_forms_differ(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A speed-up of something else is no speed-up."""
    module, oracle = BENCHMARKS[name]
    right = getattr(official_form, oracle)

    def wrong(*args, **kwargs):
        result = right(*args, **kwargs)
        return tuple(part + 1 for part in result) if isinstance(result, tuple) else result + 1e-3

    monkeypatch.setattr(official_form, oracle, wrong)
    output = tmp_path / "report.json"
    assert module.main(["--tiny", "--no-memory", "--repeats", "1", "--output", str(output)]) == 1
    assert "the forms differ" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("module", [interaction, ranks])
def test_memory_of_one_form_is_a_number(module, capsys: pytest.CaptureFixture[str]):
    """The parent reads the last word that its child prints."""
    assert module.main(["--tiny", "--memory-of", "ours"]) == 0
    assert float(capsys.readouterr().out.split()[-1]) >= 0


def test_child_process_gets_the_sizes_of_its_parent(monkeypatch: pytest.MonkeyPatch):
    """Memory of other sizes than the timed ones would stand in the same row."""
    started = []

    def record(command, **_):
        started.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="12.5\n", stderr="")

    monkeypatch.setattr(subprocess, "run", record)
    options = commands.form_arguments("ranks", None, repeats=1).parse_args(["--tiny", "--threads", "2", "--seed", "7"])
    options.num_items, options.chunks = 30, [8, 0]
    peaks = {"official_peak_mib": 12.5, "our_peak_mib": 12.5, "memory_ratio": 1.0}
    assert commands.form_peaks("ranks", options) == peaks
    for command, form in zip(started, measuring.FORMS, strict=True):
        words = " ".join(command)
        assert f"--memory-of {form}" in words and "--tiny" in command
        assert "--threads 2" in words and "--seed 7" in words and "--num-items 30" in words and "--chunks 8 0" in words
        assert not {"--output", "--repeats", "--no-memory"} & set(command)


def test_failing_child_process_is_an_error(monkeypatch: pytest.MonkeyPatch):
    """A crash for lack of memory must not be read as little memory."""
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="killed")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match="killed"):
        commands.in_child("ranks", commands.form_arguments("ranks", None, repeats=1).parse_args([]))


@pytest.mark.parametrize(
    ("ours", "official"),
    [
        ({"loss": torch.zeros(2)}, {"loss": torch.tensor([0.0, 2e-5])}),
        ({"loss": torch.zeros(2)}, {"loss": torch.zeros(1)}),
        ({"loss": torch.zeros(2)}, {"other": torch.zeros(2)}),
        ({"loss": torch.tensor([0.0, torch.nan])}, {"loss": torch.zeros(2)}),
        ({"loss": torch.tensor([torch.nan])}, {"loss": torch.tensor([torch.nan])}),
    ],
)
def test_check_refuses_what_differs(ours, official):
    """A comparison with NaN, or with nothing, is never beyond a tolerance."""
    with pytest.raises(measuring.FormsDifferError):
        measuring.check_equal(ours, official, 1e-5)


@pytest.mark.parametrize(
    ("name", "found", "accepted"),
    [
        ("loss/a", 10 + 2e-5, False),
        ("gradient/a", 10 + 2e-5, True),  # of a gradient of 10
        ("gradient/a", 10 + 2e-4, False),
    ],
)
def test_a_gradient_is_compared_with_the_largest_of_its_parameter(name: str, found: float, accepted: bool):
    """Rounding grows with the gradient: without a scale, large ones fail and wrong small ones pass."""
    exact = {"loss/a": torch.tensor(10.0), "gradient/a": torch.tensor([10.0, 0.0]).double()}
    other = exact | {name: torch.tensor(found).double() if name == "loss/a" else torch.tensor([found, 0.0]).double()}
    if accepted:
        assert measuring.largest(measuring.check_step(other, exact, 1e-5), "gradient/") == pytest.approx(2e-6, rel=0.01)
        return
    with pytest.raises(measuring.FormsDifferError, match=name):
        measuring.check_step(other, exact, 1e-5)


def test_the_gradient_of_nothing_is_compared_with_a_floor():
    """The rounding of a gradient that is zero would be all there is of it; a wrong one must be seen none the less."""
    exact = {"gradient/a": torch.zeros(2)}
    assert measuring.check_step({"gradient/a": torch.full((2,), 1e-8)}, exact, 1e-5)
    with pytest.raises(measuring.FormsDifferError):
        measuring.check_step({"gradient/a": torch.full((2,), 1e-6)}, exact, 1e-5)


def test_a_table_in_a_document_says_where_it_comes_from_and_names_no_folder(tmp_path: Path):
    """Numbers without machine, seed and command cannot be taken again; a folder of this machine is nobody's."""
    document, output = tmp_path / "text.md", tmp_path / "report.json"
    document.write_text("<!-- toy --><!-- end of toy -->", encoding="utf-8")
    parser = commands.arguments("toy", None)
    words = ["--seed", "5", "--threads", "1", "--output", str(output), "--write", str(document)]
    number = torch.get_num_threads()
    try:
        text = commands.table([{"step": "a", "seconds": 0.51234, "pairs": 4096, "all": [1.0]}])
        assert (
            commands.main_of(lambda options: commands.report("toy", options, text, data="two pairs"), parser, words)
            == 0
        )
    finally:
        torch.set_num_threads(number)
    written = document.read_text(encoding="utf-8")
    assert "| step | seconds | pairs |" in written and "| a | 0.512 | 4,096 |" in written
    command = "python -m benchmarks.toy --seed 5 --threads 1 --output PATH/TO/report.json --write PATH/TO/text.md"
    assert f"From `{command}`: two pairs; " in written
    assert f"1 thread, torch {torch.__version__}, seed 5." in written and str(tmp_path) not in written
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["command"] == command and report["seed"] == 5 and "machine" in report


def test_saved_bytes_counts_each_activation_once_and_no_parameter():
    """A tensor that two operations save is in memory once."""
    layer = torch.nn.Linear(8, 8, bias=False)
    inputs = torch.randn(16, 8, requires_grad=True)

    def forward() -> torch.Tensor:
        hidden = layer(inputs)  # saves `inputs`
        return hidden * hidden  # saves `hidden`, twice

    assert measuring.saved_bytes(forward) == 2 * 16 * 8 * 4


def test_peak_growth_sees_memory_that_is_gone_again():
    """The memory after a run says nothing of its peak."""
    assert measuring.peak_growth(lambda: torch.ones(2**26).sum()) > 0.9 * 2**26 * 4 / measuring.MEBIBYTE


def test_repeats_below_one_is_an_error():
    """A median of nothing."""
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        measuring.interleave({}, 0)


def test_official_ranks_put_ties_last():
    """A sort gives tied candidates any order; a collapsed model must not get rank 1."""
    i2t, t2i = official_form.ranks(np.zeros((3, 6), dtype=np.float32), np.repeat(np.arange(3), 2))
    assert i2t.tolist() == [5, 5, 5]
    assert t2i.tolist() == [3] * 6


def test_official_ranks_count_what_is_within_the_margin():
    """The tie rule is ours, so the oracle must know it."""
    scores = np.array([[0.5, 0.4], [0.495, 0.41]], dtype=np.float32)
    assert [part.tolist() for part in official_form.ranks(scores, np.array([0, 1]), 0.02)] == [[1, 2], [2, 2]]
    assert [part.tolist() for part in official_form.ranks(scores, np.array([0, 1]))] == [[1, 2], [1, 1]]


def test_official_ranks_of_a_hand_made_matrix():
    """The other caption of an item does not count against the first."""
    scores = np.array([[0.9, 0.8, 0.7, 0.1], [0.95, 0.2, 0.6, 0.5]], dtype=np.float32)
    i2t, t2i = official_form.ranks(scores, np.array([0, 0, 1, 1]))
    assert i2t.tolist() == [1, 2]
    assert t2i.tolist() == [2, 1, 2, 1]


def test_grid_makes_dot_products_exact():
    """Rounding that depends on the order of a sum would make ranks differ by chance."""
    images, slots, texts, _ = ranks.random_split(20, 5)
    exact = images.double() @ texts.double().T
    assert torch.equal((images @ texts.T).double(), exact)
    composites = ranks.on_grid(0.8 * images[:, None] + 0.2 * slots)
    assert torch.equal((composites @ texts.T).double(), composites.double() @ texts.double().T)


def test_training_batch_has_the_lengths_of_the_published_data():
    """A benchmark on full-length texts would have no padding to save."""
    model = sizes.build_model(tiny=True)
    batch = sizes.training_batch(model, 64)
    for kind, (shortest, longest) in {"source": (12, 20), "target": (12, 20), "description": (60, 120)}.items():
        lengths = batch[f"{kind}_attention_mask"].sum(dim=1)
        assert int(lengths.min()) >= shortest and int(lengths.max()) <= longest and lengths.unique().numel() > 1
