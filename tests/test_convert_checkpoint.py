"""Checkpoints of the released code as model folders: equal outputs, a report by name, refusals that run nothing."""

import argparse
import hashlib
import io
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoProcessor

from hub_scripts import cli, convert_checkpoint
from modeling_leccr import LeccrModel
from modeling_leccr.configuration_leccr import OFFICIAL_CHOICES, OFFICIAL_VIDEO_CHOICES
from modeling_leccr.export import save_for_hub
from modeling_leccr.official_checkpoint import official_shapes, official_sizes
from modeling_leccr.official_file import read_official_file
from processing.processing_leccr import clean_caption
from processing.tokenizer import train_tokenizer
from reporting.markdown import plain
from reporting.model_record import ModelRecord
from tests.make_golden import FORMS, write_golden
from tests.test_golden_model import STATES, build_model, differences, read_json, run_golden_step, text_tower_config
from tests.tiny import SENTENCES, tiny_image
from tests.training_parts import weights_of

State = dict[str, Tensor]
QUERY_WEIGHT = "text_encoder.encoder.layer.0.attention.self.query.weight"


@pytest.fixture(scope="module")
def state(golden_dir: Path) -> State:
    """Weights of the image form under the official names."""
    return load_file(golden_dir / "image_state.safetensors")


@pytest.fixture(scope="module")
def video_state(golden_dir: Path) -> State:
    """The same of the video form."""
    return load_file(golden_dir / "video_state.safetensors")


