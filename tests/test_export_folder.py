"""Where a model is saved: what is replaced, what is left alone, and what an error or a kill leaves behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor, BertJapaneseTokenizer, GPT2Tokenizer, LukeTokenizer, XLNetTokenizer

from modeling_leccr import LeccrModel
from modeling_leccr.check_embeddings import largest_difference
from modeling_leccr.export import save_for_hub
from modeling_leccr.model_files import is_ours
from modeling_leccr.publishing import push_model
from processing.processing_leccr import LeccrProcessor
from reporting.model_record import ModelRecord
from tests.save_worker import STEPS, fail_at
from tests.test_export import files_of
from tests.test_training_building import tower_folders
from tests.tiny import tiny_model, tiny_processor


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model; tests change copies of it."""
    return save_for_hub(tiny_model(), tiny_processor(), tmp_path_factory.mktemp("saved") / "model")


def test_a_newer_model_replaces_the_older_one_whole(tmp_path: Path):
    """A file that only the older model had would be loaded, or pushed, with the newer one."""
    save_for_hub(
        tiny_model(),
        tiny_processor(),
        tmp_path / "model",
        record=ModelRecord(languages=("de",)),
        max_shard_size="100KB",
    )
    assert len(list((tmp_path / "model").glob("*-of-*.safetensors"))) > 1
    save_for_hub(tiny_model(seed=1), tiny_processor(), tmp_path / "model")
    assert not [name for name in files_of(tmp_path / "model") if "-of-" in name or name == "metrics.json"]
    found = LeccrModel.from_pretrained(tmp_path / "model").state_dict()
    torch.testing.assert_close(found, tiny_model(seed=1).state_dict(), rtol=0, atol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["optimizer.pt", "LICENSE", ".git/config", "golden/mine.png", "thesis.tex"])
def test_a_folder_with_files_of_somebody_else_is_not_replaced(exported: Path, tmp_path: Path, name: str):
    """A clone of a repository lost its history, and a checkpoint the state by which its training goes on."""
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("years", encoding="utf-8")
    before = files_of(folder)
    with pytest.raises(ValueError, match=rf"would be replaced, and holds 1 files .*\(first: \['{re.escape(name)}'\]\)"):
        save_for_hub(tiny_model(), tiny_processor(), folder)
    assert files_of(folder) == before


def test_only_what_a_save_wrote_is_replaced(exported: Path, tmp_path: Path):
    """A typo in the path must not delete a text tower, whose files have the names of ours, nor a link to elsewhere."""
    _, text = tower_folders(tmp_path / "towers")
    Path(text, "README.md").write_text("A text tower.", encoding="utf-8")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years", encoding="utf-8")
    shutil.copytree(exported, tmp_path / "linking")
    (tmp_path / "linking" / "data").symlink_to(tmp_path / "thesis")
    shutil.copytree(exported, tmp_path / "without-card")
    (tmp_path / "without-card" / "README.md").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    before = files_of(tmp_path)
    for folder in (Path(text), *(tmp_path / name for name in ("thesis", "link", "linking", "without-card"))):
        with pytest.raises(ValueError, match="would be replaced, and holds"):
            save_for_hub(tiny_model(), tiny_processor(), folder)
    with pytest.raises(ValueError, match="a model is saved in a folder, got the file"):
        save_for_hub(tiny_model(), tiny_processor(), tmp_path / "thesis" / "chapter.tex")
    assert files_of(tmp_path) == before
    assert (tmp_path / "linking" / "data").is_symlink()


def test_every_tokenizer_can_be_saved_again(exported: Path, tmp_path: Path):
    """A vocabulary of an older push would stay on the Hub, or a second save would be refused for it."""
    (tmp_path / "vocab.txt").write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij")))
    tokenizer = BertJapaneseTokenizer(str(tmp_path / "vocab.txt"), word_tokenizer_type="basic")
    processor = LeccrProcessor(AutoProcessor.from_pretrained(exported).image_processor, tokenizer, max_length=20)
    processor.chat_template = "{{ messages }}"
    for seed in (0, 1):
        save_for_hub(tiny_model(seed=seed), processor, tmp_path / "model")
    assert {"vocab.txt", "chat_template.jinja"} <= set(files_of(tmp_path / "model"))
    names = {"tokenizer.json"} | {
        file for kind in (XLNetTokenizer, LukeTokenizer, GPT2Tokenizer) for file in kind.vocab_files_names.values()
    }
    assert all(is_ours(name) for name in names)
    assert not [
        name
        for name in ("model.bin", "training_args.bin", "w2v.model", "notes.txt", "a/vocab.txt", "x.py")
        if is_ours(name)
    ]


