"""Experiments at toy size: each job alone decides its result, and none is run twice or lost."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import experiments
from benchmarks.experiments import Job, Result, by_variant, read_result, run_experiments, spread
from modeling_leccr import LeccrModel
from processing.processing_leccr import LeccrProcessor
from processing.sources import write_shard
from retrieval.evaluation import retrieval_ranks
from retrieval.metrics import recall_metrics
from tests.experiment_parts import in_one_process
from tests.training_parts import tiny_recipe, tiny_split

VARIANTS: dict[str, dict[str, Any]] = {
    "LECCR": {},
    "two streams/a": {"model": {"item_source": "image", "interaction": "none"}},
}


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """See `in_one_process`."""
    return in_one_process(monkeypatch)


def ranks_of(results: Sequence[Result]) -> dict[tuple[str, int], Any]:
    return {
        (result.variant, result.seed): {code: (r.i2t.tolist(), r.t2i.tolist()) for code, r in result.ranks.items()}
        for result in results
    }


def test_results_depend_on_variant_and_seed_alone_and_are_read_again(tmp_path: Path, one_process: list[Job]):
    """A result that changed with what ran before it in the same process could not be made again."""
    base = tiny_recipe(tmp_path / "unused", learning_rate=0.01)
    results = run_experiments(base, VARIANTS, [0, 1], tmp_path / "a", extra_languages=["fr"])
    assert [(result.variant, result.seed) for result in results] == [
        *((name, 0) for name in VARIANTS),
        *((name, 1) for name in VARIANTS),
    ]
    for result in results:
        assert result.metrics == {code: recall_metrics(ranks) for code, ranks in result.ranks.items()}
        assert result.sum_r == (result.metrics["de"]["sum_r"] + result.metrics["zh"]["sum_r"]) / 2
        assert result.steps == 2 and result.seconds > 0 and result.protocol["split"] == "test"
        assert list(result.ranks) == ["de", "zh", "fr"] and len(result.ranks["fr"].i2t) == 6
        assert result.text_items == {language: [0, 1, 2, 3, 4, 5] for language in ("de", "zh", "fr")}
        assert result.settings["seed"] == result.seed and "output_dir" not in result.settings
    assert len({json.dumps(found) for found in ranks_of(results).values()}) > 1  # or nothing would be compared
    assert len(one_process) == 4
    again = run_experiments(base, VARIANTS, [0, 1], tmp_path / "a", extra_languages=["fr"])
    assert len(one_process) == 4 and ranks_of(again) == ranks_of(results)
    reversed_variants = dict(reversed(VARIANTS.items()))
    alone = run_experiments(base, reversed_variants, [1], tmp_path / "b", extra_languages=["fr"])
    assert ranks_of(alone) == {key: found for key, found in ranks_of(results).items() if key[1] == 1}
    assert not (tmp_path / "unused").exists() and not list(tmp_path.rglob("checkpoint-*"))


def test_a_kept_model_gives_the_ranks_of_its_result(tmp_path: Path, one_process: list[Job]):
    """What is looked at in a model must be the model of the table."""
    base = tiny_recipe(tmp_path)
    (result,) = run_experiments(base, {"LECCR": {}}, [0], tmp_path / "kept")
    assert result.model_folder is None
    (result,) = run_experiments(base, {"LECCR": {}}, [0], tmp_path / "kept", keep_models=True)
    assert len(one_process) == 2  # the model was not there
    assert result.model_folder is not None
    model = LeccrModel.from_pretrained(result.model_folder)
    processor = LeccrProcessor.from_pretrained(result.model_folder)
    splits, _ = next(reversed(experiments._shared.values()))
    ranks = retrieval_ranks(model, processor, splits["test"], ["de", "zh"], progress=False)
    assert all(torch.equal(ranks[code].t2i, result.ranks[code].t2i) for code in ranks)


def test_data_is_read_once_for_jobs_that_share_it(
    tmp_path: Path, one_process: list[Job], monkeypatch: pytest.MonkeyPatch
):
    """Reading can take longer than a short training; and other data must not be taken for one's own."""
    experiments._shared.clear()
    read: Counter[int] = Counter()
    load = experiments.load_splits
    monkeypatch.setattr(
        experiments,
        "load_splits",
        lambda data, *others: read.update([data.scenes["train_size"]]) or load(data, *others),
    )
    variants = {"a": {}, "b": {"learning_rate": 1e-4}, "more": {"scenes": {"train_size": 14}}}
    run_experiments(tiny_recipe(tmp_path), variants, [0, 1], tmp_path)
    assert read == {12: 1, 14: 1}


