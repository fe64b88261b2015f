"""Models of videos: what padding and order do, against slow oracles, in every system, from frames and from features."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, pad
from transformers import AutoModel, CLIPVisionModelWithProjection

from modeling_leccr import Cl2cmConfig, Cl2cmModel, LeccrConfig, LeccrModel
from modeling_leccr.configuration_leccr import OFFICIAL_CHOICES, OFFICIAL_VIDEO_CHOICES
from modeling_leccr.frames_leccr import FrameEncoder, frame_positions
from modeling_leccr.losses_cl2cm import Cl2cmCriterion, Cl2cmLossConfig
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig
from modeling_leccr.pooling_leccr import masked_mean
from tests.reference import ranks_by_loops
from tests.tiny import (
    FEATURE_DIM,
    VIDEO_FIELDS,
    sentence_batch,
    tiny_cl2cm,
    tiny_cl2cm_config,
    tiny_config,
    tiny_items,
    tiny_model,
    tiny_pairs,
    tiny_processor,
    tiny_text_config,
    tiny_texts,
    tiny_videos,
    tiny_vision_config,
    with_videos,
    without_descriptions,
)

Batch = dict[str, Tensor]

INTERACTIONS = ("dual", "v2s", "s2v", "co_attention", "none")
KINDS = tuple(VIDEO_FIELDS)  # "frames", "features"
# Fields of a LECCR model, and what is True of that of CL2CM.
VARIANTS: list[dict[str, Any]] = [
    *({**VIDEO_FIELDS[kind], "interaction": interaction} for kind in KINDS for interaction in INTERACTIONS),
    *({**VIDEO_FIELDS[kind], "item_source": "image"} for kind in KINDS),
    *({**VIDEO_FIELDS[kind], "frame_positions": "none", "num_frame_layers": 2} for kind in KINDS),
    *({**VIDEO_FIELDS[kind], "system": "cl2cm"} for kind in KINDS),
    {"vision_input": "frames", "image_pooling": "mean"},
    {"vision_input": "frames", "image_pooling": "mean", "vision": "swin"},
    {"vision_input": "frames", "image_pooling": "mean", "vision": "convnextv2"},
    {"vision_input": "frames", "vision": "vit", "description_dropout": 0.5},
    {"vision_input": "frames", "aligned_slots": True, "text_pooling": "mean"},
    {"vision_input": "features", "feature_dim": FEATURE_DIM, "slot_dim": FEATURE_DIM, "project_features": False},
]
# One of each path: the tower, the features, without slots.
FEW = [VARIANTS[0], VARIANTS[5], {**VIDEO_FIELDS["features"], "system": "cl2cm"}]
# Of each way to have other weights or fields.
SAVED = [*FEW, {**VIDEO_FIELDS["frames"], "frame_positions": "none", "num_frame_layers": 2}, *VARIANTS[-3:]]


def variant_id(fields: dict[str, Any]) -> str:
    return "-".join(str(value) for name, value in fields.items() if name != "feature_dim")


def make_model(fields: dict[str, Any], **more: Any) -> LeccrModel | Cl2cmModel:
    fields = {**fields, **more}
    return tiny_cl2cm(**fields) if fields.pop("system", "leccr") == "cl2cm" else tiny_model(**fields)


def make_batch(fields: dict[str, Any], batch_size: int = 4) -> Batch:
    """Training pairs with videos of 5, 4, 3, ... frames."""
    batch = with_videos(tiny_pairs(batch_size), fields["vision_input"])
    return without_descriptions(batch) if fields.get("system") == "cl2cm" else batch


def frames_of(batch: Batch) -> str:
    return "frame_features" if "frame_features" in batch else "pixel_values"


def total_loss(model: Any, batch: Batch, **forms: str) -> Tensor:
    """Every term with a weight of its own, so that a wrong one shows in the total."""
    criterion: Any
    if isinstance(model, Cl2cmModel):
        criterion = Cl2cmCriterion(Cl2cmLossConfig())
        teacher = torch.nn.functional.normalize(
            torch.randn(2, 4, 24, generator=torch.Generator().manual_seed(3)), dim=-1
        )
        batch = {**batch, "teacher_source_embeds": teacher[0], "teacher_target_embeds": teacher[1]}
    else:
        weights = {"guidance": 0.5, "slot_contrastive": 0.7, "slot_vision": 0.3, "slot_diversity": 0.4}
        criterion = LeccrCriterion(LossConfig(**weights, forms=forms))
    output = model(**batch)
    rows = criterion.summarise(output, torch.arange(len(batch["source_input_ids"])))
    return criterion.total(criterion(rows, output.logit_scale))


def loss_and_gradients(model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = total_loss(model, batch)
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    return loss.detach(), found


def gradients(model: Any, batch: Batch) -> dict[str, Tensor]:
    return loss_and_gradients(model, batch)[1]


def padded(batch: Batch, num_frames: int = 3, value: float = math.nan) -> Batch:
    """The same videos with more padding, and all padding filled with a value."""
    name = frames_of(batch)
    frames, mask = batch[name], pad(batch["frame_mask"], (0, num_frames))
    frames = pad(frames, (0, 0) * (frames.ndim - 2) + (0, num_frames)).masked_fill(
        (mask == 0)[(...,) + (None,) * (frames.ndim - 2)], value
    )
    return {**batch, name: frames, "frame_mask": mask}


def item_keys(batch: Batch) -> Batch:
    kept = ("pixel_values", "frame_features", "frame_mask", "description_input_ids", "description_attention_mask")
    return {name: batch[name] for name in kept if name in batch}


# Padding.


@pytest.mark.parametrize("fields", VARIANTS, ids=variant_id)
def test_an_extra_padded_frame_changes_neither_embeddings_nor_losses_nor_gradients(fields: dict[str, Any]) -> None:
    """Padding that leaks makes a video depend on the longest of its batch. NaN in it shows every way that it takes."""
    model, batch = make_model(fields), make_batch(fields)
    with torch.no_grad():
        output, longer = model(**batch), model(**padded(batch))
    for name in ("image_embeds", "slot_embeds", "slots", "slot_states"):
        if output.get(name) is not None:
            torch.testing.assert_close(longer[name], output[name], atol=1e-6, rtol=0, msg=name)
    (loss, expected), (same_loss, found) = (loss_and_gradients(model, each) for each in (batch, padded(batch)))
    torch.testing.assert_close(same_loss, loss, atol=1e-6, rtol=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        allowed = 5e-6 * max(float(gradient.abs().max()), 1)
        torch.testing.assert_close(found[name], gradient, atol=allowed, rtol=0, msg=name)


@pytest.mark.parametrize("fields", FEW, ids=variant_id)
def test_states_of_real_frames_do_not_depend_on_padding(fields: dict[str, Any]) -> None:
    """What is shown of a frame, such as what a slot looks at, is read from them."""
    model, items = make_model(fields), item_keys(make_batch(fields))
    plain, longer = model.get_image_features(**items), model.get_image_features(**padded(items))
    real = items["frame_mask"].bool()
    states = longer.last_hidden_state
    assert states.isfinite().all()
    torch.testing.assert_close(states[:, : real.shape[1]][real], plain.last_hidden_state[real], atol=1e-6, rtol=0)
    assert longer.patch_mask.equal(pad(items["frame_mask"], (0, 3)))


@pytest.mark.parametrize("fields", VARIANTS, ids=variant_id)
def test_a_batch_equals_its_videos_one_by_one_without_padding(fields: dict[str, Any]) -> None:
    """A video embedded for an index must be the one that was embedded in training."""
    model, items = make_model(fields), item_keys(make_batch(fields))
    with torch.no_grad():
        whole = model.get_image_features(**items)
        for row, length in enumerate(items["frame_mask"].sum(dim=1).tolist()):
            alone = {name: value[row : row + 1] for name, value in items.items() if name != "frame_mask"}
            alone[frames_of(items)] = alone[frames_of(items)][:, :length]
            features = model.get_image_features(**alone)
            torch.testing.assert_close(features.pooler_output[0], whole.pooler_output[row], atol=2e-6, rtol=0)
            if whole.slot_embeds is not None:
                torch.testing.assert_close(features.slot_embeds[0], whole.slot_embeds[row], atol=2e-6, rtol=0)


@pytest.mark.parametrize("interaction", INTERACTIONS)
def test_an_interaction_under_a_mask_equals_that_of_the_real_frames_without_one(interaction: str) -> None:
    """A mask that hides slots as well would leave them unread, in videos alone."""
    module = make_model({**VIDEO_FIELDS["features"], "interaction": interaction}).interaction
    generator = torch.Generator().manual_seed(0)
    states, slots = torch.randn(4, 5, 32, generator=generator), torch.randn(4, 4, 32, generator=generator)
    mask = tiny_videos("features")["frame_mask"]
    with torch.no_grad():
        frames, enhanced = module(states, slots, mask)
        for row, length in enumerate(mask.sum(dim=1).tolist()):
            own_frames, own_slots = module(states[row : row + 1, :length], slots[row : row + 1])
            torch.testing.assert_close(frames[row, :length], own_frames[0], atol=2e-6, rtol=0)
            torch.testing.assert_close(enhanced[row], own_slots[0], atol=2e-6, rtol=0)


def test_the_released_slot_loss_counts_padded_frames_and_ours_does_not() -> None:
    """Why ours differs: there a video's loss depends on the longest of its batch."""
    fields = VARIANTS[5]
    model, batch = make_model(fields), make_batch(fields)
    longer = padded(batch, value=0.0)
    found = {form: total_loss(model, longer, **forms) - total_loss(model, batch, **forms)
             for form, forms in {"ours": {}, "released": {"slot_vision": "official"}}.items()}  # fmt: skip
    assert abs(found["ours"]) < 1e-6 < 1e-3 < abs(found["released"])


