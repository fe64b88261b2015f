"""The comparison of systems at toy size: its numbers are those of the trainings, and what failed is told."""

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import yaml

from benchmarks import compare, experiments
from benchmarks.compare import Comparison, read_comparison
from benchmarks.experiments import by_variant, read_result
from modeling_leccr.training.arguments import build_recipe, parse_recipe
from modeling_leccr.training.systems import varied
from tests.experiment_parts import in_one_process
from tests.training_parts import tiny_recipe

ROOT = Path(__file__).resolve().parents[1]
SYSTEMS: dict[str, dict[str, Any]] = {
    "two streams": {"model": {"item_source": "image", "interaction": "none"}},
    "LECCR": {},
}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A comparison of two systems, in the order in which the reference is not the first."""
    base = tiny_recipe(tmp_path, learning_rate=0.02)
    facts = {"reference": "LECCR", "extra_languages": ["fr"], "note": "Toys alone."}
    file = tmp_path / "compare_toy.yaml"
    file.write_text(yaml.safe_dump({"base": base, "systems": SYSTEMS, **facts}, sort_keys=False), encoding="utf-8")
    return file


def words_of(toy: Path, *more: str) -> list[str]:
    return [str(toy), "--seeds", "0", "1", "--folder", str(toy.parent / "results of"), *more]


def test_the_tables_hold_the_numbers_of_the_trainings(toy: Path, monkeypatch: pytest.MonkeyPatch):
    """A row under the name of another system, or a mean over the wrong numbers, looks as good as the right one."""
    begun = in_one_process(monkeypatch)
    document = toy.parent / "RESULTS.md"
    document.write_text("before\n<!-- compare_toy --><!-- end of compare_toy -->\nafter", encoding="utf-8")
    assert compare.main(words_of(toy, "--write", str(document))) == 0 and len(begun) == 4
    text = document.read_text(encoding="utf-8")
    files = [file for file in (toy.parent / "results of").glob("*.json") if "seed" in file.name]
    groups = by_variant(sorted((read_result(file) for file in files), key=lambda result: result.seed))
    means: dict[tuple[str, str], float] = {}
    for system, results in groups.items():
        assert len(results) == 2
        for title, codes in {"German": ["de"], "Chinese": ["zh"], "mean of 2": ["de", "zh"]}.items():
            row = f"| {system} | {title} |"
            for metric in (*compare.RECALLS, "sum_r"):
                values = [fmean(result.metrics[code][metric] for code in codes) for result in results]
                row += f" {fmean(values):.1f} ± {stdev(values):.1f} |"
                means[system, title] = fmean(values)
            assert row in text
        assert f"| {system} | French, not trained on (6 items) |" in text
        assert f"| {system} | {results[0].num_parameters['all']:,} | 2 |" in text
    (difference,) = [line for line in text.splitlines() if line.startswith("| LECCR − two streams")]
    titles = ("German", "Chinese", "mean of 2")
    for cell, title in zip(difference.split("|")[2:5], titles, strict=True):
        assert cell.split()[0] == f"{means['LECCR', title] - means['two streams', title]:+.1f}"
    by_seed = [ours.sum_r - theirs.sum_r for ours, theirs in zip(groups["LECCR"], groups["two streams"], strict=True)]
    assert f"{fmean(by_seed):+.1f} ± {stdev(by_seed):.1f} (" in difference.split("|")[4]
    assert "A language that is not trained on" in text and "A teacher is not counted" in text
    assert text.startswith("before") and text.endswith("after") and "Toys alone." in text
    assert "on test (6 items, 6 captions a language)" in text and str(toy.parent) not in text
    picture = toy.parent / "results" / "compare_toy.png"
    assert "(results/compare_toy.png)" in text and 5_000 < picture.stat().st_size < 150_000
    facts = json.loads((toy.parent / "results of" / "compare_toy.json").read_text(encoding="utf-8"))
    interval = facts["differences"]["LECCR - two streams"]["mean"]
    assert interval["low"] <= interval["difference"] <= interval["high"] and interval["low"] < interval["high"]
    assert compare.main(words_of(toy)) == 0 and len(begun) == 4


def test_a_system_that_failed_is_said_to(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A row that is missing, or one over fewer seeds than the others, is read as a result."""
    in_one_process(monkeypatch)
    train = experiments.train_system
    failing = {("two streams", 1)}

    def train_or_fail(recipe: Any, *others: Any) -> Any:
        if (recipe.title, recipe.training.seed) in failing:
            raise ValueError("out of luck")
        return train(recipe, *others)

    monkeypatch.setattr(experiments, "train_system", train_or_fail)
    assert compare.main(words_of(toy)) == 1
    printed = capsys.readouterr().out
    assert "| two streams (1 of 2 seeds) | German |" in printed and "| LECCR | German |" in printed
    ours, theirs = (
        read_result(next((toy.parent / "results of").glob(f"{name}-seed0-*.json"))).sum_r
        for name in ("LECCR", "two_streams")
    )
    (difference,) = [line for line in printed.splitlines() if line.startswith("| LECCR − two streams")]
    assert difference.split("|")[4].startswith(f" {ours - theirs:+.1f} (")  # of the seed that both have
    facts = json.loads((toy.parent / "results of" / "compare_toy.json").read_text(encoding="utf-8"))
    assert facts["differences"]["LECCR - two streams"]["mean"]["difference"] == pytest.approx(ours - theirs)
    for file in (toy.parent / "results of").glob("two_streams-seed0*"):
        file.unlink()
    failing |= {("two streams", 0)}
    assert compare.main(words_of(toy)) == 1
    printed = capsys.readouterr().out
    assert "| two streams | German | failed |" in printed and "LECCR − two streams" not in printed
    facts = json.loads((toy.parent / "results of" / "compare_toy.json").read_text(encoding="utf-8"))
    assert facts["failed"] == {f"two streams, seed {seed}": "ValueError: out of luck" for seed in (0, 1)}
    for file in (toy.parent / "results of").glob("LECCR*.json"):
        file.unlink()
    failing |= {("LECCR", 0), ("LECCR", 1)}
    with pytest.raises(ValueError, match=r"no training succeeded.*out of luck"):
        compare.main(words_of(toy))


