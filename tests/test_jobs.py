"""Jobs: what they write, what they refuse, and how processes share, continue and redo them."""

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import filelock
import pyarrow.parquet as pq
import pytest
from PIL import Image

from processing import job_folder, jobs, sources
from processing.job_shards import fingerprint
from processing.jobs import Job, run_job
from processing.manifest import Manifest, Step, read_manifest
from processing.records import schema_features
from processing.sources import open_splits, write_splits
from tests.job_worker import NEW_COLUMNS, UpperCase, make_job, make_splits

NUM_ROWS = 40
ROWS_PER_SHARD = 9  # 4 shards each of train (36 rows) and 1 of test_2016 (4 rows)
NUM_SHARDS = 5


def run(out: Path, worker: Any = None, *, num_rows: int = NUM_ROWS, redo: Any = (), **settings: Any) -> Manifest:
    """A small job."""
    job = make_job(ROWS_PER_SHARD, **settings)
    return run_job(job, make_splits(num_rows), out, lambda: worker or UpperCase(), redo=redo, progress=False)


def never() -> Any:
    """The `make_worker` of a process that should have nothing to do."""
    raise AssertionError("a worker was made")


def shards(out: Path) -> list[Path]:
    """Finished shards."""
    return sorted(out.glob("data/[!.]*.parquet"))


def hidden(out: Path) -> list[str]:
    """What a finished job must not leave."""
    return [path.name for path in out.rglob(".*")]


class Meanwhile:
    """A worker that does something else before its n-th shard, as another process might."""

    def __init__(self, act: Callable[[], Any], number: int = 0) -> None:
        self.act, self.number, self.calls = act, number, 0
        self.worker = UpperCase()

    def __call__(self, rows: datasets.Dataset, events: Counter[str]) -> dict[str, list[Any]]:
        self.calls += 1
        if self.calls == self.number + 1:
            self.act()
        return self.worker(rows, events)


def test_a_job_keeps_the_columns_adds_the_new_ones_and_counts_what_happened(tmp_path: Path):
    """A row out of place gives every later picture the text of another."""
    splits = make_splits(NUM_ROWS)
    steps = [Step("read", {"reader": "multi30k"}, created="2020-01-01")]
    job, out = make_job(ROWS_PER_SHARD), tmp_path / "deep" / "out"
    manifest = run_job(job, splits, out, lambda: UpperCase(reliable=False), source_steps=steps, progress=False)
    for loaded in (open_splits(out), datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))):
        assert loaded.keys() == splits.keys()
        for name, rows in splits.items():
            assert loaded[name].column_names == ["image_id", "caption_en", *NEW_COLUMNS]
            assert loaded[name].select_columns(rows.column_names).to_list() == rows.to_list()
            for row in loaded[name]:
                failed = int(row["image_id"]) % 7 == 0
                assert row["caption_de_mt"] == [None if failed else text.upper() for text in row["caption_en"]]
    assert manifest == read_manifest(out) and manifest.complete
    assert manifest.splits == {name: len(rows) for name, rows in splits.items()}
    assert list(manifest.steps[:-1]) == steps
    step = manifest.steps[-1]
    texts = [flag for rows in loaded.values() for row in rows for flag in row["caption_de_mt_flag"]]
    assert step.counts == {"rows": 40, "caption_de_mt_flag": dict(Counter(texts)), "events": {"row": 40}}
    assert (step.kind, step.settings) == (job.kind, job.settings) and len(step.created) == 10
    assert len(shards(out)) == NUM_SHARDS and not hidden(out)


