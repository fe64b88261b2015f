"""The benchmarks of large runs: bytes as by formula, a step that runs on the CPU too, and what the document says."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from benchmarks import gpu_step, measuring, official_form, scaling, sizes
from benchmarks.marked_text import write_part
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig
from modeling_leccr.training.arguments import parse_recipe
from modeling_leccr.training.gather import float_parts
from tests.launch_parts import CONFIGURATIONS, launched

GPU_STEP = ["--device", "cpu", "--size", "tiny", "--batch-size", "4", "--large-batch", "8", "--chunk", "2"]


@pytest.fixture(scope="module")
def document(root_dir: Path) -> str:
    return (root_dir / "docs" / "SCALING.md").read_text(encoding="utf-8")


def test_two_processes_send_the_bytes_of_the_formula(tmp_path: Path, root_dir: Path):
    """A formula that nobody counts against is believed until a run of a thousand processes stands still."""
    output, copy = tmp_path / "report.json", tmp_path / "SCALING.md"
    copy.write_text("before <!-- scaling -->\nOLD\n<!-- end of scaling --> after", encoding="utf-8")
    words = ["--tiny", "--processes", "2", "--pairs", "6", "--output", str(output), "--write", str(copy)]
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", *words],
        cwd=root_dir,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert finished.returncode == 0, finished.stderr
    report = json.loads(output.read_text(encoding="utf-8"))
    counted = {row["collective"]: row["counted"] for row in report["communication"]}
    assert counted == {row["collective"]: row["formula"] for row in report["communication"]}
    assert min(counted.values()) > 0
    assert {"machine", "seed", "loss_matrices", "activation_bytes"} <= set(report)
    written = copy.read_text(encoding="utf-8")
    assert "OLD" not in written and written.startswith("before") and written.endswith("after")
    assert "all_reduce of gradients" in written


def test_the_formula_of_a_row_is_that_of_the_gathered_batch():
    """A new column of the batch would be sent without being in the table."""
    model = sizes.build_model(tiny=True)
    batch = sizes.training_batch(model, 2)
    image_ids = batch.pop("image_ids")
    rows = LeccrCriterion(LossConfig()).summarise(model(**batch), image_ids)
    found = sum(value[0].nbytes if value.ndim > 1 else value.element_size() for value in float_parts(rows).values())
    assert scaling.row_bytes(model.config) == found + image_ids.element_size()


def test_the_matrices_of_the_losses_are_counted():
    """They are what ends the growth of the batch."""
    config = sizes.build_model(tiny=True).config
    found = scaling.loss_matrices(config)
    assert found >= 4 * 5  # scores and softmax of both directions, of five contrastive terms
    grown = scaling.kept_by_losses(config, 96) - scaling.kept_by_losses(config, 32)
    assert grown == pytest.approx(4 * found * (96**2 - 32**2), rel=0.1)


def test_bytes_that_differ_from_the_formula_are_an_error(monkeypatch: pytest.MonkeyPatch):
    """No table is printed of them."""
    monkeypatch.setattr(scaling, "counted_bytes", lambda processes, *_: [{}] * processes)
    with pytest.raises(measuring.FormsDifferError, match="by formula"):
        scaling.communication([2], 4, 0)


def test_the_mean_of_a_bucket_leaves_nothing_to_the_thread_of_gloo(monkeypatch: pytest.MonkeyPatch):
    """A callback that was still there when the group ended held up that thread, and the process for ever."""
    unfinished = SimpleNamespace(get_future=torch.futures.Future)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, async_op=False: unfinished if async_op else None)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    gradients, counted = torch.tensor([2.0, 6.0]), scaling.CountedCollectives()
    mean = counted.reduce_bucket(None, SimpleNamespace(buffer=lambda: gradients))
    assert mean.done() and mean.value().tolist() == [1.0, 3.0]
    assert counted.bytes == {"all_reduce of gradients": 8}


def test_the_gpu_step_runs_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """It is started on a machine that is paid by the minute."""
    output, copy = tmp_path / "report.json", tmp_path / "SCALING.md"
    copy.write_text("<!-- gpu_step --><!-- end of gpu_step -->", encoding="utf-8")
    words = [*GPU_STEP, "--repeats", "1", "--output", str(output), "--write", str(copy)]
    assert gpu_step.main(words) == 0
    report = json.loads(output.read_text(encoding="utf-8"))
    chunked = report["rows"][-1]
    assert [row["pairs"] for row in report["rows"]] == [4, 4, 8]
    assert all(row["pairs_per_second"] > 0 and row["share_of_peak"] > 0 for row in report["rows"])
    assert chunked["step"] == "ours, chunks of 2"
    assert max(report["largest_differences"].values()) <= gpu_step.TOLERANCE
    assert "| official | 4 |" in copy.read_text(encoding="utf-8")


def test_the_gpu_step_takes_no_time_of_forms_that_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A speed-up of something else is no speed-up."""
    right = official_form.slot_vision
    monkeypatch.setattr(official_form, "slot_vision", lambda *arguments: right(*arguments) + 1e-2)
    assert gpu_step.main([*GPU_STEP, "--output", str(tmp_path / "report.json")]) == 1
    assert "the forms differ" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_step_says_that_there_is_no_gpu():
    """A stack of calls tells nobody what to do."""
    with pytest.raises(SystemExit, match="--device cpu --size tiny"):
        gpu_step.main([])