def test_a_comparison_that_compares_nothing_is_refused(toy: Path):
    """Systems with other queries, or a reference that is none of them, show after hours."""
    found = read_comparison(toy, "another/data-set")
    assert found.base["dataset"] == "another/data-set" and list(found.systems) == list(SYSTEMS)
    base = found.base
    for systems, reference in (({"a": {}}, "a"), ({"a": {}, "b": {}}, "c")):
        with pytest.raises(ValueError, match="systems must be two or more, and reference one of them"):
            Comparison(base, systems, reference)
    with pytest.raises(ValueError, match=r"the system 'b' changes \['scenes'\]"):
        Comparison(base, {"a": {}, "b": {"scenes": {"seed": 1}}}, "a")
    with pytest.raises(ValueError, match=r"must not be trained on, got \['de'\]"):
        Comparison(base, SYSTEMS, "LECCR", extra_languages=["de"])
    toy.write_text("base: {}\nsystems: {}\nreferences: a", encoding="utf-8")
    with pytest.raises(ValueError, match=r"must hold \['base', 'reference', 'systems'\]"):
        read_comparison(toy)


def test_systems_on_scenes_are_those_of_the_recipe_with_one_budget():
    """A table that says of a recipe what another one reached, or that starves one system, is no comparison."""
    comparison = read_comparison(compare.DEFAULT_FILE)
    recipe = parse_recipe([str(ROOT / "configs" / "scenes.yaml")]).settings
    assert comparison.base.items() <= recipe.items()
    for name, changes in comparison.systems.items():
        built = build_recipe(varied(comparison.base, changes))
        assert built.title == name
        stages = [stage.training for stage in (built, built.first_stage) if stage is not None]
        assert sum(stage.max_steps for stage in stages) == recipe["max_steps"]
        assert {stage.per_device_train_batch_size for stage in stages} == {recipe["per_device_train_batch_size"]}