def test_the_worker_sees_pictures_and_the_data_set_has_none(tmp_path: Path):
    """Gigabytes of pixels would be copied into every data set of texts."""
    image = Image.new("RGB", (8, 8), "red")
    rows = {"image_id": ["a", "b", "c"], "image": [image] * 3, "description": ["old", None, "old"]}
    features = schema_features(rows)
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features=features)})

    def describe(rows: datasets.Dataset, events: Counter[str]) -> dict[str, list[Any]]:
        return {"description": [f"{row['image'].size} {row['description']}" for row in rows]}

    run_job(Job("describe", {}, schema_features(["description"]), 2), splits, tmp_path / "out", lambda: describe)
    loaded = open_splits(tmp_path / "out")["train"]
    assert loaded.column_names == ["image_id", "description"]
    assert loaded["description"][:] == ["(8, 8) old", "(8, 8) None", "(8, 8) old"]


def test_processes_share_the_shards(tmp_path: Path):
    """Two processes that do one shard pay for it twice; two that wait for each other stop."""
    out = tmp_path / "out"
    others: list[tuple[Manifest, UpperCase]] = []

    def other_process() -> None:
        worker = UpperCase()
        others.append((run(out, worker), worker))

    first = Meanwhile(other_process, number=1)
    manifest = run(out, first)
    (unfinished, other), *_ = others
    assert not unfinished.complete and manifest.complete
    assert len(first.worker.seen) == 2 * ROWS_PER_SHARD and len(other.seen) == NUM_ROWS - 2 * ROWS_PER_SHARD
    run(tmp_path / "alone")
    assert [path.read_bytes() for path in shards(out)] == [path.read_bytes() for path in shards(tmp_path / "alone")]
    assert manifest.steps[-1].counts == read_manifest(tmp_path / "alone").steps[-1].counts
    assert not hidden(out)


def test_a_process_without_a_free_shard_makes_no_worker(tmp_path: Path):
    """The eighth process of a job with seven shards would load a model for nothing."""
    out, job = tmp_path / "out", make_job(NUM_ROWS)
    splits = datasets.DatasetDict({"train": make_splits(NUM_ROWS)["train"]})
    late: list[Manifest] = []
    worker = Meanwhile(lambda: late.append(run_job(job, splits, out, never, progress=False)))
    assert run_job(job, splits, out, lambda: worker, progress=False).complete
    assert [manifest.complete for manifest in late] == [False]


