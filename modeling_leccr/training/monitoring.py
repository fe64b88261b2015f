"""What a run tells its user while it trains: why it stops, and where its time goes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from modeling_leccr.training.arguments import LeccrTrainingArguments

# Libraries below torch report some of their failed allocations as any other error; Linux, Windows, CUDA.
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|STATUS_ALLOC_FAILED")


class TrainingStoppedError(RuntimeError):
    """Training cannot go on, and the message says what its user can do about it."""


def check_finite(terms: Mapping[str, Tensor], item_names: Sequence[str], step: int) -> None:
    """Stop at the first loss that is NaN or infinite: every later step would train on broken weights.

    The terms are those of the global batch, so that all processes stop at the same step; each names its own rows.

    Args:
        terms: name -> scalar, the total among them or not.
        item_names: the items of this process's rows.
        step: the optimizer step that the batch belongs to, from 1.

    Raises:
        TrainingStoppedError: a term is not finite.
    """
    values = torch.stack([value.detach().reshape(()).float() for value in terms.values()])
    if torch.isfinite(values).all():  # the one wait for the device in a step
        return
    listed = ", ".join(f"{name} {value:.4g}" for name, value in zip(terms, values.tolist(), strict=True))
    raise TrainingStoppedError(
        f"the loss of step {step} must be finite, got {listed}; lower learning_rate, raise warmup_steps, set "
        f"max_grad_norm, train without fp16, or look at the items of the batch in this process: {list(item_names)}."
    )


@contextmanager
def explained_memory_errors(args: LeccrTrainingArguments) -> Iterator[None]:
    """Turn an allocation that failed in a training step into an error that names the settings that save memory.

    Args:
        args: what is set already is not advised.

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
        raise TrainingStoppedError(
            f"a training step did not fit into memory: {'; '.join(_memory_advice(args))}. ({reason})"
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
