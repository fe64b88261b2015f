"""The zero-shot pipeline of transformers on a saved model: scores, batches, and what it says without descriptions.

The pipeline takes the tokenizer and the image processor of the folder, not `LeccrProcessor`. So it fills the labels
into "This is a photo of {}." unless it is given another `hypothesis_template`, pads by itself, never cuts and never
cleans a label, and has no way to give a description.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, pipeline

from modeling_leccr import LeccrModel
from modeling_leccr.export import save_for_hub
from tests.tiny import SENTENCES, tiny_image, tiny_model, tiny_processor

# Of different lengths, German, English and of a script that the tokenizer does not know.
LABELS = [SENTENCES[0][1], "x", SENTENCES[1][0], "两棵树"]
IMAGES = [tiny_image(i) for i in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that embeds images without descriptions, with a processor that pads every text to one length."""
    saved = tmp_path_factory.mktemp("pipeline") / "model"
    return save_for_hub(tiny_model(description_dropout=0.2), tiny_processor(padding="max_length"), saved)


@torch.no_grad()
def expected_scores(template: str) -> list[dict[str, float]]:
    """Scores by label for each of IMAGES, from the model's own logits."""
    inputs = tiny_processor()(images=IMAGES, text=[template.format(label) for label in LABELS])
    scores = tiny_model(description_dropout=0.2)(**inputs).logits_per_image.softmax(dim=-1)
    return [dict(zip(LABELS, row, strict=True)) for row in scores.tolist()]


def scores_by_label(result: list[dict[str, Any]]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in result}


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("template", [None, "{}"])
def test_scores_are_the_softmax_of_the_logits(folder: Path, template: str | None, batch_size: int):
    """The widget of the Hub would show other numbers than the model's, for some batch sizes or label lengths."""
    classify = pipeline("zero-shot-image-classification", model=str(folder))
    assert type(classify.model) is LeccrModel
    chosen = {} if template is None else {"hypothesis_template": template}
    results = classify(IMAGES, candidate_labels=LABELS, batch_size=batch_size, **chosen)
    expected = expected_scores(template or "This is a photo of {}.")
    assert len(results) == len(IMAGES)
    for result, scores in zip(results, expected, strict=True):
        assert scores_by_label(result) == pytest.approx(scores, abs=1e-6)
        assert [entry["score"] for entry in result] == sorted(scores_by_label(result).values(), reverse=True)
    # Equal scores for every label and image would pass all of the above.
    assert max(abs(expected[0][label] - expected[1][label]) for label in LABELS) > 1e-4
    assert max(expected[0].values()) - min(expected[0].values()) > 1e-4


def test_a_tokenizer_with_token_types_is_no_obstacle(tmp_path: Path):
    """The tokenizer of BERT returns `token_type_ids`, and the pipeline hands all that it returns to the model."""
    processor = tiny_processor()
    processor.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    save_for_hub(tiny_model(description_dropout=0.2), processor, tmp_path / "model")
    classify = pipeline("zero-shot-image-classification", model=str(tmp_path / "model"))
    assert "token_type_ids" in classify.tokenizer(LABELS)
    result = classify(IMAGES[0], candidate_labels=LABELS, hypothesis_template="{}")
    assert scores_by_label(result) == pytest.approx(expected_scores("{}")[0], abs=1e-6)


def test_a_model_that_needs_descriptions_says_what_to_run(tmp_path: Path):
    """The pipeline gives none; a wrong score, or an error about tensors, would help nobody."""
    save_for_hub(tiny_model(), tiny_processor(), tmp_path / "model")
    classify = pipeline("zero-shot-image-classification", model=str(tmp_path / "model"))
    with pytest.raises(ValueError, match=r"no description.*python -m hub_scripts\.describe"):
        classify(IMAGES[0], candidate_labels=LABELS)


def test_the_parts_of_the_processor_load_by_themselves(folder: Path):
    """Who embeds texts alone takes the tokenizer alone; the pipeline takes both parts so."""
    tokenizer, images = (auto.from_pretrained(folder) for auto in (AutoTokenizer, AutoImageProcessor))
    whole = tiny_processor()(images=IMAGES, text=LABELS)
    assert torch.equal(tokenizer(LABELS, padding=True, return_tensors="pt")["input_ids"], whole["input_ids"])
    assert torch.equal(images(IMAGES, return_tensors="pt")["pixel_values"], whole["pixel_values"])
