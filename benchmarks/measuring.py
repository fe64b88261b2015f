"""What the benchmarks measure with: the equality check, clocks, peak memory and the peak of the machine."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMS = ("official", "ours")
MEBIBYTE = 2**20
GIBIBYTE = 2**30


class FormsDifferError(ValueError):
    """The two forms of a benchmark do not compute the same thing, so that comparing their speed means nothing."""


def largest_difference(ours: Mapping[str, Tensor], official: Mapping[str, Tensor]) -> dict[str, float]:
    """Largest absolute difference of each named result.

    Raises:
        FormsDifferError: a name or a shape is not the same on both sides, or a result is not finite.
    """
    if ours.keys() != official.keys():
        raise FormsDifferError(f"the forms return {sorted(ours)} and {sorted(official)}; they must return the same.")
    differences = {}
    for name, value in ours.items():
        if value.shape != official[name].shape:
            raise FormsDifferError(f"{name} is {tuple(value.shape)} in ours, {tuple(official[name].shape)} officially.")
        differences[name] = float((value.double() - official[name].double()).abs().max())
        if not differences[name] < float("inf"):
            raise FormsDifferError(f"{name} is not finite in one of the forms.")
    return differences


def check_equal(ours: Mapping[str, Tensor], official: Mapping[str, Tensor], tolerance: float) -> dict[str, float]:
    """As `largest_difference`, and refuse what exceeds the tolerance.

    Raises:
        FormsDifferError: names the results that differ, and by how much.
    """
    differences = largest_difference(ours, official)
    beyond = {name: value for name, value in differences.items() if value > tolerance}
    if beyond:
        raise FormsDifferError(f"the forms differ by more than {tolerance:g}: {beyond}; no time was taken.")
    return differences


def check_step(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    tolerance: float,
    *,
    gradient_tolerance: float | None = None,
) -> dict[str, float]:
    """Compare what two steps computed.

    Args:
        found, expected: "loss/..." and "gradient/..." -> value.
        tolerance: of each loss.
        gradient_tolerance: of each gradient as a share of the largest of its parameter; None takes that of the losses.

    Returns:
        Largest difference by name.

    Raises:
        FormsDifferError: names what differs by more, and by how much.
    """
    # Rounding grows with the gradient, and without a scale an error of 1e-5 in a gradient of 1e-7 would pass unseen;
    # without a floor, the rounding of a gradient of zero would be all there is.
    scales = {
        name: 1 / value.abs().max().clamp_min(1e-2) if name.startswith("gradient/") else 1.0
        for name, value in expected.items()
    }
    found, expected = (
        {name: value * scales.get(name, 1.0) for name, value in results.items()} for results in (found, expected)
    )
    differences: dict[str, float] = {}
    for prefix, limit in (("loss/", tolerance), ("gradient/", gradient_tolerance or tolerance)):
        ours, theirs = (
            {name: value for name, value in results.items() if name.startswith(prefix)} for results in (found, expected)
        )
        differences |= check_equal(ours, theirs, limit)
    return differences


def largest(differences: Mapping[str, float], prefix: str) -> float:
    """The largest difference of those whose name begins so."""
    return max(value for name, value in differences.items() if name.startswith(prefix))


def interleave(forms: Mapping[str, Callable[[], Any]], repeats: int, *, warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of each run, the forms in turn, so that a busy spell of the machine hits both.

    Args:
        forms: what to run, by name.
        repeats: timed runs of each form.
        warm_up: run each form once before; not needed where the comparison of the results has just done so.

    Raises:
        ValueError: `repeats` is below 1.
    """
    if warm_up:
        for run in forms.values():
            run()
    return timed_results(forms, repeats)[1]


def timed_results(
    forms: Mapping[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The last result of each form and the seconds of each run, the forms in turn."""
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}.")
    results: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(repeats):
        for name, run in forms.items():
            start = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - start)
    return results, seconds


def timing_row(name: str, seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """A row of the table: median seconds of both forms and how many times faster ours is."""
    median = {form: statistics.median(seconds[form]) for form in FORMS}
    return {
        "name": name,
        "official_seconds": median["official"],
        "our_seconds": median["ours"],
        "speed_up": median["official"] / median["ours"],
        "all_seconds": {form: list(seconds[form]) for form in FORMS},
    }


def matrix_peak(
    dtype: torch.dtype = torch.float32, *, size: int = 2048, repeats: int = 5, device: str = "cpu"
) -> float:
    """GFLOP/s of the best of a few products of square matrices: what this machine reaches at most, right now."""
    # Of its own, so that what is drawn later does not depend on whether the peak was taken.
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, dtype=dtype, device=device, generator=generator) for _ in range(2))
    seconds = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        left @ right
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


def synchronise(device: str) -> None:
    """Wait for the queue of a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_growth(run: Callable[[], Any], device: str = "cpu") -> float:
    """MiB by which a run raises the peak memory above what was held before: resident, or on a GPU what torch holds.

    Resident memory tells in the first run of a fresh process alone: in a used one, memory that was freed hides it.
    """
    if device == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - held) / MEBIBYTE
    before = resident_mib("VmRSS")
    run()
    return resident_mib("VmHWM") - before


def saved_bytes(run: Callable[[], Any]) -> int:
    """Bytes of the distinct tensors, parameters left out, that autograd keeps for the backward pass of a forward."""
    storages: dict[int, int] = {}
    kept = []  # alive, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter) and not isinstance(tensor._base, torch.nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept.append(run())
    return sum(storages.values())


def resident_mib(field: str) -> float:
    """VmRSS (now), VmHWM (highest so far) or RssAnon (now, without pages of files) of this process.

    `getrusage` would carry over the peak of the parent.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RuntimeError("peak memory is read from /proc/self/status, which only Linux has.") from error
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024 / MEBIBYTE
