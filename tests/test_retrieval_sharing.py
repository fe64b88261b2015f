"""Three processes embed a split together: each row once, all of them in every process, or an error in every one; and
they fill one store of description states."""

from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from retrieval import encode
from retrieval.sharing import Processes, has_split_weights
from tests.launch_parts import run_processes
from tests.sharing_worker import (
    NUM_DESCRIPTIONS,
    NUM_ITEMS,
    TEXTS,
    embeddings,
    encode_descriptions_into,
    metrics,
    prepare_descriptions,
    run,
)
from tests.tiny import tiny_model, tiny_processor

WORLD_SIZE = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharing")


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict]:
    """What each process found, and the messages of its errors; they run all cases at once."""
    prepare_descriptions(folder)
    run_processes(run, folder, world_size=WORLD_SIZE, seconds=120)
    results = []
    for rank in range(WORLD_SIZE):
        path = folder / f"{rank}.safetensors"
        with safe_open(path, "pt") as file:
            results.append({**load_file(path), "messages": file.metadata()})
    return results


def test_embeddings_are_those_of_one_process_in_every_process(found: list[dict]):
    """Rows that are lost, doubled or in another order ruin recalls without a word."""
    expected = embeddings(shared=False)
    for process in found:
        for name, value in expected.items():
            assert process[name].shape == value.shape
            # Smaller batches have other padding, and these large weights magnify what it does to the rounding.
            tolerance = 1e-5 if name.startswith("few-batches") else 1e-6
            assert float((process[name] - value).abs().max()) <= tolerance, name


def test_recalls_are_the_same_everywhere(found: list[dict]):
    """Another SumR in another process would choose another checkpoint there."""
    for process in found:
        names = {name for name in process if name.startswith("metric/")}
        assert {name.removeprefix("metric/"): float(process[name]) for name in names} == metrics(shared=False)


def test_every_process_makes_equally_many_passes(found: list[dict]):
    """Split weights are put together in each pass, for which all processes have to meet."""
    assert [process["passes"].tolist() for process in found] == [[2]] * WORLD_SIZE  # 5 texts, batches of 1, 3 processes


def test_pictures_are_checked_once_and_known_everywhere(found: list[dict]):
    """A process that does not know of a damaged picture keeps the item, and the splits differ."""
    assert [process["unreadable"].tolist() for process in found] == [[1, 2, 9]] * WORLD_SIZE


def test_a_failure_in_one_process_ends_the_work_of_all(found: list[dict]):
    """The others would wait for its share until the time limit of the collective, half an hour later."""
    messages = [process["messages"]["failure"] for process in found]
    assert messages[1] == "ValueError: this process is out of luck"
    for other in (messages[0], messages[2]):
        assert other.startswith("RuntimeError: the work shared with other processes failed in process 1")
        assert "out of luck" in other
    assert [process["messages"]["after"] for process in found] == ["no error"] * WORLD_SIZE


def test_a_failure_with_split_weights_is_told_at_once(found: list[dict]):
    """The others wait for a part of the weights: a word about the error, taken for it, ends the process that has it
    without one."""
    messages = [process["messages"]["split weights"] for process in found]
    assert messages[1] == "ValueError: this process is out of luck"
    assert all(other.startswith("RuntimeError") for other in (messages[0], messages[2]))  # of gloo, for it is gone


def test_split_weights_are_known():
    """Those of FSDP by their modules, which the processes of this file split, and those of ZeRO-3 by their traces."""
    model = tiny_model()
    assert not has_split_weights(model)
    model.logit_scale.value.ds_id = 0
    assert has_split_weights(model)


def test_rows_that_differ_between_processes_are_refused(found: list[dict]):
    """Two machines with two versions of a data set would rank a mixture of both."""
    for process in found:
        assert process["messages"]["other rows"].startswith("RuntimeError: the texts must be the same in every process")


def test_what_is_not_shared_waits_for_nobody(found: list[dict]):
    """The main process alone searches and builds an index while the others are elsewhere."""
    assert [process["messages"]["alone"] for process in found] == ["no error"] * WORLD_SIZE
    assert [process["counts"].tolist() for process in found] == [[WORLD_SIZE, 1]] * WORLD_SIZE


def test_processes_fill_one_store_of_description_states(found: list[dict], folder: Path):
    """Work that all of them do, or none, shows after a day on eight machines, or as a missing state in training."""
    added = [int(process["added"]) for process in found]
    assert sum(added) == NUM_DESCRIPTIONS and min(added) > 0
    assert encode_descriptions_into(folder / "alone", folder) == NUM_DESCRIPTIONS
    shared, alone = (
        {path.name: path.read_bytes() for path in (folder / name).iterdir()} for name in ("store", "alone")
    )
    assert shared == alone and len(shared) > len(added)


def test_a_row_that_was_not_encoded_is_an_error(monkeypatch: pytest.MonkeyPatch):
    """It would be a vector of zeros, which has a rank like any other."""
    monkeypatch.setattr(Processes, "own_parts", lambda self, parts: ((part, part is not parts[-1]) for part in parts))
    with pytest.raises(RuntimeError, match=r"each of the 24 texts must be encoded once; not so are those at \["):
        encode.encode_texts(tiny_model(), tiny_processor(), TEXTS, 2, progress=False)


def test_one_process_shares_with_nobody():
    """Without a distributed run, `shared` changes nothing."""
    alone = Processes(shared=True)
    assert (alone.index, alone.count) == (0, 1)
    assert list(alone.own_parts("abc")) == [("a", True), ("b", True), ("c", True)]
    assert alone.gather(3) == [3] and NUM_ITEMS % WORLD_SIZE  # the cases are uneven


def test_the_mode_of_each_part_of_the_model_is_restored():
    """A frozen tower has no dropout while the rest trains; `model.train()` would give it some."""
    model = tiny_model().train()
    model.text_model.eval()
    modes = {name: part.training for name, part in model.named_modules()}
    encode.encode_texts(model, tiny_processor(), TEXTS[:2], progress=False)
    assert {name: part.training for name, part in model.named_modules()} == modes
    assert model.training and not model.text_model.training
