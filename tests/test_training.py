"""LeccrTrainer: what it logs, which weights it ends with, what it resumes from, and how it steps."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import ResNetConfig, Trainer, TrainerCallback

from modeling_leccr import LeccrModel
from modeling_leccr.losses_leccr import LossConfig
from modeling_leccr.training.failures import TrainingStoppedError
from modeling_leccr.training.trainer import LeccrTrainer
from tests.tiny import tiny_model
from tests.training_parts import TERMS, text_config_without_dropout, tiny_split, tiny_trainer, weights_of


class KeepWeights(TrainerCallback):
    """Copies the weights after each step, and the gradients before it."""

    def __init__(self) -> None:
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: LeccrModel, **_: Any) -> None:
        self.gradients.append({name: value.grad.clone() for name, value in model.named_parameters()})

    def on_step_end(self, args: Any, state: Any, control: Any, model: LeccrModel, **_: Any) -> None:
        self.weights[state.global_step] = weights_of(model)


class BestAtFirst(LeccrTrainer):
    """Scores each later checkpoint lower, so that the best one is never the last one."""

    def retrieval_metrics(self, split: Any, **_: Any) -> dict[str, float]:
        return {"sum_r": 600.0 - self.state.global_step}


def losses(trainer: LeccrTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_each_loss_term_is_logged_and_they_add_up(tmp_path: Path):
    """With the total alone, nobody sees that one term fell while another stood still."""
    trainer = tiny_trainer(tmp_path, tiny_model(), max_steps=3)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == 3
    weights = LossConfig().weights()
    for entry in entries:
        assert {name.removeprefix("loss/") for name in entry if name.startswith("loss/")} == set(TERMS)
        assert entry["logit_scale"] == pytest.approx(1 / 0.07, rel=0.05)
        total = sum(weights[name] * entry[f"loss/{name}"] for name in TERMS)
        assert entry["loss"] == pytest.approx(total, rel=1e-3)


def test_a_step_counts_no_items_where_the_rows_show_enough_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Counted on a GPU, each step would wait for it."""

    def counted(*_: Any, **__: Any) -> None:
        raise AssertionError("the items were counted")

    trainer = tiny_trainer(tmp_path, tiny_model())
    monkeypatch.setattr(torch.Tensor, "unique", counted)
    trainer.train()
    captions = {name: [["one", "two", "three", "four"]] for name in ("caption_en", "caption_de_mt", "caption_de")}
    with pytest.raises(AssertionError, match="the items were counted"):
        tiny_trainer(tmp_path, tiny_model(), split=tiny_split(1, **captions)).train()


def test_a_logged_term_is_the_mean_since_the_last_line(tmp_path: Path):
    """The value of the last step alone would depend on which batch happened to come before the line."""
    logged = []
    for interval in (1, 2):
        trainer = tiny_trainer(tmp_path, tiny_model(), logging_steps=interval, max_steps=4)
        trainer.train()
        logged.append([entry["loss/cross_lingual"] for entry in trainer.state.log_history if "loss" in entry])
    single, paired = logged
    assert len(single) == 4
    assert paired == pytest.approx([(single[0] + single[1]) / 2, (single[2] + single[3]) / 2], rel=1e-5)


def test_a_control_logs_the_terms_that_it_has(tmp_path: Path):
    """The two-stream control has no slots; a term without its input must be absent, not zero."""
    trainer = tiny_trainer(tmp_path, tiny_model(item_source="image"), max_steps=1)
    trainer.train()
    logged = {name for entry in trainer.state.log_history for name in entry if name.startswith("loss/")}
    assert logged == {f"loss/{name}" for name in TERMS if not name.startswith("slot_")}


def best_at_first_trainer(folder: Path, keep: KeepWeights) -> LeccrTrainer:
    """ViT, for transformers saves it under the key names of older releases."""
    return tiny_trainer(
        folder,
        tiny_model(vision="vit"),
        validation=tiny_split(),
        callbacks=[keep],
        trainer_class=BestAtFirst,
        max_steps=3,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        warmup_steps=0,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
    )


def test_training_ends_with_all_weights_of_the_best_checkpoint(tmp_path: Path):
    """transformers saves a ViT under older key names, and the stock Trainer loads the best checkpoint with
    `strict=False`: heads of the best step would sit on the tower of the last one, without any error."""
    keep = KeepWeights()
    trainer = best_at_first_trainer(tmp_path, keep)
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name == "checkpoint-1"
    assert set(load_file(best / "model.safetensors")) != set(trainer.model.state_dict()), "the trap is gone"
    found = weights_of(trainer.model)
    torch.testing.assert_close(found, keep.weights[1], rtol=0, atol=0)
    torch.testing.assert_close(found, weights_of(LeccrModel.from_pretrained(best)), rtol=0, atol=0)
    moved = [name for name in found if name.startswith("vision_model") and not found[name].equal(keep.weights[3][name])]
    assert moved, "the tower did not change between the checkpoints, so this test would see nothing"


