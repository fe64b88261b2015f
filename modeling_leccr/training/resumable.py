"""ResumableTrainer: a run that was stopped goes on as if it had not been."""

import json
import logging
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from modeling_leccr.training.arguments import LeccrTrainingArguments
from modeling_leccr.training.batches import DrawnPairs, GlobalBatches, TrainingLoader, leave_inherited
from modeling_leccr.training.checkpoints import (
    FEWEST_KEPT,
    changed_data,
    changed_settings,
    checkpoint_folder,
    checkpoint_to_resume,
    find_fault,
    is_newer,
    publish,
    remove_leftovers,
    remove_old,
    saved_checkpoints,
    settings_of,
    staging_folder,
)
from modeling_leccr.training.weights import load_weights
from processing.streaming import StreamedPairs

logger = logging.getLogger(__name__)

# Settings that say where results go and how they are shown or fetched, not what they are.
_NO_PART_OF_THE_RESULT = re.compile(
    r"output_dir|logging_dir|run_name|project|trackio_.*|report_to|resume_from_checkpoint|push_to_hub|hub_.*|.*_token"
    r"|disable_tqdm|log_.*|logging_.*|dataloader_(?!drop_last).*|save_.*|controls|local_rank|ddp_timeout"
)


class SaveAtTheEnd(TrainerCallback):
    """Moves the checkpoint of an epoch's last step behind the evaluation and the log line of the epoch's end.

    They come after it otherwise, and would be missing from a run that goes on from this checkpoint.
    """

    def __init__(self) -> None:
        self._is_due = False
        self._ends_epoch = False

    def request(self, control: Any) -> None:
        """Have a checkpoint written as soon as it is right to."""
        self._is_due, control.should_save = self._ends_epoch, not self._ends_epoch

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer after each update."""
        self._ends_epoch = state.epoch == int(state.epoch) or control.should_training_stop
        if control.should_save:
            self.request(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer after the last update of an epoch or of the run."""
        control.should_save = control.should_save or self._is_due
        self._is_due = self._ends_epoch = False


