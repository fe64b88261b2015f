"""Kill a training run at random moments, let it go on each time, and compare it with one that nobody disturbed.

    python -m benchmarks.resume --kills 20 --processes 1 2 --write docs/SCALING.md

All that draws random numbers or keeps a state is on: dropout, description dropout, augmentation, accumulated steps,
evaluation with the best checkpoint, early stopping. The processes are forks of one that has imported everything, so
that a kill hits training and not an import. Weights, optimizer, random states, the log without its times, and the
metrics at the end must be equal to the bit; the command fails if they are not.
"""

import argparse
import functools
import gc
import hashlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import commands
from benchmarks.measuring import FormsDifferError
from modeling_leccr.training.arguments import build_recipe
from modeling_leccr.training.building import build_model, build_processor, load_splits
from modeling_leccr.training.checkpoints import CHECKPOINT_FILE, saved_checkpoints
from modeling_leccr.training.reading import merged
from modeling_leccr.training.run import train_system
from processing.files import write_json_atomic

# Read when torch and tokenizers are imported: with more threads than one, forks crowd or lock each other out.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
RESULT_FILE = "result.json"
LONGEST_PAUSE_S = 0.05  # between the kills of the processes of one run
TIME_LIMIT_S = 300
_TIMES = ("pairs_per_second", "data_wait_share", "seconds", "train_", "total_flos")
_STATES = (".safetensors", "optimizer.pt", "scheduler.pt", ".pth")

_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
SETTINGS: dict[str, Any] = {
    "dataset": "scenes",
    "scenes": {"train_size": 24, "validation_size": 6, "test_size": 4, "image_size": 32, "captions_per_item": 1},
    "target_languages": ["de", "zh"],
    "vision_tower": {**_TOWER, "model_type": "vit", "patch_size": 8, "hidden_dropout_prob": 0.1},
    "text_tower": {**_TOWER, "model_type": "bert"},
    "image_size": 32,
    "vocab_size": 400,
    "max_length": 48,
    "model": {
        "slot_dim": 32,
        "embed_dim": 16,
        "num_slot_layers": 1,
        "num_attention_heads": 4,
        "num_slots": 2,
        "dropout": 0.1,
        "description_dropout": 0.3,
    },
    "augmentation": {"scale": [0.5, 1.0]},
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "max_steps": 14,  # 48 pairs make 3 steps an epoch: the run ends within one
    "learning_rate": 1e-3,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "logging_steps": 3,
    "early_stopping_patience": 6,
    "disable_tqdm": True,
    "use_cpu": True,
}