def test_a_link_stays_and_the_model_behind_it_is_replaced(exported: Path, tmp_path: Path):
    """People keep a link to the newest run; it was followed for the saved files and then could not be removed."""
    shutil.copytree(exported, tmp_path / "run7")
    (tmp_path / "latest").symlink_to("run7")
    save_for_hub(tiny_model(seed=1), tiny_processor(), tmp_path / "latest")
    assert (tmp_path / "latest").readlink() == Path("run7")
    assert files_of(tmp_path / "run7")["model.safetensors"] != files_of(exported)["model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "run7"]


def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The command and the shell would go on in a folder that is no more."""
    monkeypatch.chdir(tmp_path)
    for folder in (".", "..", tmp_path):
        with pytest.raises(ValueError, match=r"is the folder that the command runs in|would be replaced, and holds"):
            save_for_hub(tiny_model(), tiny_processor(), folder)
    assert list(tmp_path.iterdir()) == []


def test_two_saves_of_one_process_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Process ids repeat, so that what a killed save left ended the next; and threads removed each other's files."""
    with ThreadPoolExecutor(2) as pool:
        models = [tiny_model(seed=seed) for seed in (0, 1)]
        both = threading.Barrier(2, timeout=20)
        monkeypatch.setattr("modeling_leccr.export.model_card", lambda _: f"# {both.wait()}\n")
        jobs = [pool.submit(save_for_hub, model, tiny_processor(), tmp_path / "model") for model in models]
        assert sum(job.exception() is None for job in jobs) >= 1
    states = [model.state_dict() for model in models]
    found = LeccrModel.from_pretrained(tmp_path / "model").state_dict()
    assert any(all(torch.equal(found[name], state[name]) for name in found) for state in states)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("older", [False, True])
def test_a_failed_save_leaves_the_older_model_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, older: bool
):
    """A full disk must not cost the model that was there, nor leave half a folder that looks like one."""
    if older:
        save_for_hub(tiny_model(), tiny_processor(), tmp_path / "model")
    before = files_of(tmp_path)

    def no_space(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    fail_at(step, monkeypatch, no_space)
    with pytest.raises(OSError, match="no space left"):
        save_for_hub(tiny_model(seed=1), tiny_processor(), tmp_path / "model")
    assert files_of(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["model"] if older else [])


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory, exported: Path, root_dir: Path) -> Path:
    """The folder of tests/save_worker.py when its saves have been killed."""
    folder = tmp_path_factory.mktemp("killed")
    for step in STEPS:
        (folder / step).mkdir()
        shutil.copytree(exported, folder / f"{step}-older" / "model")
    result = subprocess.run(
        [sys.executable, str(root_dir / "tests" / "save_worker.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": str(root_dir), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert set(json.loads(result.stdout).values()) == {int(signal.SIGKILL)}, result.stderr[-4000:]
    return folder


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("older", [False, True])
def test_a_save_that_was_killed_leaves_the_older_model_or_none(worked: Path, exported: Path, step: str, older: bool):
    """Nothing is cleaned up after a kill, and half a folder must not be loaded, nor pushed, as a model."""
    target = worked / (f"{step}-older" if older else step) / "model"
    # Between the two renames there is no model in that place; the older one lies beside it.
    beside = [files_of(path) for path in target.parent.glob(".model-*")]
    if older and step != "rename":
        assert files_of(target) == files_of(exported) and len(beside) == 1
    else:
        assert not target.exists() and len(beside) == 1 + older
        assert not older or files_of(exported) in beside
        with pytest.raises(ValueError, match="is not a folder"):
            push_model(target, "owner/x", dry_run=True)
    save_for_hub(tiny_model(seed=1), tiny_processor(), target)
    assert largest_difference(target) <= 1e-6


def test_plain_methods_save_what_a_stranger_needs(worked: Path, exported: Path):
    """`push_to_hub` of transformers sent a model without its code, unless another had been saved for the Hub before."""
    code = {name for name in files_of(exported) if name.endswith("_leccr.py")}
    assert code <= set(files_of(worked / "plain"))
    for name, loader in {"config.json": "AutoModel", "processor_config.json": "AutoProcessor"}.items():
        maps = [json.loads((folder / name).read_text())["auto_map"] for folder in (worked / "plain", exported)]
        assert maps[0][loader] == maps[1][loader]
