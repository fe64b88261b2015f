"""Training on clips and on features of frames, from a recipe to a model that is loaded again."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from modeling_leccr import LeccrModel
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig
from modeling_leccr.training.adapters import TOWERS, prepare_parts
from modeling_leccr.training.arguments import build_recipe
from modeling_leccr.training.building import build_model, build_processor, feature_width, frame_sampling, load_splits
from modeling_leccr.training.controls import control_recipes
from modeling_leccr.training.optimization import parameter_groups
from modeling_leccr.training.run import training_pairs
from modeling_leccr.training.trained import model_config
from processing.processing_leccr import LeccrProcessor
from processing.video_frames_leccr import FrameSampling
from processing.visual_rows import VisualReader
from retrieval.evaluation import evaluate_retrieval
from tests.caption_folders import write_store
from tests.test_adapters import trained_names
from tests.test_adapters_run import without_towers
from tests.test_training_building import tower_folders
from tests.tiny import tiny_model, tiny_pairs, with_videos
from tests.training_parts import LOSS, tiny_trainer, weights_of
from tests.video_parts import (
    FEATURE_DIM,
    TINY_VIDEO_MODEL,
    clip_bytes,
    features_of,
    text_split,
    trained,
    video_recipe,
    video_split,
    write_clips,
    write_data,
)

ALONE = {"item_source": "description", "interaction": "none"}
SHORT = {"max_steps": 1, "eval_steps": 1, "save_steps": 1}
# Title -> changes of a recipe of LECCR, given its vision_input.
SYSTEMS: dict[str, Any] = {
    "LECCR": lambda _: {},
    "two streams": lambda seen: {
        "model": {**TINY_VIDEO_MODEL, "vision_input": seen, "item_source": "image", "interaction": "none"}
    },
    "description alone": lambda _: {"model": {**TINY_VIDEO_MODEL, **ALONE}},
    "CL2CM": lambda seen: {
        "system": "cl2cm",
        "model": {"embed_dim": 16, "visual_dim": 32, "num_attention_heads": 4, "vision_input": seen},
    },
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data sets with clips inside, with features inside, and of texts alone."""
    names = ("frames", "features", "texts")
    return {name: write_data(tmp_path_factory.mktemp(name), name) for name in names}


@pytest.mark.parametrize(
    ("title", "vision_input"),
    [
        ("LECCR", "frames"),
        ("LECCR", "features"),
        ("two streams", "frames"),
        ("description alone", "features"),
        ("CL2CM", "frames"),
        ("CL2CM", "features"),
    ],
)
def test_every_system_trains_on_videos_and_is_loaded_again(
    tmp_path: Path, folders: dict[str, Path], title: str, vision_input: str
):
    """A column, a mask or a setting that one of the stages does not pass on: the reloaded model scores otherwise."""
    changes = SYSTEMS[title](vision_input)
    recipe = build_recipe(video_recipe(tmp_path, folders[vision_input], vision_input, num_frames=4, **SHORT, **changes))
    assert recipe.title == title
    run, processor, splits = trained(recipe, tmp_path)
    assert run.model.config.has_frames == (title != "description alone")
    assert "vision_model" in dict(run.model.named_children()) or vision_input == "features" or title.startswith("desc")
    run.model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    loaded = type(run.model).from_pretrained(tmp_path / "model").eval()
    again = LeccrProcessor.from_pretrained(tmp_path / "model")
    found = evaluate_retrieval(loaded, again, splits["test"], ["de"], progress=False)
    assert {name: run.record.metrics["test"][name] for name in found} == found
    assert found["de/num_items"] == 7


@pytest.mark.parametrize("streaming", [False, True])
def test_a_stopped_run_sees_the_frames_that_it_would_have_seen(
    tmp_path: Path, folders: dict[str, Path], streaming: bool
):
    """Frames that are drawn from a generator of the process are others after a stop, and so is the model."""
    stream = {"streaming": True, "shuffle_buffer": 4} if streaming else {}
    every = {**SHORT, "max_steps": 2, "num_frames": 2, "per_device_train_batch_size": 4, **stream}
    settings = video_recipe(tmp_path, folders["features"], "features", **every)
    whole, _, _ = trained(build_recipe(settings), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "checkpoint-2")
    again, _, _ = trained(build_recipe({**settings, "resume_from_checkpoint": True}), tmp_path / "stopped")
    torch.testing.assert_close(weights_of(again.model), weights_of(whole.model), rtol=0, atol=0)