class Laboratory:
    """Runs of one recipe in forked processes, which the variables of ENVIRONMENT are for.

    Args:
        changes: of SETTINGS.
        num_processes: of a run; they share its batches, so that the global batch is the same for every number.
        parts: splits and processor, if another laboratory has made them; they are needed before the forks.
    """

    def __init__(
        self, changes: Mapping[str, Any] | None = None, num_processes: int = 1, parts: tuple[Any, Any] | None = None
    ) -> None:
        size = SETTINGS["per_device_train_batch_size"] // num_processes
        self.settings = merged({**SETTINGS, "per_device_train_batch_size": size}, dict(changes or {}))
        self.num_processes = num_processes
        self.parts = self._make_parts() if parts is None else parts

    def _make_parts(self) -> tuple[Any, Any]:
        recipe = build_recipe({**self.settings, "output_dir": "unused"})
        splits = load_splits(recipe.data)
        processor = build_processor(recipe.model, splits["train"], recipe.data.target_languages)
        with tempfile.TemporaryDirectory() as folder:  # transformers makes its tables once, here instead of in forks
            build_model(recipe.model, processor.tokenizer).save_pretrained(folder)
        return splits, processor

    def launch(self, folder: Path, *, changes: Mapping[str, Any] | None = None, prepare: Any = None) -> list[int]:
        """Start the processes of a run that goes on from the newest checkpoint of the folder, if there is one.

        Args:
            folder: of the run; its result comes into RESULT_FILE.
            changes: of the settings, for this launch.
            prepare: called in each process before it trains.

        Returns:
            The ids of the processes.
        """
        folder.mkdir(parents=True, exist_ok=True)
        port = _free_port()
        gc.freeze()  # a collection in a fork would copy all that this process holds
        sys.stdout.flush()
        return [
            _fork(functools.partial(self._run, rank, port, folder, changes or {}, prepare), folder / "log.txt")
            for rank in range(self.num_processes)
        ]

    def finish(self, folder: Path, **launch: Any) -> dict[str, Any]:
        """Let a run go on until it ends, and give its result.

        Raises:
            RuntimeError: a process failed, or the run takes too long.
        """
        pids = self.launch(folder, **launch)
        if wait(pids, TIME_LIMIT_S):
            kill(pids, random.Random(0))
            raise RuntimeError(f"the run in {folder} takes more than {TIME_LIMIT_S} s.")
        if not (folder / RESULT_FILE).is_file():
            raise RuntimeError(f"the run in {folder} failed:\n{(folder / 'log.txt').read_text()[-4000:]}")
        return json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))

    def _run(
        self,
        rank: int,
        port: int,
        folder: Path,
        changes: Mapping[str, Any],
        prepare: Callable[[], None] | None,
    ) -> None:
        if self.num_processes > 1:
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.num_processes}
            place = {"LOCAL_WORLD_SIZE": self.num_processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ |= {name: str(value) for name, value in {**ranks, **place}.items()}
            os.environ["ACCELERATE_USE_CPU"] = "true"
        settings = merged(self.settings, dict(changes))
        recipe = build_recipe({"resume_from_checkpoint": True, **settings, "output_dir": str(folder)})
        if prepare is not None:
            prepare()
        run = train_system(recipe, *self.parts, folder)
        if recipe.training.world_size != self.num_processes:
            raise RuntimeError(f"{recipe.training.world_size} processes trained, not {self.num_processes}.")
        if run.is_main_process:
            write_json_atomic(folder / RESULT_FILE, _result(run, folder))


def _result(run: Any, folder: Path) -> dict[str, Any]:
    """What must be equal at the end of two runs."""
    digest = hashlib.sha256()
    for name, value in sorted(run.model.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    last = saved_checkpoints(folder)[-1]
    files = json.loads((last / CHECKPOINT_FILE).read_text(encoding="utf-8"))["files"]
    return {
        # model.safetensors, or adapter_model.safetensors of a run that trains adapters
        "weights": next(file["sha256"] for name, file in files.items() if name.endswith("model.safetensors")),
        "best_weights": digest.hexdigest(),
        "last_checkpoint": last.name,
        "states": {name: file["sha256"] for name, file in files.items() if name.endswith(_STATES)},
        "log": [
            {name: value for name, value in line.items() if not name.startswith(_TIMES)} for line in run.log_history
        ],
        "metrics": run.record.metrics,
        "choice": run.record.checkpoint_choice,
    }


def differences(result: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """Names of what differs between two results; of the log, the first line that does."""
    names = [name for name in reference if result[name] != reference[name]]
    if "log" in names:
        pairs = zip(result["log"], reference["log"], strict=False)
        names += [f"log: {ours} instead of {theirs}" for ours, theirs in pairs if ours != theirs][:1]
    return names


def kill(pids: list[int], moments: random.Random) -> int:
    """Kill one process of a run, and the others a moment later, as where a machine fails; number of those that ran."""
    shuffled = moments.sample(pids, len(pids))
    killed = 0
    for pid in shuffled:
        os.kill(pid, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        time.sleep(moments.uniform(0, LONGEST_PAUSE_S))
    return killed


def wait(pids: list[int], seconds: float) -> bool:
    """Wait for processes to end, at most so long; whether some still run. Those that ended are removed from the list.

    Raises:
        RuntimeError: a process ended with an error.
    """
    end = time.monotonic() + seconds
    while pids and time.monotonic() < end:
        for pid in list(pids):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                pids.remove(pid)
                if os.WIFEXITED(status) and os.WEXITSTATUS(status):
                    raise RuntimeError(f"process {pid} failed; see log.txt in the folder of the run.")
        time.sleep(0.005)
    return bool(pids)


def kill_at_random(laboratory: Laboratory, folder: Path, num_kills: int, seed: int) -> dict[str, Any]:
    """Kill runs at random moments of their life until there were so many kills; a run that ends is compared.

    Returns:
        `kills`; `runs` that ended; `during_saves`: kills that left a half-written checkpoint; `resumed_from`: the step
        that each killed run went on from; `reference_seconds`; `weights`: the hash of the last step's weights of each
        run, that of the reference first; `differences`.
    """
    moments = random.Random(seed)
    start = time.monotonic()
    reference = laboratory.finish(folder / "reference")
    seconds = time.monotonic() - start
    num_done = during_saves = number = 0
    weights, found, resumed_from = [reference["weights"]], [], []
    while num_done < num_kills:
        run_folder = folder / f"run-{number}"
        number += 1
        # A run that is always killed early never ends; moments are those of a whole run.
        while num_done < num_kills:
            pids = laboratory.launch(run_folder)
            if not wait(pids, moments.uniform(0, seconds)):
                break
            num_done += kill(pids, moments) > 0
            during_saves += any(run_folder.glob(".checkpoint-*"))
            saved = saved_checkpoints(run_folder)
            resumed_from.append(int(saved[-1].name.rpartition("-")[2]) if saved else 0)
        result = laboratory.finish(run_folder)
        weights.append(result["weights"])
        found += differences(result, reference)
    return {
        "kills": num_done,
        "runs": number,
        "during_saves": during_saves,
        "resumed_from": resumed_from,
        "reference_seconds": seconds,
        "weights": weights,
        "differences": found,
    }


def main(argv: list[str] | None = None) -> int:
    """Kill, resume and compare; see the module's docstring."""
    parser = commands.arguments("resume", __doc__, threads=False)
    parser.add_argument("--kills", type=int, default=20, help="for each number of processes")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="numbers of processes of a run")
    return commands.main_of(run, parser, argv)


def run(options: argparse.Namespace) -> None:
    """Kill, resume, report.

    Raises:
        FormsDifferError: a run ended otherwise than the one that nobody disturbed.
    """
    reports = {}
    with tempfile.TemporaryDirectory(prefix="leccr-resume-") as folder:
        for number in options.processes:
            place = Path(folder, str(number))
            reports[number] = kill_at_random(Laboratory(num_processes=number), place, options.kills, options.seed)
    rows = [
        {
            "processes": number,
            "kills": report["kills"],
            "kills while saving": report["during_saves"],
            "runs": report["runs"],
            "last weights (SHA-256)": " ".join(dict.fromkeys(f"`{weights[:16]}`" for weights in report["weights"])),
            "all equal": "no" if report["differences"] else "yes",
        }
        for number, report in reports.items()
    ]
    data = f"scenes, {SETTINGS['max_steps']} steps of tiny towers with everything on that draws random numbers"
    commands.report("resume", options, commands.table(rows), data=data, settings=SETTINGS, reports=reports)
    if found := [difference for report in reports.values() for difference in report["differences"]]:
        raise FormsDifferError(f"runs that were killed differ from the undisturbed one in {found}.")


def _fork(run: Callable[[], None], log: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        run()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    if not ENVIRONMENT.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.resume", *sys.argv[1:]], os.environ | ENVIRONMENT)
    sys.exit(main())
