"""The check of descriptions: each kind is what it is called, and the tables say what was found."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import check_descriptions, checks
from benchmarks.experiments import Result
from modeling_leccr.training.arguments import build_recipe
from modeling_leccr.training.building import load_splits
from modeling_leccr.training.reading import merged
from processing.records import DESCRIPTION_COLUMN
from retrieval.evaluation import retrieval_ranks
from tests.check_parts import document_with, made_up, toy_base
from tests.tiny import tiny_model, tiny_processor


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two trained-like models, with and without description dropout, and the file of their base."""
    folder = tmp_path_factory.mktemp("described")
    for dropout in check_descriptions.DROPOUTS:
        place = folder / f"dropout{dropout:g}"
        # Slots alone score, and widely, so that other descriptions show.
        tiny_model(description_dropout=dropout, global_weight=0.0).save_pretrained(place)
        tiny_processor().save_pretrained(place)
    return folder, toy_base(folder)


def test_each_kind_of_description_is_evaluated_as_what_it_is(
    described: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    """A model that needs descriptions refuses to do without; one that does not is judged without them."""
    folder, base_file = described
    base = merged(checks.base_recipe(base_file), {"seed": 0})
    given_texts: list[list[str]] = []

    def recorded(model: Any, processor: Any, split: Any, *arguments: Any, **options: Any) -> Any:
        given_texts.append(split[DESCRIPTION_COLUMN] if options["use_descriptions"] else [])
        return retrieval_ranks(model, processor, split, *arguments, **options)

    monkeypatch.setattr(check_descriptions, "retrieval_ranks", recorded)
    found = {}
    for dropout in check_descriptions.DROPOUTS:
        settings = merged(base, {"model": {"description_dropout": dropout}})
        job = check_descriptions.GivenJob(settings, folder / f"dropout{dropout:g}")
        check_descriptions.evaluate_given(job)
        found[dropout] = json.loads(job.file.read_text(encoding="utf-8"))
    assert all(list(kinds) == list(check_descriptions.GIVEN) for kinds in found.values())
    true, short, other, none = given_texts[:4]
    assert short == [check_descriptions.first_sentence(text) for text in true] != true
    assert other == check_descriptions.shuffled(true) != true and none == []
    assert "description" in found[0.0]["empty"] and isinstance(found[0.2]["empty"], float)
    for kinds in found.values():
        assert all(0 <= kinds[kind] <= 600 for kind in ("true", "short", "shuffled"))
    given = {dropout: {0: kinds} for dropout, kinds in found.items()}
    rows = {row[0].partition(":")[0]: row[1:] for row in check_descriptions.given_rows(given)}
    assert rows["true"][0] == f"{found[0.0]['true']:.1f}" and rows["empty"][0] == "refused"
    change = found[0.2]["shuffled"] - found[0.2]["true"]
    assert rows["shuffled"][1] == f"{found[0.2]['shuffled']:.1f} ({change + 0.0:+.1f})"
    assert check_descriptions.given_difference(given[0.0], "empty") is None
    assert check_descriptions.given_difference(given[0.2], "shuffled") == (change, 0.0)


def test_other_descriptions_are_those_of_the_kind(described: tuple[Path, Path]):
    """An item that keeps its own description, or one that is used twice, makes shuffling look cheap."""
    split = load_splits(build_recipe(checks.base_recipe(described[1])).data)["test"]
    own = split[DESCRIPTION_COLUMN]
    other = check_descriptions.with_descriptions(split, "shuffled")
    assert sorted(other[DESCRIPTION_COLUMN]) == sorted(own)
    assert all(a != b for a, b in zip(other[DESCRIPTION_COLUMN], own, strict=True))
    assert other["image_id"] == split["image_id"] and other["caption_de"] == split["caption_de"]
    short = check_descriptions.with_descriptions(split, "short")[DESCRIPTION_COLUMN]
    assert all(text.startswith("The picture shows") and text.count(".") == 1 for text in short)
    assert check_descriptions.with_descriptions(split, "true")[DESCRIPTION_COLUMN] == own
    for size in range(2, 6):
        texts = [str(number) for number in range(size)]
        assert all(a != b for a, b in zip(check_descriptions.shuffled(texts), texts, strict=True))
    with pytest.raises(ValueError, match="kind must be one of"):
        check_descriptions.with_descriptions(split, "wrong")


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One dog. Two cats.", "One dog."),
        ("No full stop", "No full stop"),
        ("Really? Yes!", "Really?"),
        ("A 2.5 m fence. Snow.", "A 2.5 m fence."),
        ("一只狗。两只猫。", "一只狗。"),
    ],
)
def test_a_description_is_cut_after_its_first_sentence(text: str, first: str):
    """Half a sentence, or all of it, is another condition than the table names."""
    assert check_descriptions.first_sentence(text) == first


