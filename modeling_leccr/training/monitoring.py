"""What a run tells its user while it trains: its losses, and where its time goes."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from modeling_leccr.training.arguments import LeccrTrainingArguments
from modeling_leccr.training.console import own_bars_alone
from modeling_leccr.training.failures import TrainingStoppedError, explained_input_errors, finite_advice, first_items

logger = logging.getLogger(__name__)

# Above this share of waiting, for so many steps on end, the accelerator is idle for want of batches.
_SHARE_TO_WARN = 0.2
_STEPS_TO_WARN = 50

# What a line of the log shows while training goes on.
_SHOWN = {
    "loss": "loss {:.4g}",
    "pairs_per_second": "{:.1f} pairs/s",
    "train_runtime": "trained for {:.0f} s",
}


class InputMeter(TrainerCallback):
    """Pairs a second, the share of the time in which steps wait for their batch, and the rows that were skipped.

    The time of a step goes from the request for its batches to its end, so that evaluations and checkpoints do not
    count. The first step of a run does not count either: it starts the data loader's workers and compiles.

    Args:
        clock: seconds from any point in time.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._begin_window()
        self._is_first_step = True
        self._step_began = 0.0
        self._num_skipped_before = 0
        self._slow_steps = 0
        self._has_warned = False

    def begin_step(self) -> None:
        """The trainer asks for the batches of a step."""
        self._step_began = self._clock()

    def batches_came(self, batches: Sequence[Mapping[str, Any]]) -> None:
        """The trainer has the batches of the step that began."""
        self._num_skipped += sum(batch["num_skipped"] for batch in batches)
        if not self._is_first_step:
            self._waited += self._clock() - self._step_began
            self._num_pairs += sum(len(batch["item_names"]) for batch in batches)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer; a resumed run counts on from the last line of its log."""
        self._begin_window()
        self._is_first_step = True
        counts = [entry["skipped_rows"] for entry in state.log_history if "skipped_rows" in entry]
        self._num_skipped_before = int(counts[-1]) if counts else 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer after each update."""
        if self._is_first_step:
            self._is_first_step = False
            return
        self._seconds += self._clock() - self._step_began
        self._num_steps += 1

    def line(self, accelerator: Accelerator, num_workers: int) -> dict[str, float]:
        """What the log says of the steps since its last line; every process must call this at the same step.

        Returns:
            `pairs_per_second` of all processes together; `data_wait_share`, 0 to 1, of the process that waits
            longest, because the others wait for it; `skipped_rows` of the whole run in all processes, if any.
        """
        counts = torch.tensor(
            [[self._num_skipped, self._num_pairs, self._waited, self._seconds]], device=accelerator.device
        )
        gathered = accelerator.gather(counts)
        num_skipped, num_pairs, _, _ = gathered.sum(dim=0).tolist()
        _, _, waited, seconds = gathered.amax(dim=0).tolist()
        self._num_skipped_before += int(num_skipped)
        line = {}
        if seconds > 0:
            line = {"pairs_per_second": num_pairs / seconds, "data_wait_share": min(1.0, waited / seconds)}
            self._warn(line["data_wait_share"], num_workers, is_main_process=accelerator.is_main_process)
        if self._num_skipped_before:
            line["skipped_rows"] = float(self._num_skipped_before)
        self._begin_window()
        return line

    def _begin_window(self) -> None:
        self._num_skipped = self._num_pairs = self._num_steps = 0
        self._waited = self._seconds = 0.0

    def _warn(self, share: float, num_workers: int, *, is_main_process: bool) -> None:
        self._slow_steps = self._slow_steps + self._num_steps if share > _SHARE_TO_WARN else 0
        if self._slow_steps < _STEPS_TO_WARN or self._has_warned or not is_main_process:
            return
        self._has_warned = True
        logger.warning(
            "the last %d steps waited for their batches in %.0f %% of the time: raise dataloader_num_workers (now "
            "%d), store smaller pictures or lower image_size, and give a stream at least as many parquet files as "
            "there are processes x workers",
            self._slow_steps,
            100 * share,
            num_workers,
        )


class EarlyStopping(EarlyStoppingCallback):
    """As the parent, which does not say that it ends training."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Called by the trainer after each evaluation."""
        super().on_evaluate(args, state, control, metrics, **kwargs)
        is_used_up = self.early_stopping_patience_counter >= self.early_stopping_patience
        if is_used_up and state.global_step < state.max_steps:
            logger.info(
                "training stops early at step %d of %d: %s was best at step %s, and early_stopping_patience is %d "
                "evaluations",
                state.global_step,
                state.max_steps,
                args.metric_for_best_model,
                state.best_global_step,
                self.early_stopping_patience,
            )


