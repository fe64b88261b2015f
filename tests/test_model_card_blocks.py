"""The blocks of Python in the card of a model: they run as they stand, and print what the model says."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image
from torch import Tensor
from transformers import AutoModel, AutoProcessor

from modeling_leccr.export import save_for_hub
from reporting.model_card import model_card, read_facts
from tests.hub_server import environment, hub
from tests.loading_worker import HIDE_PACKAGES
from tests.model_card_parts import REPO, blocks, write_card
from tests.tiny import tiny_model, tiny_processor

# Runs all blocks of a card in one session, as somebody without this project's packages would.
STRANGER = """
import re, sys
session = {}
for block in re.findall(r"^```python\\n(.*?)^```", open(sys.argv[1], encoding="utf-8").read(), flags=re.M | re.S):
    exec(block, session)
    print("-----")
"""


@pytest.mark.parametrize("settings", [{}, {"item_source": "image"}, {"item_source": "description"}])
@pytest.mark.parametrize("has_golden", [True, False])
def test_the_first_block_runs_beside_the_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    has_golden: bool,
) -> None:
    """Before a model is pushed its card is read from the disk; every kind of model has other inputs."""
    folder = save_for_hub(tiny_model(**settings), tiny_processor(), tmp_path / "my model")
    if not has_golden:
        shutil.rmtree(folder / "golden")
    text = write_card(folder, folder.name)
    assert 'NAME = "./my model"' in text
    monkeypatch.chdir(tmp_path)
    session: dict[str, Any] = {}
    exec(blocks(text)[0], session)
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[2] for line in printed] == [
        query for _, query in sorted(zip(session["scores"].tolist(), session["queries"], strict=True), reverse=True)
    ]
    assert len(printed) > (5 if has_golden else 1)
    assert all(-1.001 <= float(line.split()[0]) <= 1.001 for line in printed)
    # With the package, as the card says.
    exec("import modeling_leccr\n" + blocks(text)[0].replace(", trust_remote_code=True", ""), session)
    # The path is one to a folder, so a missing one is never looked for on the Hub, where its code would be run.
    monkeypatch.chdir(folder)
    with pytest.raises((OSError, ValueError), match="my model"):
        exec(blocks(text)[0], {})


def expected_of(folder: Path, labels: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Fused and global scores of the first golden picture for all golden texts, and those of a pipeline for labels."""
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    golden = json.loads((folder / "golden" / "inputs.json").read_text(encoding="utf-8"))
    image = Image.open(folder / "golden" / "0.png")
    with torch.no_grad():
        described = processor(images=[image], descriptions=golden["descriptions"][:1], text=golden["texts"])
        output = model(**described)
        alone = model(**processor(images=[image], text=labels))
    fused = output.logits_per_image[0] / output.logit_scale.exp()
    return fused, (output.image_embeds @ output.text_embeds.T)[0], alone.logits_per_image[0].softmax(dim=-1)


def test_every_block_runs_from_the_hub_for_a_stranger(tmp_path: Path) -> None:
    """People copy it first: a line that fails is the end of it, and one without the description shows a worse model."""
    folder = save_for_hub(tiny_model(description_dropout=0.1), tiny_processor(), tmp_path / "model")
    write_card(folder, REPO)
    with hub(tmp_path / "home") as server:
        api = HfApi(token=server.token)
        api.create_repo(REPO)
        api.upload_folder(repo_id=REPO, folder_path=folder)
        (tmp_path / "card.md").write_bytes(server.files(REPO, kind="models")["README.md"])
        variables = {**os.environ, **environment(server, tmp_path / "stranger")}
        command = [sys.executable, "-I", "-c", HIDE_PACKAGES + STRANGER, str(tmp_path / "card.md")]
        result = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    use, pipeline, encoder, _ = result.stdout.split("-----\n")
    labels = ["a green triangle", "a yellow star", "a red heart"]
    fused, cosines, shares = expected_of(folder, labels)
    texts = json.loads((folder / "golden" / "inputs.json").read_text(encoding="utf-8"))["texts"]
    printed = {text: float(score) for score, _, text in (line.partition("  ") for line in use.splitlines())}
    assert len(printed) > 3
    assert printed == pytest.approx({text: float(fused[texts.index(text)]) for text in printed}, abs=6e-4)
    found = {row["label"]: row["score"] for row in ast.literal_eval(pipeline)}
    assert found == pytest.approx(dict(zip(labels, shares.tolist(), strict=True)), abs=1e-4)
    code = blocks((tmp_path / "card.md").read_text(encoding="utf-8"))[0]
    queries = ast.literal_eval(code.partition("queries = ")[2].partition("\ninputs")[0])
    similarities = [float(number) for number in re.findall(r"-?\d+\.\d+(?:e[-+]\d+)?", encoder)]
    assert similarities == pytest.approx([float(cosines[texts.index(text)]) for text in queries], abs=2e-4)


def test_the_check_that_the_card_names_is_there(tmp_path: Path) -> None:
    """A reader who runs a file that is not there doubts everything else."""
    folder = save_for_hub(tiny_model(), tiny_processor(), tmp_path / "model")
    assert "python check_embeddings.py" in model_card(read_facts(folder, REPO))
    (folder / "check_embeddings.py").unlink()
    assert "check_embeddings" not in model_card(read_facts(folder, REPO))
