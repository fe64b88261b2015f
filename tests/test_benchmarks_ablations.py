"""The ablations: their file makes recipes, variants share trainings, tables say what was measured, toy runs resume."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import ablation_tables, ablations
from benchmarks.ablation_groups import BASE, Group, Variant, changes_of, read_groups, trainings
from benchmarks.ablation_measures import (
    MEASURES,
    RANKS,
    MeasureJob,
    mean_cosine,
    read_ranks,
    run_measure,
    sharpness,
    student_log_probs,
    teacher_log_probs,
)
from benchmarks.ablation_tables import Row, Rows
from benchmarks.checks import BASE as FILE
from modeling_leccr import LeccrModel
from modeling_leccr.losses_leccr import LossConfig, MatchingBatch, softened
from modeling_leccr.training.arguments import build_recipe
from modeling_leccr.training.building import load_splits
from modeling_leccr.training.reading import merged
from processing.processing_leccr import LeccrProcessor
from reporting.style import new_figure
from reporting.sweeps import _spread_by_factors
from retrieval.evaluation import Scoring, retrieval_ranks
from retrieval.ranks import RetrievalRanks
from retrieval.slot_readings import read_slots
from tests.tiny import tiny_model, tiny_processor
from tests.training_parts import tiny_recipe, tiny_split

HOURS = 1.0
SECONDS_A_TRAINING = 70


def test_every_variant_of_the_file_is_a_recipe_and_changes_something():
    """A typo would end a run of an hour at its first job; a change without effect would be a row of noise."""
    base, groups = read_groups(FILE)
    wanted = {"slots", "interaction", "losses", "guidance", "temperatures", "score", "corrections"}
    assert set(groups) == wanted
    names = trainings(base, list(groups.values()))
    for group in groups.values():
        assert names[group.name, group.reference] == BASE, group.name
        assert set(group.measures) <= set(MEASURES)
        for variant in group.variants:
            build_recipe(merged(base, changes_of(group, variant)))
            of_base = names[group.name, variant.name] == BASE
            assert of_base == (variant.name == group.reference or not group.trained), variant


def test_all_trainings_fit_into_an_hour_of_four_cores():
    """That is what is promised of each command on scenes; the cost of a training is that of a busy core."""
    base, groups = read_groups(FILE)
    names = trainings(base, list(groups.values()))
    assert names["guidance", "softened at 0"] == names["guidance", "hard targets alone at 0"]
    assert names["guidance", "hard targets alone at 0.5"] == names["losses", "no softened"]
    assert len(set(names.values())) * 3 * SECONDS_A_TRAINING / 4 < HOURS * 3600


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"variants": {"a": {}}, "reference": "b"}, "must be one of its variants"),
        ({"variants": {"a": {}}, "curves": {"a": {1: {}}}, "reference": "a"}, "either variants, or curves"),
        ({"curves": {"a": {1: {}}}, "reference": "1"}, "either variants, or curves"),
        ({"variants": {"a": {}}, "reference": "a", "measure": ["targets"]}, "got .*'measure'"),
        ({"curves": {"a": {1: {}, 1.0000001: {}}}, "axis": "x", "reference": "1"}, "differ in name"),
    ],
)
def test_a_group_that_says_too_much_or_too_little_is_refused(group: dict[str, Any], message: str, tmp_path: Path):
    """A misspelt part would be left out without a word."""
    path = tmp_path / "groups.yaml"
    path.write_text(yaml.safe_dump({"base": {}, "groups": {"g": {"title": "T", "text": "T", **group}}}))
    with pytest.raises(ValueError, match=message):
        read_groups(path)
    path.write_text("groups: {}")
    with pytest.raises(ValueError, match="base and groups"):
        read_groups(path)


def ranks_of(value: int, num_items: int = 12) -> dict[str, RetrievalRanks]:
    """Every query of two texts an item has this rank."""
    return {"de": RetrievalRanks(torch.full((num_items,), value), torch.full((2 * num_items,), value))}


def rows_of(ranks: dict[str, list[int]], **settings: Any) -> Rows:
    """Rows with a rank a seed; the first is the reference."""
    variants = tuple(Variant(name, {}, "line", float(place)) for place, name in enumerate(ranks))
    group = Group("g", "Title", "Text.", next(iter(ranks)), variants, **settings)
    rows = [
        Row(variant, {seed: ranks_of(rank) for seed, rank in enumerate(ranks[variant.name])}) for variant in variants
    ]
    return Rows(group, rows, {"de": [item for item in range(12) for _ in range(2)]})


def test_the_table_pairs_seeds_and_says_what_failed():
    """Unpaired differences hide an effect behind the seeds; a failed variant must not look like zero."""
    rows = rows_of({"ours": [7, 20], "better": [1, 1], "half": [20], "broken": []})
    lines = rows.table().splitlines()
    assert lines[2] == "| **ours** | 100.0 ± 141.4 | reference | – | 0.0 ± 0.0 | 0.0 ± 0.0 |"
    assert lines[3].startswith("| better | 600.0 ± 0.0 | +500.0 ± 141.4 | +500.0 to +500.0 | 100.0 ± 0.0 |")
    assert lines[4].startswith("| half | 0.0 | -200.0 | -200.0 to -200.0 |")  # seed 0 alone, in both
    assert lines[5].startswith("| broken | failed | failed | – | failed |")


def test_seeds_without_reference_are_left_out():
    """The reference of another seed would bring the difference of two seeds into the row."""
    rows = rows_of({"ours": [7], "better": [1, 1]})
    assert "| 600.0 ± 0.0 | +400.0 | +400.0 to +400.0 |" in rows.table()


def test_the_findings_want_seeds_that_agree():
    """The interval of the table is over items: what the luck of the seeds did would pass for an effect."""
    ranks = {"better": [1, 1], "worse": [20, 20], "mixed": [1, 20], "far apart": [1, 4], "same": [7, 7]}
    rows = rows_of({"ours": [7, 7], **ranks})
    assert rows.findings().endswith(
        "Better: better (+400.0); worse: worse (-200.0); "
        "not told apart: mixed (+100.0), far apart (+300.0), same (+0.0)."
    )
    # Better for five items and worse for seven, in both seeds alike: other items may turn it round.
    i2t = torch.tensor([1] * 5 + [20] * 7)
    lucky = {"de": RetrievalRanks(i2t, i2t.repeat_interleave(2))}
    rows = rows_of({"ours": [7, 7], "lucky": [1, 1]})
    rows.rows[1].ranks.update({0: lucky, 1: lucky})
    items = {"de": [item for item in range(12) for _ in range(2)]}
    assert Rows(rows.group, rows.rows, items).findings().endswith("not told apart: lucky (+50.0).")
    assert "Of one seed" in (one := rows_of({"ours": [7], "better": [1]}).findings()) and "(+400.0)" not in one


def test_pictures_show_the_numbers_of_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A bar under the name of another variant looks as good as the right one."""
    drawn: list[Any] = []
    for name in ("draw_sweeps", "draw_differences"):
        monkeypatch.setattr(ablation_tables, name, lambda values, *_, **__: drawn.append(values))
    ranks = {"ours": [7, 20], "better": [1, 1], "broken": []}
    for settings in ({}, {"axis": "x"}):
        rows_of(ranks, **settings).draw(tmp_path / "picture.png", "scenes")
    bars, lines = drawn
    assert bars == {"ours": (0, 0), "better": (500, pytest.approx(141.42, abs=0.01)), "broken": None}
    assert lines == {"scenes": {"line": [(0, 100, pytest.approx(141.42, abs=0.01)), (1, 600, 0)]}}


