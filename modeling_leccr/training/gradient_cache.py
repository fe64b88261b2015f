"""The gradient of a large batch in the memory of a chunk: forward twice, and keep the activations of one chunk."""

import contextlib
import itertools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

from modeling_leccr.objectives_leccr import Rows
from modeling_leccr.training.gather import float_parts

# Other kernels of a bf16 forward move embeddings by 0.01 of their norm; other dropout by 0.1 and more.
MAX_REPLAY_DRIFT = 0.05

RandomState = tuple[Tensor, list[int], list[Tensor]]


def cached_backward(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    image_ids: Tensor,
    *,
    num_chunks: int,
    summarise: Callable[[Any, Tensor], Rows],
    loss_of: Callable[[Rows, Tensor], Tensor],
    accelerator: Accelerator,
    divisor: int = 1,
) -> Tensor:
    """Forward and backward of one batch, chunk by chunk; the gradients are those of the whole batch.

    First all chunks run without gradient and leave their rows. The loss of all rows, gathered over processes, gives
    the exact gradient of each row. Then every chunk runs again, with the random numbers of its first pass, and hands
    its rows' gradients on to the parameters.

    Paper: arXiv:2101.06983 (gradient caching).

    Args:
        model: as prepared for training, wrapped or not.
        inputs: arguments of its forward, the rows of the batch on the first axis of each.
        image_ids: (batch,) integers, equal for rows of one image.
        num_chunks: from `count_chunks`, the same in every process: wrapped models talk to each other in each forward.
        summarise: from an output and its `image_ids` to rows, such as `LeccrCriterion.summarise`.
        loss_of: from the rows of this process and the logit scale to the loss of the global batch.
        accelerator: does the backward passes and holds back the exchange of gradients until the last.
        divisor: batches whose gradients are accumulated.

    Returns:
        The loss, detached, before the division.

    Raises:
        RuntimeError: the second pass over a chunk does not repeat the first.
    """
    chunks = chunk_slices(image_ids.shape[0], num_chunks)
    parts = [{name: value[chunk] for name, value in inputs.items()} for chunk in chunks]
    states, cached = [], []
    for part, chunk in zip(parts, chunks, strict=True):
        states.append(_random_state(image_ids))
        with torch.no_grad():
            output = model(**part)
            cached.append(summarise(output, image_ids[chunk]))
    num_own = min(num_chunks, image_ids.shape[0])  # later chunks repeat a row, for the sake of other processes
    loss, gradients, scale_gradient = _gradients_of_rows(cached[:num_own], output.logit_scale, loss_of)
    for position, (part, chunk) in enumerate(zip(parts, chunks, strict=True)):
        is_last = position == num_chunks - 1
        with contextlib.nullcontext() if is_last else _no_sync(accelerator, model):
            _restore(states[position], image_ids.device)
            output = model(**part)
            rows = float_parts(summarise(output, image_ids[chunk]))
            if position == 0:
                _check_replay(rows, float_parts(cached[0]))
            weight = 1.0 / divisor if position < num_own else 0.0
            # Its gradient with respect to the parameters is the part of the chunk in that of the loss.
            surrogate = torch.stack([(rows[name] * gradients[name][chunk]).sum() for name in rows]).sum() * weight
            if is_last:
                surrogate = surrogate + (output.logit_scale * scale_gradient).sum() / divisor
            accelerator.backward(surrogate)
    return loss


def count_chunks(sizes: list[int], chunk_size: int) -> int:
    """Chunks in which all processes run their rows: as many as the process with the most rows needs."""
    return -(-max(sizes) // chunk_size)


def chunk_slices(num_rows: int, num_chunks: int) -> list[slice]:
    """Chunks of a batch, nearly equal in size; where rows are fewer than chunks, the rest repeat the first row."""
    num_own = min(num_rows, num_chunks)
    bounds = [num_rows * position // num_own for position in range(num_own + 1)]
    own = [slice(first, last) for first, last in itertools.pairwise(bounds)]
    return own + [slice(0, 1)] * (num_chunks - num_own)


def _gradients_of_rows(
    cached: list[Rows], logit_scale: Tensor, loss_of: Callable[[Rows, Tensor], Tensor]
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """The loss, and its gradient with respect to each row and the logit scale."""
    parts = [float_parts(batch) for batch in cached]
    leaves = {name: torch.cat([part[name] for part in parts]).requires_grad_() for name in parts[0]}
    scale = logit_scale.detach().clone().requires_grad_()
    image_ids = torch.cat([batch.image_ids for batch in cached])
    with torch.enable_grad():
        loss = loss_of(type(cached[0])(image_ids=image_ids, **leaves), scale)
    *gradients, scale_gradient = torch.autograd.grad(loss, [*leaves.values(), scale], materialize_grads=True)
    return loss.detach(), dict(zip(leaves, gradients, strict=True)), scale_gradient


def _no_sync(accelerator: Accelerator, model: nn.Module) -> AbstractContextManager:
    """Hold back the exchange of gradients between processes."""
    # Accelerate holds nothing back in a single process, which a launcher has wrapped all the same.
    own: Any = getattr(model, "no_sync", None)
    return accelerator.no_sync(model) if own is None else own()


def _random_state(tensor: Tensor) -> RandomState:
    """State of the generators that a forward on the tensor's device reads."""
    return torch.get_rng_state(), *get_device_states(tensor)


def _restore(state: RandomState, device: torch.device) -> None:
    cpu_state, devices, device_states = state
    torch.set_rng_state(cpu_state)
    set_device_states(devices, device_states, device_type=device.type)


def _check_replay(rows: Mapping[str, Tensor], cached: Mapping[str, Tensor]) -> None:
    """With other dropout in the second pass, gradients would be wrong and every loss would look right."""
    squares = torch.stack([(rows[name].detach() - cached[name]).square().sum() for name in rows]).sum()
    drift = float((squares / torch.stack([value.square().sum() for value in cached.values()]).sum()).sqrt())
    if not drift <= MAX_REPLAY_DRIFT:
        raise RuntimeError(
            f"the gradient cache runs a chunk twice, and the embeddings of both passes must be equal, got a difference "
            f"of {drift:.2g} of their norm: something in the model draws random numbers that torch's generators do "
            f"not repeat; train without torch_compile, without dropout, or without gradient_cache_chunk_size."
        )