@pytest.fixture(scope="module")
def tower(golden_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text tower of the golden folder."""
    return text_tower(golden_dir, tmp_path_factory.mktemp("tower"))


@pytest.fixture(scope="module")
def converted(
    golden_dir: Path, state: State, tower: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, str]:
    """A checkpoint, the model folder made of it, and what the command printed."""
    folder = tmp_path_factory.mktemp("converted")
    checkpoint = save_checkpoint(state, folder / "checkpoint_best.pth")
    with redirect_stdout(io.StringIO()) as printed:
        convert(checkpoint, folder / "model", tower)
    return checkpoint, folder / "model", printed.getvalue()


def convert(checkpoint: Path, target: Path, tower: str, *options: str) -> None:
    convert_checkpoint.main(["--checkpoint", str(checkpoint), "--out", str(target), "--text-tower", tower, *options])


def text_tower(golden: Path, folder: Path) -> str:
    """Configuration and tokenizer as a user has them; no weights, which nothing needs."""
    config = text_tower_config(golden)
    config.save_pretrained(folder)
    texts = [text for row in SENTENCES for text in row]
    train_tokenizer(texts, config.vocab_size, max_length=config.max_position_embeddings).save_pretrained(folder)
    return str(folder)


def save_checkpoint(state: State, path: Path, **entries: Any) -> Path:
    """A file as the released training writes it."""
    content = {
        "model": OrderedDict(state),
        "optimizer": {"state": {0: {"step": 1, "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-5}]},
        "lr_scheduler": {"last_epoch": 1, "lr_lambdas": [None]},
        "config": {"image_res": 384, "batch_size_train": 64},
        "epoch": 7,
    }
    torch.save(content | entries, path)
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", STATES)
@pytest.mark.parametrize("other_sizes", [False, True])
def test_golden_checkpoint_becomes_a_model_with_the_outputs_of_the_released_code(
    golden_dir: Path, tmp_path: Path, suffix: str, other_sizes: bool, form: str
):
    """The whole way through the file, the command and AutoModel: a weight in the wrong place changes some stage."""
    golden = golden_dir
    if other_sizes:
        golden = tmp_path / "golden"
        write_golden(golden, seed=1)
    state = load_file(golden / f"{form}_state.safetensors")
    if suffix:
        state["queries"] = torch.zeros_like(state["queries"])
    checkpoint = save_checkpoint(state, tmp_path / "checkpoint.pth")
    tower = text_tower(golden, tmp_path / "tower")
    convert(checkpoint, tmp_path / "model", tower)
    model = AutoModel.from_pretrained(tmp_path / "model")
    expected = load_file(golden / f"{form}_expected{suffix}.safetensors")
    values = run_golden_step(model, golden, form).values
    assert sorted(set(expected) - set(values)) == []
    assert differences(values, expected) == {}


def test_the_model_is_the_official_preset_with_the_sizes_of_the_weights(converted, golden_dir: Path):
    """A corrected choice in the configuration gives other numbers than the published ones."""
    config = AutoModel.from_pretrained(converted[1]).config
    assert {name: getattr(config, name) for name in OFFICIAL_CHOICES} == OFFICIAL_CHOICES
    assert config.global_weight == 1.0  # the released script does not rank by slots
    golden = read_json(golden_dir, "config.json")
    geometry, settings = golden["geom"], golden["cfg"]
    assert config.num_slots == settings["num_queries"]
    assert config.num_slot_layers == settings["caption_ca_layer"]
    assert config.num_interaction_layers == settings["caption_interaction_layer"]
    assert (config.embed_dim, config.slot_dim) == (settings["embed_dim"], geometry["clip_embed"])
    vision, text = config.vision_config, config.text_config
    assert (vision.hidden_size, vision.num_hidden_layers) == (geometry["clip_v_width"], geometry["clip_v_layers"])
    assert (vision.image_size, vision.patch_size) == (geometry["image_res"], geometry["patch"])
    assert vision.num_attention_heads == geometry["clip_v_width"] // 64
    assert vision.hidden_act == "quick_gelu"
    assert (text.num_attention_heads, text.num_hidden_layers) == (geometry["t_heads"], geometry["t_layers"])


def test_a_video_checkpoint_becomes_a_model_of_frame_features(
    video_state: State, golden_dir: Path, tower: str, tmp_path: Path
):
    """The form is told by the weights alone: a model with a vision tower or a projection would lack weights of them."""
    checkpoint = save_checkpoint(video_state, tmp_path / "checkpoint.pth")
    with redirect_stdout(io.StringIO()) as printed:
        convert(checkpoint, tmp_path / "model", tower)
    report, golden = json.loads(printed.getvalue()), read_json(golden_dir, "config.json")
    dropped = [key for keys in report["dropped"].values() for key in keys]
    assert sorted(dropped) == sorted(read_json(golden_dir, "video_params_without_grad.json"))
    assert report["converted"] + len(dropped) == len(video_state)
    assert (report["form"], report["sizes"]["vision"]) == ("video", None)
    model = AutoModel.from_pretrained(tmp_path / "model")
    assert not hasattr(model, "vision_model") and not hasattr(model, "visual_projection")
    fixed = OFFICIAL_CHOICES | OFFICIAL_VIDEO_CHOICES["features"]
    assert {name: getattr(model.config, name) for name in fixed} == fixed
    assert model.config.vision_input == "features" and model.config.global_weight == 0.9
    assert (model.config.feature_dim, model.config.num_frame_layers) == (golden["vid"]["width"], golden["vid"]["layer"])
    with pytest.raises(ValueError, match=r"checkpoint\.pth: the video form .* has no vision tower, got 4 attention"):
        convert(checkpoint, tmp_path / "other", tower, "--vision-heads", "4")
    assert not (tmp_path / "other").exists()


def test_the_processor_of_a_video_checkpoint_gives_what_its_model_reads(
    video_state: State, tower: str, tmp_path: Path, golden_dir: Path
):
    """A model that nothing can feed is of no use; cut or thinned features give other numbers than the released ones."""
    convert(save_checkpoint(video_state, tmp_path / "checkpoint.pth"), tmp_path / "model", tower)
    model, processor = AutoModel.from_pretrained(tmp_path / "model"), AutoProcessor.from_pretrained(tmp_path / "model")
    inputs = load_file(golden_dir / "inputs.safetensors")
    videos = [frames[mask] for frames, mask in zip(inputs["video"], inputs["video_mask"], strict=True)]
    descriptions = [row[2] for row in SENTENCES[: len(videos)]]
    batch = processor(features=videos, descriptions=descriptions)
    assert batch["frame_features"].equal(inputs["video"]) and batch["frame_mask"].bool().equal(inputs["video_mask"])
    embeds = model.get_image_features(**batch).pooler_output
    alone = model.get_image_features(**processor(features=videos[1:2], descriptions=descriptions[1:2])).pooler_output
    torch.testing.assert_close(embeds[1:2], alone, atol=1e-5, rtol=0)


def test_the_processor_prepares_as_the_released_evaluation(converted, golden_dir: Path):
    """A centre crop or raw captions cost recall without any error."""
    processor = AutoProcessor.from_pretrained(converted[1])
    geometry = read_json(golden_dir, "config.json")["geom"]
    size = geometry["image_res"]
    wide = tiny_image(0, 2 * size).resize((3 * size, size))
    found = processor(images=[wide])["pixel_values"]
    squeezed = torch.tensor(list(wide.resize((size, size), 3).get_flattened_data())).reshape(size, size, 3) / 255
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    torch.testing.assert_close(found[0], ((squeezed - mean) / std).permute(2, 0, 1), atol=1e-5, rtol=0)
    assert processor.max_length == min(200, geometry["t_maxpos"])
    raw = "A red ball; " + "a boat, " * 40
    plain = AutoProcessor.from_pretrained(converted[1], clean_captions=False)
    assert processor(text=[raw])["input_ids"].equal(plain(text=[clean_caption(raw, 30)])["input_ids"])
    assert not processor(text=[raw])["input_ids"].equal(plain(text=[raw])["input_ids"])


def test_the_report_names_what_was_dropped_and_why(converted, golden_dir: Path, state: State):
    """Only the parameters without a gradient in the released code may disappear."""
    checkpoint, folder, printed = converted
    report = json.loads(printed)
    dropped = [key for keys in report["dropped"].values() for key in keys]
    assert sorted(dropped) == sorted(read_json(golden_dir, "image_params_without_grad.json"))
    assert report["converted"] + len(dropped) == len(state)
    assert "itm_head.0.weight" in next(keys for reason, keys in report["dropped"].items() if "matching head" in reason)
    assert report["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert report["checkpoint"] == checkpoint.name
    assert report["out"] == str(folder)
    assert report["sizes"]["num_slots"] == len(state["queries"])


def test_nothing_in_the_folder_tells_where_it_was_made(converted, tower: str):
    """The folder is pushed as it is."""
    checkpoint, folder, _ = converted
    texts = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {"config.json", "processor_config.json", "README.md", "model.safetensors"} <= set(texts)
    for trace in (tower, str(checkpoint.parent)):
        assert [name for name, content in texts.items() if trace.encode() in content] == []
    assert "_name_or_path" not in texts["config.json"].decode()


def test_the_card_says_that_the_weights_were_converted_and_from_what(converted, tmp_path: Path):
    """They would be taken for trained here; and whoever pushes the folder has not got the file any more."""
    checkpoint, folder, _ = converted
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    origin = f"converted from {checkpoint.name}, a checkpoint of the released code of LECCR (sha256 {sha256})"
    assert ModelRecord.read(folder).origin == origin
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    again = save_for_hub(model, processor, tmp_path / "again", record=ModelRecord.read(folder), repo_id="owner/pushed")
    for place in (folder, again):
        card = (place / "README.md").read_text(encoding="utf-8")
        assert f"Its weights were {plain(origin)}." in card and "trained this model" not in card
    assert ModelRecord.read(again) == ModelRecord.read(folder)


@pytest.mark.parametrize("form", FORMS)
def test_shapes_are_those_of_the_golden_checkpoint(golden_dir: Path, form: str):
    """The list of expected keys is what refusals go by; one that is too short lets a lost weight pass."""
    state = load_file(golden_dir / f"{form}_state.safetensors")
    expected = official_shapes(official_sizes(state))
    dropped = {key for key in state if convert_checkpoint.drop_reason(key) is not None}
    assert expected == {key: tuple(value.shape) for key, value in state.items() if key not in dropped}


def as_safetensors(state: State, path: Path) -> Path:
    save_file(state, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def as_older_file(state: State, path: Path) -> Path:
    torch.save({"model": state}, path, _use_new_zipfile_serialization=False)
    return path


FORMS: dict[str, Callable[[State, Path], Path]] = {
    "distributed": lambda state, path: save_checkpoint({f"module.{key}": value for key, value in state.items()}, path),
    "namespace": lambda state, path: save_checkpoint(state, path, config=argparse.Namespace(image_res=384)),
    "safetensors": as_safetensors,
    "older": as_older_file,
    "half": lambda state, path: save_checkpoint({key: value.half() for key, value in state.items()}, path),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_of_the_file_give_the_same_weights(state: State, tmp_path: Path, form: str):
    """Released files come out of distributed training, of older torch, and without their optimizer."""
    found = read_official_file(FORMS[form](state, tmp_path / "checkpoint.pth"))
    assert set(found) == set(state)
    assert all(found[key].float().allclose(value, atol=1e-3, rtol=1e-3) for key, value in state.items())


def test_weights_of_half_precision_become_a_float_model(state: State, golden_dir: Path, tower: str, tmp_path: Path):
    """CLIP is distributed in half precision; a model of two types fails at its first linear layer."""
    checkpoint = FORMS["half"](state, tmp_path / "checkpoint.pth")
    convert(checkpoint, tmp_path / "model", tower)
    found, expected = weights_of(AutoModel.from_pretrained(tmp_path / "model")), weights_of(build_model(golden_dir))
    assert {value.dtype for value in found.values() if value.is_floating_point()} == {torch.float32}
    assert all(found[key].allclose(value, atol=5e-3, rtol=2e-3) for key, value in expected.items())


class Malicious:
    """Unpickled the usual way, it makes a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def without(state: State, key: str) -> State:
    return {name: value for name, value in state.items() if name != key}


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def pickled(content: Any, path: Path) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def text_file(path: Path) -> Path:
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    return path


# What is wrong with the file, how it is made, and what the one line must tell.
REFUSALS: dict[str, tuple[Callable[[State, Path], Any], str]] = {
    "missing": (lambda s, p: save_checkpoint(without(s, QUERY_WEIGHT), p), rf"1 missing \({QUERY_WEIGHT}\)"),
    "missing_size": (lambda s, p: save_checkpoint(without(s, "queries"), p), "key 'queries' is missing"),
    "missing_layer": (
        lambda s, p: save_checkpoint({k: v for k, v in s.items() if ".resblocks.0.ln_" not in k}, p),
        r"missing \(clip_encoder\.visual\.transformer\.resblocks\.0\.ln_1\.bias, ",
    ),
    "unknown": (lambda s, p: save_checkpoint(s | {"extra.weight": torch.ones(1)}, p), r"1 unknown \(extra\.weight\)"),
    "unknown_in_clip": (
        lambda s, p: save_checkpoint(s | {"clip_encoder.adapter": torch.ones(1)}, p),
        r"1 unknown \(clip_encoder\.adapter\)",
    ),
    "misshaped": (
        lambda s, p: save_checkpoint(s | {"vproj.bias": torch.ones(3)}, p),
        r"1 of another shape \(vproj\.bias is \(3,\) instead of \(\d+,\)\)",
    ),
    "transposed": (
        lambda s, p: save_checkpoint(s | {"vision_proj.weight": s["vision_proj.weight"].T.clone()}, p),
        r"vision_proj\.weight is \(\d+, \d+\) instead of \(\d+, \d+\)",
    ),
    "axes": (
        lambda s, p: save_checkpoint(s | {"queries": s["queries"][:, 0].clone()}, p),
        "key 'queries' must have 3 axes",
    ),
    "not_finite": (
        lambda s, p: save_checkpoint(s | {"vproj.bias": s["vproj.bias"] * float("nan")}, p),
        r"1 not finite \(vproj\.bias\)",
    ),
    "temperature": (lambda s, p: save_checkpoint(s | {"temp": torch.tensor(0.0)}, p), "key 'temp' .* above 0"),
    "not_a_tensor": (lambda s, p: save_checkpoint(s | {"queries": [1.0]}, p), r"other values \(\['queries'\]\)"),
    "both_forms": (
        lambda s, p: save_checkpoint(s | {"vid_encoder.layers.0.norm2.bias": torch.ones(8)}, p),
        r"not those of the video form: \d+ missing \(vid_encoder\..*unknown \(clip_encoder\.visual\.",
    ),
    "no_model": (lambda s, p: torch.save({"state_dict": s}, p), r"no weights under 'model'.*\['state_dict'\]"),
    "empty_model": (lambda s, p: save_checkpoint({}, p), "none at all"),
    "tensor": (lambda s, p: torch.save(torch.ones(2), p), "got an object of type Tensor"),
    "text": (lambda s, p: text_file(p), "cannot be read as a checkpoint of torch"),
    "nothing": (lambda s, p: p.write_bytes(b""), "cannot be read as a checkpoint of torch"),
    "cut": (lambda s, p: cut(save_checkpoint(s, p)), "cannot be read as a checkpoint of torch"),
    "cut_older": (lambda s, p: cut(as_older_file(s, p)), "cannot be read as a checkpoint of torch"),
    "code": (lambda s, p: save_checkpoint(s, p, config=Malicious(p.parent / "canary")), r"foreign object \w+\.mkdir"),
    "code_in_pickle": (
        lambda s, p: pickled({"model": Malicious(p.parent / "canary")}, p),
        r"foreign object \w+\.mkdir",
    ),
    "absent": (lambda s, p: None, "there is no file"),
}


# The same of the video form.
VIDEO_REFUSALS: dict[str, tuple[Callable[[State, Path], Any], str]] = {
    "missing": (
        lambda s, p: save_checkpoint(without(s, "vid_encoder.layers.0.linear1.bias"), p),
        r"video form: 1 missing \(vid_encoder\.layers\.0\.linear1\.bias\)\. .*released video code",
    ),
    "misshaped": (
        lambda s, p: save_checkpoint(s | {"vid_encoder.layers.0.norm2.bias": torch.ones(3)}, p),
        r"1 of another shape \(vid_encoder\.layers\.0\.norm2\.bias is \(3,\) instead of \(\d+,\)\)",
    ),
    "unknown": (
        lambda s, p: save_checkpoint(s | {"vid_proj.weight": torch.ones(1)}, p),
        r"video form: 1 unknown \(vid_proj\.weight\)",
    ),
    "without_frames": (
        lambda s, p: save_checkpoint({k: v for k, v in s.items() if not k.startswith("vid_encoder.")}, p),
        r"'clip_encoder\.visual\.conv1\.weight' is missing, .* no complete checkpoint of the image or the video form",
    ),
}


@pytest.mark.parametrize("fault", VIDEO_REFUSALS)
def test_a_video_file_that_does_not_fit_is_refused_by_name(video_state: State, tower: str, tmp_path: Path, fault: str):
    """As of the image form."""
    make, message = VIDEO_REFUSALS[fault]
    make(video_state, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "checkpoint.pth", tmp_path / "model", tower)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_file_that_does_not_fit_is_refused_by_name(state: State, tower: str, converted, tmp_path: Path, fault: str):
    """One line names the file and the key; what is at the target stays, and no code of the file runs."""
    make, message = REFUSALS[fault]
    checkpoint = tmp_path / "checkpoint.pth"
    make(state, checkpoint)
    for target in (tmp_path / "absent", converted[1]):
        before = contents(target)
        with pytest.raises(SystemExit, match=message) as refused:
            cli.main(
                ["convert_checkpoint", "--checkpoint", str(checkpoint), "--out", str(target), "--text-tower", tower]
            )
        told = str(refused.value)
        assert str(checkpoint) in told
        assert "\n" not in told
        assert "weights_only" not in told
        assert contents(target) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"checkpoint.pth"}


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Names, sizes and times of the files of a folder; none where it is absent."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