@pytest.mark.parametrize("settings", [{}, {"axis": "x"}, {"axis": "x", "logarithmic": True}])
def test_groups_are_drawn_with_what_is_there(settings: dict[str, Any], tmp_path: Path):
    """One failed training must not cost the picture of an hour."""
    rows = rows_of({"ours": [7, 20], "better": [1, 1], "broken": []}, **settings)
    rows.draw(tmp_path / "picture.png", "scenes")
    assert 5_000 < (tmp_path / "picture.png").stat().st_size < 150_000


def test_a_logarithmic_axis_names_the_values_that_were_tried():
    """Ticks at powers of ten alone would leave the values to guessing."""
    axes = new_figure(4, 3).subplots()
    _spread_by_factors(axes, {"a": [(0.07, 1.0, 0.0), (1.0, 2.0, 0.0)], "b": [(0.02, 1.0, 0.0)]})
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.02", "0.07", "1"]


def embeds(*shape: int) -> Tensor:
    return normalize(torch.randn(*shape), dim=-1)


@pytest.mark.parametrize("with_slots", [True, False])
def test_the_measured_distributions_are_those_of_the_loss(with_slots: bool):
    """Measured on other distributions, the sharpness of the targets would say nothing about training."""
    loss = LossConfig(teacher_temperature=0.2, student_temperature=0.3, teacher_global_weight=0.6)
    images, sources, targets = (embeds(5, 8) for _ in range(3))
    slots = embeds(5, 3, 8) if with_slots else None
    teacher = teacher_log_probs(images, slots, sources, loss)
    student = student_log_probs(images, targets, loss)
    divergence = (teacher.exp() * (teacher - student)).sum(dim=1).mean()
    batch = MatchingBatch(torch.arange(5), images, sources, targets, slots)
    torch.testing.assert_close(divergence, softened(batch, torch.zeros(1), loss))


