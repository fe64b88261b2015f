"""The two models of CL2CM: what an embedding depends on, what forward gives, saving, loading and adapters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoModel

from modeling_leccr import Cl2cmConfig, Cl2cmModel, CrossLingualConfig, CrossLingualModel
from modeling_leccr.losses_cl2cm import Cl2cmCriterion, Cl2cmLossConfig, CrossLingualCriterion, CrossLingualLossConfig
from tests.test_towers import save_bert, save_clip
from tests.tiny import (
    texts_alone,
    tiny_cl2cm,
    tiny_cl2cm_config,
    tiny_cross_lingual,
    tiny_cross_lingual_config,
    tiny_model,
    tiny_pairs,
    tiny_texts,
    without_descriptions,
)

VARIANTS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (tiny_cl2cm, {}),
    (tiny_cl2cm, {"vision": "swin", "image_pooling": "mean", "text": "xlm-roberta", "text_pooling": "mean"}),
    (tiny_cross_lingual, {}),
    (tiny_cross_lingual, {"text": "distilbert", "text_pooling": "mean"}),
]
KINDS = [tiny_cl2cm, tiny_cross_lingual]
TEACHER_DIM = 24  # of a teacher that is wider than its pupil


def variant_id(value: Any) -> str:
    return getattr(value, "__name__", None) or "-".join(map(str, value.values())) or "default"


def inputs_of(model: Any, *, seed: int = 0) -> dict[str, Tensor]:
    """Training pairs and other texts, as far as the model reads them."""
    pairs = without_descriptions(tiny_pairs(seed=seed)) if isinstance(model, Cl2cmModel) else None
    input_ids, attention_mask = tiny_texts(seed=seed)
    texts = {"input_ids": input_ids, "attention_mask": attention_mask}
    if pairs is None:
        return texts_alone(tiny_pairs(seed=seed)) | texts
    teacher = torch.randn(2, 4, TEACHER_DIM, generator=torch.Generator().manual_seed(seed))
    return pairs | texts | {"teacher_source_embeds": teacher[0], "teacher_target_embeds": teacher[1]}


@torch.no_grad()
def embeds_of(model: Any, inputs: dict[str, Tensor] | None = None) -> Tensor:
    """Of texts and, where there are any, of images."""
    inputs = inputs_of(model) if inputs is None else inputs
    embeds = [model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output]
    if "pixel_values" in inputs:
        embeds.append(model.get_image_features(inputs["pixel_values"]).pooler_output)
    return torch.cat(embeds)


def assert_same(ours: Any, theirs: Any, atol: float = 0.0) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=atol, rtol=0, msg=name)


@pytest.mark.parametrize(("make", "fields"), VARIANTS, ids=variant_id)
def test_save_and_load_give_the_same_output(make: Callable[..., Any], fields: dict[str, Any], tmp_path: Path) -> None:
    """A weight that is not saved, or a field that is not read back, embeds otherwise after reload."""
    model = make(**fields)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is type(model) and not loaded.training
    inputs = inputs_of(model)
    with torch.no_grad():
        ours, theirs = model(**inputs), loaded(**inputs)
    assert len(ours) >= 9
    assert_same(ours, theirs)


@pytest.mark.parametrize(("make", "fields"), VARIANTS, ids=variant_id)
def test_neither_padding_nor_neighbours_change_an_embedding(make: Callable[..., Any], fields: dict[str, Any]) -> None:
    """Recall would depend on the batch size, and on the longest caption of the batch."""
    model = make(**fields)
    inputs, expected = inputs_of(model), embeds_of(model)
    fill = getattr(model.config.text_config, "pad_token_id", 0) or 0
    longer = {"input_ids": pad(inputs["input_ids"], (0, 9), value=fill)}
    longer["attention_mask"] = pad(inputs["attention_mask"], (0, 9))
    torch.testing.assert_close(embeds_of(model, inputs | longer), expected, atol=1e-6, rtol=0)
    single = [embeds_of(model, {name: value[i : i + 1] for name, value in inputs.items()}) for i in range(4)]
    torch.testing.assert_close(torch.stack(single, dim=1).flatten(0, 1), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(expected.norm(dim=-1), torch.ones(len(expected)))
    assert (expected[0] - expected[1]).abs().max() > 1e-4  # what is constant would pass as well


@pytest.mark.parametrize("make", KINDS, ids=variant_id)
def test_a_pair_is_embedded_as_its_texts_are(make: Callable[..., Any]) -> None:
    """Source and target go through the tower together; the longer one pads the other."""
    model = make(text_pooling="mean")
    inputs = inputs_of(model)
    with torch.no_grad():
        output = model(**inputs)
        for side in ("source", "target"):
            alone = model.get_text_features(inputs[f"{side}_input_ids"], inputs[f"{side}_attention_mask"])
            torch.testing.assert_close(output[f"{side}_embeds"], alone.pooler_output, atol=1e-6, rtol=0)


def test_the_cross_lingual_network_hands_out_words_with_their_masks() -> None:
    """The optimal alignment moves mass between real tokens; a mask of the other sentence would align padding."""
    model = tiny_cross_lingual()
    inputs = inputs_of(model)
    with torch.no_grad():
        output = model(**inputs)
        for side in ("source", "target"):
            mask = inputs[f"{side}_attention_mask"]
            states = model.text_model(inputs[f"{side}_input_ids"], attention_mask=mask).last_hidden_state
            assert torch.equal(output[f"{side}_mask"], pad(mask, (0, 8 - mask.shape[1])))
            real = output[f"{side}_mask"].bool()
            torch.testing.assert_close(output[f"{side}_states"][real], states[mask.bool()], atol=1e-6, rtol=0)


def test_texts_of_the_cross_lingual_network_come_back_as_of_any_text_encoder() -> None:
    """`AutoModel` users read `last_hidden_state` or the first element."""
    model, (input_ids, attention_mask) = tiny_cross_lingual(), tiny_texts()
    with torch.no_grad():
        output, features = model(input_ids, attention_mask), model.get_text_features(input_ids, attention_mask)
    assert set(output) == {"last_hidden_state", "pooler_output", "logit_scale"}
    assert torch.equal(output.pooler_output, features.pooler_output) and torch.equal(output[0], features[0])
    pairs = texts_alone(tiny_pairs())  # as in training, which has no other texts
    of_pairs = {f"{side}_{name}" for side in ("source", "target") for name in ("embeds", "states", "mask")}
    assert set(model(**pairs)) == of_pairs | {"logit_scale"}


def test_what_the_teacher_says_is_handed_on_as_it_is() -> None:
    """It travels with its rows, as labels do; a model that changed it would teach itself."""
    model = tiny_cl2cm()
    inputs = inputs_of(model)
    output = model(**inputs)
    for name in ("teacher_source_embeds", "teacher_target_embeds"):
        assert output[name] is inputs[name]
    without = {name: value for name, value in inputs.items() if not name.startswith("teacher")}
    assert "teacher_source_embeds" not in model(**without)


def test_cl2cm_is_the_two_streams_of_leccr_by_shape_and_by_weights() -> None:
    """The comparison of the systems says what the second network learns from; another shape would spoil it."""
    cl2cm, leccr = tiny_cl2cm(), tiny_model(item_source="image")
    assert list(cl2cm.state_dict()) == list(leccr.state_dict())
    assert_same(cl2cm.state_dict(), leccr.state_dict())  # the same seed draws the same weights
    inputs = without_descriptions(inputs_of(cl2cm))
    with torch.no_grad():
        ours = cl2cm(**inputs)
        teacher = {name: inputs.pop(name) for name in list(inputs) if name.startswith("teacher")}
        theirs = leccr(**inputs)
    assert_same(ours, dict(theirs) | teacher)
    text = tiny_cross_lingual()
    text.load_state_dict({name: value for name, value in cl2cm.state_dict().items() if name in text.state_dict()})
    torch.testing.assert_close(embeds_of(text), embeds_of(cl2cm)[:4], atol=0, rtol=0)


CRITERIA: dict[type, Any] = {
    Cl2cmModel: Cl2cmCriterion(Cl2cmLossConfig()),
    CrossLingualModel: CrossLingualCriterion(CrossLingualLossConfig()),
}


@pytest.mark.parametrize("make", KINDS, ids=variant_id)
def test_every_parameter_learns(make: Callable[..., Any]) -> None:
    """A parameter that nothing reads stops distributed training, and is a promise that is not kept."""
    model = make().train()
    output, criterion = model(**inputs_of(model)), CRITERIA[type(model)]
    rows = criterion.summarise(output, torch.arange(4))
    criterion.total(criterion(rows, output.logit_scale)).backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]


@pytest.mark.parametrize("make", KINDS, ids=variant_id)
def test_half_precision_embeds_nearly_the_same(make: Callable[..., Any]) -> None:
    """Embeddings in bf16 would be compared in steps of 1/256."""
    expected = embeds_of(make())
    found = embeds_of(make().to(torch.bfloat16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = embeds_of(make())
    for embeds in (found, mixed):
        assert embeds.dtype == torch.float32
        torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(len(embeds)))
        torch.testing.assert_close(embeds, expected, atol=0.05, rtol=0)
        assert not torch.equal(embeds, expected)


@pytest.mark.parametrize("make", KINDS, ids=variant_id)
def test_an_adapter_on_the_text_tower_is_the_same_on_every_path(make: Callable[..., Any], tmp_path: Path) -> None:
    """A head that a path leaves out is that of the base, and the embeddings still look right."""
    make().save_pretrained(tmp_path / "base")
    inputs = inputs_of(make())
    lora = LoraConfig(
        r=2,
        target_modules=r"text_model\..*\.(query|value)",
        modules_to_save=["text_projection"],
        init_lora_weights=False,  # as after training: a fresh adapter changes nothing
    )
    adapted = get_peft_model(AutoModel.from_pretrained(tmp_path / "base"), lora).eval()
    expected = embeds_of(adapted, inputs)
    assert (embeds_of(make(), inputs) - expected)[:4].abs().max() > 1e-2
    adapted.save_pretrained(tmp_path / "adapter")
    by_peft = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    loaded = AutoModel.from_pretrained(tmp_path / "base")
    loaded.load_adapter(str(tmp_path / "adapter"))
    merged = by_peft.eval().merge_and_unload()
    assert type(merged) is type(make())
    for model in (loaded, AutoModel.from_pretrained(tmp_path / "adapter"), merged):
        torch.testing.assert_close(embeds_of(model.eval(), inputs), expected, atol=1e-6, rtol=0)


def test_models_start_from_pretrained_towers(tmp_path: Path) -> None:
    """A tower that stays random is what nobody sees until the recall is poor."""
    clip, bert = save_clip(tmp_path / "clip"), save_bert(tmp_path / "bert")
    towers = str(tmp_path / "clip"), str(tmp_path / "bert")
    cl2cm = Cl2cmModel.from_towers(*towers, embed_dim=16, text_pooling="mean")
    assert type(cl2cm) is Cl2cmModel and cl2cm.config.visual_dim == 32 and cl2cm.config.text_pooling == "mean"
    text = CrossLingualModel.from_tower(towers[1], embed_dim=16)
    with torch.no_grad():
        input_ids, mask = tiny_texts()
        expected = bert(input_ids, attention_mask=mask).last_hidden_state
        for model in (cl2cm, text):
            states = model.eval().text_model(input_ids, attention_mask=mask).last_hidden_state
            torch.testing.assert_close(states, expected)
    assert torch.equal(cl2cm.visual_projection.weight, clip.visual_projection.weight)
    assert text.config.text_config.name_or_path == ""  # a folder of this machine is nobody else's business


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (tiny_cl2cm_config, {"visual_dim": 0}, "visual_dim must be at least 1, got 0"),
        (tiny_cl2cm_config, {"vision": "swin"}, "image_pooling='cls' needs a vision tower with a class token"),
        (tiny_cl2cm_config, {"image_pooling": "max"}, "image_pooling must be one of"),
        (tiny_cross_lingual_config, {"text_pooling": "max"}, "text_pooling must be one of"),
        (tiny_cross_lingual_config, {"embed_dim": 0}, "embed_dim must be at least 1, got 0"),
        (tiny_cross_lingual_config, {"initial_temperature": float("nan")}, "initial_temperature must be positive"),
        (tiny_cross_lingual_config, {"max_logit_scale": 1.0}, "max_logit_scale must be finite and at least"),
    ],
)
def test_a_field_out_of_range_is_refused(make: Callable[..., Any], fields: dict[str, Any], message: str) -> None:
    """A typo in a recipe trains the default for a day."""
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        make(**fields)


def test_configurations_say_what_a_system_reads() -> None:
    """Evaluation, search, the processor and cards decide by these."""
    found = {
        type(config): (config.item_source, config.reads_image, config.reads_description, config.needs_description)
        for config in (tiny_cl2cm_config(), tiny_cross_lingual_config())
    }
    assert found == {
        Cl2cmConfig: ("image", True, False, False),
        CrossLingualConfig: ("source_captions", False, False, False),
    }
    for config in (tiny_cl2cm_config(), tiny_cross_lingual_config()):
        assert not config.has_slots and config.global_weight == 1.0 and "item_source" not in config.to_dict()
    text_fields = {"embed_dim", "text_pooling", "initial_temperature", "max_logit_scale"}
    assert CrossLingualConfig.choosable() == text_fields
    frame_fields = {"vision_input", "feature_dim", "project_features", "num_frame_layers", "frame_positions"}
    block_fields = {"num_attention_heads", "dropout"}
    assert Cl2cmConfig.choosable() == text_fields | frame_fields | block_fields | {"image_pooling", "visual_dim"}


@pytest.mark.parametrize("make", KINDS, ids=variant_id)
def test_inputs_that_are_incomplete_are_refused(make: Callable[..., Any]) -> None:
    """Half a pair, or a misspelt mask, would train on something else."""
    model = make()
    inputs = inputs_of(model)
    for name in ("target_input_ids", "target_attention_mask", "source_attention_mask"):
        with pytest.raises(ValueError, match="training pairs need source_ and target_"):
            model(**{key: value for key, value in inputs.items() if key != name})
    with pytest.raises(TypeError, match="target_atention_mask"):
        model(**inputs, target_atention_mask=None)
    with pytest.raises((ValueError, TypeError), match=r"pixel_values|input_ids or inputs_embeds"):
        model()


@pytest.mark.parametrize("make", KINDS, ids=variant_id)
def test_a_checkpoint_that_lacks_a_weight_is_refused(make: Callable[..., Any], tmp_path: Path) -> None:
    """transformers warns, and embeds with random numbers."""
    model = make()
    state = {name: value for name, value in model.state_dict().items() if name != "text_projection.weight"}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"does not fit.*missing_keys.*text_projection\.weight"):
        type(model).from_pretrained(tmp_path)
