"""The checks of guidance and slots run at toy size, and their tables say what the trainings said."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks import check_guidance, check_slots, checks, experiments
from benchmarks.experiments import Result
from modeling_leccr.training.reading import merged
from retrieval.slot_readings import SlotReading, mean_of_different
from tests.check_parts import document_with, made_up, run_here, toy_base


def test_guidance_is_crossed_with_one_noise_at_a_time():
    """Two variants with the same settings would be trained twice, and a name for two settings hides one."""
    base = {"scenes": {"train_size": 40, "translation_noise": 0.9}, "loss": {"slot_vision": 1.0}, "max_steps": 8}
    variants = check_guidance.variants_of(base)
    whole = [json.dumps(merged(base, changes), sort_keys=True) for changes in variants.values()]
    assert len(variants) == len(set(whole)) == 2 * 5 * 3
    scenes = [changes["scenes"] for changes in variants.values()]
    budgets = {(changes["scenes"]["train_size"], changes["max_steps"]) for changes in variants.values()}
    assert budgets == {(40, 8), (10, 4)}
    assert not any(settings["translation_noise"] and settings["guidance_noise"] for settings in scenes)
    assert {settings["guidance_noise"] for settings in scenes} == {0.0, 0.2, 0.4}
    assert {changes["loss"]["guidance"] for changes in variants.values()} == {0.0, 0.25, 0.75}


def test_the_table_of_guidance_compares_seed_by_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Against the mean of hard targets, the spread over seeds would drown what guidance does."""

    def sum_r(settings: dict[str, Any], seed: int) -> float:
        noisy = settings["scenes"]["translation_noise"]
        if noisy == 0.4 and settings["loss"]["guidance"] == 0.75:
            return -1.0
        return 100.0 + 50 * seed + 10 * noisy * settings["loss"]["guidance"]

    panels: dict[str, Any] = {}
    draw = check_guidance.draw_sweeps
    monkeypatch.setattr(
        check_guidance, "draw_sweeps", lambda shown, *a, **b: panels.update(shown) or draw(shown, *a, **b)
    )
    monkeypatch.setattr(check_guidance, "run_experiments", made_up(sum_r))
    document = document_with(tmp_path, "check_guidance")
    options = ["--base", str(toy_base(tmp_path)), "--folder", str(tmp_path / "out"), "--write", str(document)]
    assert check_guidance.main([*options, "--seeds", "0", "1"]) == 1  # one variant failed
    text = document.read_text(encoding="utf-8")
    assert text.split("<!-- end")[0].removeprefix("<!-- check_guidance -->").strip() in capsys.readouterr().out
    assert "| 12 | translations | 0.2 | 125.0 ± 35.4 | +0.5 ± 0.0 | +1.5 ± 0.0 |" in text
    assert "| 12 | translations | 0.4 | 125.0 ± 35.4 | +1.0 ± 0.0 | failed |" in text
    assert "| 3 | English captions | 0.4 | 125.0 ± 35.4 | +0.0 ± 0.0 | +0.0 ± 0.0 |" in text
    assert "| 12 | translations | 0.2 | 0.75 | 126.5 ± 35.4 | 126.5 ± 35.4 |" in text  # German, Chinese
    deviation = pytest.approx(35.36, abs=0.01)
    assert panels["12 training items, noisy translations"]["softened, λ = 0.75"] == [
        (0.0, 125.0, deviation),
        (0.2, 126.5, deviation),  # that of 0.4 failed
    ]
    assert panels["3 training items, noisy English captions"]["hard targets"][2] == (0.4, 125.0, deviation)
    assert "](results/check_guidance.png)" in text and (tmp_path / "results" / "check_guidance.png").is_file()
    assert "12 items in 2 steps and 3 items in 1 steps; seeds 0, 1" in text and str(tmp_path) not in text
    record = json.loads((tmp_path / "out" / "check_guidance.json").read_text(encoding="utf-8"))
    assert len(record["failed"]) == 2 * 2 and {"environments", "seeds", "sum_r"} <= set(record)


