"""What else is measured on the trained models of an ablation: each measure of a model is a JSON file, made once."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from tqdm import tqdm
from transformers import set_seed

from benchmarks.experiments import VARIABLES
from benchmarks.pool import run_jobs
from benchmarks.trained import Trained, open_trained
from modeling_leccr.losses_leccr import LossConfig
from modeling_leccr.matching_leccr import global_scores, min_max, slot_scores
from modeling_leccr.modeling_leccr import LeccrModel
from modeling_leccr.training.arguments import Recipe
from modeling_leccr.training.building import build_model
from processing.files import write_json_atomic
from processing.processing_leccr import LeccrProcessor
from processing.records import SOURCE_LANGUAGE, caption_column
from retrieval.encode import encode_items, encode_texts
from retrieval.evaluation import retrieval_ranks
from retrieval.ranks import RetrievalRanks
from retrieval.slot_readings import mean_of_different, mean_slot_cosines, read_slots

Values = dict[str, float]
RANKS = "ranks"


@dataclass(frozen=True)
class MeasureJob:
    """A measure of one trained model.

    Args:
        measure: a name of MEASURES, or RANKS.
        settings: of the recipe, whole, with the seed.
        model_folder: of model and processor.
        evaluations: for RANKS, name -> options of `retrieval_ranks`.
    """

    measure: str
    settings: dict[str, Any]
    model_folder: Path
    evaluations: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def file(self) -> Path:
        """Where its result goes."""
        asked = json.dumps(self.evaluations, sort_keys=True)
        suffix = f"-{hashlib.sha256(asked.encode()).hexdigest()[:10]}" if self.evaluations else ""
        return self.model_folder.parent / "measures" / f"{self.model_folder.name}-{self.measure}{suffix}.json"


def measure_models(jobs: Sequence[MeasureJob], *, workers: int) -> None:
    """Run the jobs whose files are not there, each once.

    Raises:
        RuntimeError: one of them failed.
    """
    different = {job.file: job for job in jobs}.values()
    waiting = [job for job in different if not job.file.is_file()]
    with (
        tqdm(total=len(different), initial=len(different) - len(waiting), desc="measures", disable=None) as bar,
        closing(run_jobs(run_measure, waiting, workers=workers, variables=VARIABLES)) as ended,
    ):
        for job, error in ended:
            if error is not None:
                raise RuntimeError(f"{job.measure} of {job.model_folder} failed: {error}")
            bar.update()


def read_ranks(job: MeasureJob) -> dict[str, dict[str, RetrievalRanks]]:
    """What a job of RANKS found: name of the evaluation -> language -> ranks."""
    found = json.loads(job.file.read_text(encoding="utf-8"))
    return {
        name: {code: RetrievalRanks(torch.tensor(i2t), torch.tensor(t2i)) for code, (i2t, t2i) in by_language.items()}
        for name, by_language in found.items()
    }


def read_values(job: MeasureJob) -> Values:
    """What a job of MEASURES found: name of the column -> value."""
    values: Values = json.loads(job.file.read_text(encoding="utf-8"))
    return values


def run_measure(job: MeasureJob) -> None:
    """Measure one model and write the result; in a process of `measure_models`."""
    trained = open_trained(job.settings, job.model_folder)
    job.file.parent.mkdir(exist_ok=True)
    if job.measure == RANKS:
        write_json_atomic(job.file, _ranks(trained, job.evaluations or {}))
    else:
        measure = MEASURES[job.measure]
        write_json_atomic(job.file, measure(trained.model, trained.processor, trained.split, trained.recipe))


def _ranks(trained: Trained, evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[list[int]]]]:
    asked = trained.model, trained.processor, trained.split, trained.languages
    found = {name: retrieval_ranks(*asked, progress=False, **options) for name, options in evaluations.items()}
    return {
        name: {language: [ranks.i2t.tolist(), ranks.t2i.tolist()] for language, ranks in by_language.items()}
        for name, by_language in found.items()
    }


def slot_cosine(model: LeccrModel, processor: LeccrProcessor, split: Any, recipe: Recipe) -> Values:
    """Mean cosine between different slots of an item, before the interaction: with the weights at the start of the
    training, and with those at its end. See `mean_of_different`."""
    set_seed(recipe.training.seed)
    start = build_model(recipe.model, processor.tokenizer).eval()
    return {
        "slot cosine at the start": mean_cosine(start, processor, split),
        "slot cosine after training": mean_cosine(model, processor, split),
    }


def mean_cosine(model: LeccrModel, processor: LeccrProcessor, split: Any) -> float:
    """Mean cosine between different slots of an item, over the items of a split."""
    readings = read_slots(model, processor, split)
    return mean_of_different(mean_slot_cosines(torch.stack([reading.slots for reading in readings])))


def logit_scale(model: LeccrModel, processor: LeccrProcessor, split: Any, recipe: Recipe) -> Values:
    """The inverse of the learned temperature at the end of the training."""
    return {"scale at the end": float(model.logit_scale().detach().exp())}


def targets(model: LeccrModel, processor: LeccrProcessor, split: Any, recipe: Recipe) -> Values:
    """How sharp the two distributions of `softened` are over batches of the size of the training.

    The first English caption of each item is the teacher, its translation the student; the mean over items and
    languages. Items that fill no batch are left out.
    """
    loss = LossConfig.from_dict(recipe.training.loss)
    size = min(recipe.training.per_device_train_batch_size, len(split))
    image_embeds, slot_embeds = encode_items(model, processor, split, progress=False)
    source_embeds = encode_texts(model, processor, _first_texts(split, SOURCE_LANGUAGE), progress=False)
    found: list[Values] = []
    for language in recipe.data.target_languages:
        texts = _first_texts(split, language, translated=True)
        target_embeds = encode_texts(model, processor, texts, progress=False)
        for first in range(0, len(split) - size + 1, size):
            rows = slice(first, first + size)
            slots = None if slot_embeds is None else slot_embeds[rows]
            teacher = teacher_log_probs(image_embeds[rows], slots, source_embeds[rows], loss)
            student = student_log_probs(image_embeds[rows], target_embeds[rows], loss)
            found.append(
                {
                    f"{name}: {measure}": value
                    for name, log_probs in (("teacher", teacher), ("student", student))
                    for measure, value in sharpness(log_probs).items()
                }
            )
    return {name: fmean(values[name] for values in found) for name in found[0]}


def teacher_log_probs(
    image_embeds: Tensor, slot_embeds: Tensor | None, source_embeds: Tensor, loss: LossConfig
) -> Tensor:
    """The English teacher of losses_leccr's `softened`: (num_texts, num_images), each row a distribution."""
    scores = min_max(global_scores(source_embeds, image_embeds))
    if slot_embeds is not None:
        weight = loss.teacher_global_weight
        scores = weight * scores + (1 - weight) * min_max(slot_scores(slot_embeds, source_embeds).T)
    return log_softmax(scores / loss.teacher_temperature, dim=1)


