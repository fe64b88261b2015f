"""Any vision and text encoder of transformers as a tower, and starting from pretrained ones."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionModelWithProjection,
)

from modeling_leccr import LeccrConfig, LeccrModel
from modeling_leccr.configuration_streams_leccr import VISION_TOWERS_WITH_CLS
from modeling_leccr.towers_leccr import (
    build_tower,
    freeze_mask_tokens,
    output_width,
    resize_position_grid,
    visual_tokens,
)
from tests.hub_server import hub
from tests.tiny import tiny_items, tiny_model, tiny_pairs, tiny_text_config, tiny_texts, tiny_vision_config

VISION = ["clip", "vit", "swin", "siglip", "convnextv2"]
TEXT = ["bert", "xlm-roberta", "distilbert"]
SLOTS: dict[str, Any] = {"embed_dim": 16, "num_attention_heads": 4}


def save_clip(folder: Path, *, vision_only: bool = False) -> CLIPModel | CLIPVisionModelWithProjection:
    """A CLIP checkpoint on disk, as the Hub holds it."""
    torch.manual_seed(5)
    vision = tiny_vision_config()
    model: Any
    if vision_only:
        model = CLIPVisionModelWithProjection(vision)
    else:
        text = CLIPTextConfig(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1)
        model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=32))
    model.save_pretrained(folder)
    return model.eval()


def save_bert(folder: Path) -> BertModel:
    torch.manual_seed(6)
    model = BertModel(tiny_text_config())
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture
def towers(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of a CLIP and of a BERT."""
    save_clip(tmp_path / "clip")
    save_bert(tmp_path / "bert")
    return tmp_path / "clip", tmp_path / "bert"


@pytest.mark.parametrize("kind", VISION)
def test_every_vision_tower_works_with_mean_pooling(kind: str) -> None:
    """A tower whose output has another shape or width breaks, or pools over the wrong axis."""
    model = tiny_model(vision=kind, image_pooling="mean")
    output = model(**tiny_pairs(3))
    assert output.image_embeds.shape == (3, 16)
    assert output.patch_states.shape[::2] == (3, 32)
    torch.testing.assert_close(output.image_embeds.norm(dim=-1), torch.ones(3))
    assert not torch.allclose(output.image_embeds[0], output.image_embeds[1])


@pytest.mark.parametrize("kind", sorted({*VISION, "aimv2_vision_model", *VISION_TOWERS_WITH_CLS} - {"clip"}))
def test_vision_tower_has_no_parameter_that_nothing_reads(kind: str) -> None:
    """A pooling head left in the tower never gets a gradient and stalls distributed training."""
    tower = build_tower(tiny_vision_config(kind))
    freeze_mask_tokens(tower)
    visual_tokens(tower, tiny_items(2)["pixel_values"]).square().sum().backward()
    trained = [(name, parameter) for name, parameter in tower.named_parameters() if parameter.requires_grad]
    assert [name for name, parameter in trained if parameter.grad is None] == []


@pytest.mark.parametrize("kind", ["metaclip_2_vision_model", "siglip_text_model"])
def test_half_of_a_model_that_transformers_does_not_build_is_refused(kind: str) -> None:
    """A bare KeyError with the name of a class tells nobody what to do."""
    with pytest.raises(ValueError, match=f"'{kind}', which it only knows as a part of another model"):
        build_tower(AutoConfig.for_model(kind))


@pytest.mark.parametrize("kind", TEXT)
def test_every_text_tower_works(kind: str) -> None:
    """XLM-R counts positions from 2 and DistilBERT has no token types."""
    output = tiny_model(text=kind)(**tiny_pairs(3))
    torch.testing.assert_close(output.target_embeds.norm(dim=-1), torch.ones(3))


