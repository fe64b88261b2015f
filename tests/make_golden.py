"""Write a folder of the form of tests/golden from a slow reference of the released models, with other sizes.

`python -m tests.make_golden FOLDER --seed 1`

The reference is a second implementation: plain functions over a dictionary of weights under the official names, in
float64, that share nothing with the package. A parity test that also passes here depends on no size of tests/golden.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear, multi_head_attention_forward

GEOMETRY = {
    "clip_embed": 40,
    "image_res": 48,
    "clip_v_layers": 3,
    "clip_v_width": 128,
    "patch": 16,
    "vocab": 61,
    "t_width": 24,
    "t_layers": 1,
    "t_heads": 3,
    "t_inter": 56,
    "t_maxpos": 30,
}
VIDEO = {"width": 32, "layer": 2, "lens": [5, 2, 9, 1, 9, 4, 7]}  # of the frame features
FORMS = ("image", "video")
SETTINGS = {
    "weight_caption_loss": 0.2,
    "num_queries": 3,
    "caption_ca_layer": 2,
    "caption_interaction_layer": 3,
    "weight_reg_loss": 0.07,
    "weight_cv_loss": 0.3,
    "weight_dstl_loss": 0.6,
    "embed_dim": 20,
    "temp": 0.11,
}
IMAGE_IDS = [4, 2, 4, 11, 0, 2, 5]
LENGTHS = {"s": [5, 9, 3, 6, 8, 4, 7], "t": [6, 4, 10, 3, 5, 9, 8], "d": [12, 25, 9, 16, 5, 20, 11]}
NUM_EVAL_ITEMS = 6
CAPTIONS_PER_IMAGE = 3
NUM_HEADS = 8  # of the blocks over frames and between slots and visual tokens
GLOBAL_WEIGHTS = {"": 0.9, "_alpha0.0": 0.0, "_alpha0.5": 0.5, "_alpha1.0": 1.0}  # of the video evaluation

State = dict[str, Tensor]


def random_state(form: str, generator: torch.Generator) -> State:
    """Random weights under the names of a released checkpoint, those that nothing reads included."""
    is_video = form == "video"
    visual = _stack_shapes("vid_encoder", VIDEO["layer"], VIDEO["width"]) if is_video else _vision_shapes(GEOMETRY)
    width = VIDEO["width"] if is_video else GEOMETRY["clip_embed"]
    shapes = {**visual, **_text_shapes(GEOMETRY), **_slot_shapes(width, SETTINGS)}
    state = {}
    for name, shape in shapes.items():
        is_table = "embedding" in name or name == "queries"
        spread = 0.5 if is_table or len(shape) == 1 else math.prod(shape[1:]) ** -0.5
        values = torch.randn(shape, generator=generator) * spread
        is_norm = any(part in name for part in ("ln_", "LayerNorm", "norm")) and name.endswith("weight")
        state[name] = 1 + values / 5 if is_norm else values
    state["temp"] = torch.tensor(SETTINGS["temp"])
    return state


def _affine(name: str, out_width: int, in_width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out_width, in_width), f"{name}.bias": (out_width,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _attention(name: str, width: int) -> dict[str, tuple[int, ...]]:
    stacked: dict[str, tuple[int, ...]] = {
        f"{name}.in_proj_weight": (3 * width, width),
        f"{name}.in_proj_bias": (3 * width,),
    }
    return {**stacked, **_affine(f"{name}.out_proj", width, width)}


def _vision_shapes(geometry: dict[str, int]) -> dict[str, tuple[int, ...]]:
    width, patch, root = geometry["clip_v_width"], geometry["patch"], "clip_encoder.visual"
    shapes: dict[str, tuple[int, ...]] = {
        f"{root}.class_embedding": (width,),
        f"{root}.positional_embedding": (1 + (geometry["image_res"] // patch) ** 2, width),
        f"{root}.conv1.weight": (width, 3, patch, patch),
        f"{root}.proj": (width, geometry["clip_embed"]),
        "clip_encoder.text_projection": (16, 16),  # stands for the unused text half
        **_norm("clip_encoder.ln_final", 16),
    }
    shapes |= _norm(f"{root}.ln_pre", width) | _norm(f"{root}.ln_post", width)
    for layer in range(geometry["clip_v_layers"]):
        block = f"{root}.transformer.resblocks.{layer}"
        shapes |= _attention(f"{block}.attn", width) | _norm(f"{block}.ln_1", width) | _norm(f"{block}.ln_2", width)
        shapes |= _affine(f"{block}.mlp.c_fc", 4 * width, width) | _affine(f"{block}.mlp.c_proj", width, 4 * width)
    return shapes


def _text_shapes(geometry: dict[str, int]) -> dict[str, tuple[int, ...]]:
    width, inner, root = geometry["t_width"], geometry["t_inter"], "text_encoder"
    shapes: dict[str, tuple[int, ...]] = {
        f"{root}.embeddings.word_embeddings.weight": (geometry["vocab"], width),
        f"{root}.embeddings.position_embeddings.weight": (geometry["t_maxpos"], width),
        f"{root}.embeddings.token_type_embeddings.weight": (2, width),
    }
    shapes |= _norm(f"{root}.embeddings.LayerNorm", width) | _affine(f"{root}.pooler.dense", width, width)
    for layer in range(geometry["t_layers"]):
        block = f"{root}.encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            shapes |= _affine(f"{block}.attention.self.{part}", width, width)
        shapes |= _affine(f"{block}.attention.output.dense", width, width)
        shapes |= _affine(f"{block}.intermediate.dense", inner, width)
        shapes |= _affine(f"{block}.output.dense", width, inner)
        shapes |= _norm(f"{block}.attention.output.LayerNorm", width) | _norm(f"{block}.output.LayerNorm", width)
    return shapes


def _slot_shapes(width: int, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    text_width, embed_dim = GEOMETRY["t_width"], settings["embed_dim"]
    shapes: dict[str, tuple[int, ...]] = {"queries": (settings["num_queries"], 1, width)}
    shapes |= _affine("caption_proj", width, text_width) | _affine("caption_proj1", embed_dim, width)
    shapes |= _affine("cproj", width, width) | _affine("vproj", width, width)
    shapes |= _affine("text_proj", embed_dim, text_width) | _affine("vision_proj", embed_dim, width)
    shapes |= _affine("itm_head.0", 6, width)
    interaction = settings["caption_interaction_layer"]
    depths = {"crossattn_query": settings["caption_ca_layer"], "crossattn": interaction, "crossattn2": interaction}
    for name, depth in depths.items():
        shapes |= _stack_shapes(name, depth, width)
    return shapes


def _stack_shapes(name: str, depth: int, width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for block in (f"{name}.layers.{layer}" for layer in range(depth)):
        shapes |= _attention(f"{block}.multihead_attn", width)
        shapes |= _affine(f"{block}.linear1", width, width) | _affine(f"{block}.linear2", width, width)
        shapes |= _norm(f"{block}.norm1", width) | _norm(f"{block}.norm2", width)
    return shapes


def _project(state: State, name: str, states: Tensor) -> Tensor:
    return linear(states, state[f"{name}.weight"], state[f"{name}.bias"])


def _normalise(state: State, name: str, states: Tensor, eps: float = 1e-5) -> Tensor:
    return layer_norm(states, states.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def _attend(state: State, name: str, queries: Tensor, memory: Tensor, heads: int, padding: Tensor | None) -> Tensor:
    """Sequence-first attention of torch."""
    attended, _ = multi_head_attention_forward(
        queries,
        memory,
        memory,
        queries.shape[-1],
        heads,
        state[f"{name}.in_proj_weight"],
        state[f"{name}.in_proj_bias"],
        None,
        None,
        False,
        0.0,
        state[f"{name}.out_proj.weight"],
        state[f"{name}.out_proj.bias"],
        training=False,
        key_padding_mask=padding,
        need_weights=False,
    )
    return attended


def vision_tokens(state: State, images: Tensor, patch: int) -> Tensor:
    """(batch, tokens, clip_embed): all tokens through the last norm and the projection."""
    root = "clip_encoder.visual"
    states = conv2d(images, state[f"{root}.conv1.weight"], stride=patch).flatten(2).permute(2, 0, 1)
    class_token = state[f"{root}.class_embedding"].expand(1, states.shape[1], -1)
    states = torch.cat([class_token, states]) + state[f"{root}.positional_embedding"][:, None]
    states = _normalise(state, f"{root}.ln_pre", states)
    layer = 0
    while f"{(block := f'{root}.transformer.resblocks.{layer}')}.ln_1.bias" in state:
        normed = _normalise(state, f"{block}.ln_1", states)
        states = states + _attend(state, f"{block}.attn", normed, normed, states.shape[-1] // 64, None)
        hidden = _project(state, f"{block}.mlp.c_fc", _normalise(state, f"{block}.ln_2", states))
        states = states + _project(state, f"{block}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))
        layer += 1
    return (_normalise(state, f"{root}.ln_post", states) @ state[f"{root}.proj"]).transpose(0, 1)


def text_tokens(state: State, input_ids: Tensor, mask: Tensor, heads: int) -> Tensor:
    """(batch, length, t_width): BERT without pooler."""
    root = "text_encoder"
    states = state[f"{root}.embeddings.word_embeddings.weight"][input_ids]
    states = states + state[f"{root}.embeddings.position_embeddings.weight"][: input_ids.shape[1]]
    states = states + state[f"{root}.embeddings.token_type_embeddings.weight"][0]
    states = _normalise(state, f"{root}.embeddings.LayerNorm", states, 1e-12)
    layer = 0
    while f"{(block := f'{root}.encoder.layer.{layer}')}.output.dense.bias" in state:
        head_outputs = []
        query, key, value = (_project(state, f"{block}.attention.self.{part}", states).chunk(heads, dim=-1)
                             for part in ("query", "key", "value"))  # fmt: skip
        for q, k, v in zip(query, key, value, strict=True):
            scores = (q @ k.transpose(1, 2)) / math.sqrt(q.shape[-1])
            scores = scores.masked_fill(mask[:, None, :] == 0, -torch.inf)
            head_outputs.append(scores.softmax(dim=-1) @ v)
        attended = _project(state, f"{block}.attention.output.dense", torch.cat(head_outputs, dim=-1))
        states = _normalise(state, f"{block}.attention.output.LayerNorm", states + attended, 1e-12)
        hidden = gelu(_project(state, f"{block}.intermediate.dense", states))
        output = _project(state, f"{block}.output.dense", hidden)
        states = _normalise(state, f"{block}.output.LayerNorm", states + output, 1e-12)
        layer += 1
    return states


def _cross_attention(
    state: State, name: str, queries: Tensor, memory: Tensor, padding: Tensor | None, stages: State
) -> Tensor:
    """A stack of blocks, sequence first; each layer's result goes to `stages`."""
    layer = 0
    while f"{(block := f'{name}.layers.{layer}')}.linear1.bias" in state:
        attended = _attend(state, f"{block}.multihead_attn", queries, memory, NUM_HEADS, padding)
        hidden = _project(state, f"{block}.linear2", gelu(_project(state, f"{block}.linear1", attended)))
        queries = _normalise(state, f"{block}.norm2", queries + hidden)
        stages[f"inner.{name}.layer{layer}"] = queries
        layer += 1
    return queries


