"""Pictures, frames and features of frames as they are given to a processor, checked one by one."""

import os
import tokenize
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.image_utils import load_image

_ADDRESSES = ("http://", "https://", "data:image/")  # what `load_image` knows; a text like these is no path
_FETCH_SECONDS = 30.0  # without a limit, a server that answers nothing would hold up the program for ever
_SHOWN = 200  # characters of a path or an address in a message; a picture may be written out in its address


def rgb_image(image: Any, name: str) -> Any:
    """An RGB picture, upright; decoding happens here, so that a broken file is reported with its place in the batch.

    Args:
        image: PIL, a path or a URL; arrays pass through.
        name: what messages call it, such as `images[3]`.

    Raises:
        ValueError: it is missing, unreachable or unreadable.
        TypeError: it is something else.
    """
    if isinstance(image, Tensor) or type(image).__module__ == "numpy":
        return image
    if not isinstance(image, str | Image.Image):
        raise TypeError(f"{name} must be a PIL image, a path, a URL or an array, got {type(image).__name__}.")
    shown = repr(image[:_SHOWN]) if isinstance(image, str) else "one"
    # `load_image` would try to read the name of a missing file as base64.
    if isinstance(image, str) and not image.startswith(_ADDRESSES) and not os.path.isfile(image):
        raise ValueError(f"{name} must be an image, a path or a URL, got {shown}, which is no file; correct it.")
    try:
        return load_image(image, timeout=_FETCH_SECONDS)
    # Pillow and the client that fetches have errors of many kinds, not all of which are OSError or ValueError.
    except Exception as error:
        raise ValueError(
            f"{name} must be a readable image, got {shown} that cannot be decoded ({str(error)[:_SHOWN]}); "
            f"replace or remove it."
        ) from error


def read_numpy(path: str | os.PathLike) -> np.ndarray:
    """The features of a `.npy` file as (num_frames, dim), not yet read from disk.

    Args:
        path: of a file that holds (num_frames, dim), (1, num_frames, dim) or, of one frame, (dim,).

    Raises:
        ValueError: it is no such file.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError, TypeError, OverflowError, tokenize.TokenError) as error:
        raise ValueError(f"{path} is not a readable .npy file ({error}); extract its features again.") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise ValueError(f"{path} must hold one array of floats, got {getattr(array, 'dtype', type(array).__name__)}.")
    return as_frames(array, str(path))


def as_frames(array: np.ndarray, name: str) -> np.ndarray:
    """Numbers as (num_frames, dim), whichever of the three forms of `read_numpy` they have.

    Raises:
        ValueError: they have another form, or there are none.
    """
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must hold (num_frames, dim), got {array.shape}.")
    return array


def frame_features(features: Any, name: str) -> Tensor:
    """Features of the frames of one item.

    Args:
        features: (num_frames, dim) as an array, a tensor or lists, or the path of a `.npy` file.
        name: what messages call it, such as `features[3]`.

    Returns:
        (num_frames, dim) float32; it shares the memory of a float32 array that can be written to.

    Raises:
        ValueError: it is no such file or has another form, or a number is not finite.
    """
    with np.errstate(over="ignore"):  # what does not fit into float32 is refused below
        array = read_numpy(features) if isinstance(features, str | os.PathLike) else _as_array(features, name)
        # Not a copy where none is needed: workers of a data loader would hold each batch once more.
        matrix = torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
    if not torch.isfinite(matrix).all():
        raise ValueError(f"{name} must be finite, got NaN or an infinite number; extract the features again.")
    return matrix


def _as_array(features: Any, name: str) -> np.ndarray:
    if isinstance(features, Tensor):
        features = features.detach().float().cpu()
    try:
        return as_frames(np.asarray(features, dtype=np.float32), name)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers (num_frames, dim) or the path of a .npy file: {error}") from error


def plain_video(video: Any) -> Any:
    """A video as `sample_frames` takes it, of the other forms that tools hand on to a processor.

    Args:
        video: what `sample_frames` takes; one alone in a list; or a tensor, also with its channels before the height.
    """
    if isinstance(video, list | tuple) and len(video) == 1 and isinstance(video[0], list | tuple):
        video = list(video[0])
    if isinstance(video, Tensor):
        has_channels_first = video.ndim == 4 and video.shape[-1] != 3
        video = (video.movedim(1, -1) if has_channels_first else video).detach().cpu().numpy()
    return video


def pad_frames(items: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Items of unlike numbers of frames as one tensor, zeros behind the shorter ones.

    Args:
        items: (num_frames, ...) each; the rest of the shape is one for all.

    Returns:
        (num_items, longest num_frames, ...) and the mask (num_items, longest num_frames), int64, 1 for real frames.
    """
    lengths = torch.tensor([len(item) for item in items])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return torch.nn.utils.rnn.pad_sequence(list(items), batch_first=True), mask


__all__ = ["frame_features", "pad_frames", "plain_video", "read_numpy", "rgb_image"]