@pytest.mark.parametrize("kind", TEXT)
def test_text_tower_has_no_parameter_that_nothing_reads(kind: str) -> None:
    """The pooler of BERT is the classic one."""
    tower = build_tower(tiny_text_config(kind))
    ids, mask = tiny_texts()
    tower(input_ids=ids, attention_mask=mask).last_hidden_state.square().sum().backward()
    assert [name for name, parameter in tower.named_parameters() if parameter.grad is None] == []


def test_clip_tokens_pass_the_final_norm() -> None:
    """CLIP applies it to the pooled token alone; LECCR reads all tokens behind it."""
    tower = build_tower(tiny_vision_config()).eval()
    pixel_values = tiny_items(2)["pixel_values"]
    raw = tower(pixel_values=pixel_values)
    tokens = visual_tokens(tower, pixel_values)
    torch.testing.assert_close(tokens, tower.post_layernorm(raw.last_hidden_state))
    torch.testing.assert_close(tokens[:, 0], raw.pooler_output)


def test_convolutional_map_becomes_tokens_row_by_row() -> None:
    """A reshape without the transpose mixes channels and places."""
    tower = build_tower(tiny_vision_config("convnextv2")).eval()
    pixel_values = tiny_items(2)["pixel_values"]
    feature_map = tower(pixel_values=pixel_values).last_hidden_state
    tokens = visual_tokens(tower, pixel_values)
    assert tokens.shape == (2, feature_map.shape[2] * feature_map.shape[3], output_width(tower.config))
    torch.testing.assert_close(tokens[:, feature_map.shape[3] + 1], tower.layernorm(feature_map[:, :, 1, 1]))


@pytest.mark.parametrize("vision_only", [False, True])
def test_from_towers_takes_over_towers_and_visual_projection(tmp_path: Path, vision_only: bool) -> None:
    """A half that silently stays random is the classic failure."""
    clip, bert = save_clip(tmp_path / "clip", vision_only=vision_only), save_bert(tmp_path / "bert")
    model = LeccrModel.from_towers(tmp_path / "clip", tmp_path / "bert", **SLOTS).eval()
    items = tiny_items(2)
    ids, mask = tiny_texts()
    with torch.no_grad():
        vision = clip.vision_model(items["pixel_values"]).last_hidden_state
        expected = clip.visual_projection(clip.vision_model.post_layernorm(vision))
        torch.testing.assert_close(model.get_image_features(**items).last_hidden_state, expected)
        states = model.get_text_features(ids, mask).last_hidden_state
        torch.testing.assert_close(
            states[mask.bool()], bert(ids, mask).last_hidden_state[mask.bool()], atol=1e-5, rtol=1e-4
        )
    assert model.config.slot_dim == 32


def test_from_towers_with_another_slot_width_starts_a_new_projection(towers: tuple[Path, Path]) -> None:
    """CLIP's projection does not fit there; the tower itself still comes from the checkpoint."""
    model = LeccrModel.from_towers(*towers, slot_dim=40, **SLOTS)
    assert model.visual_projection.weight.shape == (40, 32)
    clip = AutoModel.from_pretrained(towers[0])
    torch.testing.assert_close(
        model.vision_model.post_layernorm.weight, clip.vision_model.post_layernorm.weight, atol=0, rtol=0
    )


def test_from_towers_resizes_positions_for_another_image_size(towers: tuple[Path, Path]) -> None:
    """Positions cut off or left random make 384-pixel pictures meaningless."""
    model = LeccrModel.from_towers(*towers, image_size=48, **SLOTS)
    original = AutoModel.from_pretrained(towers[0]).vision_model.embeddings.position_embedding.weight
    resized = model.vision_model.embeddings.position_embedding.weight
    assert resized.shape == (1 + 6 * 6, 32)
    torch.testing.assert_close(resized, resize_position_grid(original, 37), atol=0, rtol=0)
    features = model.get_image_features(**tiny_items(2, image_size=48))
    assert features.last_hidden_state.shape == (2, 37, 32)