class TrainingTime(TrainerCallback, ExportableState):
    """Seconds of training, those up to the checkpoint that a run went on from among them."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A run starts; what it has behind it comes with its checkpoint."""
        self.seconds_before = 0.0
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Up to now."""
        return self.seconds_before + time.perf_counter() - self._began

    def state(self) -> dict[str, dict[str, float]]:
        """What a checkpoint keeps, in the form of transformers."""
        return {"args": {}, "attributes": {"seconds_before": self.seconds}}


class ResumableTrainer(Trainer):
    """Writes checkpoints that are whole, and goes on from them to the bit.

    The order of the pairs and their augmentation are functions of (seed, epoch, step); dropout goes on from the stored
    state of the random generators; a log line is written with each checkpoint, so that no sum is open in it.

    Args:
        args: of the parent.
        run_settings: what the recipe says beside the training arguments, for comparison when a run goes on.
        kwargs: of the parent.
    """

    args: LeccrTrainingArguments

    def __init__(self, *args: Any, run_settings: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.training_time = TrainingTime()
        self._save_at_the_end = SaveAtTheEnd()
        self.add_callback(self.training_time)
        self.add_callback(self._save_at_the_end)
        self.run_settings = run_settings or {}
        # The step whose weights the model has, once the best checkpoint was loaded.
        self.best_step: int | None = None
        # The best checkpoint of the run that this one goes on from.
        self._best_before: Path | None = None
        self._is_over = False

    def settings(self) -> dict[str, Any]:
        """What decides the result of the run, as checkpoints keep it."""
        known = {**self.run_settings, **self.args.to_dict()}
        settings = {name: value for name, value in known.items() if not _NO_PART_OF_THE_RESULT.fullmatch(name)}
        settings["num_processes"] = self.args.world_size
        if isinstance(self.train_dataset, StreamedPairs):
            # Who reads which row of a stream depends on these; they change nothing where rows have an index.
            settings |= {"num_readers": self.train_dataset.num_readers, "num_shards": self.train_dataset.num_shards}
        else:
            settings["num_pairs"] = len(self.train_dataset)  # type: ignore[arg-type]
        return json.loads(json.dumps(settings, default=str))

    def get_train_dataloader(self) -> DataLoader:
        """Batches of this process, see `GlobalBatches`; a stream brings its own order and share.

        Raises:
            ValueError: there is not a single batch.
        """
        args: Any = self.args
        workers: dict[str, Any] = {
            "collate_fn": self.data_collator,
            "num_workers": args.dataloader_num_workers,
            "pin_memory": args.dataloader_pin_memory and args.device.type != "cpu",
            "persistent_workers": args.dataloader_persistent_workers,
            "prefetch_factor": args.dataloader_prefetch_factor,
            "multiprocessing_context": args.dataloader_multiprocessing_context,
            # Its own, for a loader takes a seed for its workers from the generator that dropout uses.
            "generator": torch.Generator().manual_seed(self._data_seed()),
        }
        pairs: Any = self.train_dataset
        if isinstance(pairs, StreamedPairs):
            return DataLoader(
                pairs,
                batch_sampler=pairs.batches(self._train_batch_size),
                worker_init_fn=leave_inherited,
                **workers,
            )
        batches = GlobalBatches(
            len(pairs),
            self._train_batch_size,
            seed=self._data_seed(),
            num_processes=args.world_size,
            process_index=args.process_index,
            groups=None if args.batch_neighbours == 1 else pairs.groups(args.batch_neighbours),
            drop_last=args.dataloader_drop_last,
        )
        return TrainingLoader(DrawnPairs(pairs, self._data_seed()), batch_sampler=batches, **workers)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the parent.

        Args:
            resume_from_checkpoint: a checkpoint, which must be intact; or true for the newest one of the output
                folder that is, and for a start at the beginning where there is none.
            args: of the parent.
            kwargs: of the parent.

        Raises:
            ValueError: the checkpoint that was named is damaged, incomplete or not there, or it holds the model alone.
        """
        self.training_time.begin()
        if self.args.save_total_limit == 1:
            # At its end the parent would keep the best one alone, and from there a finished run would train again.
            self.args.save_total_limit = FEWEST_KEPT
        found: list[Any] = [None, None, None]
        if self.is_world_process_zero():
            try:
                found[:2] = self._find_checkpoints(resume_from_checkpoint)
            except (OSError, ValueError) as error:
                found[2] = str(error)
        # The main process alone reads the files through, and all of them do as it found.
        checkpoint, self._best_before, fault = broadcast_object_list(found)
        if fault is not None:
            raise ValueError(fault)
        self._is_over = False
        self.best_step = None  # from here on the model is no longer what an earlier call left
        return super().train(None if checkpoint is None else str(checkpoint), *args, **kwargs)

    def _find_checkpoints(self, setting: str | bool | None) -> tuple[Path | None, Path | None]:
        """The checkpoint to go on from and the best one that it knows; warns of what is unexpected about them."""
        run_folder = Path(str(self.args.output_dir))
        checkpoint = checkpoint_to_resume(run_folder, setting)
        remove_leftovers(run_folder)
        if checkpoint is None:
            if setting is True:
                logger.warning(
                    "there is no checkpoint to resume from in %s; training starts at its beginning", run_folder
                )
            elif run_folder.is_dir() and (old := saved_checkpoints(run_folder)):
                logger.warning(
                    "%s holds checkpoints of an earlier run (the last is %s), which this new run will replace one by "
                    "one; stop it and pass --resume_from_checkpoint true to go on with that run",
                    run_folder,
                    old[-1].name,
                )
            return None, None
        if not any(checkpoint.glob("rng_state*.pth")):
            raise ValueError(
                f"{checkpoint} holds the model alone, for it was saved with save_only_model; no run can go on from it, "
                f"but a new one can start from it as base_model."
            )
        logger.info("resuming from %s", checkpoint)
        before, now = settings_of(checkpoint), self.settings()
        changes = changed_data(before.pop("data", {}), now.pop("data", {})) + changed_settings(before, now)
        self._check_tokenizer(checkpoint, changes)
        if changes:
            logger.warning(
                "the run that wrote %s had other settings, so the result will be that of neither: %s",
                checkpoint,
                "; ".join(changes),
            )
        return checkpoint, self._find_best(checkpoint)

    def _check_tokenizer(self, checkpoint: Path, changes: list[str]) -> None:
        processor: Any = self.processing_class
        if type(processor).from_pretrained(checkpoint).tokenizer.get_vocab() != processor.tokenizer.get_vocab():
            raise ValueError(
                f"the tokenizer of this run has other tokens than that of {checkpoint}, whose embeddings would pass to "
                f"other words ({'; '.join(changes) or 'its settings are the same'}); a tokenizer from scratch is "
                f"trained on the texts of the training split, so resume with the data and the settings of the start, "
                f"or start a new run in another output_dir."
            )

    def _find_best(self, checkpoint: Path) -> Path | None:
        """The checkpoint of the best evaluation before another one; warns if it is lost."""
        state = _stored_state(checkpoint)
        if state.best_global_step is None:
            return None
        best = checkpoint_folder(checkpoint.parent, state.best_global_step)  # the run may have been moved since
        if state.best_model_checkpoint is None or Path(state.best_model_checkpoint).name != best.name:
            fault: str | None = "it was never written"
        else:
            fault = find_fault(best)
            if fault is None and is_newer(best, checkpoint):
                fault = f"it was written after {checkpoint.name}, by another run"
        if fault is None:
            return best
        if self.args.load_best_model_at_end:
            logger.warning("the best checkpoint so far, %s, is lost (%s); a later one will be the best", best, fault)
        return None

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        place = super()._init_training_state(*args, **kwargs)
        if self.state.global_step:
            self.state.best_model_checkpoint = None if self._best_before is None else str(self._best_before)
            if self._best_before is None and self.args.load_best_model_at_end:
                self.state.best_metric = self.state.best_global_step = None
            # The parent would take one more step, also where early stopping had ended the run.
            self._is_over = self.state.global_step >= self.state.max_steps or self.stopped_early()
        return place

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._is_over:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _load_callback_state(self) -> None:
        # In place: the parent makes new callbacks, if at all, with the arguments of the stopped run.
        for callback in self.callback_handler.callbacks:
            stored = self.state.stateful_callbacks.get(type(callback).__name__)  # type: ignore[union-attr]
            if isinstance(callback, ExportableState) and isinstance(stored, dict):
                vars(callback).update(stored["attributes"])

    def _store_callbacks(self) -> None:
        # The parent would fail for a callback that the stopped run did not have.
        callbacks: list[Any] = [*self.callback_handler.callbacks, self.control]
        stateful: list[Any] = [callback for callback in callbacks if isinstance(callback, ExportableState)]
        self.state.stateful_callbacks = TrainerState(stateful_callbacks=stateful).stateful_callbacks

    def stopped_early(self) -> bool:
        """Whether the patience of early stopping is used up."""
        return any(
            callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
            if isinstance(callback, EarlyStoppingCallback)
        )

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # The sums of the open line are in no checkpoint.
        if self.args.logging_strategy != IntervalStrategy.NO:
            self.control.should_log |= self.control.should_save or self.control.should_evaluate
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _determine_best_metric(self, *args: Any, **kwargs: Any) -> bool:
        is_best = super()._determine_best_metric(*args, **kwargs)
        saves_best_alone = self.args.save_strategy == SaveStrategy.BEST
        if is_best:
            self.state.best_model_checkpoint = None  # until it is written
            if self.args.load_best_model_at_end or saves_best_alone:
                self._save_at_the_end.request(self.control)
        # There the parent asks only whether to save now.
        return self.control.should_save if saves_best_alone else is_best

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """As the parent, but the checkpoint appears when all processes have written all of it."""
        self.store_flos()
        run_folder = Path(str(self.args.output_dir))
        checkpoint = checkpoint_folder(run_folder, self.state.global_step)
        staging = staging_folder(checkpoint)
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.save_model(str(staging), _internal_call=True)
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(checkpoint)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(staging))
            self._save_scaler(str(staging))
            self._save_rng_state(str(staging))
        if self.args.should_save:
            self._store_callbacks()
            self.state.save_to_json(str(staging / TRAINER_STATE_NAME))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            publish(checkpoint, self.settings())
            best_place = self.state.best_model_checkpoint
            remove_old(
                run_folder, self.args.save_total_limit, [checkpoint, *([Path(best_place)] if best_place else [])]
            )
        self.accelerator.wait_for_everyone()

    def _load_best_model(self) -> None:
        self.best_step = self.state.best_global_step
        if self.is_deepspeed_enabled:
            super()._load_best_model()
        elif self.state.best_model_checkpoint is not None:
            self._load_weights(self.state.best_model_checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        if self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._load_weights(resume_from_checkpoint)

    def _load_weights(self, folder: str) -> None:
        load_weights(self.accelerator.unwrap_model(self.model), folder)

    def _data_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed


def _stored_state(checkpoint: Path) -> TrainerState:
    return TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