@pytest.mark.parametrize("fields", FEW, ids=variant_id)
def test_masks_of_any_type_and_none_mean_the_same(fields: dict[str, Any]) -> None:
    """A mask of bools out of a reader, or none where nothing is padded."""
    model, items = make_model(fields), item_keys(make_batch(fields))
    expected = model.get_image_features(**items).pooler_output
    for dtype in (torch.bool, torch.int32, torch.float32):
        typed = {**items, "frame_mask": items["frame_mask"].to(dtype)}
        assert model.get_image_features(**typed).pooler_output.equal(expected)
    whole = {**items, "frame_mask": torch.ones_like(items["frame_mask"])}
    without = {name: value for name, value in items.items() if name != "frame_mask"}
    assert model.get_image_features(**without).pooler_output.equal(model.get_image_features(**whole).pooler_output)


def test_padding_does_not_go_through_the_vision_tower() -> None:
    """A batch of one long clip and many short ones would cost as much as of long ones alone."""
    model, items = make_model(VARIANTS[0]), item_keys(make_batch(VARIANTS[0]))
    seen: list[Tensor] = []
    model.vision_model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    model.get_image_features(**items)
    assert [len(pixels) for pixels in seen] == [int(items["frame_mask"].sum())]
    assert seen[0].equal(items["pixel_values"][items["frame_mask"].bool()])