class ShortLines(PrinterCallback):
    """Logs the line of `log_line` where the parent prints all that the history has."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Called by the trainer with each line of the log."""
        if state.is_world_process_zero:
            logger.info("%s", log_line(logs, state))


class ShortLinesOverBar(ProgressCallback):
    """Writes the line of `log_line` over the bar where the parent writes all that the history has."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Called by the trainer with each line of the log."""
        if self.training_bar is not None:
            self.training_bar.write(log_line(logs, state))


def log_line(logs: Mapping[str, Any], state: Any) -> str:
    """What a user looks at while training goes on; the terms and all recalls are in the history and the trackers.

    Args:
        logs: a line of the log.
        state: of the trainer.
    """
    parts = [form.format(logs[name]) for name, form in _SHOWN.items() if name in logs]
    for name, value in logs.items():
        if name.endswith("_sum_r"):
            split = name.removesuffix("_sum_r")
            parts.append(f"{'validation' if split == 'eval' else split} SumR {value:.1f}")
    parts = parts or [f"{name} {value}" for name, value in logs.items()]
    return f"step {state.global_step} of {state.max_steps}: {', '.join(parts)}"


class MonitoredTrainer(Trainer):
    """Measures input and losses in each step, says so in the log, and stops early if it is told to."""

    args: LeccrTrainingArguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for stock, short in ((PrinterCallback, ShortLines), (ProgressCallback, ShortLinesOverBar)):
            if self.pop_callback(stock) is not None:
                self.add_callback(short)
        self._term_sums: dict[str, Tensor] = {}
        self._num_terms_added = 0
        self._item_names: list[str] = []
        # Norm, step and items of the last gradient, until it is looked at.
        self._open_gradient: tuple[Any, int, list[str]] | None = None
        self._input_meter = InputMeter()
        self.add_callback(self._input_meter)
        if self.args.early_stopping_patience is not None:
            self.add_callback(EarlyStopping(self.args.early_stopping_patience))

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """As the parent, measured."""
        self._input_meter.begin_step()
        with explained_input_errors():
            batches, num_items = super().get_batch_samples(*args, **kwargs)
        self._input_meter.batches_came(batches)
        self._item_names = [name for batch in batches for name in batch["item_names"]]
        return batches, num_items

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the parent."""
        self._open_gradient = None
        with own_bars_alone():
            return super().train(*args, **kwargs)

    def check_gradient(self) -> None:
        """Stop if the last gradient was NaN or infinite, which a finite loss can have.

        Called before the loss of the next batch is looked at, and before weights are evaluated or saved: at each
        update of its own, the check would have the device wait for the next batch.

        Raises:
            TrainingStoppedError: its norm is not finite; the same in all processes.
        """
        if self._open_gradient is None:
            return
        (norm, step, item_names), self._open_gradient = self._open_gradient, None
        value = norm.item() if isinstance(norm, Tensor) else float(norm)
        if not math.isfinite(value):
            raise TrainingStoppedError(
                f"the gradient of step {step} must be finite, got a norm of {value} where the loss was finite; "
                f"{finite_advice(self.args)}, or look at the items of the step in this process: "
                f"{first_items(item_names, step)}. No checkpoint has its weights."
            )

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        # The scaler of fp16 skips a step that overflows; DeepSpeed may know no norm.
        if norm is not None and self.accelerator.mixed_precision != "fp16":
            self._open_gradient = (norm, self.state.global_step + 1, self._item_names)
        return norm

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        control = self.control
        if control.should_log or control.should_evaluate or control.should_save or control.should_training_stop:
            self.check_gradient()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def add_terms(self, terms: Mapping[str, Tensor], logit_scale: Tensor) -> None:
        """Count the terms of a batch, and the temperature that they were computed with, into the next line."""
        for name, value in {**terms, "logit_scale": logit_scale.exp().squeeze()}.items():
            self._term_sums[name] = self._term_sums.get(name, 0.0) + value.detach()
        self._num_terms_added += 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the parent; a line about training steps has the mean of each term in them, and how fast they were."""
        if "loss" in logs and self._num_terms_added:
            means = {name: float(total) / self._num_terms_added for name, total in self._term_sums.items()}
            scale = means.pop("logit_scale")
            logs |= {f"loss/{name}": value for name, value in means.items()} | {"logit_scale": scale}
            self._term_sums, self._num_terms_added = {}, 0
        if "loss" in logs:
            logs |= self._input_meter.line(self.accelerator, self.args.dataloader_num_workers)
        super().log(logs, start_time)