def test_the_stock_loading_would_keep_the_tower_of_the_last_step(tmp_path: Path):
    """Shows that the test above can fail: it is our loading that finds the tower's weights."""
    keep = KeepWeights()
    trainer = best_at_first_trainer(tmp_path, keep)
    trainer._load_best_model = lambda: Trainer._load_best_model(trainer)  # type: ignore[method-assign]
    trainer.train()
    found = weights_of(trainer.model)
    wrong = [name for name in found if not found[name].equal(keep.weights[1][name])]
    assert wrong and all(name.startswith("vision_model") for name in wrong)


def test_the_best_checkpoint_survives_the_limit_on_checkpoints(tmp_path: Path):
    """The oldest checkpoint is the first to be deleted, and may be the best."""
    trainer = best_at_first_trainer(tmp_path, KeepWeights())
    trainer.args.save_total_limit = 1
    trainer.train()
    assert (tmp_path / "checkpoint-1" / "model.safetensors").is_file()
    assert not (tmp_path / "checkpoint-2").exists()


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path):
    """Weights under older key names, an optimizer or a random state left behind, or another order of the data
    would each end in other weights; dropout is on, so the random state counts."""
    settings: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 0.01}
    whole = tiny_trainer(tmp_path, tiny_model(vision="vit"), **settings)
    whole.train()
    resumed = tiny_trainer(tmp_path, tiny_model(vision="vit", seed=1), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    torch.testing.assert_close(weights_of(resumed.model), weights_of(whole.model), rtol=0, atol=0)
    assert losses(resumed) == losses(whole)


def test_buffers_are_sent_where_they_change(tmp_path: Path):
    """DDP sends all buffers in each forward pass: waste for position ids, and needed for a batch norm, whose
    statistics would differ between the processes that evaluate together."""
    plain = tiny_trainer(tmp_path / "plain", tiny_model())
    assert plain.accelerator.ddp_handler.broadcast_buffers is False
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 32], depths=[1, 1], layer_type="basic")
    model = tiny_model(vision_config=resnet, image_pooling="mean")
    assert tiny_trainer(tmp_path / "statistics", model).accelerator.ddp_handler.broadcast_buffers is True
    asked = tiny_trainer(tmp_path / "asked", tiny_model(), ddp_broadcast_buffers=True)
    assert asked.accelerator.ddp_handler.broadcast_buffers is True


def test_a_checkpoint_holds_the_processor(tmp_path: Path):
    """A checkpoint without its tokenizer cannot be used by anybody."""
    trainer = tiny_trainer(tmp_path, tiny_model(), save_strategy="steps", save_steps=2)
    trainer.train()
    names = {path.name for path in (tmp_path / "checkpoint-2").iterdir()}
    assert {"model.safetensors", "config.json", "processor_config.json", "tokenizer.json"} <= names


def test_the_logit_scale_is_back_in_its_range_after_a_step(tmp_path: Path):
    """Beyond its bound the clamp of the forward pass gives no gradient: the scale would stay there for good."""
    model = tiny_model()
    with torch.no_grad():
        model.logit_scale.value.fill_(math.log(100) + 1)
    trainer = tiny_trainer(tmp_path, model, max_steps=1, learning_rate=1e-4)
    trainer.train()
    assert model.logit_scale.value.item() == pytest.approx(math.log(100), abs=1e-6)


def test_accumulated_steps_are_averaged(tmp_path: Path):
    """Summed, two accumulated batches would be one step of twice the learning rate."""
    config = {"text_config": text_config_without_dropout(), "dropout": 0.0}
    keep = KeepWeights()
    accumulated = tiny_trainer(
        tmp_path,
        tiny_model(**config),
        callbacks=[keep],
        max_steps=1,
        gradient_accumulation_steps=2,
        max_grad_norm=0.0,
    )
    accumulated.train()
    model = tiny_model(**config)
    reference = tiny_trainer(tmp_path, model)
    for batch in list(reference.get_train_dataloader())[:2]:
        (reference.compute_loss(model, batch) / 2).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(keep.gradients[0], expected, rtol=1e-4, atol=1e-6)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3
    assert losses(accumulated)[0] < 1.5 * losses(tiny_first_step(tmp_path, config))[0]