def test_a_shard_that_another_process_finishes_before_the_claim_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Between the look at a shard and its claim, another process may have done hours of work."""
    out, claim, others = tmp_path / "out", job_folder.JobFolder.claim, []

    def claim_late(self: job_folder.JobFolder, shard: Any) -> Any:
        if not others:
            others.append(UpperCase())
            assert run(out, others[0]).complete
        return claim(self, shard)

    monkeypatch.setattr(job_folder.JobFolder, "claim", claim_late)
    manifest = run_job(make_job(ROWS_PER_SHARD), make_splits(NUM_ROWS), out, never, progress=False)
    assert manifest.complete and len(others[0].seen) == NUM_ROWS and not hidden(out)


def test_an_error_of_the_worker_passes_through_and_the_next_run_continues(tmp_path: Path):
    """A server that is down for a minute must not cost what was done before."""
    out = tmp_path / "out"

    def fail() -> None:
        raise ConnectionError("down")

    with pytest.raises(ConnectionError, match="down"):
        run(out, Meanwhile(fail, number=2))
    assert len(shards(out)) == 2 and not read_manifest(out).complete
    with pytest.raises(ValueError, match="is not finished; run the command that writes it again"):
        open_splits(out)
    worker = UpperCase()
    assert run(out, worker).complete
    assert len(worker.seen) == NUM_ROWS - 2 * ROWS_PER_SHARD


def test_a_finished_job_returns_at_once(tmp_path: Path):
    """The last element of a job array often starts when all is done."""
    out = tmp_path / "out"
    manifest = run(out)
    times = [path.stat().st_mtime_ns for path in out.rglob("*")]
    assert run_job(make_job(ROWS_PER_SHARD), make_splits(NUM_ROWS), out, never, progress=False) == manifest
    assert [path.stat().st_mtime_ns for path in out.rglob("*")] == times and not hidden(out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"settings\.seed is 0 there, 1 here"),
        ({"decoding": {"beams": (4,)}}, r"settings\.decoding is absent there, \{'beams': \[4\]\} here"),
        ({"num_rows": 50}, r"job\.input_digest\.train is '\w+' there, .*splits\.train is 36 there, 45 here"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_job_in_the_same_folder_is_refused_with_the_differences(
    change: dict[str, Any], message: str, finished: bool, tmp_path: Path
):
    """Half of the rows would come from one model and half from another."""
    out = tmp_path / "out"
    if finished:
        run(out)
    else:
        with pytest.raises(ZeroDivisionError):
            run(out, Meanwhile(lambda: 1 / 0, number=1))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(ValueError, match=message):
        run(out, **change)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path in before} == {
        path: time for path, time in before.items() if path.is_file()
    }
    run(out)


def test_other_columns_kinds_and_cuts_are_other_jobs(tmp_path: Path):
    """A folder with shards of two lengths has rows twice or not at all."""
    splits, out = make_splits(NUM_ROWS), tmp_path / "out"
    run(out)
    description = Job("describe", make_job(1).settings, schema_features(["description"]), ROWS_PER_SHARD)
    for job, message in [
        (make_job(ROWS_PER_SHARD + 1), r"another job: job\.rows_per_shard is 9 there, 10 here\. Name another"),
        (description, r"holds a job of another kind, 'translate'; name another folder\.$"),
    ]:
        with pytest.raises(ValueError, match=message):
            run_job(job, splits, out, never)


def test_a_list_in_the_settings_may_come_as_a_tuple(tmp_path: Path):
    """JSON has no tuples, so that a job would not know itself again."""
    assert run(tmp_path / "out", languages=("de", "fr")) == run(tmp_path / "out", languages=["de", "fr"])


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path):
    """A typo in --out would mix shards with somebody's files."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=r"holds files and no manifest \(first: \['notes.txt'\]\); name another"):
        run(tmp_path / "full")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        run(tmp_path / "full" / "notes.txt")
    write_splits(make_splits(NUM_ROWS), tmp_path / "data")
    with pytest.raises(ValueError, match="holds another job: kind is '' there, 'translate' here"):
        run(tmp_path / "data")
    assert [path.name for path in shards(tmp_path / "data")] == [
        "test_2016-00000-of-00001.parquet",
        "train-00000-of-00001.parquet",
    ]


def test_a_split_without_rows_is_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """`load_dataset` fails on a folder with a split without rows."""
    splits = make_splits(NUM_ROWS)
    splits["empty"] = splits["train"].select([])
    with caplog.at_level(logging.WARNING):
        manifest = run_job(make_job(ROWS_PER_SHARD), splits, tmp_path / "out", UpperCase, progress=False)
    assert "split 'empty' has no rows and is left out" in caplog.text
    assert open_splits(tmp_path / "out").keys() == manifest.splits.keys() == {"train", "test_2016"}
    with pytest.raises(ValueError, match=r"must hold rows, got none in \['empty'\]"):
        run_job(make_job(1), datasets.DatasetDict(empty=splits["empty"]), tmp_path / "none", never)
    assert not (tmp_path / "none").exists()


def test_splits_with_other_columns_are_refused_before_any_work(tmp_path: Path):
    """The folder would be found not to load after days of work."""
    splits = make_splits(NUM_ROWS)
    splits["test_2016"] = splits["test_2016"].add_column("description", ["x"] * 4)
    with pytest.raises(ValueError, match=r"same columns and types, .* 'train' and .*description.* 'test_2016'"):
        run_job(make_job(1), splits, tmp_path / "out", never)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "columns", [{"caption_de_mt": [["x"]] * 9}, dict.fromkeys(NEW_COLUMNS, [["x"]] * 8), {"other": [["x"]] * 9}]
)
def test_a_worker_that_loses_rows_or_columns_is_an_error(columns: dict[str, Any], tmp_path: Path):
    """A short list would move each later text to another row."""
    with pytest.raises(ValueError, match="must return 9 values for each of"):
        run(tmp_path / "out", lambda rows, events: columns)
    assert not shards(tmp_path / "out")


