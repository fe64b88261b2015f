"""The gradient cache in one process: what it keeps in memory, what it runs together with, and what it refuses.

That its gradients are those of the whole batch, over processes and with dropout, is in test_distributed.py.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from modeling_leccr import LeccrModel
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig
from modeling_leccr.training.checks import check_gradient_cache
from modeling_leccr.training.failures import TrainingStoppedError
from modeling_leccr.training.gradient_cache import cached_backward, chunk_slices, count_chunks
from modeling_leccr.training.trainer import LeccrTrainer
from tests.tiny import tiny_model, tiny_pairs
from tests.training_parts import GRADIENT_DESCENT, text_config_without_dropout, tiny_trainer, weights_of

NUM_ROWS = 8
IMAGE_IDS = torch.tensor([10, 11, 2, 3, 4, 10, 11, 7])
SETTINGS: dict[str, Any] = {**GRADIENT_DESCENT, "per_device_train_batch_size": NUM_ROWS, "max_grad_norm": 0.0}


def model_without_dropout() -> LeccrModel:
    return tiny_model(text_config=text_config_without_dropout(), dropout=0.0).train()


def cached_gradients(
    model: LeccrModel, chunk_size: int, inputs: dict[str, Tensor] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of one step."""
    criterion = LeccrCriterion(LossConfig())
    loss = cached_backward(
        model,
        inputs or tiny_pairs(NUM_ROWS),
        IMAGE_IDS,
        num_chunks=count_chunks([NUM_ROWS], chunk_size),
        summarise=criterion.summarise,
        loss_of=lambda rows, scale: criterion.total(criterion(rows, scale)),
        accelerator=Accelerator(cpu=True),
    )
    return loss, {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def direct_gradients(model: LeccrModel) -> tuple[Tensor, dict[str, Tensor]]:
    criterion = LeccrCriterion(LossConfig())
    output = model(**tiny_pairs(NUM_ROWS))
    loss = criterion.total(criterion(criterion.summarise(output, IMAGE_IDS), output.logit_scale))
    loss.backward()
    return loss.detach(), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def run(folder: Path, model: LeccrModel, **settings: Any) -> LeccrTrainer:
    trainer = tiny_trainer(folder, model, **{**SETTINGS, **settings})
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("num_rows", "num_chunks", "sizes"),
    [(8, 1, [8]), (8, 3, [2, 3, 3]), (7, 7, [1] * 7), (512, 64, [8] * 64), (2, 4, [1, 1, 1, 1])],
)
def test_chunks_cover_every_row_once_and_are_nearly_equal(num_rows: int, num_chunks: int, sizes: list[int]):
    """A row in two chunks would count twice; a last chunk of all that is left would set the peak of memory."""
    rows = [list(range(num_rows))[chunk] for chunk in chunk_slices(num_rows, num_chunks)]
    assert [len(chunk) for chunk in rows] == sizes
    own = rows[:num_rows]
    assert [row for chunk in own for row in chunk] == list(range(num_rows))
    assert all(chunk == [0] for chunk in rows[num_rows:])


