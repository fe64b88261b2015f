"""Why a run stops, in words that say what its user can do."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from modeling_leccr.training.arguments import LeccrTrainingArguments

logger = logging.getLogger(__name__)

# Libraries below torch report some of their failed allocations as any other error; Linux, Windows, CUDA.
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|STATUS_ALLOC_FAILED")

# Items in the one line of an error.
_ITEMS_SHOWN = 8


class TrainingStoppedError(RuntimeError):
    """Training cannot go on, and the message says what its user can do about it."""


def check_finite(
    terms: Mapping[str, Tensor], item_names: Sequence[str], step: int, args: LeccrTrainingArguments
) -> None:
    """Stop at the first loss that is NaN or infinite: every later step would train on broken weights.

    The terms are those of the global batch, so that all processes stop at the same step; each names its own rows.

    Args:
        terms: name -> scalar, the total among them or not.
        item_names: the items of this process's rows.
        step: the optimizer step that the batch belongs to, from 1.
        args: what does not apply is not advised.

    Raises:
        TrainingStoppedError: a term is not finite.
    """
    values = torch.stack([value.detach().reshape(()).float() for value in terms.values()])
    if torch.isfinite(values).all():  # here a step waits for the device
        return
    listed = ", ".join(f"{name} {value:.4g}" for name, value in zip(terms, values.tolist(), strict=True))
    raise TrainingStoppedError(
        f"the loss of step {step} must be finite, got {listed}; {finite_advice(args)}, or look at the items of the "
        f"batch in this process: {first_items(item_names, step)}."
    )


def finite_advice(args: LeccrTrainingArguments) -> str:
    """The settings that keep a loss or a gradient finite; what does not apply is not advised."""
    advice = ["lower learning_rate", "raise warmup_steps"]
    if not args.max_grad_norm:
        advice.append("set max_grad_norm")
    return ", ".join([*advice, *(f"train without {name}" for name in ("fp16", "bf16") if getattr(args, name))])


def first_items(item_names: Sequence[str], step: int) -> str:
    """The items for an error; where they are too many for its one line, the log has them all."""
    shown = str(list(item_names[:_ITEMS_SHOWN]))
    if len(item_names) <= _ITEMS_SHOWN:
        return shown
    logger.warning("the items of step %d in this process: %s", step, list(item_names))
    return f"{shown} and {len(item_names) - _ITEMS_SHOWN} more, which are in the log"


@contextmanager
def explained_memory_errors(args: LeccrTrainingArguments, *, evaluating: bool = False) -> Iterator[None]:
    """Turn an allocation that failed into an error that names the settings that save memory.

    Args:
        args: what is set already is not advised.
        evaluating: the block evaluates, which needs much less; otherwise it is a training step.

    Raises:
        TrainingStoppedError: the block ran out of memory, on whatever device.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not _NO_MEMORY.search(str(error)):
            raise
        reason = str(error).partition("\n")[0]
        now = args.per_device_eval_batch_size
        advice = [f"lower per_device_eval_batch_size (now {now})"] if evaluating else _memory_advice(args)
        raise TrainingStoppedError(
            f"{'the evaluation' if evaluating else 'a training step'} did not fit into memory: {'; '.join(advice)}. "
            f"({reason})"
        ) from error


@contextmanager
def explained_input_errors() -> Iterator[None]:
    """Give the errors of a data loader's workers in the words in which they were raised, and say why a worker died.

    Raises:
        ValueError: as it was raised in the worker, without the worker's traceback, which is its cause.
        TrainingStoppedError: a worker was killed.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Caught ValueError in DataLoader worker"):
            raise
        raise ValueError(str(error).rstrip().rpartition("\nValueError: ")[2]) from error
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        reason = str(error).partition("\n")[0]
        raise TrainingStoppedError(
            f"a worker of the data loader died, mostly for want of memory: lower dataloader_num_workers, "
            f"dataloader_prefetch_factor or per_device_train_batch_size, or give the container more shared memory. "
            f"({reason})"
        ) from error


def _memory_advice(args: LeccrTrainingArguments) -> list[str]:
    """Settings in the order in which they cost least."""
    batch_size, chunk_size = args.per_device_train_batch_size, args.gradient_cache_chunk_size
    advice = []
    if not (args.bf16 or args.fp16):
        advice.append("set bf16: true where the device supports it")
    if chunk_size is None or chunk_size > 1:
        now = "" if chunk_size is None else f" (now {chunk_size})"
        advice.append(f"set a small gradient_cache_chunk_size{now}, which keeps the batch and its negatives")
    if not args.gradient_checkpointing:
        advice.append("set gradient_checkpointing: true")
    if args.text_training == "full":
        advice.append("train the text tower less (text_training: lora or frozen)")
    advice.append("read the descriptions once (model.description_encoder: frozen with description_states)")
    advice.append("lower image_size or max_length")
    if batch_size > 2:
        advice.append(f"lower per_device_train_batch_size (now {batch_size}), which also takes negatives away")
    return advice