# Order.


@pytest.mark.parametrize("fields", FEW, ids=variant_id)
def test_the_order_of_frames_matters_unless_they_have_no_positions(fields: dict[str, Any]) -> None:
    """A model without positions cannot tell "moves left" from "moves right", and nothing says so."""
    items = item_keys(make_batch(fields))
    name, num_frames = frames_of(items), items["frame_mask"].shape[1]
    items = {**items, "frame_mask": torch.ones_like(items["frame_mask"])}
    items[name] = torch.randn(items[name].shape, generator=torch.Generator().manual_seed(1))
    for positions, changes in (("sinusoidal", True), ("none", False)):
        model = make_model(fields, frame_positions=positions)
        embeds = model.get_image_features(**items).pooler_output
        for order in (list(reversed(range(num_frames))), [1, 0, *range(2, num_frames)]):
            other = model.get_image_features(**{**items, name: items[name][:, order]}).pooler_output
            assert ((other - embeds).abs().amax(dim=-1) > 1e-3).all() == changes
            assert torch.allclose(other, embeds, atol=1e-5) != changes


def test_videos_that_differ_in_order_alone_are_learned() -> None:
    """Positions that reach the embedding too weakly to be learned from are none."""
    clips = torch.randn(4, 3, FEATURE_DIM, generator=torch.Generator().manual_seed(2))
    batch = without_descriptions(sentence_batch(tiny_processor()))
    del batch["pixel_values"]
    batch["frame_features"] = torch.cat([clips, clips.flip(1)])
    recalls = {}
    for positions in ("sinusoidal", "none"):
        model = tiny_model(**VIDEO_FIELDS["features"], item_source="image", frame_positions=positions, dropout=0.0)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(60):
            optimizer.zero_grad()
            total_loss(model, batch).backward()
            optimizer.step()
        with torch.no_grad():
            output = model(**batch)
        _, ranks = ranks_by_loops(output.image_embeds @ output.source_embeds.T, torch.arange(8))
        recalls[positions] = sum(rank == 1 for rank in ranks) / 8
    assert recalls["sinusoidal"] == 1
    assert recalls["none"] <= 0.5  # a clip and its reverse are one