def test_the_table_of_descriptions_has_noise_floor_and_kinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The floor is what a model without descriptions reaches; it must be trained without them."""
    trained: list[dict[str, Any]] = []

    def sum_r(settings: dict[str, Any], seed: int) -> float:
        trained.append(settings)
        if settings["model"].get("item_source") == "image":
            return 50.0
        return 400.0 - 100 * settings["scenes"]["description_noise"] + 10 * settings["model"]["description_dropout"]

    given = {d: {0: {"true": 400.0, "short": 390.0, "shuffled": 40.0 + d, "empty": 60.0}} for d in (0.0, 0.2)}
    drawn: dict[str, Any] = {}
    for name in ("draw_sweeps", "draw_differences"):
        draw = getattr(check_descriptions, name)
        monkeypatch.setattr(
            check_descriptions, name, lambda shown, *a, draw=draw, **b: drawn.update(shown) or draw(shown, *a, **b)
        )
    monkeypatch.setattr(check_descriptions, "run_experiments", made_up(sum_r))
    monkeypatch.setattr(check_descriptions, "given_descriptions", lambda *_, **__: given)
    document = document_with(tmp_path, "check_descriptions")
    options = ["--base", str(toy_base(tmp_path)), "--folder", str(tmp_path / "out"), "--write", str(document)]
    assert check_descriptions.main([*options, "--seeds", "0"]) == 0
    text = document.read_text(encoding="utf-8")
    assert "| 0.25 | 375.0 | 377.0 | 50.0 |" in text and "| 1 | 300.0 | 302.0 | 50.0 |" in text
    assert "| shuffled: that of another item | 40.0 (-360.0) | 40.2 (-359.8) |" in text
    lines = drawn["Noise in training and at test"]
    assert lines["LECCR, description dropout 0.2"][2] == (0.25, pytest.approx(377.0), 0.0)
    assert drawn["shuffled, dropout 0.2"] == (pytest.approx(-359.8), 0.0) and drawn["short, dropout 0"] == (-10.0, 0.0)
    names = ["check_descriptions.png", "check_descriptions_given.png"]
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == names
    assert all(f"](results/{name})" in text for name in names)
    assert all(build_recipe(settings) for settings in trained)


def test_a_model_that_could_not_be_evaluated_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A cell over fewer seeds than its neighbours, with nothing said, is read as a result of all of them."""

    failing = ["0"]

    def evaluated(_: Any, jobs: Any, **__: Any) -> Any:
        for job in jobs:
            if job.model_folder.name in failing:
                yield job, "OSError: no such model"
                continue
            job.file.write_text(json.dumps({"true": 400.0, "short": 9.0, "shuffled": 8.0, "empty": 7.0}))
            yield job, None

    def trained(*arguments: Any, **options: Any) -> list[Result]:
        results = made_up(lambda *_: 100.0)(*arguments, **options)
        return [dataclasses.replace(result, model_folder=tmp_path / str(i)) for i, result in enumerate(results)]

    monkeypatch.setattr(check_descriptions, "run_experiments", trained)
    monkeypatch.setattr(check_descriptions, "run_jobs", evaluated)
    options = ["--base", str(toy_base(tmp_path)), "--folder", str(tmp_path / "out"), "--seeds", "0", "1"]
    assert check_descriptions.main(options) == 1
    assert "Not evaluated with other descriptions: dropout 0, seed 0." in capsys.readouterr().out
    failing.clear()
    assert check_descriptions.main(options) == 0
    assert "Not evaluated" not in capsys.readouterr().out
