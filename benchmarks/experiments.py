"""Experiments: a recipe in several variants and seeds, trained in parallel, with the ranks of every query kept.

Each variant and seed is a job with one thread, whose result is one JSON file. A job whose file is there is not run
again, so that a run that is stopped goes on when it is started anew, and several commands may name the same folder. A
seed gives the same ranks whatever else runs, and with whatever number of workers.
"""

import hashlib
import json
import logging
import os
import re
import statistics
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from tqdm import tqdm

from benchmarks.pool import run_jobs
from modeling_leccr.training.arguments import Recipe, build_recipe
from modeling_leccr.training.building import build_processor, frame_sampling, load_splits
from modeling_leccr.training.run import SystemRun, reported_split, train_system
from modeling_leccr.training.systems import varied
from processing.files import atomic_folder, write_json_atomic
from processing.processing_leccr import LeccrProcessor
from processing.records import query_column
from retrieval.evaluation import read_captions, retrieval_ranks
from retrieval.metrics import recall_metrics
from retrieval.ranks import RetrievalRanks

logger = logging.getLogger(__name__)

# For the processes of the jobs, from their first import on: the libraries do not look at them again.
VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
# The model of the last step is reported, and nothing is written on the way.
ALWAYS: dict[str, Any] = {
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "use_cpu": True,
    "disable_tqdm": True,
    "controls": {},
}
# What a result does not depend on.
_LEFT_OUT = ("output_dir", "run_name", "logging_dir", "resume_from_checkpoint", "push_to_hub")
_KEPT_DATA = 2


@dataclass(frozen=True)
class Result:
    """What a variant reached with one seed, by the model of its last step.

    Args:
        variant: its name.
        seed: of weights, order and dropout.
        settings: the whole recipe, without folders of this machine.
        seconds: of training, of both stages of CL2CM, on one thread.
        steps: updates of training, of both stages of CL2CM.
        metrics: language -> see `recall_metrics`, in percent.
        ranks: language -> rank of each query on the reported split, which is test where there is one.
        text_items: language -> the item of each text, as a position among the ranks of the items.
        num_parameters: "trained" and "all".
        protocol: how it was measured, see `evaluation_protocol`.
        environment: versions and machine.
        model_folder: of model and processor, where they are kept.
        error: why the job failed; what comes of a training is empty then.
    """

    variant: str
    seed: int
    settings: dict[str, Any]
    seconds: float = float("nan")
    steps: int = 0
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    ranks: dict[str, RetrievalRanks] = field(default_factory=dict)
    text_items: dict[str, list[int]] = field(default_factory=dict)
    num_parameters: dict[str, int] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    model_folder: Path | None = None
    error: str | None = None

    @property
    def sum_r(self) -> float:
        """SumR (0 to 600), the mean over the languages of `protocol`."""
        languages = [language for language in self.metrics if language in self.protocol["languages"]]
        return statistics.fmean(self.metrics[language]["sum_r"] for language in languages)


@dataclass(frozen=True)
class Job:
    """A variant and seed, and where its result goes.

    Args:
        settings: of the recipe, whole.
        extra_languages: see `run_experiments`.
        file: of the result.
        model_folder: of the model, if it is to be kept.
        work_folder: for what the training writes; it is removed in the end.
    """

    variant: str
    settings: dict[str, Any]
    extra_languages: tuple[str, ...]
    file: Path
    model_folder: Path | None
    work_folder: Path

    @property
    def log(self) -> Path:
        """Where the process writes what it has to say."""
        return self.file.parent / "logs" / f"{self.file.stem}.log"

    def is_done(self) -> bool:
        """Whether the result is there, and the model, if it is asked for."""
        return self.file.is_file() and (self.model_folder is None or self.model_folder.is_dir())


