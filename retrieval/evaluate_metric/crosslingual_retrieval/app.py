"""The page of the Space: a score matrix and the items of its texts as JSON in, recalls out.

`evaluate.utils.launch_gradio_widget`, which the Spaces of `evaluate` call, needs a part of gradio that ended with
gradio 3.
"""

import json
from pathlib import Path

import evaluate
import gradio

FOLDER = Path(__file__).resolve().parent
metric = evaluate.load(str(FOLDER / "crosslingual_retrieval.py"))


def compute(predictions: str, references: str) -> dict[str, float]:
    """Metrics of what was typed.

    Raises:
        gradio.Error: it is no JSON, or the metric refuses it; the page shows the message.
    """
    try:
        return metric.compute(predictions=json.loads(predictions), references=json.loads(references))
    except ValueError as error:
        raise gradio.Error(str(error)) from error


page = gradio.Interface(
    compute,
    inputs=[
        gradio.Textbox("[[0.9, 0.1], [0.2, 0.7]]", label="predictions: scores of each text against all items", lines=4),
        gradio.Textbox("[0, 1]", label="references: position of the item of each text"),
    ],
    outputs=gradio.JSON(label="recalls in percent, median ranks"),
    title="Cross-lingual retrieval",
    article=(FOLDER / "README.md").read_text(encoding="utf-8").split("---\n", 2)[-1],
)

if __name__ == "__main__":
    page.launch()
