"""CL2CM is trained in two stages: the cross-lingual network, saved and frozen, then the network that learns from it."""

import copy
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_leccr import Cl2cmModel, CrossLingualModel
from modeling_leccr.training import run as run_module
from modeling_leccr.training.arguments import Recipe, build_recipe
from modeling_leccr.training.building import build_model, build_processor, load_splits
from modeling_leccr.training.controls import control_recipes
from modeling_leccr.training.outputs import write_metrics
from modeling_leccr.training.run import SystemRun, start_from_teacher, train_system
from modeling_leccr.training.systems import varied
from modeling_leccr.training.trained import load_teacher
from modeling_leccr.training.trainer import LeccrTrainer
from processing.processing_leccr import LeccrProcessor
from processing.records import DESCRIPTION_COLUMN, IMAGE_COLUMN
from retrieval.evaluation import evaluation_protocol, retrieval_ranks
from tests.tiny import (
    tiny_cl2cm,
    tiny_cross_lingual,
    tiny_model,
    tiny_processor,
    tiny_text_config,
)
from tests.training_parts import tiny_recipe, tiny_split, tiny_trainer, weights_of

STAGE_2_TERMS = {"source_contrastive", "target_contrastive", "cross_lingual", "relational_transfer"}
STAGE_1_TERMS = {"cross_lingual", "word_transport", "word_alignment", "marginal_error"}


def two_stages(folder: Path, **changes: Any) -> dict[str, Any]:
    """A tiny recipe in two stages of 2 steps each; the text towers have dropout."""
    settings = {
        "system": "cl2cm",
        "model": {"embed_dim": 16, "visual_dim": 32},
        "cross_lingual": {"learning_rate": 2e-3, "loss": {"word_alignment": 0.5}},
        "save_total_limit": 5,
    }
    return tiny_recipe(folder, **{**settings, **changes})