@pytest.mark.parametrize("make", [tiny_model, tiny_cl2cm])
def test_new_frames_start_by_adding_the_mean_of_their_video(make: Callable[..., Any]) -> None:
    """Random blocks hide what the tower says: looks and order are learned after half as many more steps."""
    model = make(**VIDEO_FIELDS["features"], num_frame_layers=2)
    assert len(model.frame_encoder.layers) == 2
    for layer in model.frame_encoder.layers:
        states = torch.randn(5, layer.out_proj.in_features)
        torch.testing.assert_close(layer.out_proj(layer.v_proj(states)), states, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(layer.down_proj(layer.up_proj(states)), states, atol=1e-5, rtol=1e-4)


def test_loading_does_not_start_trained_frames_again(tmp_path: Path) -> None:
    """The training would be thrown away, and nothing would say so."""
    model = tiny_model(**VIDEO_FIELDS["features"])
    for parameter in model.frame_encoder.parameters():
        parameter.data.add_(0.1)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(LeccrModel.from_pretrained(tmp_path).state_dict(), model.state_dict(), atol=0, rtol=0)


# Slow oracles.


def block_by_loops(block: Any, frames: Tensor, memory: Tensor) -> Tensor:
    """One block over one video, each head and each query on its own."""
    rows, width = [], frames.shape[-1] // block.num_heads
    query, key, value = (
        states @ layer.weight.T + layer.bias
        for layer, states in ((block.q_proj, frames), (block.k_proj, memory), (block.v_proj, memory))
    )
    for place in range(len(frames)):
        heads = []
        for head in range(block.num_heads):
            part = slice(head * width, (head + 1) * width)
            scores = [math.exp(float(query[place, part] @ row[part]) / math.sqrt(width)) for row in key]
            heads.append(sum(score * row[part] for score, row in zip(scores, value, strict=True)) / sum(scores))
        hidden = block.out_proj.weight @ torch.cat(heads) + block.out_proj.bias
        hidden = (
            block.down_proj.weight @ gelu(block.up_proj.weight @ hidden + block.up_proj.bias) + block.down_proj.bias
        )
        rows.append(layer_norm(frames[place] + hidden, (len(hidden),), block.norm.weight, block.norm.bias, 1e-5))
    return torch.stack(rows)


def positions_by_loops(num_frames: int, width: int) -> Tensor:
    """Sine in the even columns, cosine in the odd ones; each pair of columns has a wave of its own."""
    table = torch.zeros(num_frames, width, dtype=torch.float64)
    for place in range(num_frames):
        for column in range(width):
            angle = place / 10_000 ** (2 * (column // 2) / width)
            table[place, column] = math.cos(angle) if column % 2 else math.sin(angle)
    return table


@pytest.mark.parametrize("positions", ["sinusoidal", "none"])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_the_frame_encoder_equals_loops_over_the_real_frames(positions: str, num_layers: int) -> None:
    """One video, head and frame at a time, without any padding; each layer reads the frames as they came."""
    config = tiny_config(**VIDEO_FIELDS["features"], frame_positions=positions, num_frame_layers=num_layers)
    config._attn_implementation = "sdpa"
    encoder = FrameEncoder(config).double().eval()
    for number, parameter in enumerate(encoder.parameters()):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(number))
    mask = tiny_videos("features", 3)["frame_mask"]
    states = torch.randn(3, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = encoder(states, mask)
        for row, length in enumerate(mask.sum(dim=1).tolist()):
            frames = states[row, :length]
            if positions == "sinusoidal":
                frames = frames + positions_by_loops(length, 32)
            expected = frames
            for layer in encoder.layers:
                expected = block_by_loops(layer, expected, frames)
            # The angles are computed in fp32.
            torch.testing.assert_close(found[row, :length], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("width", [1, 2, 7, 32])
def test_positions_equal_their_formula_in_any_width(width: int) -> None:
    """Widths of features are not ours to choose, and may be odd."""
    states = torch.zeros(2, 40, width)
    torch.testing.assert_close(frame_positions(states).double(), positions_by_loops(40, width), atol=1e-5, rtol=0)
    assert frame_positions(states.bfloat16()).dtype == torch.bfloat16


def test_masked_mean_equals_loops() -> None:
    """Divided by the length of the batch, short videos would be short vectors."""
    states, mask = torch.randn(3, 5, 4), tiny_videos("features", 3)["frame_mask"]
    expected = [sum(frame for frame, kept in zip(*row, strict=True) if kept) / int(row[1].sum())
                for row in zip(states, mask, strict=True)]  # fmt: skip
    torch.testing.assert_close(masked_mean(states, mask), torch.stack(expected))
    torch.testing.assert_close(masked_mean(states, None), torch.stack([sum(row) / 5 for row in states]))


def test_frames_are_seen_as_pictures_are() -> None:
    """The tower reads each frame alone; the frame of a video is the token of that picture."""
    model = make_model(VARIANTS[0], frame_positions="none")
    videos = tiny_videos("frames", 3)
    seen: list[Tensor] = []
    model.frame_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.get_image_features(**videos, **{k: v[:3] for k, v in tiny_items().items() if k.startswith("description")})
    for row, length in enumerate(videos["frame_mask"].sum(dim=1).tolist()):
        tokens = model.vision_model(pixel_values=videos["pixel_values"][row, :length]).last_hidden_state
        normed = model.vision_model.post_layernorm(tokens[:, 0])
        torch.testing.assert_close(seen[0][row, :length], model.visual_projection(normed), atol=1e-5, rtol=0)


# Training and precision.


@pytest.mark.parametrize("fields", VARIANTS, ids=variant_id)
def test_every_parameter_gets_a_gradient(fields: dict[str, Any]) -> None:
    """A dead parameter stalls distributed training, and says that a part of the model is not used."""
    model = make_model(fields)
    if fields.get("description_dropout"):
        torch.manual_seed(1)  # drops some of the descriptions, not all
        model.train()
    found = gradients(model, make_batch(fields))
    assert [name for name, _ in model.named_parameters() if name not in found] == []
    key_bias = ("key.bias", "k_proj.bias")  # round-off: softmax cancels it
    assert [name for name, grad in found.items() if not grad.abs().max() > 0 and not name.endswith(key_bias)] == []


@pytest.mark.parametrize("fields", FEW, ids=variant_id)
def test_gradient_checkpointing_gives_the_same_gradients(fields: dict[str, Any]) -> None:
    """The block over frames is recomputed too, and with the same mask."""
    model, batch = make_model(fields, dropout=0.0).train(), make_batch(fields)
    torch.manual_seed(0)
    plain = gradients(model, batch)
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    assert all(layer.gradient_checkpointing for layer in model.frame_encoder.layers)
    torch.manual_seed(0)
    checkpointed = gradients(model, batch)
    assert checkpointed.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("fields", FEW, ids=variant_id)
def test_bf16_autocast_gives_finite_close_losses_whatever_the_padding(fields: dict[str, Any]) -> None:
    """The lowest number of bf16 as a mask, or a mean in bf16, gives NaN or another video."""
    model, batch = make_model(fields), padded(make_batch(fields))
    exact = total_loss(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, loss = model(**batch), total_loss(model, batch)
    assert output.image_embeds.dtype == loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.03)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("fields", FEW, ids=variant_id)
def test_a_model_in_bf16_takes_videos_in_other_types(fields: dict[str, Any]) -> None:
    """A feature store may hold halves, and a processor gives floats."""
    model, items = make_model(fields), item_keys(make_batch(fields))
    exact = model.get_image_features(**items).pooler_output
    model, name = model.to(torch.bfloat16), frames_of(items)
    for dtype in (torch.float32, torch.float16):
        found = model.get_image_features(**{**items, name: items[name].to(dtype)}).pooler_output
        torch.testing.assert_close(found, exact, atol=0.05, rtol=0)


@pytest.mark.parametrize("fields", FEW, ids=variant_id)
def test_eager_and_sdpa_attention_agree(fields: dict[str, Any]) -> None:
    """Two kernels, one result; also where most of a row is padding."""
    items = padded(item_keys(make_batch(fields)))
    model = make_model(fields)
    embeds = []
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        assert {layer.config._attn_implementation for layer in model.frame_encoder.layers} == {implementation}
        embeds.append(model.get_image_features(**items).pooler_output)
    torch.testing.assert_close(embeds[0], embeds[1], atol=1e-6, rtol=0)


def test_a_model_of_features_compiles_into_one_graph() -> None:
    """A question about a value of the mask would break the graph in each step."""
    text = tiny_text_config()
    text.num_hidden_layers = 1  # for the time that tracing takes
    fields = {**VIDEO_FIELDS["features"], "text_config": text, "num_slot_layers": 1, "num_interaction_layers": 1}
    model, items = make_model(fields), item_keys(make_batch(fields))
    torch._dynamo.reset()
    compiled = torch.compile(model.get_image_features, backend="eager", fullgraph=True)
    with torch.no_grad():
        for each in (items, padded(items)):
            output, expected = compiled(**each), model.get_image_features(**each)
            for name in ("pooler_output", "slot_embeds", "last_hidden_state"):
                torch.testing.assert_close(output[name], expected[name], atol=1e-6, rtol=0, msg=name)
    torch._dynamo.reset()


@pytest.mark.parametrize("fields", FEW, ids=variant_id)
def test_the_main_input_is_what_the_model_reads(fields: dict[str, Any]) -> None:
    """The trainer of transformers counts the operations of a step by its size, and finds none in a batch without."""
    assert make_model(fields).main_input_name == frames_of(make_batch(fields))


# Folders and towers.


@pytest.mark.parametrize("fields", SAVED, ids=variant_id)
def test_save_and_load_give_the_same_output(fields: dict[str, Any], tmp_path: Path) -> None:
    """A weight that is not saved, or a field that is not read back, embeds otherwise after reload."""
    model, batch = make_model(fields), make_batch(fields)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    ours, theirs = (each(**batch, input_ids=tiny_texts()[0]) for each in (model, loaded))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=0, rtol=0, msg=name)


def test_models_start_from_pretrained_towers(tmp_path: Path) -> None:
    """Of features from a text tower alone; of frames with CLIP's weights, its own projection included."""
    tower = CLIPVisionModelWithProjection(tiny_vision_config())
    tower.save_pretrained(tmp_path / "vision")
    clip = tower.state_dict()
    AutoModel.from_config(tiny_text_config()).save_pretrained(tmp_path / "text")
    sizes: dict[str, Any] = {"embed_dim": 16, "num_attention_heads": 4}
    for model_class, width in ((LeccrModel, {"slot_dim": 32}), (Cl2cmModel, {"visual_dim": 32})):
        of_features = model_class.from_towers(None, tmp_path / "text", **VIDEO_FIELDS["features"], **sizes, **width)
        assert not hasattr(of_features, "vision_model")
        of_frames = model_class.from_towers(
            tmp_path / "vision", tmp_path / "text", vision_input="frames", **sizes, **width
        )
        assert of_frames.vision_model.state_dict().keys() <= {name.removeprefix("vision_model.") for name in clip}
        for name, value in of_frames.vision_model.state_dict().items():
            assert value.equal(clip[f"vision_model.{name}"]), name
        assert of_frames.visual_projection.weight.equal(clip["visual_projection.weight"])
        for model in (of_features, of_frames):
            text = AutoModel.from_pretrained(tmp_path / "text").embeddings.word_embeddings.weight
            assert model.text_model.embeddings.word_embeddings.weight.equal(text)
        with pytest.raises(ValueError, match="only vision_input='features' has none"):
            model_class.from_towers(None, tmp_path / "text", vision_input="frames", **sizes, **width)


def test_hidden_states_and_attentions_of_frames_are_those_of_the_tower() -> None:
    """To look into a model; of the real frames, in the order of the batch."""
    model, items = make_model(VARIANTS[0]), item_keys(make_batch(VARIANTS[0]))
    features = model.get_image_features(**items, output_hidden_states=True)
    num_real = int(items["frame_mask"].sum())
    assert [len(states) for states in features.hidden_states] == [num_real] * 3
    assert model.get_image_features(**items).hidden_states is None
    of_features, items = make_model(VARIANTS[5]), item_keys(make_batch(VARIANTS[5]))
    assert of_features.get_image_features(**items, output_hidden_states=True).hidden_states is None


# What is refused.


def without_frames(batch: Batch) -> Batch:
    batch["frame_mask"][1:3] = 0
    return batch


BAD_INPUTS: dict[str, tuple[Callable[[Batch], Batch], str]] = {
    "no_frames_in_two_rows": (without_frames, r"each video must have a frame, got none in rows \[1, 2\]"),
    "no_frame_at_all": (
        lambda b: {**b, frames_of(b): b[frames_of(b)][:, :0], "frame_mask": b["frame_mask"][:, :0]},
        r"\(batch, num_frames, .*got \(4, 0, ",
    ),
    "no_frame_and_no_mask": (
        lambda b: {**b, frames_of(b): b[frames_of(b)][:, :0], "frame_mask": None},
        r"\(batch, num_frames, .*got \(4, 0, ",
    ),
    "missing": (lambda b: {**b, frames_of(b): None}, r"reads \w+ \(batch, num_frames, .*but it is None"),
    "one_axis_less": (
        lambda b: {**b, frames_of(b): b[frames_of(b)][:, 0]},
        r"reads \w+ \(batch, num_frames, .*got \(4, ",
    ),
    "other_mask": (
        lambda b: {**b, "frame_mask": b["frame_mask"][:, 1:]},
        r"frame_mask must be \(batch, num_frames\) beside the frames of videos, got \(4, 4\)",
    ),
}


@pytest.mark.parametrize("fault", BAD_INPUTS)
@pytest.mark.parametrize("fields", FEW, ids=variant_id)
def test_videos_that_cannot_be_read_are_refused(fields: dict[str, Any], fault: str) -> None:
    """A mean over no frames is 0 / 0 in the released code, and NaN weights a step later."""
    spoil, message = BAD_INPUTS[fault]
    with pytest.raises(ValueError, match=message):
        make_model(fields)(**spoil(make_batch(fields)))


def test_features_of_another_width_are_refused() -> None:
    """With the message of a matrix product, nobody would know which of two widths is wrong."""
    items = item_keys(make_batch(VARIANTS[5]))
    items["frame_features"] = items["frame_features"][..., :7]
    with pytest.raises(ValueError, match=r"frame_features \(batch, num_frames, 20\), got \(4, 5, 7\)"):
        make_model(VARIANTS[5]).get_image_features(**items)


@pytest.mark.parametrize("model", [tiny_model, tiny_cl2cm])
def test_models_of_pictures_and_of_videos_refuse_each_others_inputs(model: Callable[..., Any]) -> None:
    """A batch of frames broadcast as pictures, or pictures as one clip, would embed nonsense."""
    image, video = tiny_items()["pixel_values"], tiny_videos("frames")
    descriptions = {k: v for k, v in tiny_items().items() if k.startswith("description")}
    descriptions = descriptions if model is tiny_model else {}
    with pytest.raises(ValueError, match=r"vision_input='image' reads pixel_values .*got \(4, 5, 3, 32, 32\)"):
        model().get_image_features(**video, **descriptions)
    with pytest.raises(ValueError, match=r"frame_mask must be .* beside the frames of videos"):
        model().get_image_features(image, frame_mask=video["frame_mask"], **descriptions)
    with pytest.raises(ValueError, match=r"vision_input='frames' reads pixel_values .*got \(4, 3, 32, 32\)"):
        model(vision_input="frames").get_image_features(image, **descriptions)
    with pytest.raises(ValueError, match=r"vision_input='features' reads frame_features .*but it is None"):
        model(**VIDEO_FIELDS["features"]).get_image_features(**video, **descriptions)


FIELD_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"vision_input": "video"}, "vision_input must be one of"),
    ({"vision_input": "features"}, "feature_dim must be the width of the frame features"),
    ({"vision_input": "features", "feature_dim": 0}, "feature_dim must be the width of the frame features"),
    ({"vision_input": "frames", "feature_dim": 8}, "and None without, got 8 with 'frames'"),
    ({"feature_dim": 8}, "and None without, got 8 with 'image'"),
    ({"vision_input": "features", "feature_dim": 20, "project_features": False}, "features as wide as the visual"),
    ({"vision_input": "frames", "project_features": False}, "features as wide as the visual"),
    ({"vision_input": "frames", "frame_positions": "learned"}, "frame_positions must be one of"),
    ({"vision_input": "frames", "num_frame_layers": 0}, "num_frame_layers must be at least 1"),
    ({"vision_input": "frames", "num_attention_heads": 5}, "must be a multiple of num_attention_heads"),
    ({"vision_input": "frames", "vision": "swin"}, "needs a vision tower with a class token"),
    ({"vision_input": "frames", "dropout": 2.0}, "dropout must lie in"),
]


