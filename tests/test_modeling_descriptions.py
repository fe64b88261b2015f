"""What reads descriptions: the text tower as it learns, or a frozen copy of it, or a store of its token states."""

from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import BertModel, CLIPVisionModelWithProjection

from modeling_leccr import LeccrConfig, LeccrModel
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig
from modeling_leccr.training.optimization import parameter_groups
from tests.tiny import tiny_config, tiny_items, tiny_model, tiny_pairs, tiny_text_config, tiny_texts, tiny_vision_config


def frozen_model(**fields) -> LeccrModel:
    return tiny_model(description_encoder="frozen", **fields)


def train_one_step(model: LeccrModel) -> None:
    criterion = LeccrCriterion(LossConfig())
    output = model.train()(**tiny_pairs())
    criterion.total(criterion(criterion.summarise(output, torch.arange(4)), output.logit_scale)).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()


def test_a_frozen_encoder_starts_as_the_text_tower_and_changes_no_other_weight():
    """Two draws of random numbers would make the two settings differ in more than what they are compared in."""
    shared, frozen = tiny_model(), frozen_model()
    for name, value in shared.state_dict().items():
        assert torch.equal(value, frozen.state_dict()[name]), name
    for name, value in frozen.description_model.state_dict().items():
        assert torch.equal(value, frozen.text_model.state_dict()[name]), name
    items = tiny_items()
    torch.testing.assert_close(
        frozen.get_image_features(**items).pooler_output, shared.get_image_features(**items).pooler_output
    )


def test_training_changes_the_text_tower_and_never_the_frozen_encoder():
    """States that were stored before the first step must hold after the last."""
    model = frozen_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_one_step(model)
    after = model.state_dict()
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert {name for name in after if name.startswith("description_model.")} <= same
    assert not any(name.startswith("text_model.encoder") for name in same if "key.bias" not in name)


def test_every_weight_that_learns_gets_a_gradient_beside_a_frozen_encoder():
    """DDP waits for ever for the gradient of a parameter that no loss reaches."""
    model = frozen_model(dropout=0.0)
    train_one_step(model)
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, _ in tiny_model().named_parameters()}
    groups = parameter_groups(model, learning_rate=1.0, weight_decay=0.1, multipliers={})
    assert sum(len(group["params"]) for group in groups) == len(learning)


def test_a_frozen_encoder_stays_in_evaluation_mode_and_the_states_alike():
    """Dropout in the encoder would make the states of each step other ones than those of the store."""
    model = frozen_model().train()
    assert model.training and model.text_model.training
    assert not any(part.training for part in model.description_model.modules())
    items = tiny_items()
    texts = items["description_input_ids"], items["description_attention_mask"]
    assert torch.equal(model.get_description_states(*texts), model.get_description_states(*texts))
    assert model.training and model.text_model.training


def test_a_saved_model_keeps_its_frozen_encoder_and_does_not_train_it(tmp_path: Path):
    """Loading makes new parameters; if they learn, new items are described by another encoder than the old ones."""
    model = frozen_model()
    train_one_step(model)
    model.eval().save_pretrained(tmp_path)
    loaded = LeccrModel.from_pretrained(tmp_path)
    items = tiny_items()
    assert torch.equal(
        loaded.get_image_features(**items).pooler_output, model.get_image_features(**items).pooler_output
    )
    assert not any(parameter.requires_grad for parameter in loaded.description_model.parameters())
    assert all(parameter.requires_grad for parameter in loaded.text_model.parameters())


def test_the_frozen_encoder_of_pretrained_towers_is_the_pretrained_one(tmp_path: Path):
    """A copy that is taken before the weights are read would be random."""
    BertModel(tiny_text_config()).save_pretrained(tmp_path / "text")
    CLIPVisionModelWithProjection(tiny_vision_config()).save_pretrained(tmp_path / "vision")
    model = LeccrModel.from_towers(
        tmp_path / "vision", tmp_path / "text", slot_dim=32, embed_dim=16, description_encoder="frozen"
    )
    pretrained = BertModel.from_pretrained(tmp_path / "text", add_pooling_layer=False).state_dict()
    for name, value in model.description_model.state_dict().items():
        assert torch.equal(value, pretrained[name]), name


@pytest.mark.parametrize("encoder", ["shared", "frozen"])
def test_states_give_the_embeddings_of_the_descriptions_that_they_are_of(encoder: str):
    """Training with a store must train the model that it is searched with afterwards."""
    model = tiny_model(description_encoder=encoder)
    items = tiny_items()
    ids, mask = items.pop("description_input_ids"), items.pop("description_attention_mask")
    states = model.get_description_states(ids, mask)
    read = model.get_image_features(**items, description_input_ids=ids, description_attention_mask=mask)
    given = model.get_image_features(**items, description_states=states, description_attention_mask=mask)
    torch.testing.assert_close(given.pooler_output, read.pooler_output)
    torch.testing.assert_close(given.slot_embeds, read.slot_embeds)
    halved = model.get_image_features(**items, description_states=states.half(), description_attention_mask=mask)
    torch.testing.assert_close(halved.pooler_output, read.pooler_output, atol=2e-4, rtol=0)
    unlike = model.get_image_features(**items, description_states=states.flip(0), description_attention_mask=mask)
    assert (unlike.pooler_output - read.pooler_output).abs().max() > 1e-3


def test_states_without_a_mask_are_all_kept():
    """As token ids without a mask are."""
    model = frozen_model()
    ids, _ = tiny_texts(3, length=5)
    pixel_values = tiny_items(3)["pixel_values"]
    states = model.get_description_states(ids, torch.ones_like(ids))
    torch.testing.assert_close(
        model.get_image_features(pixel_values, description_states=states).pooler_output,
        model.get_image_features(pixel_values, ids).pooler_output,
    )


def test_states_of_another_width_and_beside_ids_are_refused():
    """Which of the two would win is nobody's guess."""
    model = frozen_model()
    items = tiny_items()
    with pytest.raises(ValueError, match=r"must be \(batch, description_length, 32\), got \(4, 11, 16\)"):
        model.get_image_features(items["pixel_values"], description_states=torch.zeros(4, 11, 16))
    with pytest.raises(ValueError, match="got both"):
        model.get_image_features(**items, description_states=torch.zeros(4, 11, 32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"description_encoder": "none"}, "must be one of"),
        ({"item_source": "image", "interaction": "none"}, "item_source='image'"),
        ({"item_source": "description", "interaction": "none"}, "item_source='description'"),
        ({"train_on_descriptions": True}, "train_on_descriptions=True"),
        ({"description_encoder_in_eval_mode": False}, "description_encoder_in_eval_mode=False"),
    ],
)
def test_settings_that_contradict_a_frozen_encoder_are_refused(fields: dict, message: str):
    """A field that says the opposite of another is a misunderstanding, and one of the two would be ignored."""
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        tiny_config(**{"description_encoder": "frozen", **fields})


def test_the_published_encoder_is_the_default():
    """Models saved before this field existed read descriptions with their text tower."""
    assert LeccrConfig().description_encoder == "shared"
    assert not any(name.startswith("description_model") for name in tiny_model().state_dict())
