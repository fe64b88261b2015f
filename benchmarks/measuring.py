"""What the benchmarks share: the command line, clocks, peak memory, the equality check, table and JSON."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from processing.files import write_json_atomic
from reporting.run_record import environment

OUTPUT_FOLDER = Path("outputs/benchmarks")
FORMS = ("official", "ours")
MEBIBYTE = 2**20


class FormsDifferError(ValueError):
    """The two forms of a benchmark do not compute the same thing, so that comparing their speed means nothing."""


def arguments(name: str, description: str | None, *, repeats: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--output", type=Path, default=OUTPUT_FOLDER / f"{name}.json", help="JSON file to write")
    parser.add_argument("--repeats", type=int, default=repeats, help="timed runs of each form; the median counts")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see that the benchmark works")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory, which takes more processes")
    parser.add_argument("--memory-of", choices=FORMS, help=argparse.SUPPRESS)  # in a child process of the benchmark
    return parser


def prepare(options: argparse.Namespace) -> None:
    """Set threads and seed, and take the matrix peak, except for a process that only measures memory."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    if not options.memory_of:
        options.matrix_peak = _peak_of(options)


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


def matrix_peak(dtype: torch.dtype = torch.float32, *, size: int = 2048, repeats: int = 5) -> float:
    """GFLOP/s of the best of a few products of square matrices: what this machine reaches at most, right now."""
    left, right = (torch.ones(size, size, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


def peak_growth(run: Callable[[], Any]) -> float:
    """MiB by which a run raises the peak resident memory of this process above what it holds before.

    Only the first run in a fresh process tells; see `peak_in_child`.
    """
    before = resident_mib("VmRSS")
    run()
    return resident_mib("VmHWM") - before


def peak_in_child(name: str, options: argparse.Namespace) -> dict[str, float]:
    """`peak_growth` of each form, each in a fresh process of the same benchmark with the same sizes."""
    peaks = {}
    for form in FORMS:
        command = [sys.executable, "-m", f"benchmarks.{name}", "--memory-of", form]
        for option, value in vars(options).items():
            if option in ("output", "repeats", "memory_of", "no_memory", "matrix_peak") or value in (None, False):
                continue
            command += [f"--{option.replace('_', '-')}"] + ([] if value is True else [str(value)])
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:
            raise RuntimeError(f"measuring the memory of the {form} form failed:\n{child.stderr[-2000:]}")
        peaks[form] = float(child.stdout.split()[-1])
    return peaks


def memory_columns(peaks: Mapping[str, float]) -> dict[str, float]:
    """The columns of peak memory for a row of the table."""
    ratio = peaks["ours"] / peaks["official"] if peaks["official"] else float("nan")
    return {"official_peak_mib": peaks["official"], "our_peak_mib": peaks["ours"], "memory_ratio": ratio}


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


def finish(name: str, options: argparse.Namespace, rows: list[dict[str, Any]], **facts: Any) -> None:
    """Print the table and write the JSON file."""
    # Taken before and after: on a busy machine one of them may be far too low.
    peak = max(options.matrix_peak, _peak_of(options))
    facts["matrix_peak_gflops"] = peak
    if "achieved_gflops" in facts:
        facts["share_of_matrix_peak"] = {form: rate / peak for form, rate in facts["achieved_gflops"].items()}
    report = {
        "benchmark": name,
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "seed": options.seed,
        "tiny": options.tiny,
        **facts,
        "rows": rows,
    }
    write_json_atomic(options.output, report)
    print(table(rows))
    for key, value in facts.items():
        print(f"{key}: {json.dumps(value)}")
    print(f"written: {options.output}")


def machine() -> dict[str, Any]:
    """Processor, versions and revision, and which vector instructions torch uses."""
    return environment() | {"capability": torch.backends.cpu.get_cpu_capability()}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The numbers of the rows as aligned text; nested values are left to the JSON file."""
    shown = {key: None for row in rows for key, value in row.items() if isinstance(value, (str, float, int))}
    columns = list(shown)  # in the order of their first row
    cells = [columns] + [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def main_of(run: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, argv: Any = None) -> int:
    """Run a benchmark as a command: 0, or 1 when the forms differ."""
    options = parser.parse_args(argv)
    prepare(options)
    try:
        run(options)
    except FormsDifferError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _peak_of(options: argparse.Namespace) -> float:
    return matrix_peak(size=256 if options.tiny else 2048)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def resident_mib(field: str) -> float:
    """VmRSS (now), VmHWM (highest so far) or RssAnon (now, without pages of files) of this process.

    `getrusage` would carry over the peak of the parent.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RuntimeError("peak memory is read from /proc/self/status, which only Linux has.") from error
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024 / MEBIBYTE
