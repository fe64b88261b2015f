"""The command `leccr translate`: from a data set folder to one with translations."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch

from hub_scripts import translate
from processing.manifest import Manifest, Step, read_manifest
from processing.sources import open_splits, write_splits
from tests.openai_server import OpenAiServer
from tests.test_translation import GERMAN, caption_of, make_rows
from tests.tiny_seq2seq import tiny_nllb


@pytest.fixture
def folder(tmp_path):
    """A data set of two splits with a step of its own."""
    captions = [[english] for english in GERMAN]
    splits = {"train": make_rows(*captions[:6]), "validation": make_rows(*captions[6:])}
    return str(write_splits(splits, tmp_path / "data", steps=[Step("read", {"reader": "table"})]))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny NLLB."""
    torch.manual_seed(1)
    return tiny_nllb(tmp_path_factory.mktemp("nllb"))


def printed(capsys):
    return json.loads(capsys.readouterr().out)


def test_a_model_in_this_process_translates_a_folder(folder, model, tmp_path, capsys):
    """The command of the README: columns for each language, counts on stdout, steps in the manifest."""
    out = tmp_path / "out"
    translate.main(["--dataset", folder, "--languages", "de", "fr", "--model", model, "--out", str(out),
                    "--max-tokens", "6", "--num-beams", "2", "--batch-size", "2", "--rows-per-shard", "4",
                    "--back-translation", model, "--keep-flagged"])  # fmt: skip
    report = printed(capsys)
    assert report["complete"] is True
    assert report["rows"] == 8
    assert sum(report["caption_fr_mt_flag"].values()) == 8
    splits = open_splits(out)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 6, "validation": 2}
    assert {"caption_de_mt", "caption_fr_mt", "caption_fr_mt_similarity", "caption_en"} <= set(splits["train"].features)
    manifest = read_manifest(out)
    assert [step.kind for step in manifest.steps] == ["read", "translate"]
    settings = manifest.steps[-1].settings
    assert (settings["num_beams"], settings["max_new_tokens"]) == (2, 6)
    assert settings["back_translation"]["model"] == settings["model"]
    assert str(tmp_path) not in (out / "manifest.json").read_text()


def test_a_server_translates_a_folder(folder, tmp_path, capsys):
    """The other back end of the same command, with a fault on the way."""
    out = tmp_path / "out"
    with OpenAiServer(lambda body: GERMAN[caption_of(body)], faults=["http_429"]) as server:
        translate.main(["--dataset", folder, "--languages", "de", "--model", "test-model", "--server", server.url,
                        "--out", str(out), "--seed", "3"])  # fmt: skip
    report = printed(capsys)
    assert report["caption_de_mt_flag"] == {"ok": 8}
    assert report["events"] == {"http_429": 1}
    assert open_splits(out)["validation"]["caption_de_mt"] == [[german] for german in list(GERMAN.values())[6:]]
    assert read_manifest(out).steps[-1].settings["prompt"]["id"] == "translate-v1"


def test_errors_are_done_again_on_request(folder, tmp_path, capsys):
    """`--redo error` after an outage; the same command without it has nothing to do."""
    arguments = ["--dataset", folder, "--languages", "de", "--model", "m", "--out", str(tmp_path / "out")]

    def lose_first(body):
        return "http_400" if caption_of(body) == next(iter(GERMAN)) else None

    with OpenAiServer(lambda body: GERMAN[caption_of(body)], faults=lose_first) as server:
        translate.main([*arguments, "--server", server.url])
        assert printed(capsys)["caption_de_mt_flag"] == {"error": 1, "ok": 7}
    with OpenAiServer(lambda body: GERMAN[caption_of(body)]) as server:
        translate.main([*arguments, "--server", server.url])
        assert not server.requests
        capsys.readouterr()
        translate.main([*arguments, "--server", server.url, "--redo", "error"])
        assert printed(capsys)["caption_de_mt_flag"] == {"ok": 8}
        assert len(server.bodies) == 1


def test_a_process_that_ends_before_the_others_tells_what_to_do(folder, tmp_path, capsys, caplog, monkeypatch):
    """`complete: false` alone looks like a failure, or like nothing to care about if another process dies."""
    caplog.set_level("INFO")
    monkeypatch.setattr(translate, "run_job", lambda *_, **__: Manifest(complete=False))
    translate.main(["--dataset", folder, "--languages", "de", "--model", "m", "--server", "http://h/v1",
                    "--out", str(tmp_path / "out")])  # fmt: skip
    assert printed(capsys)["complete"] is False
    assert "other processes still hold shards" in caplog.text and "run this again" in caplog.text


def test_the_help_shows_the_commands(capsys):
    """The examples are what people copy."""
    with pytest.raises(SystemExit) as stopped:
        translate.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "leccr translate --dataset data/mine --languages de fr" in text
    assert "accelerate launch -m hub_scripts.translate" in text


def test_the_examples_of_the_help_are_valid_command_lines():
    """An option that was renamed would stay in the example."""
    examples = translate.__doc__.replace("\\\n", " ").splitlines()
    commands = re.compile(r" +(?:leccr |accelerate launch -m hub_scripts\.)translate (.*)")
    examples = [found[1] for line in examples if (found := commands.fullmatch(line))]
    assert len(examples) == 3
    for example in examples:
        options = translate.parse_arguments(example.replace('"', "").split())
        assert options.out == "data/translated"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--temperature 0.5", "--temperature would have no effect without --server"),
        ("--prompt mine.txt --concurrency 2", "--concurrency, --prompt would have no effect without --server"),
        ("--server http://h/v1 --num-beams 4 --dtype float16", "--num-beams, --dtype would have no effect with"),
        ("--server http://h/v1 --revision v1 --back-translation b", "--revision would have no effect with --server"),
    ],
)
def test_options_of_the_other_back_end_are_refused(words, message, capsys):
    """An option that is ignored in silence looks as if it had been used."""
    with pytest.raises(SystemExit):
        translate.parse_arguments(f"--dataset d --languages de --out o --model m {words}".split())
    assert message in capsys.readouterr().err


def test_options_of_back_translation_are_taken_beside_a_server():
    """The model that translates back runs in this process, with beams and a precision of its own."""
    words = "--dataset d --languages de --out o --model m --server http://h/v1 --back-translation b --num-beams 4"
    assert translate.parse_arguments(words.split()).num_beams == 4


@pytest.mark.slow
def test_two_processes_of_accelerate_write_what_one_writes(folder, model, tmp_path, root_dir, capsys):
    """The rows and their order must not depend on who translated which shard."""
    arguments = ["--dataset", folder, "--languages", "de", "--model", model, "--max-tokens", "6",
                 "--rows-per-shard", "1", "--keep-flagged"]  # fmt: skip
    translate.main([*arguments, "--out", str(tmp_path / "one")])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
               "-m", "hub_scripts.translate", *arguments, "--out", str(tmp_path / "two")]  # fmt: skip
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run(command, cwd=root_dir, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count('"out"') == 2, "both processes tell"
    assert '"complete": true' in result.stdout
    one, two = (open_splits(tmp_path / name) for name in ("one", "two"))
    assert {name: rows.to_list() for name, rows in one.items()} == {name: rows.to_list() for name, rows in two.items()}
