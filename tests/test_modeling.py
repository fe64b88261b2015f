"""LeccrModel in evaluation: what an embedding depends on, missing descriptions, saving and loading."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import pad

from modeling_leccr import LeccrConfig, LeccrModel
from modeling_leccr.matching_leccr import fused_scores
from modeling_leccr.pretrained_leccr import LogitScale
from tests.reference import fused_scores_by_loops
from tests.tiny import IMAGE_SIZE, VOCAB_SIZE, tiny_config, tiny_items, tiny_model, tiny_pairs, tiny_texts

VARIANTS: list[dict[str, Any]] = [
    {},
    {"interaction": "v2s"},
    {"interaction": "s2v"},
    {"interaction": "co_attention"},
    {"interaction": "none"},
    {"image_pooling": "mean"},
    {"vision": "swin", "image_pooling": "mean"},
    {"text": "xlm-roberta"},
    {"text": "distilbert"},
    {"text_pooling": "mean"},
    {"normalize_slots": False},
    {"aligned_slots": True},
    {"item_source": "image"},
    {"item_source": "description"},
]


def variant_id(fields: dict[str, Any]) -> str:
    return "-".join(str(value) for value in fields.values()) or "default"


def embeds_of(model: LeccrModel, items: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        features = model.get_image_features(**items)
    return [features.pooler_output] + ([] if features.slot_embeds is None else [features.slot_embeds])


def assert_same(ours: list[Tensor], theirs: list[Tensor], atol: float = 1e-6) -> None:
    assert len(ours) == len(theirs)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, atol=atol, rtol=0)


@pytest.mark.parametrize("fields", VARIANTS, ids=variant_id)
def test_save_and_load_give_the_same_output(fields: dict[str, Any], tmp_path: Path) -> None:
    """A weight that is not saved, or a field that is not read back, embeds otherwise after reload."""
    model = tiny_model(**fields)
    model.save_pretrained(tmp_path)
    loaded = LeccrModel.from_pretrained(tmp_path)
    assert not loaded.training
    ours, theirs = (each(**tiny_pairs(), input_ids=tiny_texts()[0]) for each in (model, loaded))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=0, rtol=0, msg=name)


@pytest.mark.parametrize("fields", VARIANTS, ids=variant_id)
def test_extra_padding_of_descriptions_does_not_change_an_item(fields: dict[str, Any]) -> None:
    """Padding that leaks makes an embedding depend on the other items of its batch."""
    model, items = tiny_model(**fields), tiny_items()
    longer = {name: pad(value, (0, 9)) if name.startswith("description") else value for name, value in items.items()}
    assert_same(embeds_of(model, longer), embeds_of(model, items))


@pytest.mark.parametrize("text", ["bert", "xlm-roberta", "distilbert"])
@pytest.mark.parametrize("text_pooling", ["cls", "mean"])
def test_extra_padding_of_captions_does_not_change_an_embedding(text: str, text_pooling: str) -> None:
    """SigLIP lost 70 points of recall to this elsewhere."""
    model = tiny_model(text=text, text_pooling=text_pooling)
    ids, mask = tiny_texts()
    padding = getattr(model.config.text_config, "pad_token_id", 0) or 0
    longer = model.get_text_features(pad(ids, (0, 12), value=padding), pad(mask, (0, 12))).pooler_output
    torch.testing.assert_close(model.get_text_features(ids, mask).pooler_output, longer, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fields", VARIANTS, ids=variant_id)
def test_a_batch_equals_its_items_one_by_one(fields: dict[str, Any]) -> None:
    """Statistics of the batch, or a mask of the neighbour, in an embedding."""
    model, items = tiny_model(**fields), tiny_items()
    single = [embeds_of(model, {name: value[i : i + 1] for name, value in items.items()}) for i in range(4)]
    assert_same([torch.cat(parts) for parts in zip(*single, strict=True)], embeds_of(model, items))


def test_mean_pooling_without_a_mask_averages_all_tokens() -> None:
    """Callers that pad nothing may leave the mask out."""
    model = tiny_model(text_pooling="mean")
    ids, _ = tiny_texts(1)
    with_mask = model.get_text_features(ids, torch.ones_like(ids)).pooler_output
    torch.testing.assert_close(model.get_text_features(ids).pooler_output, with_mask)
    assert not torch.allclose(with_mask, tiny_model().get_text_features(ids).pooler_output, atol=1e-3)


def test_captions_of_a_batch_equal_one_by_one() -> None:
    """As for items."""
    model = tiny_model()
    ids, mask = tiny_texts(5)
    single = [model.get_text_features(ids[i : i + 1, :n], mask[i : i + 1, :n]).pooler_output
              for i, n in enumerate(mask.sum(dim=1).tolist())]  # fmt: skip
    torch.testing.assert_close(torch.cat(single), model.get_text_features(ids, mask).pooler_output, atol=1e-6, rtol=0)


def test_pairs_in_one_forward_equal_each_half_alone() -> None:
    """Source and target are padded to one length and embedded together; a swapped half pairs the wrong languages."""
    model, batch = tiny_model(), tiny_pairs()
    output = model(**batch)
    for half, embeds in (("source", output.source_embeds), ("target", output.target_embeds)):
        alone = model.get_text_features(batch[f"{half}_input_ids"], batch[f"{half}_attention_mask"]).pooler_output
        torch.testing.assert_close(embeds, alone, atol=1e-6, rtol=0)


def test_embeddings_have_unit_norm() -> None:
    """Raw slots beside unit-norm images let the slots outweigh them."""
    output = tiny_model()(**tiny_pairs(), input_ids=tiny_texts(3)[0])
    for name in ("image_embeds", "slot_embeds", "text_embeds", "source_embeds", "target_embeds"):
        norms = output[name].norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms), msg=name)


@pytest.mark.parametrize("item_source", ["image_and_description", "image"])
def test_logits_are_the_scaled_fused_scores(item_source: str) -> None:
    """The zero-shot pipeline must rank as evaluation and index do."""
    model = tiny_model(item_source=item_source, global_weight=0.6)
    ids, mask = tiny_texts(3)
    output = model(**tiny_items(2), input_ids=ids, attention_mask=mask)
    slots = output.slot_embeds
    if slots is None:
        expected = output.image_embeds @ output.text_embeds.T
    else:
        expected = fused_scores_by_loops(output.image_embeds, slots, output.text_embeds, 0.6)
        torch.testing.assert_close(fused_scores(output.image_embeds, slots, output.text_embeds, 0.6), expected)
    torch.testing.assert_close(output.logits_per_image, expected / 0.07, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.logits_per_text, output.logits_per_image.T)
    assert output.logits_per_image.shape == (2, 3)


def test_tuple_output_holds_the_same_values() -> None:
    """torch.export and older pipelines ask for tuples."""
    model, batch = tiny_model(), tiny_pairs()
    for left, right in zip(model(**batch, return_dict=False), model(**batch).to_tuple(), strict=True):
        torch.testing.assert_close(left, right)


def without_descriptions(items: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"pixel_values": items["pixel_values"]}


def with_an_empty_row(items: dict[str, Tensor]) -> dict[str, Tensor]:
    mask = items["description_attention_mask"].clone()
    mask[1] = 0
    return {**items, "description_attention_mask": mask}


@pytest.mark.parametrize("missing", [without_descriptions, with_an_empty_row])
def test_a_missing_description_is_refused_without_description_dropout(
    missing: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> None:
    """The released code gives NaN for an empty description."""
    with pytest.raises(ValueError, match=r"no description.*description_dropout > 0"):
        tiny_model().get_image_features(**missing(tiny_items()))


@pytest.mark.parametrize("text", ["bert", "xlm-roberta", "distilbert"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_missing_description_works_with_description_dropout(text: str, attention: str) -> None:
    """New pictures have no description; one in a batch must not disturb the others, nor spread NaN."""
    model = tiny_model(description_dropout=0.2, text=text)
    model.set_attn_implementation(attention)
    items = tiny_items()
    full, none = embeds_of(model, items), embeds_of(model, without_descriptions(items))
    mixed = embeds_of(model, with_an_empty_row(items))
    for kind in range(2):
        assert torch.isfinite(mixed[kind]).all()
        torch.testing.assert_close(mixed[kind][[0, 2, 3]], full[kind][[0, 2, 3]], atol=1e-6, rtol=0)
        torch.testing.assert_close(mixed[kind][1], none[kind][1], atol=1e-6, rtol=0)
        assert not torch.allclose(full[kind][1], none[kind][1], atol=1e-3)


def test_descriptions_change_the_item() -> None:
    """Slots that ignore their description are learnt constants."""
    model, items = tiny_model(), tiny_items()
    other = {**items, "description_input_ids": items["description_input_ids"].roll(1, dims=0)}
    other["description_attention_mask"] = items["description_attention_mask"].roll(1, dims=0)
    for left, right in zip(embeds_of(model, items), embeds_of(model, other), strict=True):
        assert not torch.allclose(left, right, atol=1e-3)


@pytest.mark.parametrize("item_source", ["image", "image_and_description"])
def test_a_missing_image_is_refused(item_source: str) -> None:
    """A clear word instead of an error inside a convolution."""
    items = tiny_items()
    items.pop("pixel_values")
    with pytest.raises(ValueError, match=r"reads pixel_values .* it is None"):
        tiny_model(item_source=item_source).get_image_features(**items)


def test_description_only_model_ignores_images_and_needs_every_description() -> None:
    """The control must not profit from the picture."""
    model, items = tiny_model(item_source="description"), tiny_items()
    other = {**items, "pixel_values": torch.zeros(1)}
    assert_same(embeds_of(model, other), embeds_of(model, items))
    for missing in (without_descriptions(items), with_an_empty_row(items)):
        with pytest.raises(ValueError, match="an item has none"):
            model.get_image_features(**missing)


def test_image_only_model_ignores_descriptions() -> None:
    """The two-stream control must not profit from the text."""
    model, items = tiny_model(item_source="image"), tiny_items()
    assert_same(embeds_of(model, without_descriptions(items)), embeds_of(model, items))


def test_half_a_training_pair_is_refused() -> None:
    """A batch without its target would train on nothing."""
    batch = tiny_pairs()
    batch.pop("target_attention_mask")
    with pytest.raises(ValueError, match="one is missing"):
        tiny_model()(**batch)


@pytest.mark.parametrize("fields", VARIANTS[:6], ids=variant_id)
def test_eager_and_sdpa_attention_agree(fields: dict[str, Any]) -> None:
    """Switching the kernel must not change an index."""
    model, items = tiny_model(**fields), tiny_items()
    sdpa = embeds_of(model, items)
    model.set_attn_implementation("eager")
    assert model.text_model.config._attn_implementation == "eager"
    assert_same(embeds_of(model, items), sdpa)


def test_logit_scale_is_clamped_and_one_dimensional() -> None:
    """An unbounded scale makes fp16 and bf16 losses NaN; FSDP2 refuses scalars."""
    scale = LogitScale(2.0, 100.0)
    scale.value.data.fill_(9.0)
    assert scale().exp().item() == pytest.approx(100.0)
    scale.clamp_()
    assert scale.value.item() == pytest.approx(4.60517, abs=1e-5)
    assert scale.value.shape == (1,)
    free = LogitScale(2.0, None)
    free.value.data.fill_(9.0)
    free.clamp_()
    assert free().item() == 9.0
    assert tiny_model().logit_scale().exp().item() == pytest.approx(1 / 0.07, rel=1e-5)


def saved_with(tmp_path: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    tiny_model().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("missing_keys", lambda state: state.pop("slot_projection.weight")),
        ("missing_keys", lambda state: state.pop("semantic_slots.slot_queries")),
        ("missing_keys", lambda state: state.pop("logit_scale.value")),
        ("unexpected_keys", lambda state: state.update({"crossattn.weight": torch.ones(2)})),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    tmp_path: Path, kind: str, change: Callable[[dict[str, Tensor]], None]
) -> None:
    """transformers warns and goes on with random heads."""
    with pytest.raises(ValueError, match=f"does not fit its configuration.*{kind}"):
        LeccrModel.from_pretrained(saved_with(tmp_path, change))


def test_a_weight_of_another_shape_is_refused(tmp_path: Path) -> None:
    """With ignore_mismatched_sizes transformers would keep the random one, and without it does not name the weight."""
    folder = saved_with(tmp_path, lambda state: state.update({"slot_projection.bias": torch.ones(3)}))
    for ignore in (False, True):
        with pytest.raises(ValueError, match=r"1 mismatched_keys .*slot_projection\.bias.*\[3\].*\[16\]"):
            LeccrModel.from_pretrained(folder, ignore_mismatched_sizes=ignore)


def test_a_missing_weight_file_is_a_clear_error(tmp_path: Path) -> None:
    """A folder copied without its weights must not become a random model."""
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        LeccrModel.from_pretrained(tmp_path)


def test_only_safetensors_are_read_whatever_is_asked_for(tmp_path: Path) -> None:
    """transformers takes None as "what there is", and a file of another format can run code."""
    for name in ("safe", "old"):
        tiny_model().save_pretrained(tmp_path / name)
    (tmp_path / "old" / "model.safetensors").unlink()
    torch.save(tiny_model().state_dict(), tmp_path / "old" / "pytorch_model.bin")
    assert LeccrModel.from_pretrained(tmp_path / "safe", use_safetensors=None, subfolder=None)
    for settings in ({}, {"use_safetensors": None}, {"use_safetensors": True}):
        with pytest.raises(FileNotFoundError, match="LECCR reads weights as safetensors alone"):
            LeccrModel.from_pretrained(tmp_path / "old", **settings)
    for name in ("safe", "old"):
        with pytest.raises(ValueError, match="use_safetensors must not be False, for LECCR reads weights as safetens"):
            LeccrModel.from_pretrained(tmp_path / name, use_safetensors=False)


def test_loading_info_is_still_available(tmp_path: Path) -> None:
    """The strict override must keep the interface of transformers."""
    tiny_model().save_pretrained(tmp_path)
    model, info = LeccrModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(model, LeccrModel)
    assert not info["missing_keys"]


def test_a_model_can_be_loaded_in_bf16(tmp_path: Path) -> None:
    """Half the memory for search; embeddings come back in fp32 and close."""
    model = tiny_model()
    model.save_pretrained(tmp_path)
    half = LeccrModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    items = tiny_items()
    exact = embeds_of(model, items)
    items["pixel_values"] = items["pixel_values"].bfloat16()
    assert_same(embeds_of(half, items), exact, atol=0.05)


def test_every_parameter_is_initialised(tmp_path: Path) -> None:
    """A bare parameter without a branch in _init_weights is uninitialised memory after from_pretrained."""
    for fields in (*VARIANTS, {"description_dropout": 0.5}):
        for name, parameter in tiny_model(**fields).named_parameters():
            assert torch.isfinite(parameter).all(), name
            assert parameter.abs().max() < 10, name
    queries = tiny_model(num_slots=64).semantic_slots.slot_queries
    assert queries.std().item() == pytest.approx(1.0, abs=0.1)


def test_the_same_seed_gives_the_same_model() -> None:
    """A run that cannot be repeated cannot be compared."""
    ours, theirs = tiny_model(seed=3).state_dict(), tiny_model(seed=3).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_config_of_a_saved_model_names_its_architecture(tmp_path: Path) -> None:
    """The Hub and AutoModel read it."""
    tiny_model().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "leccr"
    assert saved["architectures"] == ["LeccrModel"]
    assert LeccrConfig.from_pretrained(tmp_path).num_slots == tiny_config().num_slots


@torch.no_grad()
def test_a_description_without_its_mask_is_read_whole() -> None:
    """Taken for a missing description, it would be replaced with the null description without a word."""
    model = tiny_model(description_dropout=0.5).eval()
    pixel_values, ids = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE), torch.randint(5, VOCAB_SIZE, (2, 6))
    without_mask = model.get_image_features(pixel_values, ids)
    with_mask = model.get_image_features(pixel_values, ids, torch.ones_like(ids))
    null = model.get_image_features(pixel_values)
    torch.testing.assert_close(without_mask.slot_embeds, with_mask.slot_embeds)
    assert not torch.allclose(without_mask.slot_embeds, null.slot_embeds, atol=1e-3)