def test_a_job_that_fails_is_told_and_tried_again(
    tmp_path: Path, one_process: list[Job], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """One variant out of memory must not cost the table, nor look like a result."""
    train = experiments.train_system

    def train_or_fail(recipe: Any, *others: Any) -> Any:
        if recipe.training.learning_rate == 0.5:
            raise ValueError("the loss is not finite")
        return train(recipe, *others)

    monkeypatch.setattr(experiments, "train_system", train_or_fail)
    variants = {"wild": {"learning_rate": 0.5}, "tame": {}}
    wild, tame = run_experiments(tiny_recipe(tmp_path), variants, [0], tmp_path)
    assert wild.error == "ValueError: the loss is not finite" and tame.error is None
    assert "wild with seed 0 failed: ValueError: the loss is not finite" in caplog.text
    groups = by_variant([wild, tame])
    assert groups == {"wild": [], "tame": [tame]} and spread([]) == "failed"
    monkeypatch.setattr(experiments, "train_system", train)
    assert all(result.error is None for result in run_experiments(tiny_recipe(tmp_path), variants, [0], tmp_path))
    assert [job.variant for job in one_process] == ["wild", "tame", "wild"]


def test_a_job_that_another_command_has_done_meanwhile_is_left(
    tmp_path: Path, one_process: list[Job], monkeypatch: pytest.MonkeyPatch
):
    """Two commands on one folder begin with the same job; the second waits for the lock, and would then train again."""
    run_experiments(tiny_recipe(tmp_path), {"LECCR": {}}, [0], tmp_path)
    (job,) = one_process
    before = job.file.read_bytes()
    monkeypatch.setattr(experiments, "train_system", lambda *_: pytest.fail("it was trained again"))
    experiments.run_job(job)
    assert job.file.read_bytes() == before


def test_an_extra_language_is_asked_of_the_items_that_have_it(tmp_path: Path, one_process: list[Job]):
    """In real data some items have captions in further languages; one without would stop the evaluation."""
    folder = tmp_path / "data"
    french = [["un chien", "un chat"], [], ["une maison"], [], ["un bateau"], [], [], []]
    for name in ("train", "validation"):
        write_shard(tiny_split(8, caption_fr=french), folder / f"{name}-00000-of-00001.parquet")
    base = tiny_recipe(tmp_path, dataset=str(folder), target_languages=["de"], test_split=None)
    del base["scenes"]
    (result,) = run_experiments(base, {"LECCR": {}}, [0], tmp_path / "results", extra_languages=["fr"])
    assert result.error is None and result.text_items["fr"] == [0, 0, 1, 2]
    assert [len(result.ranks[code].i2t) for code in ("de", "fr")] == [8, 3] and len(result.ranks["fr"].t2i) == 4
    assert result.sum_r == result.metrics["de"]["sum_r"]


def test_processes_give_the_same_ranks_and_write_a_log(tmp_path: Path, request: pytest.FixtureRequest):
    """The number of workers and the threads of this process must not show in a result."""
    variants = {"LECCR": {"learning_rate": 0.01}, "few": {"scenes": {"image_size": 32, "train_size": 2}}}
    there, few = run_experiments(tiny_recipe(tmp_path), variants, [0], tmp_path / "there", workers=1)
    assert there.environment["torch_threads"] == 1
    assert few.error is not None and few.error.startswith("ValueError: training takes batches of 6 pairs")
    (log,) = (tmp_path / "there" / "logs").glob("few*.log")
    assert "Traceback" in log.read_text(encoding="utf-8")
    request.getfixturevalue("one_process")
    here, _ = run_experiments(tiny_recipe(tmp_path), variants, [0], tmp_path / "here")
    assert ranks_of([there]) == ranks_of([here])


def test_wrong_settings_and_damaged_results_are_named(tmp_path: Path):
    """A typo must not show after the hours of the other variants."""
    with pytest.raises(ValueError, match=r"the variant 'b' is no recipe: unknown settings \['learning_rat'\]"):
        run_experiments(tiny_recipe(tmp_path), {"a": {}, "b": {"learning_rat": 1}}, [0], tmp_path)
    for variants, seeds in (({}, [0]), ({"a": {}}, []), ({"a": {}}, [0, 0])):
        with pytest.raises(ValueError, match="at least one variant and different seeds"):
            run_experiments(tiny_recipe(tmp_path), variants, seeds, tmp_path)
    with pytest.raises(ValueError, match=r"among those of the recipe, got \['zh'\]"):
        run_experiments(tiny_recipe(tmp_path), {"a": {}}, [0], tmp_path, extra_languages=["zh", "fr"])
    two_stages = {"system": "cl2cm", "model": {"embed_dim": 16, "visual_dim": 16}, "cross_lingual": {"max_steps": -1}}
    with pytest.raises(ValueError, match="the variant 'a' has two stages: say max_steps"):
        run_experiments(tiny_recipe(tmp_path, num_train_epochs=1) | {"model": {}}, {"a": two_stages}, [0], tmp_path)
    (tmp_path / "x.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"x\.json is no result"):
        read_result(tmp_path / "x.json")


def test_spread_has_the_deviation_of_a_sample():
    """With n in its denominator three seeds would look a fifth closer than they are."""
    assert spread([1.0, 2.0, 6.0]) == "3.0 ± 2.6" and spread([1.25], 2) == "1.25"