def test_the_canary_is_alive(tmp_path: Path):
    """A malicious file that could not harm anybody proves nothing."""
    pickle.loads(pickle.dumps(Malicious(tmp_path / "canary")))
    assert (tmp_path / "canary").is_dir()


def test_a_damaged_safetensors_file_is_refused(state: State, tower: str, tmp_path: Path):
    """The library's own error names neither the file nor what to do."""
    damaged = cut(as_safetensors(state, tmp_path / "checkpoint"))
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: it cannot be read as safetensors"):
        convert(damaged, tmp_path / "model", tower)


def test_another_text_tower_is_refused_with_what_differs(golden_dir: Path, state: State, tower: str, tmp_path: Path):
    """With a wrong vocabulary each token takes the vector of another, and only recall tells."""
    checkpoint = save_checkpoint(state, tmp_path / "checkpoint.pth")
    target = tmp_path / "model"
    vocab_size = text_tower_config(golden_dir).vocab_size
    deeper = text_tower_config(golden_dir)
    deeper.num_hidden_layers, deeper.vocab_size = 9, vocab_size + 1
    deeper.save_pretrained(tmp_path / "deeper")
    train_tokenizer(["a b c"], 9, max_length=20).save_pretrained(tmp_path / "deeper")
    differing = rf"vocab_size {vocab_size + 1} instead of {vocab_size}, num_hidden_layers 9 instead of \d+;"
    with pytest.raises(ValueError, match=differing):
        convert(checkpoint, target, str(tmp_path / "deeper"))
    with pytest.raises(FileNotFoundError, match="the text tower 'nobody/nothing' cannot be read: "):
        convert(checkpoint, target, "nobody/nothing")
    with pytest.raises(ValueError, match="must be a multiple of its number of heads, got 7"):
        convert(checkpoint, target, tower, "--vision-heads", "7")
    with pytest.raises(ValueError, match="must be a multiple of its number of heads, got 0"):
        convert(checkpoint, target, tower, "--vision-heads", "0")
    assert not target.exists()
    sizes = official_sizes(state)
    tokenizer = train_tokenizer(["abc"], 9, max_length=20)
    tokenizer.add_tokens([f"added{i}" for i in range(sizes.vocab_size)])
    with pytest.raises(ValueError, match=rf"has \d+ tokens and the checkpoint embeds {sizes.vocab_size}"):
        convert_checkpoint.official_processor(sizes, tokenizer)