@pytest.mark.parametrize("make_config", [tiny_config, tiny_cl2cm_config])
@pytest.mark.parametrize(
    ("fields", "message"), FIELD_FAULTS, ids=lambda value: variant_id(value) if isinstance(value, dict) else ""
)
def test_fields_that_do_not_fit_videos_are_refused(
    make_config: Callable[..., Any], fields: dict[str, Any], message: str
) -> None:
    """A recipe of features without their width, or with a width that nothing reads."""
    with pytest.raises(Exception, match=message) as caught:
        make_config(**fields)
    assert isinstance(caught.value, ValueError) or isinstance(caught.value.__cause__, ValueError)


def test_a_model_of_descriptions_has_no_videos() -> None:
    """It would take a recipe's videos for read."""
    with pytest.raises(Exception, match="needs items that are seen, got item_source='description'"):
        tiny_config(item_source="description", vision_input="frames")


def test_the_official_preset_of_videos_selects_every_official_choice() -> None:
    """A choice left out of the preset would break parity in one place only."""
    fields: dict[str, Any] = {"feature_dim": 32, "slot_dim": 32, "num_attention_heads": 4}
    fields["text_config"] = tiny_text_config()
    config = LeccrConfig.official(vision_input="features", **fields)
    official = OFFICIAL_CHOICES | OFFICIAL_VIDEO_CHOICES["features"]
    assert {name: getattr(config, name) for name in official} == official
    for name, value in (("frame_positions", "sinusoidal"), ("project_features", True)):
        with pytest.raises(ValueError, match=f"official preset fixes .*{name}"):
            LeccrConfig.official(vision_input="features", **fields, **{name: value})
    # The corrected choices stay the default, in both systems.
    for other in (tiny_config(**VIDEO_FIELDS["features"]), tiny_cl2cm_config(**VIDEO_FIELDS["features"])):
        assert (other.project_features, other.frame_positions) == (True, "sinusoidal")
    assert Cl2cmConfig.choosable() >= {"vision_input", "feature_dim", "num_frame_layers", "frame_positions"}