def test_training_draws_the_frames_and_evaluation_does_not(tmp_path: Path):
    """The same frames in each epoch leave most of a clip unseen; drawn ones in evaluation make a score a matter of
    luck."""
    long = [np.arange(40, dtype=np.float32).reshape(20, 2).tolist()] * 8
    trainer = tiny_trainer(
        tmp_path,
        tiny_model(vision_input="features", feature_dim=2),
        split=video_split("features", features=long),
        num_train_epochs=2,
        max_steps=-1,
    )
    seen = []
    for epoch in (0, 1, 1):
        trainer.train_dataset._visuals._reader.sampling = FrameSampling(3)
        loader = trainer.get_train_dataloader()
        loader.set_epoch(epoch)
        seen.append(torch.cat([batch["frame_features"] for batch in loader]))
    assert not torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[2])
    assert len({tuple(item[:, 0].tolist()) for item in seen[0]}) > 4  # not one draw for all items


@pytest.mark.parametrize(
    ("vision_input", "expected"), [("frames", FrameSampling(2, 5.0)), ("features", FrameSampling(2))]
)
def test_all_that_reads_videos_samples_them_alike(
    tmp_path: Path,
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    vision_input: str,
    expected: FrameSampling,
):
    """Training on frames that evaluation does not see, or a check of others than are trained on."""
    samplings, view = [], VisualReader.view

    def recorded(self: VisualReader, row: Any, draw: int | None) -> dict[str, Any]:
        samplings.append((self.sampling, draw is not None))
        return view(self, row, draw)

    rate = {"frame_rate": 5.0} if vision_input == "frames" else {}
    settings = video_recipe(tmp_path, folders[vision_input], vision_input, num_frames=2, **rate, **SHORT)
    recipe = build_recipe(settings)
    monkeypatch.setattr(VisualReader, "view", recorded)
    trained(recipe, tmp_path)
    assert {sampling for sampling, _ in samplings} - {None} == {expected}
    assert {drawn for sampling, drawn in samplings if sampling == expected} == {True, False}
    # The width of features is that of any frame.
    assert sum(sampling is None for sampling, _ in samplings) == (vision_input == "features")


def test_folders_of_clips_and_of_features_are_joined_and_what_is_missing_is_told(
    tmp_path: Path, folders: dict[str, Path], caplog: pytest.LogCaptureFixture
):
    """Clips that are gone from the web must not stop a run, nor be gone in silence."""
    clips = write_clips(tmp_path / "clips", 7)
    numpy_folder = tmp_path / "numpy"
    numpy_folder.mkdir()
    for item in range(7):
        np.save(numpy_folder / f"item-{item}.npy", features_of(item))
    write_store(tmp_path / "store", [f"item-{item}" for item in range(7)])
    joins = (("videos", clips, None), ("features", numpy_folder, FEATURE_DIM), ("features", tmp_path / "store", 3))
    for setting, place, width in joins:
        caplog.clear()
        vision_input = "frames" if setting == "videos" else "features"
        recipe = build_recipe(video_recipe(tmp_path, folders["texts"], vision_input, **{setting: str(place)}))
        splits = load_splits(recipe.data, recipe.config)
        assert [len(split) for split in splits.values()] == [7, 6, 7]
        assert "item-7" in caplog.text and "they are left out" in caplog.text
        assert feature_width(splits["train"]) == width
        assert all(training_pairs(recipe, splits["train"], recipe.config))
        assert str(tmp_path) not in str(recipe.public_settings())
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "item-7.mp4").write_bytes(clip_bytes(7))
    recipe = build_recipe(video_recipe(tmp_path, folders["texts"], "frames", videos=str(tmp_path / "few")))
    with pytest.raises(ValueError, match=r"videos='.*few' holds nothing for the splits \['test', 'validation'\]"):
        load_splits(recipe.data, recipe.config)
    recipe = build_recipe(video_recipe(tmp_path, folders["texts"], "frames"))
    with pytest.raises(ValueError, match=r"reads the column 'video', .* name the folder of their videos"):
        load_splits(recipe.data, recipe.config)