def test_a_document_without_the_marks_stays_as_it_is(tmp_path: Path):
    """Appended somewhere, the table would stand there twice."""
    path = tmp_path / "text.md"
    path.write_text("<!-- scaling --> only the first", encoding="utf-8")
    with pytest.raises(ValueError, match="end of scaling"):
        write_part(path, "scaling", "table")
    assert path.read_text(encoding="utf-8") == "<!-- scaling --> only the first"


def test_each_table_of_the_document_follows_the_command_that_writes_it(document: str):
    """A table that no command fills grows old, and a renamed option is all that a reader sees of the command."""
    places = re.findall(r"^<!-- (?!end of )(\w+) -->$", document, flags=re.MULTILINE)
    tables = {"scaling", "gradient_cache", "adapters", "description_cost", "description_recall", "resume", "gpu_step"}
    tables |= {"feature_store", "mutated_videos"}
    assert set(places) == tables and len(places) == len(tables)
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(scaling.__file__).parent.glob("*.py"))
    for place in places:
        before = document[: document.index(f"<!-- {place} -->")].replace("\\\n", " ")
        words = shlex.split(re.findall(r"^python -m benchmarks\..*$", before, flags=re.MULTILINE)[-1])
        module = words[2].removeprefix("benchmarks.")
        assert place == ("description_recall" if "--recall" in words else module)
        assert words[-2:] == ["--write", "docs/SCALING.md"] and document.count(f"<!-- end of {place} -->") == 1
        assert not [word for word in words if word.startswith("--") and f'"{word}"' not in sources]


def test_the_launches_of_the_document_are_accepted(document: str):
    """They are copied to machines that somebody waited for."""
    lines = [line for line in document.replace("\\\n", " ").splitlines() if line.startswith("accelerate launch")]
    assert len(lines) == 2
    for line in lines:
        words = shlex.split(line)
        options = words[4 : words.index("train.py")]
        assert words[2] == "--config_file"
        assert launched(Path(words[3]).name, *options).num_processes == int(words[words.index("--num_processes") + 1])


def test_the_document_names_all_configurations_and_settings_that_exist(document: str):
    """A renamed setting would send people to an error."""
    assert all(f"configs/accelerate/{path.name}" in document for path in CONFIGURATIONS.glob("*.yaml"))
    words = ["--gradient_cache_chunk_size", "128", "--bf16", "true", "--torch_compile", "true"]
    assert all(f"{name} {value}" in document for name, value in zip(words[::2], words[1::2], strict=True))
    recipe = parse_recipe([str(CONFIGURATIONS.parent / "scenes.yaml"), *words[:2], "--use_cpu", "true"])
    assert recipe.training.gradient_cache_chunk_size == 128
