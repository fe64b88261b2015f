"""Jobs that are started again: after a run that failed, and to redo texts by their flags."""

import logging
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from processing import description, translation_filters
from processing.generation import KNOWN_FLAGS
from processing.job_shards import replace_flagged
from processing.jobs import Job, Worker, run_job
from processing.manifest import Manifest, read_manifest
from processing.records import schema_features
from processing.sources import open_splits, read_shard_metadata
from tests.job_worker import UpperCase, make_job, make_splits

NUM_ROWS = 20
FAILING_ROWS = ["00000", "00007", "00014"]


def run(out: Path, make_worker: Callable[[], Worker] = UpperCase, *, redo: Any = (), **settings: Any) -> Manifest:
    """A small job."""
    job = make_job(6, **settings)
    return run_job(job, make_splits(NUM_ROWS), out, make_worker, redo=redo, progress=False)


def never() -> Any:
    """The `make_worker` of a process that should have nothing to do."""
    raise AssertionError("a worker was made")


def unknown_model() -> Any:
    """What loading a model does whose name has a typing error."""
    raise OSError("no such model")


class Broken:
    """A model that is loaded and fails at its first row."""

    def __call__(self, rows: datasets.Dataset, events: Counter[str]) -> dict[str, list[Any]]:
        raise ValueError("no such language")


@pytest.mark.parametrize(("make_worker", "error"), [(unknown_model, OSError), (Broken, ValueError)])
@pytest.mark.parametrize("redo", [(), {"error"}])
def test_a_run_that_fails_before_its_first_shard_leaves_the_folder_to_a_corrected_one(
    make_worker: Any, error: type[Exception], redo: Any, tmp_path: Path
):
    """A typing error in the name of a model would block the folder: 'holds another job'."""
    with pytest.raises(error, match="no such"):
        run(tmp_path / "out", make_worker, redo=redo, model="tpyo")
    manifest = run(tmp_path / "out", model="typo", redo=["empty"])
    assert manifest.complete and manifest.steps[-1].settings["model"] == "typo"


def test_of_two_jobs_that_start_in_one_folder_the_second_to_write_is_refused(tmp_path: Path):
    """Half of the rows would come from one model and half from another."""
    out = tmp_path / "out"

    class Slow(UpperCase):
        def __call__(self, rows: datasets.Dataset, events: Counter[str]) -> dict[str, list[Any]]:
            if not self.seen:
                others.append(run(out, model="other"))
            return super().__call__(rows, events)

    others: list[Manifest] = []
    with pytest.raises(ValueError, match=r"holds another job: settings\.model is 'other' there, 'null' here"):
        run(out, Slow)
    assert read_manifest(out).steps[-1].settings["model"] == "other"
    assert run(out, model="other").complete


def scripted(cells: list[dict[str, list[Any]]]) -> Callable[[], Worker]:
    """A worker that gives the next of some rows of columns, whatever it is asked."""
    script = iter(cells)
    return lambda: lambda rows, events: {name: [value] for name, value in next(script).items()}


def test_a_redo_replaces_the_texts_with_the_flag_and_no_other_of_their_row(tmp_path: Path):
    """The good captions of a row, and its other language, would be drawn anew and could come out worse."""
    names = [f"caption_{code}_mt{end}" for code in ("de", "fr") for end in ("", "_flag", "_similarity")]
    first = [["Hund", None], ["ok", "error"], [0.9, None], ["chien", "chat"], ["ok", "ok"], [0.8, 0.7]]
    again = [[None, "Katze"], ["empty", "ok"], [None, 0.6], [None, "x"], ["error", "ok"], [None, 0.1]]
    splits = datasets.DatasetDict(train=make_splits(20)["train"].select([1]))
    job = Job("translate", {}, schema_features(names))
    worker = scripted([dict(zip(names, cells, strict=True)) for cells in (first, again)])
    run_job(job, splits, tmp_path, worker, progress=False)
    manifest = run_job(job, splits, tmp_path, worker, redo=["error"], progress=False)
    row = open_splits(tmp_path)["train"].select_columns(names)[0]
    assert list(row.values())[:2] == [["Hund", "Katze"], ["ok", "ok"]]
    assert row["caption_de_mt_similarity"] == pytest.approx([0.9, 0.6])
    assert list(row.values())[3:5] == [["chien", "chat"], ["ok", "ok"]]
    assert row["caption_fr_mt_similarity"] == pytest.approx([0.8, 0.7])
    counts = manifest.steps[-1].counts
    assert counts["caption_de_mt_flag"] == counts["caption_fr_mt_flag"] == {"ok": 2}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # A text a row.
        ((None, "error", 1), ("a", "ok", 2), ("a", "ok", 2)),
        (("a", "ok", 1), (None, "error", 2), ("a", "ok", 2)),
        ((None, None, 1), ("a", "ok", 2), (None, None, 2)),
        # A refused row has one flag and no caption; its captions may be more.
        (([], ["error"], 1), (["a", "b"], ["ok", "ok"], 2), (["a", "b"], ["ok", "ok"], 2)),
        ((["a", "b"], ["ok", "error"], 1), ([], ["error"], 2), ([], ["error"], 2)),
        ((["a"], None, 1), (["b"], ["ok"], 2), (["a"], None, 2)),
    ],
)
def test_what_comes_again_takes_the_place_of_what_was_asked_for(
    old: tuple[Any, ...], new: tuple[Any, ...], expected: tuple[Any, ...]
):
    """A text without its flag, or a flag of another text, is counted wrongly ever after."""
    names = ("caption_en", "caption_en_flag", "model_version")
    done = {name: ["before", value] for name, value in zip(names, old, strict=True)}
    replace_flagged(done, {name: [value] for name, value in zip(names, new, strict=True)}, [1], {"error"})
    assert done == {name: ["before", value] for name, value in zip(names, expected, strict=True)}


