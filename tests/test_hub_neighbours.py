"""The zero-shot pipeline and sentence-transformers on a model from the Hub, for somebody without this package."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from sentence_transformers import SentenceTransformer
from transformers import pipeline

from modeling_leccr import LeccrModel
from modeling_leccr.export import save_for_hub
from tests.hub_server import environment, hub
from tests.loading_worker import HIDE_PACKAGES
from tests.tiny import SENTENCES, tiny_image, tiny_model, tiny_processor

REPO = "owner/leccr-tiny"
TEXTS = [SENTENCES[0][1], "x", SENTENCES[1][0], "两棵树"]
DESCRIPTIONS = [SENTENCES[0][2], None]

STRANGER = """
import json, sys
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import pipeline

repo, texts, descriptions, paths = json.loads(sys.stdin.read())
images = [Image.open(path) for path in paths]
classify = pipeline("zero-shot-image-classification", model=repo, trust_remote_code=True)
results = classify(images, candidate_labels=texts, hypothesis_template="{}", batch_size=2)
encoder = SentenceTransformer(repo, trust_remote_code=True)
items = [{"image": image, "text": text} for image, text in zip(images, descriptions)]
print(json.dumps({
    "scores": [[{entry["label"]: entry["score"] for entry in result}[text] for text in texts] for result in results],
    "texts": encoder.encode(texts).tolist(),
    "images": encoder.encode(images).tolist(),
    "items": encoder.encode(items).tolist(),
}))
"""


def run_stranger(inputs: list[Any], variables: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A fresh process in another folder, with an empty cache and nothing of this package."""
    folder.mkdir()
    return subprocess.run(
        [sys.executable, "-c", HIDE_PACKAGES + STRANGER],
        input=json.dumps(inputs), capture_output=True, text=True, timeout=120, cwd=folder,
        env={**os.environ, **variables, "PYTHONPATH": ""},
    )  # fmt: skip


def test_a_stranger_gets_the_outputs_of_the_model_from_the_hub(tmp_path: Path):
    """Most people meet a model in these two tools, through its name alone."""
    model, processor = tiny_model(description_dropout=0.2), tiny_processor()
    folder = save_for_hub(model, processor, tmp_path / "model")
    images = [tiny_image(i) for i in range(2)]
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    with hub(tmp_path / "home") as server:
        api = HfApi(token=server.token)
        api.create_repo(REPO)
        api.upload_folder(repo_id=REPO, folder_path=folder)
        variables = environment(server, tmp_path / "stranger")
        result = run_stranger([REPO, TEXTS, DESCRIPTIONS, [str(path) for path in paths]], variables, tmp_path / "cwd")
        assert result.returncode == 0, result.stderr
        assert server.count(r"GET .*model\.safetensors 200") == 1
        # Who has the package needs no flag.
        classify, encoder = pipeline("zero-shot-image-classification", model=REPO), SentenceTransformer(REPO)
    assert type(classify.model) is type(encoder.transformers_model) is LeccrModel
    found = {name: torch.tensor(value) for name, value in json.loads(result.stdout.splitlines()[-1]).items()}
    with torch.no_grad():
        alone = model(**processor(images=images, text=TEXTS))
        items = model.get_image_features(**processor(images=images, descriptions=DESCRIPTIONS))
    expected = {
        "scores": alone.logits_per_image.softmax(dim=-1),
        "texts": alone.text_embeds,
        "images": alone.image_embeds,
        "items": items.pooler_output,
    }
    assert not torch.allclose(found["images"][0], found["items"][0], atol=1e-4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