def trained(recipe: Recipe, folder: Path) -> tuple[SystemRun, LeccrProcessor]:
    splits = load_splits(recipe.data, recipe.config)
    processor = build_processor(recipe.model, splits["train"], recipe.data.target_languages)
    return train_system(recipe, splits, processor, folder / "checkpoints", parts_folder=folder), processor


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_same_weights(model: torch.nn.Module, other: torch.nn.Module) -> None:
    torch.testing.assert_close(weights_of(model), weights_of(other), rtol=0, atol=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two_stages")


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[SystemRun, LeccrProcessor]:
    """A run that nobody disturbed."""
    return trained(build_recipe(two_stages(folder)), folder)


def test_a_recipe_trains_both_stages_and_keeps_the_teacher(whole: tuple[SystemRun, LeccrProcessor], folder: Path):
    """A stage that learns nothing, or a teacher that nobody can load again, would leave plain two streams."""
    run, processor = whole
    assert type(run.model) is Cl2cmModel
    (first, second) = (entry for entry in run.log_history if "loss" in entry)
    assert {name.removeprefix("loss/") for name in first if name.startswith("loss/")} == STAGE_2_TERMS
    assert first["loss/relational_transfer"] > 0 and first["loss"] != second["loss"]
    teacher = load_teacher(folder / "teacher", processor)
    assert type(teacher) is CrossLingualModel
    assert not any(part.training for part in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    (newest,) = (folder / "checkpoints" / "first_stage").glob("checkpoint-2")
    history = json.loads((newest / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    found = {name.removeprefix("loss/") for name in history[0] if name.startswith("loss/")}
    assert found == STAGE_1_TERMS
    for name in ("model.safetensors", "metrics.json", "README.md", "golden"):
        assert (folder / "teacher" / name).exists(), name


def test_the_teacher_is_in_no_checkpoint_and_no_optimizer(whole: tuple[SystemRun, LeccrProcessor], folder: Path):
    """It would double what is saved and pushed, and a teacher among the trained weights follows its student."""
    run, _ = whole
    assert not [name for name in run.model.state_dict() if "teacher" in name]
    newest = folder / "checkpoints" / "checkpoint-2"
    moments = torch.load(newest / "optimizer.pt", weights_only=True)["state"]
    assert len(moments) == len(list(run.model.parameters()))


def test_each_stage_alone_is_that_stage_of_the_whole_run(
    whole: tuple[SystemRun, LeccrProcessor], tmp_path: Path, folder: Path
):
    """What the first stage draws must not reach the second; and people train one teacher for many students."""
    run, _ = whole
    settings = two_stages(tmp_path)
    alone, _ = trained(build_recipe(varied(settings, {"system": "cross_lingual"})), tmp_path / "first")
    assert type(alone.model) is CrossLingualModel
    assert_same_weights(alone.model, CrossLingualModel.from_pretrained(folder / "teacher"))
    second, _ = trained(build_recipe({**settings, "teacher": str(folder / "teacher")}), tmp_path / "second")
    assert_same_weights(second.model, run.model)
    assert second.first_stage is None and not (tmp_path / "second" / "teacher").exists()
    assert run.first_stage is not None and run.first_stage.metrics["test"] == alone.record.metrics["test"]


def trainer_with_teacher(folder: Path, **arguments: Any) -> LeccrTrainer:
    return tiny_trainer(folder, tiny_cl2cm().train(), teacher=tiny_cross_lingual().train(), **arguments)


def test_the_second_stage_does_not_move_the_teacher(tmp_path: Path):
    """A teacher that learns agrees with its student in the end, whatever that is."""
    trainer = trainer_with_teacher(tmp_path, learning_rate=0.1)
    before, student = weights_of(trainer.teacher), weights_of(trainer.model)
    trainer.train()
    torch.testing.assert_close(weights_of(trainer.teacher), before, rtol=0, atol=0)
    assert any(not torch.equal(value, student[name]) for name, value in trainer.model.state_dict().items())
    assert all(parameter.grad is None for parameter in trainer.teacher.parameters())


def test_the_teacher_says_the_same_of_a_pair_each_time(tmp_path: Path):
    """With dropout its relations between captions are half noise."""
    trainer = trainer_with_teacher(tmp_path)
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    first, again = (trainer._prepare_inputs(dict(batch)) for _ in range(2))
    for name in ("teacher_source_embeds", "teacher_target_embeds"):
        assert first[name].shape == (4, 16) and not first[name].requires_grad
        assert torch.equal(first[name], again[name])
    assert not torch.equal(first["teacher_source_embeds"], first["teacher_target_embeds"])
    expected = tiny_cross_lingual().get_text_features(batch["target_input_ids"], batch["target_attention_mask"])
    torch.testing.assert_close(first["teacher_target_embeds"], expected.pooler_output)


class Stopped(Exception):
    """The machine was taken away."""


@pytest.mark.parametrize("step", [2, 4], ids=["in the first stage", "in the second"])
def test_a_run_stopped_in_either_stage_ends_as_if_it_had_not(
    whole: tuple[SystemRun, LeccrProcessor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    """And a first stage that was finished is not trained again."""
    steps: list[str] = []
    training_step = LeccrTrainer.training_step

    def counted(self: LeccrTrainer, *args: Any, **kwargs: Any) -> Any:
        steps.append(type(self.model).__name__)
        if len(steps) == step:
            raise Stopped
        return training_step(self, *args, **kwargs)

    monkeypatch.setattr(LeccrTrainer, "training_step", counted)
    settings = two_stages(tmp_path)
    with pytest.raises(Stopped):
        trained(build_recipe(settings), tmp_path)
    assert (tmp_path / "teacher").is_dir() == (step == 4)
    before = digest(tmp_path / "teacher" / "model.safetensors") if step == 4 else None
    run, _ = trained(build_recipe({**settings, "resume_from_checkpoint": True}), tmp_path)
    assert_same_weights(run.model, whole[0].model)
    # One step of the stage that was stopped, which had a checkpoint, and all of the next.
    expected = (
        ["CrossLingualModel"] * 3 + ["Cl2cmModel"] * 2 if step == 2 else ["CrossLingualModel"] * 2 + ["Cl2cmModel"] * 3
    )
    assert steps == expected
    assert before in (None, digest(tmp_path / "teacher" / "model.safetensors"))


def test_a_checkpoint_of_the_first_stage_is_none_of_the_second(
    whole: tuple[SystemRun, LeccrProcessor], folder: Path, tmp_path: Path
):
    """Found when the second stage begins, it has cost the first."""
    first, second = (folder / "checkpoints" / name / "checkpoint-2" for name in ("first_stage", "."))
    with pytest.raises(ValueError, match=r"a checkpoint of CL2CM, got .* of type 'cl2cm_text'; .*checkpoint true"):
        build_recipe(two_stages(tmp_path, resume_from_checkpoint=str(first)))
    build_recipe(two_stages(tmp_path, resume_from_checkpoint=str(second)))
    alone = varied(two_stages(tmp_path), {"system": "cross_lingual", "resume_from_checkpoint": str(first)})
    assert build_recipe(alone).training.resume_from_checkpoint == str(first)


def test_a_teacher_of_other_settings_is_used_with_a_warning(
    whole: tuple[SystemRun, LeccrProcessor], folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A resumed run with a changed first stage would be reported with settings that nothing was trained with."""
    copied = tmp_path / "run"
    (copied).mkdir()
    (copied / "teacher").symlink_to(folder / "teacher")
    changed = two_stages(tmp_path, resume_from_checkpoint=True, cross_lingual={"learning_rate": 5e-3})
    with caplog.at_level(logging.WARNING):
        trained(build_recipe(changed), copied)
    assert "was trained with other settings: learning_rate: 0.002 -> 0.005" in caplog.text


def test_the_first_stage_needs_neither_pictures_nor_descriptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Parallel text without pictures is what there is most of."""

    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("a picture was read")

    monkeypatch.setattr("processing.visual_rows.VisualReader.view", opened)
    (tmp_path / "data").mkdir()
    for name, size in (("train", 8), ("validation", 4)):
        texts = tiny_split(size).remove_columns([IMAGE_COLUMN, DESCRIPTION_COLUMN])
        texts.to_parquet(str(tmp_path / "data" / f"{name}-00000-of-00001.parquet"))
    data = {"dataset": str(tmp_path / "data"), "scenes": {}, "test_split": None, "target_languages": ["de"]}
    settings = varied(two_stages(tmp_path, **data), {"system": "cross_lingual"})
    run, _ = trained(build_recipe(settings), tmp_path)
    assert run.record.protocol["validation"]["item_source"] == "source_captions"
    assert run.record.protocol["validation"]["descriptions"] is False
    with pytest.raises(ValueError, match=r"reads the column 'image', .*name the folder of their images \(`images` in"):
        load_splits(build_recipe(two_stages(tmp_path, **data)).data)


def test_english_captions_do_not_ask_for_themselves(tmp_path: Path):
    """They are the items of the first stage: each would be found by itself, and would choose the checkpoint."""
    recipe = build_recipe(two_stages(tmp_path, evaluation_languages=["en", "de"]))
    assert recipe.data.evaluation_languages == ["en", "de"]
    assert recipe.first_stage is not None and recipe.first_stage.data.evaluation_languages == ["de"]
    split = tiny_split(4)
    with pytest.raises(ValueError, match="items are the English captions themselves"):
        retrieval_ranks(tiny_cross_lingual(), tiny_processor(), split, ["de", "en"])
    with pytest.raises(ValueError, match=r"got \['en'\]"):
        evaluation_protocol(tiny_cross_lingual(), split, ["en"])
    assert set(retrieval_ranks(tiny_cl2cm(), tiny_processor(), split, ["en"], progress=False)) == {"en"}


def test_equal_captions_of_different_pictures_are_positives_of_the_first_stage(tmp_path: Path):
    """The network reads texts: told apart, two equal sentences are one embedding that is pulled and pushed."""
    captions = [["a dog runs"], ["a dog runs"], ["two cats"], ["a boat"]]
    split = tiny_split(4, caption_en=captions)
    for model, groups in ((tiny_cross_lingual(), 3), (tiny_cl2cm(), 4)):
        trainer = tiny_trainer(tmp_path, model.train(), split=split)
        batch = trainer.data_collator([{**trainer.train_dataset[i], "draw": 0} for i in range(4)])
        assert len(set(batch["image_ids"].tolist())) == groups
        again = trainer.data_collator([{**trainer.train_dataset[i], "draw": 1} for i in range(4)])
        assert torch.equal(batch["image_ids"], again["image_ids"])


def test_one_caption_alone_is_no_batch_for_the_first_stage(tmp_path: Path):
    """Eight pictures with one caption look like eight items, and have no negative."""
    split = tiny_split(8, caption_en=[["the same words"]] * 8)
    trainer = tiny_trainer(tmp_path, tiny_cross_lingual().train(), split=split)
    with pytest.raises(ValueError, match="at least 2"):
        trainer.train()


def test_a_text_tower_from_scratch_can_start_as_the_teachers(whole: tuple[SystemRun, LeccrProcessor], folder: Path):
    """It has read all captions already; the published form starts from a pretrained tower instead."""
    _, processor = whole
    recipe = build_recipe(two_stages(folder, init_from_teacher=True, teacher=str(folder / "teacher")))
    teacher = load_teacher(folder / "teacher", processor)
    model = run_module._starting_model(recipe, processor, teacher)
    for part in ("text_model", "text_projection"):
        assert_same_weights(model.get_submodule(part), teacher.get_submodule(part))
    plain = build_recipe(two_stages(folder, teacher=str(folder / "teacher")))
    assert not torch.equal(
        build_model(plain.model, processor.tokenizer).text_projection.weight, model.text_projection.weight
    )
    with pytest.raises(ValueError, match=r"other shapes in text_projection .*the same text_tower, max_length and"):
        start_from_teacher(tiny_cl2cm(embed_dim=8), tiny_cross_lingual())


def test_weights_are_taken_over_only_where_they_mean_the_same():
    """Other pooling, or other heads of attention, fit by their shapes, and are noise."""
    heads = {"text_config": {**tiny_text_config().to_dict(), "num_attention_heads": 4}}
    for fields, name in (({"text_pooling": "mean"}, "text_pooling"), (heads, "num_attention_heads")):
        with pytest.raises(ValueError, match=rf"init_from_teacher needs .* got another {name} than the teacher's"):
            start_from_teacher(tiny_cl2cm(**fields), tiny_cross_lingual())
    start_from_teacher(tiny_cl2cm(), tiny_cross_lingual())


def test_a_teacher_that_no_term_reads_is_not_asked(tmp_path: Path):
    """Where it is only what the text tower starts as, asking it in each step is for nothing."""
    recipe = build_recipe(two_stages(tmp_path, init_from_teacher=True, loss={"relational_transfer": 0}))
    assert recipe.first_stage is not None
    trainer = trainer_with_teacher(tmp_path, loss={"relational_transfer": 0})
    batch = next(iter(trainer.get_train_dataloader()))
    assert "teacher_source_embeds" not in trainer._prepare_inputs(batch)
    trainer.train()


def test_what_cannot_teach_is_refused(whole: tuple[SystemRun, LeccrProcessor], folder: Path, tmp_path: Path):
    """Ids of another tokenizer are other words, and nothing else would show it."""
    _, processor = whole
    with pytest.raises(ValueError, match=r"teacher must read with the tokenizer of this run, got .*teacher' with"):
        load_teacher(folder / "teacher", tiny_processor())
    longer = copy.deepcopy(processor)
    longer.tokenizer.model_max_length, longer.max_length = 64, 64
    with pytest.raises(ValueError, match=r"texts of max_length 64 tokens, got .* at most 48; lower max_length"):
        load_teacher(folder / "teacher", longer)
    cleaning = copy.deepcopy(processor)
    cleaning.clean_captions = True
    with pytest.raises(ValueError, match=r"teacher must read captions as this run does, .* with clean_captions false"):
        load_teacher(folder / "teacher", cleaning)
    tiny_model().save_pretrained(tmp_path / "leccr")
    with pytest.raises(ValueError, match=r"teacher must be a model of type 'cl2cm_text', got .* of type 'leccr'"):
        load_teacher(tmp_path / "leccr", processor)
    settings = {"base_model": str(tmp_path / "leccr"), "teacher": "x", "system": "cl2cm", "target_languages": ["de"]}
    with pytest.raises(ValueError, match=r"base_model must be a model of type 'cl2cm', .* set system: leccr"):
        build_model(build_recipe({**settings, "use_cpu": True}).model, processor.tokenizer)
    with pytest.raises(OSError, match="teacher 'owner/none' is no folder here"):
        load_teacher("owner/none", processor)


def test_a_run_reads_with_the_tokenizer_of_the_teacher_that_it_names(
    whole: tuple[SystemRun, LeccrProcessor], folder: Path
):
    """A tokenizer trained on other texts could not be asked of that teacher."""
    _, processor = whole
    settings = two_stages(folder, teacher=str(folder / "teacher"))
    recipe = build_recipe(settings)
    found = build_processor(recipe.model, tiny_split(4), ["de"])
    assert found.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


def test_adapters_can_be_trained_in_both_stages(tmp_path: Path):
    """The teacher must be whole: an adapter beside its base cannot be asked from a folder."""
    settings = two_stages(tmp_path, text_training="lora", lora={"r": 2}, vision_training="frozen")
    run, processor = trained(build_recipe(settings), tmp_path)
    trained_count, count = run.num_parameters
    assert 0 < trained_count < count / 2
    teacher = load_teacher(tmp_path / "teacher", processor)
    assert not [name for name in teacher.state_dict() if "lora" in name]
    assert (tmp_path / "base" / "model.safetensors").is_file()
    assert (tmp_path / "checkpoints" / "first_stage" / "base" / "model.safetensors").is_file()


def test_chunks_of_the_gradient_cache_learn_what_whole_batches_do(tmp_path: Path):
    """The words of a pair are compared in the chunk that has them, and the teacher's embeddings go with their rows."""
    plain = {"text_tower": {**tiny_recipe(tmp_path)["text_tower"], "hidden_dropout_prob": 0.0}}
    plain["text_tower"]["attention_probs_dropout_prob"] = 0.0
    runs = {}
    for chunk in (None, 2):
        settings = two_stages(tmp_path, **plain, gradient_cache_chunk_size=chunk, optim="sgd", learning_rate=0.1)
        runs[chunk], _ = trained(build_recipe(settings), tmp_path / str(chunk))
    torch.testing.assert_close(weights_of(runs[2].model), weights_of(runs[None].model), rtol=1e-4, atol=1e-5)
    teachers = [CrossLingualModel.from_pretrained(tmp_path / str(chunk) / "teacher") for chunk in (None, 2)]
    torch.testing.assert_close(*map(weights_of, teachers), rtol=1e-4, atol=1e-5)


def test_a_control_may_be_another_system_on_the_same_data(tmp_path: Path):
    """CL2CM beside LECCR or two streams beside CL2CM: what the other system does not know stays behind."""
    control = {
        "two streams": {"system": "leccr", "model": {"item_source": "image", "interaction": "none", "slot_dim": 32}}
    }
    recipe = build_recipe(two_stages(tmp_path, controls=control, loss={"relational_transfer": 0.5}))
    streams = control_recipes(recipe)["two streams"]
    assert streams.title == "two streams" and streams.first_stage is None
    assert streams.model.model == {"embed_dim": 16, "item_source": "image", "interaction": "none", "slot_dim": 32}
    assert streams.training.loss == {} and streams.model.cross_lingual == {}
    leccr = build_recipe(tiny_recipe(tmp_path, controls={"CL2CM": {"system": "cl2cm", "model": {"visual_dim": 32}}}))
    taught = control_recipes(leccr)["CL2CM"]
    assert taught.title == "CL2CM" and taught.model.model == {
        "embed_dim": 16,
        "num_attention_heads": 4,
        "visual_dim": 32,
    }
    assert taught.first_stage is not None and taught.first_stage.title == "cross-lingual network"


def test_the_numbers_of_the_teacher_stand_apart(whole: tuple[SystemRun, LeccrProcessor], tmp_path: Path):
    """It finds English captions by their translations; among the systems it would be the best of them."""
    run, _ = whole
    write_metrics(tmp_path, {"CL2CM": run}, seconds={}, peak_gib=0.0, truncation_rate=0.0)
    record = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert set(record["systems"]) == {"CL2CM"}
    assert record["teacher"]["protocol"]["test"]["item_source"] == "source_captions"
    assert set(record["teacher"]["metrics"]) == {"validation", "test"}
    assert {"train CL2CM", "train CL2CM, first stage"} <= set(record["seconds"])
