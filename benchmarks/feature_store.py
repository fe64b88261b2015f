"""Training from a large store of frame features: memory of the loader, speed, and time that a step waits for data.

    python -m benchmarks.feature_store --write docs/SCALING.md
    python -m benchmarks.feature_store --items 300 --dim 16 --batches 4 --size tiny --steps 1    # shows that it runs
    python -m benchmarks.feature_store --clean                                                   # removes the store

Writes 100,000 videos of 30 frames of 1,024 random numbers (12 GB; a run that is killed goes on), with five captions,
translations and a description each, in the layout of `FeatureStore`. Each measurement runs in a fresh process, with the
pairs, order, collator and data loader of training; the system is told to forget the pages of the store before.

Memory is the growth, over all processes of the loader, of their proportional share of pages (PSS) since before the data
set was opened: captions and descriptions, ids of frames, batches on their way, and pages of the store that are mapped.
The steps are those of two streams with slots and mBERT-base from random weights, forward, losses, backward and AdamW.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import BertConfig
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from benchmarks import commands, measuring, sizes
from benchmarks.synthetic_store import LANGUAGE, WORDS, SyntheticStore
from benchmarks.training_step import ADAMW
from modeling_leccr import LeccrConfig, LeccrModel
from modeling_leccr.losses_leccr import LeccrCriterion, LossConfig
from modeling_leccr.training.batches import DrawnPairs, GlobalBatches, TrainingLoader
from modeling_leccr.training.gather import gather_batch
from processing.collator import LeccrCollator
from processing.pairs import CaptionPairs
from processing.processing_leccr import LeccrProcessor
from processing.readers.feature_store import attach_features
from processing.sources import open_splits
from processing.tokenizer import train_tokenizer

NAME = "feature_store"
COLUMNS = (
    "workers",
    "open_seconds",
    "loader_mib",
    "of_it_mapped_mib",
    "pairs_per_second",
    "batch_milliseconds",
    "step_seconds",
    "waited_percent",
)
SAMPLE_SECONDS = 0.5


class MemoryMeter(threading.Thread):
    """Watches the proportional share of memory of this process and those that it started, until `stop`.

    Attributes:
        peak_mib: the highest sum over the processes so far, less that at the start.
        mapped_mib: of that sum, pages of files; they too less those at the start.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._start = proportional_mib()
        self._stopped = threading.Event()
        self.peak_mib = self.mapped_mib = 0.0

    def run(self) -> None:
        """Sample until told to stop, and once after."""
        while not self._stopped.wait(SAMPLE_SECONDS):
            self._sample()

    def stop(self) -> None:
        """Take a last sample and end."""
        self._stopped.set()
        self.join()
        self._sample()

    def _sample(self) -> None:
        found = proportional_mib(*(child.pid for child in active_children() if child.pid))
        growth = found["Pss"] - self._start["Pss"]
        if growth > self.peak_mib:
            self.peak_mib, self.mapped_mib = growth, found["Pss_File"] - self._start["Pss_File"]


def proportional_mib(*children: int) -> dict[str, float]:
    """`Pss` of this process and others, and its part `Pss_File`: a page that n processes share counts 1 / n in each."""
    sums = {"Pss": 0, "Pss_File": 0}
    for process in ("self", *children):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        for line in lines[1:]:
            name, _, value = line.partition(":")
            if name in sums:
                sums[name] += int(value.split()[0])
    return {name: value * 1024 / measuring.MEBIBYTE for name, value in sums.items()}