@pytest.mark.parametrize(("sizes", "chunk_size", "expected"), [([8], 8, 1), ([8, 9], 8, 2), ([1, 5], 2, 3)])
def test_every_process_runs_as_many_chunks_as_the_fullest(sizes: list[int], chunk_size: int, expected: int):
    """Wrapped models wait for each other in every forward."""
    assert count_chunks(sizes, chunk_size) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"interaction": "dual"},
        {"interaction": "co_attention", "normalize_slots": False},
        {"interaction": "v2s", "image_pooling": "mean"},
        {"item_source": "image"},
        {"item_source": "description"},
        {"description_encoder": "frozen"},
    ],
    ids=str,
)
def test_each_kind_of_model_has_the_gradients_of_the_whole_batch(fields: dict[str, Any]):
    """Rows that only some models have, such as slots, must be cached where they are and not asked for elsewhere."""
    settings = {"text_config": text_config_without_dropout(), "dropout": 0.0, **fields}
    expected = direct_gradients(tiny_model(**settings).train())
    found = cached_gradients(tiny_model(**settings).train(), 3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_states_of_descriptions_that_were_read_before_go_through_the_cache():
    """They come in the place of token ids, and have to be cut into the same chunks."""
    settings = {"text_config": text_config_without_dropout(), "dropout": 0.0, "description_encoder": "frozen"}
    model, inputs = tiny_model(**settings).train(), tiny_pairs(NUM_ROWS)
    ids, mask = inputs.pop("description_input_ids"), inputs["description_attention_mask"]
    inputs["description_states"] = model.get_description_states(ids, mask)
    found = cached_gradients(model, 3, inputs)
    torch.testing.assert_close(found, direct_gradients(tiny_model(**settings).train()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({}, 1e-6),
        ({"gradient_checkpointing": True}, 1e-6),
        ({"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}, 1e-6),
        ({"bf16": True}, 4e-3),
    ],
    ids=["plain", "checkpointing", "accumulation", "bf16"],
)
def test_the_trainer_takes_the_same_steps_with_the_cache(tmp_path: Path, settings: dict[str, Any], tolerance: float):
    """The step is our own here, and must scale, accumulate and cast as the step of the parent."""
    direct = run(tmp_path, model_without_dropout(), **settings)
    start = weights_of(model_without_dropout())
    cached = run(tmp_path, model_without_dropout(), gradient_cache_chunk_size=3, **settings)
    moved = max(float((value - start[name]).abs().max()) for name, value in direct.model.state_dict().items())
    assert moved > 20 * tolerance
    torch.testing.assert_close(weights_of(cached.model), weights_of(direct.model), rtol=0, atol=tolerance)
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in (direct, cached)]
    assert losses[0] == pytest.approx(losses[1], abs=10 * tolerance)


def test_dropout_and_checkpointing_draw_the_numbers_of_the_first_pass(tmp_path: Path):
    """Checkpointing runs the forward a third time; with other dropout the gradients would be of no forward at all."""
    settings = {"gradient_cache_chunk_size": 3, "seed": 5}
    plain = run(tmp_path, tiny_model(description_dropout=0.4), **settings)
    checkpointed = run(tmp_path, tiny_model(description_dropout=0.4), gradient_checkpointing=True, **settings)
    torch.testing.assert_close(weights_of(checkpointed.model), weights_of(plain.model), rtol=0, atol=1e-6)


class KeptBytes:
    """Bytes besides weights that autograd keeps for backward passes: now, and at most so far."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def hold(self, tensor: Tensor) -> "KeptTensor":
        return KeptTensor(tensor, self)


class KeptTensor:
    def __init__(self, tensor: Tensor, total: KeptBytes) -> None:
        self.tensor, self.total = tensor, total
        is_weight = isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)
        self.num_bytes = 0 if is_weight else tensor.nbytes
        total.now += self.num_bytes
        total.peak = max(total.peak, total.now)

    def __del__(self) -> None:
        self.total.now -= self.num_bytes


def peak_of(run_step: Callable[[], Any]) -> int:
    total = KeptBytes()
    with torch.autograd.graph.saved_tensors_hooks(total.hold, lambda kept: kept.tensor):
        run_step()
    return total.peak


def test_the_chunk_sets_what_is_kept_for_the_backward_pass():
    """A cache that keeps all graphs until the end has the right gradients and saves nothing."""
    whole, half, quarter = (
        peak_of(lambda: direct_gradients(model_without_dropout())),
        peak_of(lambda: cached_gradients(model_without_dropout(), 4)),
        peak_of(lambda: cached_gradients(model_without_dropout(), 2)),
    )
    assert half < 0.6 * whole
    assert quarter < 0.6 * half


def test_a_chunk_as_large_as_the_batch_is_the_direct_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two forwards for one chunk would cost a third of the speed and save nothing."""
    monkeypatch.setattr(LeccrTrainer, "_cached_step", None)
    run(tmp_path, model_without_dropout(), gradient_cache_chunk_size=NUM_ROWS, max_steps=1)


def test_random_numbers_that_are_not_replayed_are_refused(monkeypatch: pytest.MonkeyPatch):
    """Other dropout in the second pass gives wrong gradients under losses that look right."""
    model = model_without_dropout()

    class ForeignDropout(nn.Module):
        def forward(self, states: Tensor) -> Tensor:
            return states * torch.tensor([random.choice((0.0, 2.0)) for _ in range(states.shape[-1])])

    model.text_projection = nn.Sequential(model.text_projection, ForeignDropout())
    with pytest.raises(RuntimeError, match="embeddings of both passes must be equal, got a difference of"):
        cached_gradients(model, 4)


def test_a_loss_that_is_not_finite_stops_before_the_second_pass(tmp_path: Path):
    """As in the direct step, with the items of the batch named."""
    model = model_without_dropout()
    with torch.no_grad():
        model.image_projection.weight.fill_(float("nan"))
    with pytest.raises(TrainingStoppedError, match=r"step 1 must be finite.*'item-\d'"):
        run(tmp_path, model, gradient_cache_chunk_size=3)
    assert all(value.grad is None for value in model.parameters())


def test_a_failed_allocation_names_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Both steps explain it; with a cache, its chunk is what to lower."""

    def no_memory(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    for chunk_size, words in ((None, "set a small gradient_cache_chunk_size"), (3, r"\(now 3\)")):
        monkeypatch.setattr(LeccrModel, "forward", no_memory)
        with pytest.raises(TrainingStoppedError, match=words):
            run(tmp_path, model_without_dropout(), gradient_cache_chunk_size=chunk_size)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"gradient_cache_chunk_size": 0},
            "gradient_cache_chunk_size must be at least 1 pair, or null for none, got 0",
        ),
        ({"gradient_cache_chunk_size": 2, "optim": "lomo"}, "optimizers that step on their own, got optim 'lomo'"),
    ],
    ids=["zero", "lomo"],
)
def test_what_the_cache_cannot_do_is_refused(tmp_path: Path, settings: dict[str, Any], words: str):
    """An optimizer that updates weights inside each backward pass would do so after each chunk."""
    with pytest.raises(ValueError, match=words):
        tiny_trainer(tmp_path, model_without_dropout(), **settings)


def test_deepspeed_is_refused(tmp_path: Path):
    """Its engine updates the weights at the end of each backward pass."""
    args = tiny_trainer(tmp_path, model_without_dropout(), gradient_cache_chunk_size=2).args
    args.deepspeed_plugin = object()  # as `accelerate launch` with a file for DeepSpeed has it set
    with pytest.raises(
        ValueError, match=r"works with DDP and FSDP .*, got DeepSpeed; use configs/accelerate/fsdp2.yaml"
    ):
        check_gradient_cache(args)