@pytest.mark.parametrize("vision_input", ["frames", "features"])
def test_damaged_items_are_named_or_left_out(tmp_path: Path, vision_input: str, caplog: pytest.LogCaptureFixture):
    """One clip that was cut off by a broken download, among thousands."""
    column, damaged = {
        "frames": ("video", {"bytes": clip_bytes(2)[:300], "path": None}),
        "features": ("features", [[1.0, float("nan")] * 3]),
    }[vision_input]
    whole = video_split(vision_input)[column]
    split = video_split(vision_input, **{column: [*whole[:2], damaged, *whole[3:]]})
    for name in ("train", "validation", "test"):
        split.to_parquet(str(tmp_path / "data" / f"{name}-00000-of-00001.parquet"))
    settings = video_recipe(tmp_path, tmp_path / "data", vision_input)
    with pytest.raises(
        ValueError, match=r"the validation split has 1 (clips|features) .*\['item-2'\].*corrupt_images: skip"
    ):
        trained(build_recipe(settings), tmp_path / "stops")
    skipping = {**settings, "corrupt_images": "skip", "per_device_train_batch_size": 8}
    run, _, splits = trained(build_recipe(skipping), tmp_path / "goes_on")
    assert splits["test"]["video_id"] == [f"item-{item}" for item in (0, 1, 3, 4, 5, 6, 7)]
    assert run.record.metrics["test"]["de/num_items"] == 7
    pairs = training_pairs(build_recipe(settings), split, run.model.config)
    with pytest.raises(ValueError, match=r"'item-2'.*must be readable"):
        pairs[2]


def test_the_width_of_features_is_that_of_the_data(tmp_path: Path, folders: dict[str, Path]):
    """A width that is left out is found; one that contradicts the data is told before training."""
    settings = video_recipe(tmp_path, folders["features"], "features")
    run, _, _ = trained(build_recipe(settings), tmp_path / "found")
    assert run.model.config.feature_dim == FEATURE_DIM
    assert run.model.visual_projection.in_features == FEATURE_DIM
    wrong = {**settings, "model": {**settings["model"], "feature_dim": FEATURE_DIM + 1}}
    with pytest.raises(ValueError, match=r"feature_dim must be the width of the frame features of the data, 6, got 7"):
        trained(build_recipe(wrong), tmp_path / "wrong")
    official = {**settings, "model": {**settings["model"], "project_features": False}}
    with pytest.raises(StrictDataclassClassValidationError, match=r"feature_dim=6 and slot_dim=32; set the same"):
        trained(build_recipe(official), tmp_path / "official")


def test_scores_of_slots_are_refused_before_training_goes_on_from_a_model_without(tmp_path: Path):
    """The base alone says whether there are slots; the first evaluation would find out."""
    tiny_model(item_source="image", interaction="none").config.save_pretrained(tmp_path)
    settings = {"dataset": "none", "target_languages": ["de"], "base_model": str(tmp_path)}
    assert not model_config(build_recipe(settings)).has_slots
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match=r"base_model must be a whole model, got .*run', which holds no config\.json"):
        model_config(build_recipe({**settings, "base_model": str(tmp_path / "run")}))
    with pytest.raises(ValueError, match="scoring must be fused or global for"):
        model_config(build_recipe({**settings, "scoring": "slots"}))


def test_a_trained_model_of_videos_is_trained_on(tmp_path: Path, folders: dict[str, Path]):
    """A recipe with `base_model` knows of the model only what the base says: that it reads features, and how many."""
    settings = video_recipe(tmp_path, folders["features"], "features", num_frames=3, **SHORT)
    first, processor, _ = trained(build_recipe(settings), tmp_path / "first")
    first.model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    further = {**without_towers(settings), "base_model": str(tmp_path / "base"), "target_languages": ["de"]}
    run, again, _ = trained(build_recipe(further), tmp_path / "further")
    assert run.model.config.vision_input == "features" and again.num_frames == 3
    recipe = build_recipe({**further, "augmentation": {"flip": False}})
    with pytest.raises(ValueError, match="augmentation has no meaning for model"):
        model_config(recipe)
    recipe = build_recipe({**further, "dataset": str(folders["frames"])})
    with pytest.raises(ValueError, match="reads the column 'features'"):
        load_splits(recipe.data, model_config(recipe))