def test_the_check_of_slots_runs_from_training_to_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The parts are right on their own; a model of another seed or split would make the tables tell of nothing."""
    monkeypatch.setattr(experiments, "run_jobs", run_here)
    document = document_with(tmp_path, "check_slots")
    base = toy_base(tmp_path)
    options = ["--base", str(base), "--folder", str(tmp_path / "out"), "--write", str(document)]
    assert check_slots.main([*options, "--seeds", "3", "--workers", "1"]) == 0
    text = document.read_text(encoding="utf-8")
    assert all(f"](results/slots_{name}.png)" in text for name in ("attention", "similarity", "winners"))
    assert all(path.stat().st_size < 150_000 for path in (tmp_path / "results").iterdir())
    record = json.loads((tmp_path / "out" / "check_slots.json").read_text(encoding="utf-8"))
    found = record["analyses"]["3"]
    # 6 test items with a caption each in two languages.
    assert all(sum(map(sum, found["types"][name]["counts"].values())) == 12 for name in ("colour", "count", "position"))
    start, trained = (torch.tensor(found["cosines"][state]["before"]) for state in ("at the start", "trained"))
    assert start.shape == (2, 2) and not torch.equal(start, trained)
    # Two steps at a small learning rate: the model at the start is that of the same seed.
    torch.testing.assert_close(start, trained, atol=0.1, rtol=0)
    assert f"{mean_of_different(start):.3f}" in text
    wins = found["types"]["all queries"]["counts"]["all queries"]
    assert f"wins {100 * max(wins) / 12:.1f} %" in text
    assert sum(found["words_by_kind"].values()) == pytest.approx(1)
    for slot in range(2):
        assert sum(shares[slot] for shares in found["attention_by_kind"].values()) == pytest.approx(1)


def test_slots_without_facts_or_without_others_are_refused(tmp_path: Path):
    """Photos have no facts from which to tell the type of a query, and one slot wins always."""
    file = toy_base(tmp_path)
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    for changes in ({"dataset": "folder"}, {"model": {"num_slots": 1}}):
        file.write_text(yaml.safe_dump({"base": merged(settings["base"], changes)}), encoding="utf-8")
        with pytest.raises(SystemExit, match="two slots or more"):
            check_slots.main(["--base", str(file), "--folder", str(tmp_path / "out")])


def test_attention_in_common_is_what_two_slots_share():
    """1 for slots that read the same, 0 for those that read different words."""
    none, empty = torch.zeros(2), torch.zeros(2, 4)
    same = SlotReading(["a", "b"], torch.tensor([[0.5, 0.5], [0.5, 0.5]]), none, empty, empty)
    other = SlotReading(["a", "b"], torch.tensor([[0.9, 0.0], [0.0, 0.7]]), torch.tensor([0.1, 0.3]), empty, empty)
    assert check_slots.attention_overlap(same) == pytest.approx(1)
    assert check_slots.attention_overlap(other) == pytest.approx(0.1)


def test_differences_are_paired_by_seed_and_shown_with_their_sign():
    """A seed that failed on one side must not be compared with another one."""
    protocol = {"languages": {"de": None}}
    runs = {
        "a": [Result("a", seed, {}, metrics={"de": {"sum_r": 10.0 * seed}}, protocol=protocol) for seed in (1, 2)],
        "b": [Result("b", seed, {}, metrics={"de": {"sum_r": 10.0 * seed + 3}}, protocol=protocol) for seed in (2, 3)],
    }
    assert checks.paired(runs, "b", "a") == [3.0]
    assert checks.signed([1.0, 3.0]) == "+2.0 ± 1.4" and checks.signed([-0.04]) == "+0.0"
    assert checks.signed([]) == "failed" and checks.statistics_of([2.0]) == (2.0, 0.0)
    with pytest.raises(ValueError, match="at least one number"):
        checks.statistics_of([])


def test_seeds_tell_a_difference_as_students_t_does():
    """Three seeds have one sign by chance in one of four cases, and with one seed there is nothing to tell."""
    assert not checks.told_by_seeds([]) and not checks.told_by_seeds([50.0])
    # Of 1, 2, 3 the mean is 2, and its interval by the tables of Student's t reaches 4.303 / √3 = 2.484 to each side.
    assert not checks.told_by_seeds([1.0, 2.0, 3.0]) and not checks.told_by_seeds([-3.4, -2.4, -1.4])
    assert checks.told_by_seeds([1.5, 2.5, 3.5]) and checks.told_by_seeds([-3.5, -2.5, -1.5])
    assert checks.told_by_seeds([4.0, 4.0]) and not checks.told_by_seeds([0.0, 0.0])
    # Of 40 seeds more can be told than of 10; the quantile of 10 is taken, which errs on the safe side.
    assert checks.told_by_seeds([0.0, 1.0] * 20) and not checks.told_by_seeds([-0.6, 1.0] * 20)


def test_a_file_without_base_is_refused(tmp_path: Path):
    """A recipe of configs/ has its settings at the top, and all of them would be lost."""
    file = tmp_path / "recipe.yaml"
    file.write_text("dataset: scenes\n", encoding="utf-8")
    with pytest.raises(ValueError, match="under `base`"):
        checks.base_recipe(file)
    assert checks.budget({"max_steps": 7}) == "7 steps" and checks.budget({"num_train_epochs": 4}) == "4 epochs"


def test_a_command_is_shown_without_folders_of_this_machine():
    """It goes into a document, where `--folder=/...` would tell of the machine as `--folder /...` does."""
    parser = checks.parser_of("compare", "", base=False)
    words = ["--folder=/place/of/someone/out", "--write", "/place/of/someone/RESULTS.md", "--seeds", "0"]
    options = checks.parse(parser, words)
    assert options.command == "python -m benchmarks.compare --folder=PATH/TO/out --write PATH/TO/RESULTS.md --seeds 0"
    assert options.folder == Path("/place/of/someone/out")


def test_the_origin_is_that_of_the_trainings_and_names_those_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Results are read again elsewhere, and by later code: its own machine says nothing of the numbers."""
    options = argparse.Namespace(command="python", seeds=[0, 1], folder=tmp_path, write=None)
    machine = {"processor": "Abacus 3", "platform": "Linux", "libraries": {"torch": "9.1"}, "git_revision": "abc"}
    done = [Result("a", 0, {}, seconds=4.0, environment=machine), Result("a", 1, {}, seconds=8.0, environment=machine)]
    failed = [Result("b", 1, {}, error="ValueError: out of luck")]
    checks.finish("check", options, "Text.", [*done, *failed], data="toys")
    printed = capsys.readouterr().out
    assert "2 trainings of 6 s on average" in printed and "Abacus 3, torch 9.1, code of abc." in printed
    assert "Failed, so that what is said of them is of fewer seeds or none: b, seed 1." in printed
    record = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    assert record["environments"] == [machine] and record["failed"] == {"b, seed 1": "ValueError: out of luck"}
    later = Result("a", 2, {}, seconds=4.0, environment=machine | {"git_revision": "def"})
    checks.finish("check", options, "Text.", [*done, later], data="toys")
    printed = capsys.readouterr().out
    assert "Abacus 3, torch 9.1, code of abc; Abacus 3, torch 9.1, code of def." in printed and "Failed" not in printed