def tiny_first_step(folder: Path, config: dict[str, Any]) -> LeccrTrainer:
    trainer = tiny_trainer(folder, tiny_model(**config), max_steps=1)
    trainer.train()
    return trainer


def test_a_seed_gives_the_same_losses_and_another_seed_others(tmp_path: Path):
    """A result that cannot be repeated cannot be compared with its control."""
    runs = []
    for seed in (1, 1, 2):
        trainer = tiny_trainer(tmp_path, tiny_model(), max_steps=3, seed=seed)
        trainer.train()
        runs.append(losses(trainer))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_evaluation_reports_recalls_and_the_sum_that_chooses_the_checkpoint(tmp_path: Path):
    """`metric_for_best_model: sum_r` must be the mean SumR over the languages of validation."""
    trainer = tiny_trainer(tmp_path, tiny_model(), validation=tiny_split())
    metrics = trainer.evaluate()
    assert metrics["eval_sum_r"] == metrics["eval_de/sum_r"]
    assert 0 <= metrics["eval_de/t2i_R@1"] <= 100
    assert metrics["eval_de/num_items"] == 8
    assert trainer.state.log_history[-1]["eval_sum_r"] == metrics["eval_sum_r"]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_items(tmp_path: Path):
    """The stock trainer logs the mean of the other steps instead, and a broken run looks healthy to its end."""
    model = tiny_model()
    with torch.no_grad():
        model.image_projection.weight.fill_(float("nan"))
    trainer = tiny_trainer(tmp_path, model, max_steps=1)
    with pytest.raises(TrainingStoppedError, match=r"step 1 must be finite, got .*contrastive nan.*'item-\d'"):
        trainer.train()


def test_the_trainer_state_is_json_that_others_can_read(tmp_path: Path):
    """Curves are drawn from it, also after the run."""
    trainer = tiny_trainer(tmp_path, tiny_model(), save_strategy="steps", save_steps=2)
    trainer.train()
    state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text(encoding="utf-8"))
    assert all(isinstance(value, (int, float)) for entry in state["log_history"] for value in entry.values())


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [({"bf16": True}, 0.1), ({"activation_checkpointing": True}, 1e-4)],
    ids=["bf16", "recompute"],
)
def test_cheaper_steps_have_nearly_the_same_losses(tmp_path: Path, settings: dict[str, Any], tolerance: float):
    """A setting for larger batches must not change what is learned; descriptions pass the encoder a second time,
    without gradient, which recomputation has to bear."""
    config = {"text_config": text_config_without_dropout(), "dropout": 0.0}
    runs = []
    for arguments in ({}, settings):
        trainer = tiny_trainer(tmp_path, tiny_model(**config), max_steps=3, **arguments)
        trainer.train()
        assert {value.dtype for value in trainer.model.parameters()} == {torch.float32}
        runs.append(losses(trainer))
    assert runs[1] == pytest.approx(runs[0], rel=tolerance)
    if "bf16" in settings:
        assert runs[1] != runs[0], "autocast was not on"


def test_another_split_is_not_evaluated_as_validation(tmp_path: Path):
    """Its recalls would choose the checkpoint, and stand in the record as those of validation."""
    trainer = tiny_trainer(tmp_path, tiny_model(), validation=tiny_split())
    with pytest.raises(ValueError, match="metric_key_prefix 'eval' is for validation"):
        trainer.evaluate(tiny_split(4))
    metrics = trainer.evaluate(tiny_split(4), metric_key_prefix="test")
    assert metrics["test_de/num_items"] == 4
    assert trainer.record().metrics == {}
    assert trainer.evaluate(trainer.eval_dataset)["eval_de/num_items"] == 8


@pytest.mark.parametrize(
    "changes",
    [{}, {"interaction": "none"}, {"item_source": "image"}, {"description_dropout": 0.9}],
    ids=["slots", "no interaction", "image", "dropout"],
)
def test_every_trained_parameter_has_a_gradient(tmp_path: Path, changes: dict[str, Any]):
    """DDP is not asked to look for others, which takes time in each step; with one it would stop at the second."""
    model = tiny_model(**changes)
    descriptions = {"description": [None] * 8} if "description_dropout" in changes else {}
    trainer = tiny_trainer(tmp_path, model, split=tiny_split(8, **descriptions))
    assert trainer.args.ddp_find_unused_parameters is False
    model.train()
    trainer.compute_loss(model, next(iter(trainer.get_train_dataloader()))).backward()
    assert not [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
