"""What happens to damaged and odd video files: read, refused with a clear error, or anything else.

Small files of many formats and sizes are damaged at random (cut, bits flipped, parts deleted, ...) and read, each in a
process of its own, with limits for time and memory, as training reads them: frames, then tensors. A file that is whole
must be read, with as many frames as it should give, and one of sound alone be refused. Whatever else happens is counted
as "else" and the file is named: a crash, an error that does not name the file, a tensor that is wrong, a file or a
thread left behind. One such file makes the command fail.

Files with an outcome are not read again, so that a run that was stopped goes on.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm
from transformers import CLIPImageProcessorPil

from benchmarks.commands import arguments as common_arguments
from benchmarks.commands import main_of, report
from benchmarks.video_files import DAMAGES, SOURCES, WHOLE, Source, write_source
from processing.processing_leccr import LeccrProcessor
from processing.tokenizer import train_tokenizer
from processing.video_frames_leccr import FrameSampling, sample_frames
from reporting.report import markdown_table

OTHER_SUFFIXES = (".mp4", ".avi", ".jpg", ".txt", "")
SAMPLINGS = (FrameSampling(8), FrameSampling(1), FrameSampling(12, frame_rate=2.0))
READ, REFUSED, ELSE = "read", "refused", "else"
IMAGE_SIZE = 32
WORDS = ("a clip of something that moves",)
GIBIBYTE = 2**30


@dataclass(frozen=True)
class Outcome:
    """What happened to one file.

    Attributes:
        file: its name.
        source: name of the file that was damaged.
        damage: a key of DAMAGES.
        state: "read", "refused" or "else".
        detail: the error, or what was wrong.
    """

    file: str
    source: str
    damage: str
    state: str
    detail: str


class WrongFramesError(Exception):
    """What was read is not what a model can take, or something was left behind."""


def make_file(number: int, seed: int, folder: Path) -> tuple[Path, Source, str]:
    """Write damaged file `number`; the kinds of damage take turns, and so do the files for each kind."""
    choice = random.Random(f"{seed}-{number}")
    turn, kind = divmod(number, len(DAMAGES))
    damage = list(DAMAGES)[kind]
    source = SOURCES[(turn + 5 * kind) % len(SOURCES)]
    data = DAMAGES[damage](write_source(source, folder / "sources").read_bytes(), choice)
    suffix = choice.choice(OTHER_SUFFIXES) if damage == "wrong extension" else Path(source.name).suffix
    path = folder / f"{number:05d}{suffix}"
    path.write_bytes(data)
    return path, source, damage


def read_file(path: Path, source: Source | None, number: int, processor: LeccrProcessor) -> None:
    """Read a file in each way in which training does.

    Args:
        path: of the file.
        source: what must be found in it; None if anything may.
        number: chooses the sampling.
        processor: makes tensors of the frames.

    Raises:
        ValueError: the file was refused.
        WrongFramesError: it was read wrongly.
    """
    sampling = SAMPLINGS[number % len(SAMPLINGS)]
    before = _left_open()
    for draw in (None, number):
        data: Any = {"bytes": path.read_bytes(), "path": str(path)} if number % 2 else path
        frames = sample_frames(data, sampling, draw=draw)
        check_frames(frames, sampling, source)
        check_tensors(processor(videos=[frames]), len(frames))
    if _left_open() != before:
        raise WrongFramesError(f"threads and open files before and after: {before}, {_left_open()}")


def check_frames(frames: Sequence[Any], sampling: FrameSampling, source: Source | None) -> None:
    """Hold what was read against what a file should give.

    Raises:
        WrongFramesError: something differs.
    """
    if not 1 <= len(frames) <= sampling.num_frames:
        raise WrongFramesError(f"{len(frames)} frames for {sampling}")
    if not all(isinstance(frame, Image.Image) and frame.mode == "RGB" for frame in frames):
        raise WrongFramesError(f"not RGB pictures: {frames}")
    if source is None:
        return
    sizes = {frame.size for frame in frames}
    if sizes != {source.shown_size}:
        raise WrongFramesError(f"sizes {sizes} of {source.name}, {source.shown_size} expected")
    expected = min(sampling.num_frames, source.num_frames)
    if sampling.frame_rate is None and len(frames) != expected:
        raise WrongFramesError(f"{len(frames)} frames of {source.name}, {expected} expected")


def check_tensors(batch: Any, num_frames: int) -> None:
    """Hold what a model would get against shapes, types and ranges.

    Raises:
        WrongFramesError: something differs.
    """
    pixels, mask = batch["pixel_values"], batch["frame_mask"]
    shapes = (tuple(pixels.shape), tuple(mask.shape))
    if shapes != ((1, num_frames, 3, IMAGE_SIZE, IMAGE_SIZE), (1, num_frames)):
        raise WrongFramesError(f"shapes {shapes} for {num_frames} frames")
    if (pixels.dtype, mask.dtype) != (torch.float32, torch.int64):
        raise WrongFramesError(f"types {pixels.dtype} and {mask.dtype}")
    # Normalised by mean and deviation, 0 and 1 lie within these.
    if not bool(pixels.isfinite().all()) or float(pixels.abs().max()) > 3 or not bool(mask.all()):
        raise WrongFramesError(f"values from {float(pixels.min())} to {float(pixels.max())}, mask {mask.tolist()}")


def _left_open() -> tuple[int, int]:
    """Numbers of threads and of open files, where the system tells."""
    folders = [Path("/proc/self/task"), Path("/proc/self/fd")]
    return tuple(len(list(folder.iterdir())) if folder.is_dir() else 0 for folder in folders)  # type: ignore[return-value]


def _child(connection: Any, path: Path, source: Source | None, number: int, memory_gib: float) -> None:
    """Runs in a process of its own, and tells how it ended."""
    pages = Path("/proc/self/statm")
    used = int(pages.read_text(encoding="utf-8").split()[0]) * resource.getpagesize() if pages.is_file() else 0
    limit = used + round(memory_gib * GIBIBYTE)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        read_file(path, source, number, _processor())
    except ValueError as error:
        named = str(error).startswith(str(path))
        connection.send((REFUSED if named else ELSE, str(error)))
    except BaseException as error:  # whatever it is, it is what the benchmark looks for
        connection.send((ELSE, f"{type(error).__name__}: {error}"))
    else:
        connection.send((READ, ""))


def observe(
    path: Path, source: Source, damage: str, number: int, *, seconds: float, memory_gib: float
) -> tuple[str, str]:
    """The state and detail of one file, read in a process that may crash or hang."""
    expected = source if damage in WHOLE and source.num_frames else None
    receiver, sender = multiprocessing.Pipe(duplex=False)
    # Forked: loading torch again would take far longer than reading a file.
    process = multiprocessing.get_context("fork").Process(
        target=_child, args=(sender, path, expected, number, memory_gib)
    )
    process.start()
    sender.close()
    try:
        state, detail = receiver.recv() if receiver.poll(seconds) else (ELSE, f"no end after {seconds:g} s")
    except EOFError:
        process.join()
        state, detail = ELSE, f"the process ended with {process.exitcode}"
    if state != ELSE:
        process.join(seconds)
        if process.is_alive():
            state, detail = ELSE, f"the process stayed after the file was {state}"
    process.kill()
    process.join()
    if damage in WHOLE and source.num_frames and state == REFUSED:
        return ELSE, f"a whole file was refused: {detail}"
    if damage in ("empty", "only a beginning") and state == READ:
        return ELSE, "frames of a file that holds none"
    return state, detail


_PROCESSORS: list[LeccrProcessor] = []


def _processor() -> LeccrProcessor:
    """One for all files, made before the first process is forked."""
    if not _PROCESSORS:
        side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        images = CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False)
        _PROCESSORS.append(LeccrProcessor(images, train_tokenizer(WORDS, 64, max_length=16), num_frames=12))
    return _PROCESSORS[0]


def run(options: argparse.Namespace) -> list[Outcome]:
    """Read all files, go on where an earlier run was stopped, and report."""
    torch.set_num_threads(1)
    _processor()
    folder = options.folder / f"seed-{options.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "outcomes.jsonl"
    outcomes = _known_outcomes(record)
    with record.open("a", encoding="utf-8") as file:
        for number in tqdm(range(options.count), desc="files", unit="file"):
            if number in outcomes:
                continue
            path, source, damage = make_file(number, options.seed, folder)
            state, detail = observe(
                path, source, damage, number, seconds=options.seconds, memory_gib=options.memory_gib
            )
            outcomes[number] = Outcome(path.name, source.name, damage, state, detail)
            file.write(json.dumps({"number": number, **asdict(outcomes[number])}) + "\n")
            file.flush()
            # What was handled well can be made again from its number.
            if state != ELSE:
                path.unlink()
    found = [outcomes[number] for number in range(options.count)]
    others = [asdict(outcome) for outcome in found if outcome.state == ELSE]
    for other in others:
        print(f"else: {json.dumps(other)}", file=sys.stderr)
    report(
        "mutated_videos",
        options,
        summary(found),
        data=f"{options.count} files, at most {options.seconds:g} s and {options.memory_gib:g} GiB each",
        count=options.count,
        totals=dict(Counter(outcome.state for outcome in found)),
        others=others,
        outcomes=[asdict(outcome) for outcome in found],
    )
    return found


def _known_outcomes(record: Path) -> dict[int, Outcome]:
    """Number of the file -> outcome, of an earlier run; a last line that was cut off does not count."""
    if not record.is_file():
        return {}
    text = record.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        record.write_text(whole, encoding="utf-8")
    rows = [json.loads(line) for line in whole.splitlines()]
    return {row.pop("number"): Outcome(**row) for row in rows}


def summary(outcomes: Sequence[Outcome]) -> str:
    """A table: a row for each kind of damage, and one for all."""
    states = (READ, REFUSED, ELSE)
    counts = {damage: Counter(outcome.state for outcome in outcomes if outcome.damage == damage) for damage in DAMAGES}
    rows = [[damage, sum(found.values()), *(found[state] for state in states)] for damage, found in counts.items()]
    rows = [row for row in rows if row[1]]
    rows.append(["all", *(sum(int(row[column]) for row in rows) for column in range(1, 5))])
    return markdown_table(["damage", "files", *states], [[str(cell) for cell in row] for row in rows])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 where something else happened than reading or refusing."""
    parser = common_arguments("mutated_videos", __doc__, threads=False)
    parser.add_argument("--count", type=int, default=500, help="number of files")
    parser.add_argument("--folder", type=Path, default=Path("outputs/mutated_videos"), help="for the files")
    parser.add_argument("--seconds", type=float, default=60, help="that one file may take")
    parser.add_argument("--memory-gib", type=float, default=2, help="that one file may take")
    found: list[Outcome] = []
    code = main_of(lambda options: found.extend(run(options)), parser, argv)
    return code or int(any(outcome.state == ELSE for outcome in found))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