def test_a_job_without_columns_rows_or_json_is_refused():
    """Settings that are not JSON cannot be compared with those of the folder."""
    features = schema_features(NEW_COLUMNS)
    for bad in ({"features": datasets.Features(), "rows_per_shard": 1}, {"features": features, "rows_per_shard": 0}):
        with pytest.raises(ValueError, match="a job needs new columns and rows_per_shard of at least 1"):
            Job("translate", {}, **bad)
    with pytest.raises(TypeError, match="not JSON"):
        Job("translate", {"model": object()}, features)
    with pytest.raises(ValueError, match="not JSON compliant"):
        Job("translate", {"temperature": float("nan")}, features)


def test_redo_asks_again_for_the_rows_with_a_flag_and_for_no_other(tmp_path: Path):
    """Doing all again for a few errors costs days, and changes what was good."""
    out = tmp_path / "out"
    before = run(out, UpperCase(reliable=False)).steps[-1].counts
    failed = [f"{number:05d}" for number in range(0, NUM_ROWS, 7)]
    worker = UpperCase()
    after = run(out, worker, redo={"error", "empty"}).steps[-1].counts
    assert sorted(worker.seen) == failed
    assert before["caption_de_mt_flag"]["error"] == 9 and after["caption_de_mt_flag"] == {"ok": 60}
    assert after["events"] == {"row": NUM_ROWS + len(failed)}
    run(tmp_path / "reliable")
    for name, rows in open_splits(tmp_path / "reliable").items():
        assert open_splits(out)[name].to_list() == rows.to_list()
    assert not hidden(out)


def test_redo_without_such_a_flag_leaves_every_shard_as_it_is(tmp_path: Path):
    """A run that has nothing to do must not load a model."""
    out = tmp_path / "out"
    manifest = run(out)
    before = [path.stat().st_ino for path in shards(out)]
    splits = make_splits(NUM_ROWS)
    again = run_job(make_job(ROWS_PER_SHARD), splits, out, never, redo={"error"}, progress=False)
    assert again == manifest and [path.stat().st_ino for path in shards(out)] == before


def test_rows_that_fail_again_are_asked_once_in_each_redo_by_whatever_process(tmp_path: Path):
    """Processes of one redo would otherwise redo each other's failures for ever."""
    out = tmp_path / "out"
    run(out, UpperCase(reliable=False))
    other = UpperCase(reliable=False)
    first = Meanwhile(lambda: run(out, other, redo={"error"}))
    first.worker = UpperCase(reliable=False)
    run(out, first, redo={"error"})
    assert sorted(first.worker.seen + other.seen) == [f"{number:05d}" for number in range(0, NUM_ROWS, 7)]
    assert other.seen
    third = UpperCase(reliable=False)
    assert run(out, third, redo={"error"}).steps[-1].counts["caption_de_mt_flag"]["error"] == 9
    assert len(third.seen) == 6


def test_an_interrupted_redo_is_continued_by_a_run_that_does_not_ask_for_it(tmp_path: Path):
    """Who starts a killed job again does not always know with which options it ran."""
    out = tmp_path / "out"
    run(out, UpperCase(reliable=False))
    with pytest.raises(ZeroDivisionError):
        run(out, Meanwhile(lambda: 1 / 0, number=1), redo={"error"})
    with pytest.raises(ValueError, match="is not finished"):
        open_splits(out)
    with pytest.raises(ValueError, match=r"a redo of \['error'\] is under way in .*, got \['empty'\]; finish it first"):
        run(out, redo={"empty"})
    worker = UpperCase()
    assert run(out, worker).steps[-1].counts["caption_de_mt_flag"] == {"ok": 60}
    assert 0 < len(worker.seen) < 6