def test_processes_started_together_ask_a_failing_text_once_even_if_one_is_late(tmp_path: Path):
    """The more processes, the more often a text was asked whose redo fails: each late one began a redo of its own."""
    out = tmp_path / "out"
    run(out, lambda: UpperCase(reliable=False))
    program = """
import sys, time, tests.test_jobs_redo as here
from pathlib import Path
print("started", flush=True)
sys.stdin.readline()
here.run(Path(sys.argv[1]), lambda: here.UpperCase(reliable=False), redo=["error"])
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "started\n"
    for process in processes:  # each when the one before it has ended
        process.communicate("go\n", timeout=60)
        assert process.returncode == 0
    counts = read_manifest(out).steps[-1].counts
    assert counts["events"] == {"row": NUM_ROWS + len(FAILING_ROWS)} and counts["caption_de_mt_flag"]["error"] == 4
    assert not [path for path in out.rglob(".*")]


def test_a_redo_that_others_did_is_told_and_can_be_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A redo that does nothing in silence looks like one after which the texts still fail."""
    out, began = tmp_path / "out", time.time() - 60
    run(out, lambda: UpperCase(reliable=False))
    run(out, lambda: UpperCase(reliable=False), redo=["error"])
    monkeypatch.setattr("processing.jobs._idle_since", began)
    with caplog.at_level(logging.WARNING):
        assert run(out, never, redo=["error"]).complete
    assert "other processes have redone ['error'] since this one began" in caplog.text
    worker = UpperCase()
    assert run(out, lambda: worker, redo=["error"]).complete
    assert sorted(worker.seen) == FAILING_ROWS


def test_a_redo_of_other_flags_or_the_first_run_is_no_reason_to_do_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A process that asks for other texts than the last redo would be sent away."""
    out, began, workers = tmp_path / "out", time.time() - 60, [UpperCase(reliable=False), UpperCase(reliable=False)]
    run(out, lambda: UpperCase(reliable=False))
    for flags, worker in zip((["error"], ["empty", "error"]), workers, strict=True):
        monkeypatch.setattr("processing.jobs._idle_since", began)
        run(out, lambda worker=worker: worker, redo=flags)
        assert sorted(worker.seen) == FAILING_ROWS
    metadata = [read_shard_metadata(path) for path in sorted(out.glob("data/*.parquet"))]
    assert {(found["round"], *found["redo"]) for found in metadata} == {(0,), (2, "empty", "error")}


def test_a_redo_of_a_flag_that_nobody_knows_is_refused(tmp_path: Path):
    """`--redo eror` would end as if there had been nothing to do."""
    out = tmp_path / "out"
    run(out, lambda: UpperCase(reliable=False))
    with pytest.raises(ValueError, match=r"that no text has, \['eror'\]; there are \['error', 'ok'\], and known are"):
        run(out, never, redo=["eror", "error"])
    assert read_manifest(out).complete and not [path for path in out.rglob(".*")]
    # A flag that no text has any more is no error, or the second of two processes would fail.
    assert run(out, redo=["error"]).complete
    assert run(out, never, redo=["error", "refusal"]).complete


def test_every_flag_that_a_worker_gives_may_be_redone():
    """A new flag that is not in the list could not be redone where another process has just redone its texts."""
    modules = (description, translation_filters)
    flags = {value for module in modules for name, value in vars(module).items() if name.endswith("_FLAG")}
    assert flags <= KNOWN_FLAGS
