"""LeccrTrainer: transformers' trainer with the objectives of each system over the global batch."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from torch import Tensor
from transformers import TrainerCallback

from modeling_leccr.modeling_cl2cm import CrossLingualModel
from modeling_leccr.streams_leccr import TextStreamModel
from modeling_leccr.training.arguments import LeccrTrainingArguments
from modeling_leccr.training.failures import check_finite, explained_memory_errors
from modeling_leccr.training.gather import gather_batch, row_counts
from modeling_leccr.training.gradient_cache import cached_backward, count_chunks
from modeling_leccr.training.monitoring import MonitoredTrainer
from modeling_leccr.training.optimization import parameter_groups
from modeling_leccr.training.pushing import HubPushes
from modeling_leccr.training.resumable import ResumableTrainer
from modeling_leccr.training.sharding import (
    EmbedWithSplitWeights,
    clamp_temperature,
    prepare_deepspeed,
    prepare_splitting,
    saved_whole,
)
from modeling_leccr.training.systems import system_of
from processing.collator import LeccrCollator
from processing.description_states import DescriptionStates
from processing.pairs import CaptionPairs
from processing.processing_leccr import LeccrProcessor
from processing.streaming import StreamedPairs
from reporting.model_record import ModelRecord
from retrieval.evaluation import evaluate_retrieval

logger = logging.getLogger(__name__)

VALIDATION = "validation"


class ClampLogitScale(TrainerCallback):
    """Keeps the temperature in its range after each update; beyond it, its clamp would pass no gradient."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer after each update, with the model among the keywords."""
        clamp_temperature(kwargs["model"])


