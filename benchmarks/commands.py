"""The benchmarks as commands: common options, fresh processes for memory, table, JSON, and the place in a document."""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.marked_text import write_part
from benchmarks.measuring import FORMS, FormsDifferError, matrix_peak
from processing.files import write_json_atomic
from reporting.report import markdown_table
from reporting.run_record import environment

OUTPUT_FOLDER = Path("outputs/benchmarks")
# What the process of a benchmark keeps to itself when it starts another one.
_OF_THE_PARENT = ("output", "write", "repeats", "no_memory", "matrix_peak", "command")


def arguments(name: str, description: str | None, *, threads: bool = True) -> argparse.ArgumentParser:
    """The options of a benchmark whose table stands in a document.

    Args:
        name: of the module.
        description: its docstring.
        threads: whether their number can be chosen.
    """
    parser = _parser(name, description)
    parser.add_argument("--write", type=Path, help="document whose table is replaced, such as docs/SCALING.md")
    if threads:
        _add_threads(parser)
    return parser


def form_arguments(name: str, description: str | None, *, repeats: int) -> argparse.ArgumentParser:
    """The options of a benchmark of our form of something against the official one."""
    parser = _parser(name, description)
    _add_threads(parser)
    parser.add_argument("--repeats", type=int, default=repeats, help="timed runs of each form; the median counts")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see that the benchmark works")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory, which takes more processes")
    parser.add_argument("--memory-of", choices=FORMS, help=argparse.SUPPRESS)  # in a child process of the benchmark
    return parser


def _parser(name: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=OUTPUT_FOLDER / f"{name}.json", help="JSON file to write")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's own choice)")


def main_of(
    run: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> int:
    """Run a benchmark as a command: 0, or 1 when what it compares differs."""
    words = sys.argv[1:] if argv is None else argv
    options = parser.parse_args(words)
    # Where a data set lies on this machine is of no use to a reader of the table.
    shown_words = [f"PATH/TO/{Path(word).name}" if Path(word).is_absolute() else word for word in words]
    options.command = shlex.join([*parser.prog.split(), *shown_words])
    if getattr(options, "threads", None) is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    if "memory_of" in options and options.memory_of is None:
        options.matrix_peak = _peak_of(options)
    try:
        run(options)
    except FormsDifferError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def in_child(name: str, options: argparse.Namespace, **changes: Any) -> str:
    """The last line that a fresh process of the same benchmark, with the same sizes, prints.

    Args:
        name: of the module.
        options: of this process.
        changes: of them; those that tell the process what to do.

    Raises:
        RuntimeError: the process failed.
    """
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    for option, value in {**vars(options), **changes}.items():
        if option in _OF_THE_PARENT or value is None or value is False:
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        command += [f"--{option.replace('_', '-')}", *map(str, values)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        raise RuntimeError(f"{name} with {changes} failed:\n{child.stdout[-1000:]}{child.stderr[-2000:]}")
    return child.stdout.splitlines()[-1]


def form_peaks(name: str, options: argparse.Namespace) -> dict[str, float]:
    """The columns of peak memory for a row of the table: that of each form, each in a fresh process."""
    peaks = {form: float(in_child(name, options, memory_of=form)) for form in FORMS}
    ratio = peaks["ours"] / peaks["official"] if peaks["official"] else float("nan")
    return {"official_peak_mib": peaks["official"], "our_peak_mib": peaks["ours"], "memory_ratio": ratio}


def report(
    name: str, options: argparse.Namespace, text: str, *, data: str, part: str | None = None, **facts: Any
) -> None:
    """Write the JSON file, print the text, and put it in its place in a document, with a line of where it comes from.

    Args:
        name: of the module.
        options: of `main_of`.
        text: the table, and what belongs to it.
        data: what was measured, in words.
        part: name of the place in the document, if it is not that of the module.
        facts: further ones for the JSON file.
    """
    found, threads = environment(), torch.get_num_threads()
    write_json_atomic(
        options.output,
        {
            "benchmark": name,
            "command": options.command,
            "machine": machine(),
            "threads": threads,
            "seed": options.seed,
            **facts,
        },
    )
    origin = (
        f"From `{options.command}`: {data}; {found['accelerator'] or found['processor']}, "
        f"{threads} {'thread' if threads == 1 else 'threads'}, torch {torch.__version__}, seed {options.seed}."
    )
    print(f"{text}\n\n{origin}\n\nwritten: {options.output}")
    if options.write is not None:
        write_part(options.write, part or name, f"{text}\n\n{origin}")


def finish(name: str, options: argparse.Namespace, rows: list[dict[str, Any]], **facts: Any) -> None:
    """Print the table of a comparison of forms and write its JSON file."""
    # Taken before and after: on a busy machine one of them may be far too low.
    peak = max(options.matrix_peak, _peak_of(options))
    facts["matrix_peak_gflops"] = peak
    if "achieved_gflops" in facts:
        facts["share_of_matrix_peak"] = {form: rate / peak for form, rate in facts["achieved_gflops"].items()}
    whole = {
        "benchmark": name,
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "seed": options.seed,
        "tiny": options.tiny,
        **facts,
        "rows": rows,
    }
    write_json_atomic(options.output, whole)
    print(table(rows))
    for key, value in facts.items():
        print(f"{key}: {json.dumps(value)}")
    print(f"written: {options.output}")


def machine() -> dict[str, Any]:
    """Processor, versions and revision, and which vector instructions torch uses."""
    return environment() | {"capability": torch.backends.cpu.get_cpu_capability()}


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """The rows as a Markdown table; nested values are left to the JSON file.

    Args:
        rows: column -> value; a column that a row lacks stays empty.
        columns: which ones, and in which order; None takes all.
    """
    if columns is None:
        plain = [key for row in rows for key, value in row.items() if isinstance(value, (str, float, int))]
        columns = list(dict.fromkeys(plain))
    return markdown_table(columns, [[shown(row.get(column)) for column in columns] for row in rows])


def shown(value: Any) -> str:
    """A value with the digits that tell."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None else str(value)


def _peak_of(options: argparse.Namespace) -> float:
    return matrix_peak(size=256 if options.tiny else 2048)