def test_sharpness_of_uniform_and_of_certain_targets():
    """The two ends that every number lies between."""
    uniform = sharpness(torch.full((4, 4), 0.25).log())
    assert uniform == pytest.approx({"entropy": 1.0, "own item": 0.25})
    certain = sharpness(torch.log_softmax(40 * torch.eye(4), dim=1))
    assert certain == pytest.approx({"entropy": 0.0, "own item": 1.0}, abs=1e-6)
    half = torch.tensor([[0.5, 0.5, 1e-30, 1e-30]] * 4).log()  # log 2 of log 4
    assert sharpness(half) == pytest.approx({"entropy": 0.5, "own item": 0.25})


def test_cosines_of_slots_leave_out_a_slot_with_itself():
    """With its own cosine of 1, distinct slots would look a quarter alike."""
    split, processor = tiny_split(4), tiny_processor()
    model = tiny_model(num_slots=3)
    found = mean_cosine(model, processor, split)
    cosines = [
        float(torch.cosine_similarity(reading.slots[i], reading.slots[j], dim=0))
        for reading in read_slots(model, processor, split)
        for i in range(3)
        for j in range(3)
        if i != j
    ]
    assert found == pytest.approx(sum(cosines) / len(cosines), abs=1e-5) and found < 0.9
    assert mean_cosine(tiny_model(slot_init_std=0.0), processor, split) == pytest.approx(1.0)


def toy_file(folder: Path) -> Path:
    """Three trainings of two steps: the base, one slot, and slots from zero."""
    left_out = {"output_dir", "eval_strategy", "save_strategy", "eval_steps", "save_steps", "use_cpu", "disable_tqdm"}
    base = {name: value for name, value in tiny_recipe(folder).items() if name not in left_out}
    slots = {"title": "Slots", "text": "T.", "axis": "slots", "reference": 2}
    score = {"title": "Score", "text": "T.", "axis": "a", "reference": 0.5, "trained": False}
    zero = {"title": "Zero", "text": "T.", "reference": "ours", "measures": ["slot_cosine", "logit_scale", "targets"]}
    groups = {
        "slots": {**slots, "curves": {"LECCR": {1: {"model": {"num_slots": 1}}, 2: {"model": {"num_slots": 2}}}}},
        "score": {**score, "curves": {"LECCR": {a: {"global_weight": a} for a in (0.0, 0.5, 1.0)}}},
        "zero": {**zero, "variants": {"ours": {}, "equal": {"model": {"slot_init_std": 0.0}}}},
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({"base": base, "groups": groups}, sort_keys=False), encoding="utf-8")
    return path


