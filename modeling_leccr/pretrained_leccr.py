"""How models start: their new weights, and the temperature."""

import math

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .loading_leccr import CheckedLoading


class LogitScale(nn.Module):
    """The learned inverse temperature. 1-D and in a module of its own, because FSDP2 refuses scalar parameters."""

    def __init__(self, initial_value: float, max_value: float | None) -> None:
        super().__init__()
        self.initial_value = initial_value
        self.max_log = None if max_value is None else math.log(max_value)
        self.value = nn.Parameter(torch.empty(1))

    def forward(self) -> Tensor:
        """Logarithm of the inverse temperature (1,), in fp32, at most log(max_value)."""
        return self.value.float() if self.max_log is None else self.value.float().clamp(max=self.max_log)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring the parameter back into its range; beyond it the clamp in `forward` passes no gradient."""
        if self.max_log is not None:
            self.value.clamp_(max=self.max_log)


class StreamPreTrainedModel(CheckedLoading):
    """Initialisation and loading for the models of all systems."""

    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules: list[str] = []  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            # By width, not 0.02: four such layers in a row would pass 0.3 % of a description on at width 128.
            init.normal_(module.weight, mean=0.0, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, LogitScale):
            init.constant_(module.value, module.initial_value)