def test_a_redo_of_an_unfinished_job_finishes_it(tmp_path: Path):
    """Errors of a server are redone when it is up again, whether the job had ended or not."""
    out = tmp_path / "out"
    broken = Meanwhile(lambda: 1 / 0, number=3)
    broken.worker = UpperCase(reliable=False)
    with pytest.raises(ZeroDivisionError):
        run(out, broken)
    manifest = run(out, redo={"error"})
    assert manifest.complete and manifest.steps[-1].counts["caption_de_mt_flag"] == {"ok": 60}


def test_a_redo_that_starts_while_a_job_ends_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first process would declare a job complete of which another is doing rows again."""
    out = tmp_path / "out"
    complete = job_folder.JobFolder.complete
    interrupted = []

    def redo_before(self: job_folder.JobFolder) -> Manifest:
        if not interrupted:
            interrupted.append(Meanwhile(lambda: 1 / 0, number=1))
            with pytest.raises(ZeroDivisionError):
                run(out, interrupted[0], redo={"error"})
        return complete(self)

    monkeypatch.setattr(job_folder.JobFolder, "complete", redo_before)
    worker = UpperCase(reliable=False)
    assert run(out, worker).complete
    failed = [f"{number:05d}" for number in range(0, NUM_ROWS, 7)]
    assert sorted(worker.seen[NUM_ROWS:] + interrupted[0].worker.seen) == failed


def test_redo_needs_a_column_of_flags(tmp_path: Path):
    """A redo that can find nothing would look like one that had nothing to do."""
    job = Job("translate", {}, schema_features(["caption_de_mt"]))
    with pytest.raises(ValueError, match=r"the columns \['caption_de_mt'\] hold none"):
        run_job(job, make_splits(4), tmp_path / "out", never, redo={"error"})


def cut_in_half(path: Path) -> None:
    """As a full disk leaves a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_a_row(path: Path) -> None:
    """A file that can be read, and is not the shard that its name says."""
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)


