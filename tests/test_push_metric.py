"""The metric pushed as a Space, and taken from there by `evaluate.load`."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi

from hub_scripts.cli import main
from hub_scripts.push_metric import build_space, push_metric
from retrieval.metrics import recall_metrics
from retrieval.ranks import ranks_from_scores
from tests.hub_parts import read_dry_run
from tests.hub_server import HubServer, environment, hub

REPO = "owner/crosslingual_retrieval"
FILES = ["README.md", "app.py", "crosslingual_retrieval.py", "requirements.txt"]
# The genuine client, without any module of ours.
CHILD = """
import json, sys
import evaluate
metric = evaluate.load(sys.argv[1])
cases = json.load(sys.stdin)
print(json.dumps([metric.compute(predictions=scores, references=owners) for scores, owners in cases]))
assert "retrieval" not in sys.modules
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with hub(tmp_path / "home") as running:
        yield running


def random_cases(count: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Scores (num_items, num_texts) and owners; the later ones are full of ties."""
    cases = []
    for number in range(count):
        num_items = 3 + 2 * number
        owners = torch.cat([torch.randperm(num_items), torch.randint(0, num_items, (number * 3,))])
        scores = torch.randn(num_items, len(owners))
        cases.append((scores if number % 2 == 0 else scores.round(), owners))
    return cases


def load_elsewhere(
    server: HubServer, home: Path, cases: list[tuple[torch.Tensor, torch.Tensor]]
) -> subprocess.CompletedProcess[str]:
    """Metrics of the cases in a process of its own, in an empty folder with an empty cache."""
    home.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-c", CHILD, REPO],
        input=json.dumps([(scores.T.tolist(), owners.tolist()) for scores, owners in cases]),
        cwd=home,
        env={**kept, "HOME": str(home), **environment(server, home / "cache"), "HF_UPDATE_DOWNLOAD_COUNTS": "0"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_evaluate_loads_the_metric_from_the_hub_and_agrees_with_ours(server: HubServer, tmp_path: Path):
    """A Space that lacks the file under the name that `evaluate` asks for exists, and cannot be loaded."""
    result = push_metric(REPO, token=server.token)
    assert result["sent_files"] == len(FILES) and result["commits"] == 1
    assert sorted(server.files(REPO, "spaces")) == FILES
    cases = random_cases()
    loaded = load_elsewhere(server, tmp_path / "stranger", cases)
    assert loaded.returncode == 0, loaded.stderr
    found = json.loads(loaded.stdout.splitlines()[-1])
    assert found == [pytest.approx(recall_metrics(ranks_from_scores(*case))) for case in cases]
    assert server.count(r"GET /spaces/owner/crosslingual_retrieval/resolve/main/crosslingual_retrieval.py 200") == 1


def test_the_texts_of_the_space_name_the_space(server: HubServer):
    """The example on the page is what people copy; a path in our repository loads nowhere else."""
    push_metric(REPO, token=server.token)
    files = {name: data.decode() for name, data in server.files(REPO, "spaces").items()}
    assert f'evaluate.load("{REPO}")' in files["README.md"]
    assert f'evaluate.load("{REPO}")' in files["crosslingual_retrieval.py"]
    assert not [name for name, text in files.items() if "retrieval/evaluate_metric" in text]
    assert "sdk: gradio\n" in files["README.md"] and "app_file: app.py\n" in files["README.md"]


def test_a_second_push_sends_nothing_also_to_a_private_branch(server: HubServer):
    """A repeated push must not fill the history of the Space with equal commits."""
    push_metric(REPO, private=True, revision="next", token=server.token)
    assert HfApi().space_info(REPO, token=server.token).private
    assert server.files(REPO, "spaces") == {}
    assert sorted(server.files(REPO, "spaces", "next")) == FILES
    again = push_metric(REPO, private=True, revision="next", token=server.token)
    assert again["commits"] == 0 and again["unchanged_files"] == len(FILES)


def test_a_dry_run_tells_and_sends_nothing(server: HubServer, capsys: pytest.CaptureFixture[str]):
    """A dry run that makes the Space is no dry run."""
    main(["push_metric", "--repo", REPO, "--dry-run"])
    told, _ = read_dry_run(capsys.readouterr().out)
    assert sorted(told["would_send"]) == FILES and told["unchanged_files"] == 0
    assert server.repositories == {}


def test_what_cannot_work_is_refused_in_one_line(server: HubServer):
    """`evaluate.load("org/recall")` asks for recall.py, so a Space of another name could not be loaded."""
    for repo in ("crosslingual_retrieval", "owner/recall", "owner/a/crosslingual_retrieval"):
        with pytest.raises(SystemExit, match=f"must be called ORG/crosslingual_retrieval.*got '{repo}'"):
            main(["push_metric", "--repo", repo])
    with pytest.raises(SystemExit, match="log in with `hf auth login`"):
        main(["push_metric", "--repo", REPO])
    assert server.repositories == {}


def test_the_page_computes_and_shows_what_the_metric_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nobody runs the page before it is on the Hub; gradio shows only errors of its own kind."""

    class Error(Exception):
        pass

    def element(*arguments: Any, **settings: Any) -> SimpleNamespace:
        return SimpleNamespace(arguments=arguments, **settings)

    gradio = SimpleNamespace(Error=Error, Interface=element, Textbox=element, JSON=element)
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    build_space(tmp_path, REPO)
    spec = importlib.util.spec_from_file_location("space_app", tmp_path / "app.py")
    assert spec is not None and spec.loader is not None
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    [compute] = app.page.arguments
    assert app.page.article.startswith("# Cross-lingual retrieval")
    example = [box.arguments[0] for box in app.page.inputs]
    assert compute(*example)["sum_r"] == 600.0
    for predictions, message in [("[[0.9, 0.1]", "delimiter"), ("[[0.9], [0.2]]", "2 items or more")]:
        with pytest.raises(Error, match=message):
            compute(predictions, example[1])