def student_log_probs(image_embeds: Tensor, target_embeds: Tensor, loss: LossConfig) -> Tensor:
    """What `softened` pulls to the teacher: (num_texts, num_images), each row a distribution."""
    return log_softmax(global_scores(target_embeds, image_embeds) / loss.student_temperature, dim=1)


def sharpness(log_probs: Tensor) -> Values:
    """Entropy of the rows as a share of that of uniform ones, and probability of their own items, on the diagonal.

    Args:
        log_probs: (batch, batch).

    Returns:
        Both in [0, 1], means over the rows.
    """
    probs = log_probs.exp()
    entropy = -(probs * log_probs).sum(dim=1) / torch.tensor(float(len(probs))).log()
    return {"entropy": float(entropy.mean()), "own item": float(probs.diagonal().mean())}


def _first_texts(split: Any, language: str, *, translated: bool = False) -> list[str]:
    """The first caption of each item; a translation that was refused gives way to the next."""
    column = caption_column(language, translated=translated)
    return [next(text for text in captions if text is not None) for captions in split[column]]


MEASURES: dict[str, Callable[[LeccrModel, LeccrProcessor, Any, Recipe], Values]] = {
    "slot_cosine": slot_cosine,
    "logit_scale": logit_scale,
    "targets": targets,
}