@pytest.mark.parametrize("damage", [cut_in_half, lose_a_row, lambda path: path.write_bytes(b""), Path.unlink])
@pytest.mark.parametrize("when", ["before", "at the end"])
def test_a_damaged_shard_is_told_and_done_again(
    damage: Callable[[Path], Any], when: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The job would end with a data set that does not load, or never end."""
    out = tmp_path / "out"
    if when == "before":
        with pytest.raises(ZeroDivisionError):
            run(out, Meanwhile(lambda: 1 / 0, number=2))
        damage(shards(out)[0])
        worker = Meanwhile(lambda: None)
    else:
        with pytest.raises(ZeroDivisionError):
            run(out, Meanwhile(lambda: 1 / 0, number=1))
        worker = Meanwhile(lambda: damage(shards(out)[0]))
    with caplog.at_level(logging.WARNING):
        assert run(out, worker).complete
    assert len(worker.worker.seen) == NUM_ROWS - (ROWS_PER_SHARD if when == "before" else 0)
    assert damage is Path.unlink or "train-00000-of-00004.parquet cannot be read; its 9 rows are done" in caplog.text
    run(tmp_path / "alone")
    assert [path.read_bytes() for path in shards(out)] == [path.read_bytes() for path in shards(tmp_path / "alone")]


def test_a_shard_with_damaged_texts_is_done_again_as_a_whole_in_a_redo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Its flags may be readable where its texts are not."""
    out = tmp_path / "out"
    run(out, UpperCase(reliable=False))
    monkeypatch.setattr(jobs, "read_columns", lambda path, columns: None)
    worker = UpperCase()
    with caplog.at_level(logging.WARNING):
        run(out, worker, redo={"error"})
    assert len(worker.seen) == NUM_ROWS and "cannot be read" in caplog.text


def test_a_disk_that_loses_what_it_is_given_ends_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The job would write the same shard for ever."""
    monkeypatch.setattr(sources.pq, "write_table", lambda table, path, **_: Path(path).write_bytes(b"PAR1"))
    with pytest.raises(OSError, match="was written by this process and cannot be read; check the disk"):
        run(tmp_path / "out")


def test_temporary_files_of_killed_processes_go_when_the_job_is_complete_and_not_before(tmp_path: Path):
    """They fill the disk; removed too early, the file of a live process goes."""
    out = tmp_path / "out"
    out.mkdir()
    manifest, shard, other = (
        out / name for name in (".manifest-0f.json", "data/.train-00000-of-00004-0f.parquet", ".gitattributes")
    )
    for path in (manifest, other):
        path.write_text("", encoding="utf-8")

    def look() -> None:
        shard.write_text("", encoding="utf-8")
        assert manifest.exists()

    run(out, Meanwhile(look, number=3))
    assert not manifest.exists() and not shard.exists() and other.exists()


def test_a_folder_of_locks_that_goes_while_a_process_waits_for_it_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A process completes the job, and removes the locks, at the moment in which another starts."""
    out = tmp_path / "out"
    acquire = filelock.FileLock.acquire
    failures = [FileNotFoundError("gone")]

    def acquire_after_a_failure(self: filelock.FileLock, *arguments: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return acquire(self, *arguments, **options)

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire_after_a_failure)
    assert run(out).complete and not failures


def test_two_processes_that_complete_a_job_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Both may find the last shard finished at once."""
    out = tmp_path / "out"
    complete = job_folder.JobFolder.complete
    seen = []

    def complete_twice(self: job_folder.JobFolder) -> Manifest:
        seen.append(complete(self))
        return complete(self)

    monkeypatch.setattr(job_folder.JobFolder, "complete", complete_twice)
    assert run(out) == seen[0] and not hidden(out)


def test_the_bar_counts_the_rows_of_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A bar that counts its own rows tells an hour where minutes are left."""
    out, bars = tmp_path / "out", []

    class Bar(jobs.tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": False})
            bars.append(self)

    monkeypatch.setattr(jobs, "tqdm", Bar)
    run(out, Meanwhile(lambda: run(out), number=1))
    outer, inner = bars
    assert (outer.total, outer.n) == (NUM_ROWS, NUM_ROWS)
    assert (inner.total, inner.n) == (NUM_ROWS, NUM_ROWS - ROWS_PER_SHARD)


def test_the_fingerprint_sees_texts_and_nothing_else():
    """A job that does not know its rows again starts anew; one that takes others for them mixes data sets."""
    rows = make_splits(NUM_ROWS)["train"]
    digest = fingerprint(rows)
    halves = datasets.concatenate_datasets([rows.select(range(11)), rows.select(range(11, 36))])
    shuffled = rows.select(list(reversed(range(36))))
    pictures = rows.add_column("image", [None] * 36)
    assert digest == fingerprint(halves) == fingerprint(pictures) == fingerprint(shuffled.select(range(35, -1, -1)))
    edited = rows.map(lambda row: {"caption_en": ["a cat", *row["caption_en"][1:]]}, keep_in_memory=True)
    renamed = rows.rename_column("image_id", "video_id")
    moved = rows.map(lambda row: {"caption_en": ["", *row["caption_en"]]}, keep_in_memory=True)
    others = [fingerprint(other) for other in (shuffled, edited, renamed, moved, rows.select(range(35)))]
    assert len({digest, *others}) == 6


def test_the_manifest_of_a_job_is_json_that_a_card_can_show(tmp_path: Path):
    """Model, seed and counts are read by the card, not by this package alone."""
    run(tmp_path / "out")
    step = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))["steps"][-1]
    assert step["settings"] == {"model": "null", "seed": 0, "languages": ["de"]}
    assert step["job"]["rows_per_shard"] == ROWS_PER_SHARD and set(step["job"]["columns"]) == set(NEW_COLUMNS)
