"""ResumableTrainer: a run that was stopped goes on as if it had not been."""

import torch
from transformers import Trainer

from modeling_leccr.training.arguments import LeccrTrainingArguments


class ResumableTrainer(Trainer):
    """Loads checkpoints by `from_pretrained`, whole or not at all."""

    args: LeccrTrainingArguments

    # The step whose weights the model has, once the best checkpoint was loaded.
    _best_step: int | None = None

    def _load_best_model(self) -> None:
        self._best_step = self.state.best_global_step
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        elif self.state.best_model_checkpoint is not None:
            self._load_weights(self.state.best_model_checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._load_weights(resume_from_checkpoint)

    def _load_weights(self, folder: str) -> None:
        # `save_pretrained` writes some towers under the names of older releases. The parent reads them with
        # `load_state_dict(strict=False)`, which leaves such a tower as it is; `from_pretrained` knows the names.
        model = self.accelerator.unwrap_model(self.model)
        model.load_state_dict(type(model).from_pretrained(folder).state_dict())