def run_experiments(
    base: dict[str, Any],
    variants: Mapping[str, dict[str, Any]],
    seeds: Sequence[int],
    folder: str | Path,
    *,
    workers: int = 4,
    keep_models: bool = False,
    extra_languages: Sequence[str] = (),
) -> list[Result]:
    """Train each variant with each seed, and rank the reported split with it.

    All variants of the first seed come first, so that a run that is stopped has whole tables.

    Args:
        base: settings of a recipe.
        variants: name -> changes of the recipe.
        seeds: one or more.
        folder: for the results: `VARIANT-seedSEED-DIGEST.json`, with the digest of the settings. Its folder `logs` has
            what each job said.
        workers: processes, each with one thread.
        keep_models: keep model and processor in the folder of the same name without suffix.
        extra_languages: evaluated too though the recipe does not name them, on those items of the reported split that
            have a caption in them.

    Returns:
        A result for each seed and variant, in this order. A job that failed has its `error`, and is tried again by the
        next call.

    Raises:
        ValueError: no variant or seed, or the settings of a variant are no recipe; nothing is begun then.
    """
    if not variants or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"give at least one variant and different seeds, got {list(variants)} and {list(seeds)}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    errors: dict[Path, str] = {}
    with tempfile.TemporaryDirectory(prefix="leccr-experiments-") as work:
        jobs = []
        for seed in seeds:
            for name, changes in variants.items():
                settings = _job_settings(name, varied(base, changes), seed, extra_languages)
                stem = f"{_slug(name)}-seed{seed}-{_digest(settings, extra_languages)}"
                kept = folder / stem if keep_models else None
                jobs.append(
                    Job(name, settings, tuple(extra_languages), folder / f"{stem}.json", kept, Path(work) / stem)
                )
        waiting = [job for job in jobs if not job.is_done()]
        with (
            tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc="trainings", disable=None) as bar,
            closing(run_jobs(run_in_own_process, waiting, workers=workers, variables=VARIABLES)) as ended,
        ):
            for job, error in ended:
                if error is not None:
                    errors[job.file] = error
                    logger.warning("%s with seed %d failed: %s [%s]", job.variant, _seed(job), error, job.log)
                else:
                    bar.set_postfix_str(f"{job.variant}: SumR {read_result(job.file).sum_r:.1f}")
                bar.update()
    return [_result_of(job, errors.get(job.file)) for job in jobs]