def test_the_command_trains_measures_and_writes_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The whole way at toy size, and then again, when all of it must be there."""
    document = tmp_path / "RESULTS.md"
    marks = [f"<!-- ablation_{name} -->\nOLD\n<!-- end of ablation_{name} -->" for name in ("slots", "score", "zero")]
    document.write_text("\n\n".join(marks), encoding="utf-8")
    out = tmp_path / "out"
    words = ["--base", str(toy_file(tmp_path)), "--folder", str(out), "--seeds", "0", "--workers", "1"]
    assert ablations.main([*words, "--write", str(document)]) == 0
    written = document.read_text(encoding="utf-8")
    assert "OLD" not in written and str(tmp_path) not in written
    assert written.count("| reference |") == 3 and "](results/ablation_zero.png)" in written
    found = sorted(path.name for path in out.glob("*-seed0-*.json"))
    assert [name.split("-seed")[0] for name in found] == ["base", "slots_1", "zero_equal"]
    rows = {row["variant"]: row for row in json.loads((out / "ablation_zero.json").read_text())["rows"]}
    assert rows["equal"]["measured"]["slot cosine at the start"] == pytest.approx([1.0])
    assert rows["ours"]["measured"]["slot cosine at the start"][0] < 0.9
    assert rows["ours"]["measured"]["scale at the end"][0] == pytest.approx(1 / 0.07, rel=0.05)
    assert rows["ours"]["measured"]["teacher: entropy"][0] < 1

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*-seed0-*")}
    assert ablations.main([*words, "--group", "zero", "slots"]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*-seed0-*")}
    assert "Zero" in capsys.readouterr().out
    _check_scores(next(path for path in out.glob("base-seed0-*") if path.is_dir()), tmp_path)


def _check_scores(model_folder: Path, folder: Path) -> None:
    """The ends of the axis are the slots alone and the image embedding alone."""
    settings = tiny_recipe(folder)
    evaluations = {"slots": {"global_weight": 0.0}, "image": {"global_weight": 1.0}}
    job = MeasureJob(RANKS, settings, model_folder, evaluations)
    run_measure(job)
    found = read_ranks(job)
    model, processor = LeccrModel.from_pretrained(model_folder), LeccrProcessor.from_pretrained(model_folder)
    split = load_splits(build_recipe(settings).data)["test"]
    scorings: dict[str, Scoring] = {"slots": "slots", "image": "global"}
    for name, scoring in scorings.items():
        expected = retrieval_ranks(model, processor, split, ["de"], scoring=scoring, progress=False)["de"]
        assert torch.equal(found[name]["de"].i2t, expected.i2t) and torch.equal(found[name]["de"].t2i, expected.t2i)


def test_an_unknown_group_is_refused(capsys: pytest.CaptureFixture[str]):
    """Without it an hour would go to the wrong groups."""
    with pytest.raises(SystemExit):
        ablations.main(["--group", "slotz"])
    assert "--group takes names among" in capsys.readouterr().err


def test_real_data_take_leccr_of_the_comparison(tmp_path: Path):
    """Slots of another recipe than that of the table of systems would not explain it."""
    path = tmp_path / "compare.yaml"
    systems = "systems: {LECCR: {model: {dropout: 0.5}}, other: {}}\nreference: other"
    path.write_text("base: {max_steps: 5, model: {num_slots: 3}}\n" + systems)
    assert ablations.real_data_recipe(path, Path("data")) == {
        "max_steps": 5,
        "model": {"num_slots": 3, "dropout": 0.5},
        "dataset": "data",
    }


def test_the_reference_is_the_variant_that_is_the_base():
    """Real data have another number of slots; compared with that of scenes, each row would be of two changes."""
    variants = (Variant("4", {"model": {"num_slots": 4}}), Variant("2", {"model": {"num_slots": 2}}))
    group = Group("slots", "T", "T", "4", variants)
    for num_slots, expected in ((2, "2"), (4, "4"), (3, "4")):
        names = trainings({"model": {"num_slots": num_slots}}, [group])
        assert ablations.compared_with_base(group, names).reference == expected