def _unit(values: Tensor, dim: int = -1) -> Tensor:
    return values / values.square().sum(dim=dim, keepdim=True).sqrt()


def embed_items(state: State, inputs: State, form: str) -> State:
    """All stages from pictures or videos with descriptions to item and slot embeddings, named as in the golden files.

    Args:
        inputs: `image`, or `video` and `video_mask`; `d_ids`, `d_mask`.
    """
    stages: State = {}
    if form == "video":
        frames, padding = inputs["video"].transpose(0, 1), inputs["video_mask"] == 0
        visual = _cross_attention(state, "vid_encoder", frames, frames, padding, stages).transpose(0, 1)
        stages["vision_atts"] = padding
    else:
        padding, visual = None, vision_tokens(state, inputs["image"], GEOMETRY["patch"])
        stages["vision_atts"] = torch.ones(visual.shape[:2], dtype=torch.long)
    stages["vision_tokens"] = visual
    with torch.no_grad():
        tokens = text_tokens(state, inputs["d_ids"], inputs["d_mask"], GEOMETRY["t_heads"])
    stages["description_tokens"] = tokens
    memory = stages["inner.caption_proj"] = _project(state, "caption_proj", tokens)
    queries = state["queries"].expand(-1, len(visual), -1)
    slots = _cross_attention(state, "crossattn_query", queries, memory.transpose(0, 1), inputs["d_mask"] == 0, stages)
    stages["slots_before"] = slots
    visual = visual.transpose(0, 1)
    enhanced = _cross_attention(state, "crossattn", visual, slots, None, stages)
    stages["enhanced_vision_tokens_NBD"] = enhanced
    stages["slots_after"] = _cross_attention(state, "crossattn2", slots, visual, padding, stages)
    pooled = enhanced[0]
    if padding is not None:
        rows = zip(enhanced.unbind(dim=1), padding, strict=True)
        pooled = torch.stack([frames[~padded].mean(dim=0) for frames, padded in rows])
    stages["image_feat"] = _unit(_project(state, "vision_proj", pooled))
    stages["slot_embeds"] = _project(state, "caption_proj1", stages["slots_after"])
    return stages