def run_in_own_process(job: Job) -> None:
    """As `run_job`, with one thread, and with all that it says in the log of the job."""
    job.log.parent.mkdir(exist_ok=True)
    with job.log.open("a", encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    torch.set_num_threads(1)
    run_job(job)


def run_job(job: Job) -> None:
    """Train and evaluate one variant with one seed, and write the result."""
    job.log.parent.mkdir(exist_ok=True)
    # Another command on this folder may be at the same job; the lock goes with the process that holds it.
    with FileLock(job.log.with_suffix(".lock")):
        if job.is_done():
            return
        recipe = build_recipe(job.settings)
        splits, processor = _shared_data(recipe)
        run = train_system(recipe, splits, processor, job.work_folder)
        result = _evaluated(job, recipe, run, splits, processor)
        if job.model_folder is not None:
            with atomic_folder(job.model_folder) as fresh:
                run.model.save_pretrained(fresh)
                processor.save_pretrained(fresh)
        write_json_atomic(job.file, _to_json(result))


def read_result(file: Path) -> Result:
    """A result from its file.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        ranks = {
            language: RetrievalRanks(**{name: torch.tensor(values) for name, values in both.items()})
            for language, both in found["ranks"].items()
        }
        result = Result(**{**found, "ranks": ranks})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no result ({error!r}); delete it, and its job runs again.") from error
    kept = file.with_suffix("")
    return replace(result, model_folder=kept if kept.is_dir() else None)


def by_variant(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by variant, in the order in which they come; those that failed are left out, so a list may be empty."""
    groups: dict[str, list[Result]] = {result.variant: [] for result in results}
    for result in results:
        if result.error is None:
            groups[result.variant].append(result)
    return groups


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation over seeds (with n - 1) for a table; of one value itself, of none "failed"."""
    if not values:
        return "failed"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def _job_settings(
    name: str, settings: dict[str, Any], seed: int, extra_languages: Sequence[str] = ()
) -> dict[str, Any]:
    """The settings of a job, checked before anything is begun."""
    settings = {key: value for key, value in settings.items() if key not in _LEFT_OUT} | ALWAYS | {"seed": seed}
    try:
        recipe = build_recipe(settings)
    except ValueError as error:
        raise ValueError(f"the variant {name!r} is no recipe: {error}") from error
    if recipe.first_stage is not None and recipe.first_stage.training.max_steps < 1:
        raise ValueError(f"the variant {name!r} has two stages: say max_steps, so that the budget of both is known.")
    evaluated = recipe.data.evaluation_languages or recipe.data.target_languages
    if twice := sorted(set(evaluated) & set(extra_languages)):
        raise ValueError(f"extra_languages must not be among those of the recipe, got {twice}, which are.")
    return recipe.settings


def _first_stage_steps(recipe: Recipe) -> int:
    return 0 if recipe.first_stage is None else recipe.first_stage.training.max_steps


def _shared_data(recipe: Recipe) -> tuple[dict[str, Any], LeccrProcessor]:
    """Splits and processor of a recipe; jobs of this process with the same settings of both get the same ones."""
    model = recipe.model
    tokenizer = (model.vocab_size, model.max_length) if isinstance(model.text_tower, dict) else model.text_tower
    images = None if isinstance(model.vision_tower, dict) else model.vision_tower
    named = (model.base_model, model.teacher, tokenizer, images)
    # What a model sees: the first stage of CL2CM alone reads no pictures.
    seen = recipe.config.item_source, recipe.config.has_frames, model.num_frames, model.frame_rate
    reading = (*named, model.image_size, model.max_length, model.clean_captions, *seen)
    key = json.dumps([asdict(recipe.data), reading], sort_keys=True)
    if key not in _shared:
        while len(_shared) >= _KEPT_DATA:
            _shared.popitem(last=False)
        splits = load_splits(recipe.data, recipe.config, frame_sampling(model, recipe.config))
        _shared[key] = splits, build_processor(recipe.model, splits["train"], recipe.data.target_languages)
    _shared.move_to_end(key)
    return _shared[key]


_shared: OrderedDict[str, tuple[dict[str, Any], LeccrProcessor]] = OrderedDict()


def _evaluated(
    job: Job, recipe: Recipe, run: SystemRun, splits: Mapping[str, Any], processor: LeccrProcessor
) -> Result:
    """The result of a trained system."""
    name, data = reported_split(splits), recipe.data
    languages = data.evaluation_languages or data.target_languages
    options: dict[str, Any] = {
        "scoring": recipe.training.scoring,
        "batch_size": recipe.training.per_device_eval_batch_size,
        "progress": False,
    }
    ranks = retrieval_ranks(run.model, processor, splits[name], languages, **options)
    text_items = {language: _text_items(splits[name], language) for language in languages}
    for language in job.extra_languages:
        rows = _captioned(splits[name], language)
        ranks |= retrieval_ranks(run.model, processor, rows, [language], **options)
        text_items[language] = _text_items(rows, language)
    return Result(
        variant=job.variant,
        seed=_seed(job),
        settings=recipe.public_settings(),
        seconds=sum(record.seconds or 0.0 for record in (run.record, run.first_stage) if record is not None),
        steps=max(int(entry["step"]) for entry in run.log_history) + _first_stage_steps(recipe),
        metrics={language: recall_metrics(found) for language, found in ranks.items()},
        ranks=ranks,
        text_items=text_items,
        num_parameters=dict(zip(("trained", "all"), run.num_parameters, strict=True)),
        protocol=dict(run.record.protocol[name]),
        environment=dict(run.record.environment),
    )


def _text_items(split: Any, language: str) -> list[int]:
    """The item of each text; items without any text, which have no rank, are not counted."""
    return read_captions(split, language)[1].unique(return_inverse=True)[1].tolist()


def _captioned(split: Any, language: str) -> Any:
    """The items of a split that have a caption in a language."""
    column = query_column(language)
    kept = [position for position, captions in enumerate(split[column]) if captions]
    return split.select(kept)


def _to_json(result: Result) -> dict[str, Any]:
    ranks = {
        language: {"i2t": found.i2t.tolist(), "t2i": found.t2i.tolist()} for language, found in result.ranks.items()
    }
    left_out = ("model_folder", "error")
    plain = {name: value for name, value in vars(result).items() if name not in left_out}
    return plain | {"ranks": ranks}


def _result_of(job: Job, error: str | None) -> Result:
    if error is None:
        return read_result(job.file)
    return Result(job.variant, _seed(job), build_recipe(job.settings).public_settings(), error=error)


def _seed(job: Job) -> int:
    return int(job.settings["seed"])


def _slug(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name)


def _digest(settings: Mapping[str, Any], extra_languages: Sequence[str]) -> str:
    """Ten hexadecimal digits that change with any setting."""
    text = json.dumps([settings, list(extra_languages)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