def test_a_folder_of_something_else_is_never_replaced(state: State, tower: str, tmp_path: Path):
    """`--out .` must not delete the user's work."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "notes.txt").write_text("mine")
    checkpoint = save_checkpoint(state, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="would be replaced, and holds"):
        convert(checkpoint, tmp_path / "work", tower)
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["notes.txt"]
    files = {path: path.read_bytes() for path in Path(tower).iterdir()}
    with pytest.raises(ValueError, match="would be replaced, and holds"):
        convert(checkpoint, Path(tower), tower)
    assert {path: path.read_bytes() for path in Path(tower).iterdir()} == files


def test_licence_languages_and_heads_are_those_asked_for(golden_dir: Path, state: State, tower: str, tmp_path: Path):
    """The weights do not tell them."""
    checkpoint = save_checkpoint(state, tmp_path / "checkpoint.pth")
    convert(checkpoint, tmp_path / "model", tower, "--license", "cc-by-4.0", "--vision-heads", "4", "--languages", "de")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "license: cc-by-4.0" in card and "language:\n- en\n- de\n" in card
    model = AutoModel.from_pretrained(tmp_path / "model")
    assert isinstance(model, LeccrModel)
    assert model.config.vision_config.num_attention_heads == 4
    convert(checkpoint, tmp_path / "model", tower)
    assert "license: unknown" in (tmp_path / "model" / "README.md").read_text()