def main(argv: list[str] | None = None) -> int:
    """Write the store, measure, report; see the module's docstring."""
    parser = commands.arguments(NAME, __doc__)
    parser.add_argument("--folder", type=Path, default=Path("outputs/feature_store"), help="of the synthetic store")
    parser.add_argument("--items", type=int, default=100_000, help="videos (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=30, help="of a video (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=1024, help="numbers of a frame (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 4], help="of the data loader (default: 0 4)")
    parser.add_argument("--batch-size", type=int, default=128, help="pairs (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=800, help="that are read without a step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after a first one (default: %(default)s)")
    parser.add_argument("--size", choices=("real", "tiny"), default="real", help="of the text tower")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu", help="of the steps (default: %(default)s)")
    parser.add_argument("--clean", action="store_true", help="remove the store, and measure nothing")
    parser.add_argument("--measure", choices=("loader", "steps"), help=argparse.SUPPRESS)  # in a child process
    return commands.main_of(run, parser, argv)


def run(options: argparse.Namespace) -> None:
    """Measure in this process where it is a child's, else in children, and report."""
    store = SyntheticStore(options.folder, options.items, options.frames, options.dim, options.seed)
    if options.measure is not None:
        measure = measure_loader if options.measure == "loader" else measure_steps
        print(json.dumps(measure(store, options)))
        return
    if options.clean:
        store.remove()
        print(f"removed: {options.folder}")
        return
    store.write()
    # The tables that the library makes of parquet files belong to the store, and go with it.
    os.environ["HF_DATASETS_CACHE"] = str((options.folder / "cache").resolve())
    rows = []
    for workers in tqdm(options.workers, desc="measuring", disable=None):
        row: dict[str, Any] = {"workers": workers}
        for part in ("loader", "steps"):
            store.forget_pages()
            row |= json.loads(commands.in_child(NAME, options, workers=[workers], measure=part))
        rows.append(row)
    commands.report(
        NAME,
        options,
        commands.table(rows, COLUMNS),
        data=(
            f"{store.num_items:,} videos of {store.num_frames} frames of {store.dim:,} numbers, "
            f"{store.num_bytes / measuring.GIBIBYTE:.3g} GiB; batches of {options.batch_size} pairs, "
            f"{options.batches} of them without a step, {options.size} text tower, {options.device}"
        ),
        rows=rows,
        **{name: getattr(options, name) for name in ("items", "frames", "dim", "batch_size", "batches", "steps")},
    )


def measure_loader(store: SyntheticStore, options: argparse.Namespace) -> dict[str, float]:
    """Memory and speed of reading batches, without a step between them."""
    processor = make_processor()
    meter = MemoryMeter()
    start = time.perf_counter()
    loader = make_loader(store, options, processor)
    opened = time.perf_counter() - start
    meter.start()
    batches = iter(loader)
    next(batches)  # starts the workers
    start = time.perf_counter()
    count = sum(1 for _ in itertools.islice(batches, options.batches))
    seconds = time.perf_counter() - start
    meter.stop()
    return {
        "open_seconds": opened,
        "loader_mib": meter.peak_mib,
        "of_it_mapped_mib": meter.mapped_mib,
        "pairs_per_second": count * options.batch_size / seconds,
        "batch_milliseconds": 1000 * seconds / count,
    }


def measure_steps(store: SyntheticStore, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of whole steps, and the share of them that was spent waiting for the batch."""
    torch.manual_seed(options.seed)
    model = make_model(store.dim, tiny=options.size == "tiny").to(options.device).train()
    criterion, optimizer = LeccrCriterion(LossConfig()), torch.optim.AdamW(model.parameters(), fused=True, **ADAMW)
    batches = iter(make_loader(store, options, make_processor()))
    waited, whole = [], []
    for _ in range(options.steps + 1):
        start = time.perf_counter()
        batch = next(batches)
        waited.append(time.perf_counter() - start)
        image_ids = batch.pop("image_ids").to(options.device)
        inputs = {name: value.to(options.device) for name, value in batch.items() if isinstance(value, torch.Tensor)}
        output = model(**inputs)
        rows = gather_batch(criterion.summarise(output, image_ids))
        criterion.total(criterion(rows, output.logit_scale)).backward()
        optimizer.step()
        optimizer.zero_grad()
        measuring.synchronise(options.device)
        whole.append(time.perf_counter() - start)
    # The first step starts the workers and fills the memory.
    return {
        "step_seconds": statistics.median(whole[1:]),
        "waited_percent": 100 * sum(waited[1:]) / sum(whole[1:]),
    }


def make_loader(store: SyntheticStore, options: argparse.Namespace, processor: LeccrProcessor) -> TrainingLoader:
    """The data loader of a training run on the store."""
    rows, _ = attach_features(open_splits(store.texts)["train"], store.features)
    pairs = CaptionPairs(rows, [LANGUAGE], vision_input="features", sampling=processor.sampling)
    return TrainingLoader(
        DrawnPairs(pairs, options.seed),
        batch_sampler=GlobalBatches(len(pairs), options.batch_size, seed=options.seed),
        collate_fn=LeccrCollator(processor),
        num_workers=options.workers[0],
        generator=torch.Generator().manual_seed(options.seed),
    )


def make_processor() -> LeccrProcessor:
    """With a tokenizer of the words of the store; features pass through unchanged."""
    tokenizer = train_tokenizer(_vocabulary(), len(WORDS) + sizes.TINY_VOCABULARY // 2, max_length=200)
    return LeccrProcessor(ViTImageProcessorPil(), tokenizer)


def _vocabulary() -> Iterator[str]:
    for word in WORDS:
        yield f"{word} {word}"  # a word that occurs once is learned in parts alone


def make_model(dim: int, *, tiny: bool) -> LeccrModel:
    """LECCR over frame features with mBERT-base, or with a text tower of two narrow layers; random weights."""
    text = BertConfig(vocab_size=119_547)
    ours: dict[str, Any] = {}
    if tiny:
        narrow: dict[str, Any] = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        text = BertConfig(**narrow, vocab_size=len(WORDS) + sizes.TINY_VOCABULARY)
        ours = {"slot_dim": 16, "embed_dim": 8, "num_attention_heads": 2}
    slots = {"num_slots": 2, "num_slot_layers": 2}
    visual: dict[str, Any] = {"vision_input": "features", "feature_dim": dim, **slots, **ours}
    return LeccrModel(LeccrConfig(text_config=text, **visual))


if __name__ == "__main__":
    sys.exit(main())