@pytest.mark.parametrize("kind", ["vit", "swin", "siglip", "convnextv2"])
def test_from_towers_takes_any_vision_encoder(tmp_path: Path, kind: str) -> None:
    """Weights saved with a pooling head must load into a tower without one."""
    torch.manual_seed(7)
    AutoModel.from_config(tiny_vision_config(kind)).save_pretrained(tmp_path / kind)
    save_bert(tmp_path / "bert")
    model = LeccrModel.from_towers(tmp_path / kind, tmp_path / "bert", slot_dim=32, image_pooling="mean", **SLOTS)
    saved = AutoModel.from_pretrained(tmp_path / kind).eval()
    pixel_values = tiny_items(2)["pixel_values"]
    with torch.no_grad():
        torch.testing.assert_close(
            visual_tokens(model.vision_model.eval(), pixel_values), visual_tokens(saved, pixel_values)
        )


def test_from_towers_without_images_needs_no_vision_weights(towers: tuple[Path, Path]) -> None:
    """The description-only control does not read pictures."""
    model = LeccrModel.from_towers(*towers, item_source="description", interaction="none", **SLOTS)
    assert not hasattr(model, "vision_model")


@pytest.mark.parametrize("half", ["clip", "bert"])
def test_a_tower_checkpoint_that_lacks_weights_is_refused(towers: tuple[Path, Path], half: str) -> None:
    """transformers only warns, and the layer stays random."""
    file = towers[["clip", "bert"].index(half)] / "model.safetensors"
    state = load_file(file)
    lost = next(name for name in state if "layers.1" in name or "layer.1" in name)
    save_file({name: value for name, value in state.items() if name != lost}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights"):
        LeccrModel.from_towers(*towers, **SLOTS)


def test_a_model_does_not_say_in_which_folders_its_towers_lay(towers: tuple[Path, Path], tmp_path: Path) -> None:
    """A checkpoint that Trainer or `push_to_hub` publishes would show the paths of this machine."""
    LeccrModel.from_towers(*towers, **SLOTS).save_pretrained(tmp_path / "first")
    LeccrModel.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    for folder in ("first", "second"):
        assert str(tmp_path) not in (tmp_path / folder / "config.json").read_text(encoding="utf-8")


def test_a_relative_folder_is_not_taken_for_a_name_on_the_hub(
    towers: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another folder nobody can tell them apart, and config.json and card named the folder as the base model."""
    (tmp_path / "here").mkdir()
    for name, folder in zip(("vision", "text"), towers, strict=True):
        shutil.copytree(folder, tmp_path / "here" / "secret-towers" / name)
    monkeypatch.chdir(tmp_path / "here")
    parts = {f"{name}_config": AutoConfig.from_pretrained(f"secret-towers/{name}") for name in ("vision", "text")}
    parts["vision_config"] = parts["vision_config"].vision_config
    parts["vision_config"].name_or_path = "secret-towers/vision"
    models = [LeccrModel(LeccrConfig(**parts, **SLOTS))]
    models += [LeccrModel.from_towers("secret-towers/vision", "secret-towers/text", **SLOTS)]
    monkeypatch.chdir(tmp_path)
    for number, model in enumerate(models):
        model.save_pretrained(tmp_path / str(number))
        assert "secret-towers" not in (tmp_path / str(number) / "config.json").read_text(encoding="utf-8")


def test_a_model_says_from_which_repositories_its_towers_are(towers: tuple[Path, Path], tmp_path: Path) -> None:
    """The card names the base models; of a dual encoder the name stands on the whole, of which a half is taken."""
    with hub(tmp_path / "home") as server:
        for name, folder in zip(("clip", "bert"), towers, strict=True):
            HfApi(token=server.token).create_repo(f"owner/{name}")
            HfApi(token=server.token).upload_folder(repo_id=f"owner/{name}", folder_path=folder)
        LeccrModel.from_towers("owner/clip", "owner/bert", **SLOTS).save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text(encoding="utf-8"))
    assert config["vision_config"]["_name_or_path"] == "owner/clip"
    assert config["text_config"]["_name_or_path"] == "owner/bert"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("encoder", ["shared", "frozen"])
def test_towers_that_were_saved_in_half_precision_train_in_float32(
    tmp_path: Path, dtype: torch.dtype, encoder: str
) -> None:
    """Half-precision weights lose the small steps of training, and do not fit the projections in float32."""
    torch.manual_seed(5)
    BertModel(tiny_text_config()).to(dtype).save_pretrained(tmp_path / "text")
    CLIPVisionModelWithProjection(tiny_vision_config()).to(dtype).save_pretrained(tmp_path / "vision")
    model = LeccrModel.from_towers(tmp_path / "vision", tmp_path / "text", **SLOTS, description_encoder=encoder).eval()
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float32}
    saved = load_file(tmp_path / "text" / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    assert saved[name].dtype == dtype and torch.equal(model.text_model.get_parameter(name), saved[name].float())
    embeds = model.get_image_features(**tiny_items()).pooler_output
    model.save_pretrained(tmp_path / "model")
    again = LeccrModel.from_pretrained(tmp_path / "model")
    assert again.dtype == torch.float32
    assert torch.equal(again.get_image_features(**tiny_items()).pooler_output, embeds)
    assert {value.dtype for value in LeccrModel(again.config).parameters()} == {torch.float32}


def test_a_grid_in_half_precision_is_resized_in_float32(tmp_path: Path) -> None:
    """Rounded positions would stay rounded, where the image size is another one."""
    torch.manual_seed(5)
    CLIPVisionModelWithProjection(tiny_vision_config()).to(torch.bfloat16).save_pretrained(tmp_path / "vision")
    save_bert(tmp_path / "bert")
    model = LeccrModel.from_towers(tmp_path / "vision", tmp_path / "bert", image_size=48, **SLOTS)
    table = model.vision_model.embeddings.position_embedding.weight
    assert table.dtype == torch.float32 and not torch.equal(table, table.bfloat16().float())


def test_a_model_that_is_saved_in_half_precision_is_loaded_in_it(tmp_path: Path) -> None:
    """For searching, half precision is a choice, and towers keep to it like all other parts."""
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path)
    model = LeccrModel.from_pretrained(tmp_path)
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    whole = LeccrModel.from_pretrained(tmp_path, dtype=torch.float32)
    assert {value.dtype for value in whole.parameters()} == {torch.float32}


def test_a_tower_that_cannot_be_found_is_an_os_error(towers: tuple[Path, Path]) -> None:
    """The message of transformers names the folder or the Hub id."""
    shutil.rmtree(towers[1])
    with pytest.raises(OSError, match="bert"):
        LeccrModel.from_towers(*towers, **SLOTS)


def test_resize_keeps_the_class_row_and_an_equal_grid() -> None:
    """A class row inside the interpolation shifts every position."""
    table = torch.randn(1 + 16, 8)
    torch.testing.assert_close(resize_position_grid(table, 17), table)
    torch.testing.assert_close(resize_position_grid(table, 50)[0], table[0])
    constant = torch.ones(1 + 16, 8)
    torch.testing.assert_close(resize_position_grid(constant, 50), torch.ones(50, 8))
    assert resize_position_grid(table[None], 50).shape == (1, 50, 8)


@pytest.mark.parametrize(("old_rows", "new_rows"), [(16, 17), (17, 49), (1, 17), (17, 1)])
def test_a_grid_that_is_not_square_cannot_be_resized(old_rows: int, new_rows: int) -> None:
    """SigLIP tables have no class row; a wrong reshape would scramble them."""
    with pytest.raises(ValueError, match="one class row and a square grid"):
        resize_position_grid(torch.randn(old_rows, 8), new_rows)