def embed_texts(state: State, ids: Tensor, mask: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Token states, and unit-norm embeddings of the first token."""
    states = text_tokens(state, ids, mask, heads)
    return states, _unit(_project(state, "text_proj", states[:, 0]))


def _shared_nce(logits: Tensor, image_ids: Tensor) -> Tensor:
    same = (image_ids[:, None] == image_ids[None, :]).double()
    return -(same / same.sum(dim=1, keepdim=True) * logits.log_softmax(dim=1)).sum(dim=1).mean()


def _stretch(scores: Tensor) -> Tensor:
    return (scores - scores.min()) / (scores.max() - scores.min())


def objectives(state: State, stages: State, image_ids: Tensor, settings: dict[str, Any]) -> State:
    """Logits, losses and weighted losses under the names of the golden files."""
    image, source, target = stages["image_feat"], stages["text_feat_s"], stages["text_feat_t"]
    out: State = {}
    for name, left, right in (("vs", image, source), ("vt", image, target), ("st", source, target)):
        logits = out[f"logits.itc_{name}"] = left @ right.T / state["temp"]
        out[f"loss.itc_{name}"] = (_shared_nce(logits, image_ids) + _shared_nce(logits.T, image_ids)) / 2
    slot_source = torch.einsum("kid,td->kit", stages["slot_embeds"], source).amax(dim=0)
    slot_target = torch.einsum("kid,td->kit", stages["slot_embeds"], target).amax(dim=0)
    for name, scores in (("s", slot_source), ("t", slot_target)):
        logits = out[f"logits.caption_{name}"] = scores / state["temp"]
        out[f"loss.caption_{name}"] = -(logits.log_softmax(1).diag().mean() + logits.T.log_softmax(1).diag().mean()) / 2
    slots = _unit(_project(state, "cproj", stages["slots_before"]).transpose(0, 1), dim=1)
    patches = _unit(_project(state, "vproj", stages["vision_tokens"]), dim=1)
    logits = out["logits.caption_vision"] = torch.einsum("ikh,jph->ijkp", slots, patches).mean(dim=(2, 3))
    out["loss.caption_vision"] = _shared_nce(logits, image_ids)
    directions = _unit(stages["slots_before"].transpose(0, 1))
    cosines = directions @ directions.transpose(1, 2)
    num_slots = cosines.shape[1]
    out["loss.regularization"] = (cosines * (1 - torch.eye(num_slots))).sum(dim=(1, 2)).mean() / num_slots**2
    out["dstl.logits_tv"] = target @ image.T
    out["dstl.target"] = (0.8 * _stretch(source @ image.T) + 0.2 * _stretch(slot_source)).softmax(dim=1).detach()
    out["dstl.log_probs"] = out["dstl.logits_tv"].log_softmax(dim=1)
    divergence = out["dstl.target"] * (out["dstl.target"].log() - out["dstl.log_probs"])
    out["loss.dstl"] = divergence.sum(dim=1).mean()
    guidance = settings["weight_dstl_loss"]
    out["out.itc_vs_plus_cv"] = out["loss.itc_vs"] + settings["weight_cv_loss"] * out["loss.caption_vision"]
    out["out.itc_vt_mixed"] = (1 - guidance) * out["loss.itc_vt"] + guidance * out["loss.dstl"]
    out["out.itc_st"] = out["loss.itc_st"]
    out["out.caption_weighted"] = settings["weight_caption_loss"] * (out["loss.caption_s"] + out["loss.caption_t"])
    out["out.reg_weighted"] = settings["weight_reg_loss"] * out["loss.regularization"]
    out["out.total"] = sum(value for name, value in out.items() if name.startswith("out."))
    return out


def forward(state: State, inputs: State, form: str) -> State:
    """Everything from a batch to the total."""
    stages = embed_items(state, inputs, form)
    for half in ("s", "t"):
        states, embeds = embed_texts(state, inputs[f"{half}_ids"], inputs[f"{half}_mask"], GEOMETRY["t_heads"])
        stages |= {f"text_tokens_{half}": states, f"text_feat_{half}": embeds}
    return {**stages, **objectives(state, stages, inputs["idx"], SETTINGS)}


def resize_bicubic(grid: np.ndarray, size: int) -> np.ndarray:
    """(old, old, width) → (size, size, width): cubic kernel of a = -0.75, half-pixel centres, edges repeated."""
    old, a = grid.shape[0], -0.75
    weights = np.zeros((size, old))
    for row in range(size):
        centre = (row + 0.5) * old / size - 0.5
        for source in range(math.floor(centre) - 1, math.floor(centre) + 3):
            x = abs(centre - source)
            inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
            outer = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            weights[row, min(max(source, 0), old - 1)] += inner if x <= 1 else outer
    return np.einsum("ra,cb,abw->rcw", weights, weights, grid)


def _random_texts(lengths: list[int], vocab: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    ids = torch.randint(5, vocab, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask


def _save(folder: Path, name: str, tensors: State) -> None:
    values = {
        key: value.detach().float() if value.is_floating_point() else value.detach() for key, value in tensors.items()
    }
    save_file({key: value.contiguous().clone() for key, value in values.items()}, folder / f"{name}.safetensors")


def _random_videos(lengths: list[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Frame features padded with zeros, as the released loader pads them, and the mask."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    features = torch.randn(*mask.shape, VIDEO["width"], generator=generator)
    return features * mask[..., None], mask


def _write_parity(folder: Path, form: str, state: State, inputs: State) -> None:
    """Stages, losses and gradients with the slot queries as they are, and with zeros."""
    doubled = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    for suffix in ("", "_zeroq"):
        weights = {name: value.double().requires_grad_() for name, value in state.items()}
        if suffix:
            weights["queries"] = torch.zeros_like(weights["queries"], requires_grad=True)
        expected = forward(weights, doubled, form)
        expected["out.total"].backward()
        _save(folder, f"{form}_expected{suffix}", expected)
        grads = {name: value.grad for name, value in weights.items() if value.grad is not None}
        _save(folder, f"{form}_grads{suffix}", grads)
    without_grad = [name for name in state if name not in grads]
    (folder / f"{form}_params_without_grad.json").write_text(json.dumps(without_grad))


def _write_evaluation(folder: Path, states: dict[str, State], generator: torch.Generator) -> None:
    """Scores of items against one caption each and several each, and their recalls.

    Pictures are ranked by their embedding alone, videos by the sum of both levels, each stretched to [-1, 0] over the
    whole matrix.
    """
    weights = {form: {name: value.double() for name, value in state.items()} for form, state in states.items()}
    images = torch.randn(NUM_EVAL_ITEMS, 3, GEOMETRY["image_res"], GEOMETRY["image_res"], generator=generator)
    texts: dict[str, Any] = {"captions_per_image": CAPTIONS_PER_IMAGE}
    encoded = {}
    for name, count in (
        ("captions_one", NUM_EVAL_ITEMS),
        ("captions_many", NUM_EVAL_ITEMS * CAPTIONS_PER_IMAGE),
        ("descriptions", NUM_EVAL_ITEMS),
    ):
        lengths = torch.randint(3, 12, (count,), generator=generator).tolist()
        ids, mask = encoded[name] = _random_texts(lengths, GEOMETRY["vocab"], generator)
        rows = zip(ids.tolist(), mask.sum(dim=1).tolist(), strict=True)
        texts[name] = [" ".join(map(str, row[:length])) for row, length in rows]
    videos, video_mask = _random_videos(VIDEO["lens"][:NUM_EVAL_ITEMS], generator)
    tensors = {"eval.images": images, "eval.videos": videos, "eval.video_mask": video_mask}
    inputs = {"image": images.double(), "video": videos.double(), "video_mask": video_mask}
    inputs["d_ids"], inputs["d_mask"] = encoded["descriptions"]
    items = embed_items(weights["image"], inputs, "image")["image_feat"]
    for kind in ("one", "many"):
        embeds = embed_texts(weights["image"], *encoded[f"captions_{kind}"], GEOMETRY["t_heads"])[1]
        scores = tensors[f"eval.image_scores_i2t_{kind}"] = items @ embeds.T
        texts[f"image_metrics_{kind}"] = _recalls(scores, len(embeds) // NUM_EVAL_ITEMS)
    stages = embed_items(weights["video"], inputs, "video")
    embeds = embed_texts(weights["video"], *encoded["captions_one"], GEOMETRY["t_heads"])[1]
    whole = _stretch(stages["image_feat"] @ embeds.T)
    parts = _stretch(torch.einsum("kid,td->kit", stages["slot_embeds"], embeds).amax(dim=0))
    for name, share in GLOBAL_WEIGHTS.items():
        tensors[f"eval.video_scores_i2t_one{name}"] = share * whole + (1 - share) * parts - 1
    texts["video_metrics_one"] = _recalls(tensors["eval.video_scores_i2t_one"], 1)
    _save(folder, "eval", tensors)
    (folder / "eval.json").write_text(json.dumps(texts))


def _recalls(scores: Tensor, per_image: int) -> dict[str, float]:
    owners = [text // per_image for text in range(scores.shape[1])]
    best = []
    for row in scores.tolist():
        best.append([owners[text] for text in sorted(range(len(row)), key=lambda text: -row[text])])
    image_ranks = [order.index(item) for item, order in enumerate(best)]
    text_ranks = []
    for text, column in enumerate(scores.T.tolist()):
        text_ranks.append(sorted(range(len(column)), key=lambda item: -column[item]).index(owners[text]))
    metrics = {}
    for cutoff in (1, 5, 10):
        metrics[f"txt_r{cutoff}"] = 100 * sum(rank < cutoff for rank in image_ranks) / len(image_ranks)
        metrics[f"img_r{cutoff}"] = 100 * sum(rank < cutoff for rank in text_ranks) / len(text_ranks)
    return metrics


def _write_schedules(folder: Path, peak: float = 1e-5) -> None:
    schedules = {}
    for epochs, steps, share in ((2, 9, 0.25), (1, 4, 0.0)):
        total = epochs * steps
        warmup = int(share * total)
        rising = [peak * step / warmup for step in range(warmup)]
        falling = [peak * (total - step) / (total - warmup) for step in range(warmup, total + 1)]
        schedules[f"epochs{epochs}_steps{steps}_warmup{share}"] = rising + falling
    (folder / "lr_schedule.json").write_text(json.dumps(schedules))


def write_golden(folder: Path, seed: int = 1) -> None:
    """Fill a folder with all golden files but those of the metrics and of the caption cleaning."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    config = {"seed": seed, "B": len(IMAGE_IDS), "idx": IMAGE_IDS, "geom": GEOMETRY, "vid": VIDEO, "cfg": SETTINGS}
    (folder / "config.json").write_text(json.dumps(config | {f"len_{half}": row for half, row in LENGTHS.items()}))
    states = {form: random_state(form, generator) for form in FORMS}
    size = GEOMETRY["image_res"]
    inputs = {"idx": torch.tensor(IMAGE_IDS), "image": torch.randn(len(IMAGE_IDS), 3, size, size, generator=generator)}
    inputs["video"], inputs["video_mask"] = _random_videos(VIDEO["lens"], generator)
    for half, lengths in LENGTHS.items():
        inputs[f"{half}_ids"], inputs[f"{half}_mask"] = _random_texts(lengths, GEOMETRY["vocab"], generator)
    _save(folder, "inputs", inputs)
    for form, state in states.items():
        _save(folder, f"{form}_state", state)
        _write_parity(folder, form, state, inputs)
    _write_evaluation(folder, states, generator)
    table = torch.randn(1 + 5**2, 12, generator=generator)
    grid = resize_bicubic(table[1:].double().numpy().reshape(5, 5, -1), 8).reshape(64, -1)
    _save(folder, "pos_embed", {"pos_embed_in": table, "pos_embed_out": torch.cat([table[:1], torch.tensor(grid)])})
    _write_schedules(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write golden files of the reference implementation.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    write_golden(arguments.folder, arguments.seed)