class LeccrTrainer(HubPushes, MonitoredTrainer, ResumableTrainer):
    """Trains on pairs, gathers embeddings over processes for the losses, evaluates retrieval on validation.

    `HubPushes` sends what `push_model` sends. `MonitoredTrainer` measures speed and the terms of the loss, writes the
    log, and stops early. `ResumableTrainer` brings the order of the pairs, the checkpoints and the way back from them.

    Args:
        model: of any system; its configuration says which losses and which rows it learns from.
        args: the training arguments.
        processor: makes the batches, and is saved with each checkpoint.
        pairs: training pairs, or the stream of those of this process.
        validation: a split in the schema of records.py, whose human captions choose the checkpoint; None trains
            without evaluation.
        languages: evaluated languages.
        augmentation: applied to training images, each with the draw of its row.
        description_states: read in place of the descriptions of the pairs; for a frozen description encoder.
        teacher: network whose embeddings of the pairs come with each batch, for a model that learns from them. It is
            asked in evaluation mode, if a term of the losses reads them, and is in no checkpoint.
        record: what is known of the run; each checkpoint gets it with its own validation metrics.

    Raises:
        ValueError: the weights cannot be split over processes as it is asked for.
    """

    args: LeccrTrainingArguments

    def __init__(
        self,
        model: TextStreamModel,
        args: LeccrTrainingArguments,
        *,
        processor: LeccrProcessor,
        pairs: CaptionPairs | StreamedPairs,
        validation: datasets.Dataset | None,
        languages: Sequence[str],
        augmentation: Callable[[Image.Image, int], Image.Image] | None = None,
        description_states: DescriptionStates | None = None,
        teacher: CrossLingualModel | None = None,
        callbacks: list[TrainerCallback] | None = None,
        record: ModelRecord | None = None,
    ) -> None:
        if args.n_gpu > 1:
            logger.warning("this process sees %d GPUs and uses one; launch a process for each", args.n_gpu)
            args._n_gpu = 1  # DataParallel would split the batch, and with it the negatives
        if args.ddp_broadcast_buffers is None:
            # Position ids never change, and need not be sent in each step; the statistics of a batch norm do.
            args.ddp_broadcast_buffers = any(buffer.is_floating_point() for buffer in model.buffers())
        if args.deepspeed_plugin is not None:
            AcceleratorState._reset_state()  # accelerate takes one plugin a process; each control brings its own
        self._captions_are_items = model.config.captions_are_items
        known = record or ModelRecord(languages=tuple(dict.fromkeys(code.removesuffix("_mt") for code in languages)))
        super().__init__(
            model=model,
            args=args,
            data_collator=LeccrCollator(
                processor,
                augmentation=augmentation,
                description_states=description_states,
                captions_are_items=self._captions_are_items,
            ),
            train_dataset=pairs,
            eval_dataset=validation,
            processing_class=processor,
            callbacks=[ClampLogitScale(), EmbedWithSplitWeights(), *(callbacks or [])],
            run_settings={**known.settings, "data": known.data},
        )
        if self.is_fsdp_enabled:
            prepare_splitting(model, self.accelerator.state.fsdp_plugin)
        if self.is_deepspeed_enabled:
            prepare_deepspeed(model, self.accelerator.state.deepspeed_plugin)
        # The loss is a mean over the global batch; accumulated steps are averaged, and add no negatives.
        self.loss_is_scaled_for_ga = False
        self.model_accepts_loss_kwargs = False
        system = system_of(model.config)
        self.criterion = system.criterion_class(system.loss_class.from_dict(args.loss))
        asked = teacher if self.criterion.config.reads_teacher else None
        self.teacher = None if asked is None else asked.eval().to(args.device)
        self.languages = list(languages)
        self._record = dataclasses.replace(known, launch=self._launch())
        if args.world_size > 1:
            # Otherwise the same rows of all processes lose their descriptions, and the same units drop out.
            torch.manual_seed(args.seed + args.process_index)

    def _launch(self) -> dict[str, Any]:
        return {
            "num_processes": self.args.world_size,
            "pairs_per_process": self.args.per_device_train_batch_size,
            "gradient_accumulation_steps": self.args.gradient_accumulation_steps,
            "mixed_precision": self.accelerator.mixed_precision,
        }

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of one batch, at once or in the chunks of `gradient_cache_chunk_size`."""
        chunk_size = self.args.gradient_cache_chunk_size
        with explained_memory_errors(self.args):
            if chunk_size is None or chunk_size >= self.args.per_device_train_batch_size:
                return super().training_step(model, inputs, num_items_in_batch)
            return self._cached_step(model, inputs, chunk_size)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """As the parent; what the teacher makes of the pairs comes into the batch, as labels do."""
        inputs = super()._prepare_inputs(inputs)
        if self.teacher is None:
            return inputs
        names = [f"{side}_{key}" for side in ("source", "target") for key in ("input_ids", "attention_mask")]
        with torch.no_grad(), self.accelerator.autocast():
            output = self.teacher(**{name: inputs[name] for name in names})
        embeds = {"teacher_source_embeds": output.source_embeds, "teacher_target_embeds": output.target_embeds}
        return {**inputs, **embeds}

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Total loss of the global batch; the same number in every process."""
        image_ids, item_names = self._take_row_names(inputs)
        output = model(**inputs)
        loss = self._global_loss(self.criterion.summarise(output, image_ids), output.logit_scale, item_names)
        return (loss, output) if return_outputs else loss

    def _cached_step(self, model: torch.nn.Module, inputs: dict[str, Any], chunk_size: int) -> Tensor:
        """As the parent's step, which would keep the activations of all rows."""
        model.train()
        optimizer_mode = getattr(self.optimizer, "train", None)  # optimizers without schedule have two modes
        if callable(optimizer_mode):
            optimizer_mode()
        inputs = self._prepare_inputs(inputs)
        image_ids, item_names = self._take_row_names(inputs)
        sizes = row_counts(image_ids)
        loss = cached_backward(
            model,
            inputs,
            image_ids,
            num_chunks=count_chunks(sizes, chunk_size),
            summarise=self.criterion.summarise,
            loss_of=lambda rows, logit_scale: self._global_loss(rows, logit_scale, item_names, sizes),
            accelerator=self.accelerator,
            divisor=self.current_gradient_accumulation_steps,
        )
        return loss / self.current_gradient_accumulation_steps

    @staticmethod
    def _take_row_names(inputs: dict[str, Any]) -> tuple[Tensor, list[str]]:
        """Take out of a batch what is not for the model: ids and names of the rows, and the count of skipped ones."""
        inputs.pop("num_skipped")
        return inputs.pop("image_ids"), inputs.pop("item_names")

    def _global_loss(
        self, rows: Any, logit_scale: Tensor, item_names: list[str], sizes: list[int] | None = None
    ) -> Tensor:
        """Total loss of the rows of all processes; each term is checked, and added to the next log line."""
        # What the rows of this process show of the batch need not be counted on the device, which each step would
        # wait for.
        num_own_items = 0 if self._captions_are_items else len(set(item_names))
        terms = self.criterion(
            gather_batch(rows, sizes), logit_scale, num_items=num_own_items if num_own_items > 1 else None
        )
        self.check_gradient()
        check_finite(terms, item_names, self.state.global_step + 1, self.args)
        self.add_terms(terms, logit_scale)
        return self.criterion.total(terms)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Recalls of validation, or of another split under a prefix of its own.

        Raises:
            ValueError: another split would be recorded as validation, which chooses the checkpoint.
        """
        if metric_key_prefix == "eval" and eval_dataset is not None and eval_dataset is not self.eval_dataset:
            raise ValueError(
                "metric_key_prefix 'eval' is for validation, whose metrics choose the checkpoint and stand in its "
                "record, got another split; evaluate it as `evaluate(split, metric_key_prefix='test')`."
            )
        split = self.eval_dataset if eval_dataset is None else eval_dataset
        metrics = self.retrieval_metrics(split, name=VALIDATION if metric_key_prefix == "eval" else metric_key_prefix)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def retrieval_metrics(
        self, split: datasets.Dataset, *, name: str | None = None, use_descriptions: bool = True
    ) -> dict[str, float]:
        """Recalls of a split in every language, and `sum_r`, the mean of their SumR (0 to 600).

        Args:
            split: in the schema.
            name: of the evaluation in the log, after that of the run folder; by default the split's own.
            use_descriptions: see `evaluate_retrieval`.
        """
        model = self.accelerator.unwrap_model(self.model)
        with explained_memory_errors(self.args, evaluating=True):
            metrics = evaluate_retrieval(
                model,
                self.processing_class,
                split,
                self.languages,
                scoring=self.args.scoring,
                use_descriptions=use_descriptions,
                batch_size=self.args.per_device_eval_batch_size,
                name=f"{Path(str(self.args.output_dir)).name}, {name or split.split}",
                progress=not self.args.disable_tqdm and self.is_world_process_zero(),
                shared=True,
            )
        return {**metrics, "sum_r": metrics["mean/sum_r"]}

    def record(self) -> ModelRecord:
        """What is known of the model as it is; without metrics where it was not evaluated at its step."""
        step = self.state.global_step if self.best_step is None else self.best_step
        metrics = {
            name.removeprefix("eval_"): value
            for entry in self.state.log_history
            for name, value in entry.items()
            if entry["step"] == step and name.startswith("eval_")
        }
        choice = f"step {step} of {self.state.max_steps}" if self.state.max_steps else None
        if self.best_step is not None:
            metric = "SumR" if self.args.metric_for_best_model == "sum_r" else self.args.metric_for_best_model
            choice = f"best {metric} on validation, step {step} of {self.state.max_steps}"
            if self.state.global_step < self.state.max_steps and self.stopped_early():
                choice += f"; training stopped early at step {self.state.global_step}"
        protocol = {name: value for name, value in self._record.protocol.items() if name == VALIDATION and metrics}
        return dataclasses.replace(
            self._record,
            metrics={VALIDATION: metrics} if metrics else {},
            protocol=protocol,
            checkpoint_choice=choice,
        )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with saved_whole(self, state_dict):
            super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.record().write(output_dir or str(self.args.output_dir))

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with a learning rate for towers and heads each, and decay on matrices alone."""
        if self.optimizer is None:
            trained: Any = self.model if model is None else model
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, trained)
            groups = parameter_groups(
                trained,
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                multipliers=self.args.learning_rate_multipliers,
            )
            self.optimizer = optimizer_class(groups, **settings)
        return self.optimizer
