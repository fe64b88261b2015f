"""What users of transformers expect of any model's calls; `make conformance` has the rest."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from modeling_leccr import LeccrModel
from tests.tiny import tiny_items, tiny_model, tiny_texts


def texts() -> dict[str, Tensor]:
    input_ids, attention_mask = tiny_texts()
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def call(model: LeccrModel, method: str, **more: Any) -> Any:
    """`method` of the model with the inputs that it needs."""
    items = {} if method == "get_text_features" else tiny_items()
    captions = {} if method == "get_image_features" else texts()
    with torch.no_grad():
        return getattr(model, method)(**items, **captions, **more)


METHODS = ("forward", "get_text_features", "get_image_features")


@pytest.mark.parametrize("method", METHODS)
def test_a_misspelt_argument_is_refused_by_name(method: str) -> None:
    """A mask that is swallowed because of a typo changes every embedding without a word."""
    with pytest.raises(TypeError, match="atention_mask"):
        call(tiny_model(), method, atention_mask=torch.ones(4, 7))


@pytest.mark.parametrize("method", METHODS)
def test_a_tuple_holds_the_output_in_the_order_of_its_fields(method: str) -> None:
    """Code that takes tuples reads the first element for the logits or the states, as of CLIP."""
    model = tiny_model()
    as_dict, as_tuple = call(model, method), call(model, method, return_dict=False)
    assert isinstance(as_tuple, tuple)
    for ours, theirs in zip(as_dict.values(), as_tuple, strict=True):
        assert torch.equal(ours, theirs)
    assert list(as_dict) == [field.name for field in fields(as_dict) if field.name in as_dict]


def test_what_tokenizers_and_pipelines_add_changes_nothing() -> None:
    """The pipeline hands the whole output of a BERT tokenizer to the model."""
    model = tiny_model()
    segments = torch.zeros_like(texts()["input_ids"])
    for method in ("forward", "get_text_features"):
        plain, with_segments = call(model, method), call(model, method, token_type_ids=segments)
        assert all(torch.equal(plain[name], with_segments[name]) for name in plain)


@pytest.mark.parametrize("text", ["bert", "xlm-roberta", "distilbert"])
def test_token_embeddings_give_what_their_ids_give(text: str) -> None:
    """Attribution of a score to words differentiates by the embeddings, and PEFT passes the argument through."""
    model, (input_ids, attention_mask) = tiny_model(text=text), tiny_texts()
    inputs_embeds = model.get_input_embeddings()(input_ids)
    by_ids = model.get_text_features(input_ids, attention_mask).pooler_output
    by_embeds = model.get_text_features(attention_mask=attention_mask, inputs_embeds=inputs_embeds).pooler_output
    torch.testing.assert_close(by_embeds, by_ids)


@pytest.mark.parametrize(
    "settings",
    [{"item_source": "image"}, {"item_source": "description"}, {"vision": "convnextv2", "image_pooling": "mean"}],
)
def test_the_layers_of_every_kind_of_item_can_be_seen(settings: dict[str, Any]) -> None:
    """Packed texts and convolutional towers have no layers of the usual kind to give."""
    model = tiny_model(**settings)
    model.set_attn_implementation("eager")
    silent = call(model, "get_image_features")
    seen = call(model, "get_image_features", output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(seen.pooler_output, silent.pooler_output)
    assert silent.hidden_states is None
    assert len(seen.hidden_states) == 3
    assert seen.attentions is None if "vision" in settings else len(seen.attentions) == 2