@pytest.mark.parametrize(
    ("vision_input", "changes", "message"),
    [
        ("image", {"videos": "clips"}, "videos has no meaning for model.vision_input: image, only for frames"),
        ("features", {"videos": "clips"}, "videos has no meaning for model.vision_input: features"),
        ("frames", {"features": "store"}, r"features has no meaning .*: frames, .*leave it out \(`--features null`\)"),
        ("frames", {"images": "pictures"}, "images has no meaning for model.vision_input: frames"),
        (
            "image",
            {"num_frames": 4},
            "num_frames has no meaning for model.vision_input: image, only for frames or feat",
        ),
        ("features", {"frame_rate": 2.0}, "frame_rate has no meaning for model.vision_input: features"),
        ("features", {"augmentation": {"flip": True}}, "augmentation has no meaning for model.vision_input: features"),
        (
            "features",
            {"vision_training": "frozen"},
            "vision_training must be left out where neither pictures nor frames",
        ),
        ("features", {"learning_rate_multipliers": {"vision": 2}}, "no factor for 'vision' where neither"),
        ("frames", {"num_frames": 0}, "num_frames must be at least 1"),
        ("frames", {"frame_rate": 0.0}, "frame_rate must be"),
        ("frames", {"streaming": True, "videos": "clips"}, r"streaming does not go with \{'videos': 'clips'\}"),
        ("features", {"dataset": "scenes_video"}, "form: clips is read with model.vision_input: frames, got features"),
        ("frames", {"scenes_video": {"frames": 3}}, r"unknown settings \['frames'\] in scenes_video"),
    ],
)
def test_what_has_no_meaning_is_refused(tmp_path: Path, vision_input: str, changes: dict[str, Any], message: str):
    """A folder that nobody reads, or a crop that nothing is cut by: the report would tell of it all the same."""
    with pytest.raises(ValueError, match=message):
        build_recipe(video_recipe(tmp_path, Path("data"), vision_input, **changes))


def test_controls_of_videos_share_what_is_seen(tmp_path: Path, folders: dict[str, Path]):
    """Descriptions alone beside LECCR is the control that counts; it has no use for what the recipe says of frames."""
    alone, streams = {"model": dict(ALONE)}, {"model": {"item_source": "image", "interaction": "none"}}
    controls = {"description alone": alone, "two streams": streams}
    settings = video_recipe(tmp_path, folders["features"], "features", num_frames=3, controls=controls)
    recipe = build_recipe(settings)
    found = control_recipes(recipe)
    assert not found["description alone"].config.reads_image
    assert found["two streams"].config.vision_input == "features"
    splits = load_splits(recipe.data, recipe.config)
    processor = build_processor(recipe.model, splits["train"], ["de"])
    for control in found.values():
        build_model(control.model, processor.tokenizer, feature_dim=feature_width(splits["train"]))
    other = {"frames": {"model": {"vision_input": "frames", "feature_dim": None}}}
    with pytest.raises(ValueError, match=r"control 'frames' must see .*vision_input: features, got frames"):
        control_recipes(build_recipe({**settings, "num_frames": None, "controls": other}))
    with pytest.raises(ValueError, match=r"the control 'hot': unknown settings .'learning_rat'"):
        control_recipes(build_recipe({**settings, "controls": {"hot": {"learning_rat": 1.0}}}))
    with pytest.raises(ValueError, match=r"share the data.*got changes of \['num_frames'\]"):
        control_recipes(build_recipe({**settings, "controls": {"fewer": {"num_frames": 2}}}))


def video_model(vision_input: str, how: tuple[str, str]) -> LeccrModel:
    fields: dict[str, Any] = {"feature_dim": FEATURE_DIM} if vision_input == "features" else {}
    model = tiny_model(vision_input=vision_input, **fields)
    torch.manual_seed(0)
    prepare_parts(model, dict(zip(TOWERS, how, strict=True)), {})
    return model.train()


@pytest.mark.parametrize(
    ("vision_input", "how"),
    [
        ("frames", ("full", "full")),
        ("frames", ("lora", "lora")),
        ("frames", ("frozen", "lora")),
        ("frames", ("frozen", "full")),
        ("features", ("full", "lora")),
        ("features", ("full", "frozen")),
    ],
)
def test_towers_of_videos_learn_as_asked_and_what_lies_behind_them_always(vision_input: str, how: tuple[str, str]):
    """The block over the frames would stay as it is drawn, or DDP stop at a parameter that nothing reads."""
    model = video_model(vision_input, how)
    batch = with_videos(tiny_pairs(4), vision_input)
    if vision_input == "features":
        batch["frame_features"] = batch["frame_features"][..., :FEATURE_DIM]
    criterion = LeccrCriterion(LossConfig(**LOSS))
    output = model(**batch)
    criterion.total(criterion(criterion.summarise(output, torch.arange(4)), output.logit_scale)).backward()
    learns = {name.split(".")[0] for name in trained_names(model)}
    towers = {tower for tower, training in zip(TOWERS.values(), how, strict=True) if training != "frozen"}
    towers &= {name for name, _ in model.named_children()}
    assert {"frame_encoder", "visual_projection", "interaction"} <= learns
    assert learns & set(TOWERS.values()) == towers
    silent = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not silent
    if how[0] == "frozen":
        assert not model.vision_model.training and model.frame_encoder.training


def test_the_block_over_frames_learns_as_the_heads_do():
    """A factor for the vision tower must not slow what is new, and without tower there is none."""
    factors = {"vision": 0.1, "text": 0.5, "heads": 3.0}
    model = tiny_model(vision_input="frames")
    groups = parameter_groups(model, learning_rate=1.0, weight_decay=0.1, multipliers=factors)
    rates = {id(value): group["lr"] for group in groups for value in group["params"]}
    assert {rates[id(value)] for value in model.frame_encoder.parameters()} == {3.0}
    assert {rates[id(value)] for value in model.vision_model.parameters()} == {0.1}
    of_features = tiny_model(vision_input="features", feature_dim=FEATURE_DIM)
    assert "vision_model" not in dict(of_features.named_children())
    with pytest.raises(ValueError, match=r"factors for \['vision'\], of which the model trains nothing"):
        parameter_groups(of_features, learning_rate=1.0, weight_decay=0.1, multipliers=factors)


def test_items_that_differ_in_the_order_of_their_frames_alone_can_be_learned(tmp_path: Path):
    """Moves left and moves right have the same frames. Whatever mixes the order up between the file and the loss, such
    as a draw without sorting, leaves chance."""
    frames = np.eye(4, FEATURE_DIM, dtype=np.float32)
    orders = [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)]
    split = video_split("features", 4, features=[frames[list(order)].tolist() for order in orders])
    streams: dict[str, Any] = {"item_source": "image", "dropout": 0.0, "text_pooling": "mean"}
    model = tiny_model(vision_input="features", feature_dim=FEATURE_DIM, **streams).train()
    trainer = tiny_trainer(tmp_path, model, split=split, max_steps=40, learning_rate=5e-3, logging_steps=40)
    trainer.train()
    found = trainer.retrieval_metrics(split)
    assert found["de/t2i_R@1"] == found["de/i2t_R@1"] == 100.0


def test_training_from_towers_by_name_needs_no_vision_tower_for_features(tmp_path: Path, folders: dict[str, Path]):
    """The default vision tower is a name on the Hub, which a run on features must not ask for."""
    vision, text = tower_folders(tmp_path)
    for vision_input, towers in (("features", {}), ("frames", {"vision_tower": vision})):
        settings = video_recipe(tmp_path, folders[vision_input], vision_input, **towers, text_tower=text, **SHORT)
        if not towers:
            del settings["vision_tower"]
        run, _, _ = trained(build_recipe(settings), tmp_path / vision_input)
        assert hasattr(run.model, "vision_model") == bool(towers)


def test_a_recipe_says_which_frames_are_read(tmp_path: Path):
    """A processor that samples otherwise than the training did finds other things."""
    for vision_input, changes, expected in (
        ("frames", {}, (12, None)),
        ("frames", {"num_frames": 5, "frame_rate": 2.0}, (5, 2.0)),
        ("features", {"num_frames": 5}, (5, None)),
        ("features", {}, (None, None)),
        ("image", {}, (None, None)),
    ):
        recipe = build_recipe(video_recipe(tmp_path, Path("data"), vision_input, **changes))
        processor = build_processor(recipe.model, text_split(8), ["de"])
        assert (processor.num_frames, processor.frame_rate) == expected
        assert processor.sampling == frame_sampling(recipe.model, recipe.config)
