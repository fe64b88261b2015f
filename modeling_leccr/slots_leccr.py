"""From a description to semantic slots, and from slots and visual tokens to each other."""

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as apply_dropout
from torch.nn.functional import pad
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """Attention with visible weights, for `attn_implementation="eager"`.

    Args:
        query, key, value: (batch, heads, length, head_dim).
        attention_mask: additive, broadcast to (batch, heads, query_length, key_length), or None.

    Returns:
        The result (batch, query_length, heads, head_dim) and the weights (batch, heads, query_length, key_length).
    """
    weights = (query @ key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    # bf16 has 8 bits of mantissa: probabilities that are summed over many tokens need fp32.
    weights = weights.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = apply_dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class IdentityLinear(nn.Linear):
    """A linear map that a new model starts with as the identity."""


class CrossAttentionBlock(GradientCheckpointingLayer):
    """y = LN(q + dropout(W2 dropout(gelu(W1 MHA(q, m, m))))): one residual around attention and feed-forward.

    Paper: arXiv:2409.19961. Official: the decoder layer without self-attention; its first layer norm is never used
    and is left out here.

    Args:
        config: of the model.
        starts_as_reading: in a new model each query adds the mean of the memory, but for the non-linearity; what the
            memory says is not hidden behind random maps.
    """

    def __init__(self, config: PreTrainedConfig, *, starts_as_reading: bool = False) -> None:
        super().__init__()
        width = config.visual_width
        linear = IdentityLinear if starts_as_reading else nn.Linear
        self.config = config
        self.num_heads = config.num_attention_heads
        self.dropout = float(config.dropout)
        self.is_causal = False
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = linear(width, width)
        self.out_proj = linear(width, width)
        self.up_proj = linear(width, width)
        self.down_proj = linear(width, width)
        self.activation = ACT2FN["gelu"]
        self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, queries: Tensor, memory: Tensor, memory_mask: Tensor | None = None) -> Tensor:
        """Let each query read from the memory.

        Args:
            queries: (batch, num_queries, width), of the visual tokens and slots.
            memory: (batch, memory_length, width).
            memory_mask: (batch, memory_length), 1 = keep; None keeps all.

        Returns:
            (batch, num_queries, width).
        """
        attended = self._attend(queries, memory, memory_mask)
        hidden = apply_dropout(self.activation(self.up_proj(attended)), p=self.dropout, training=self.training)
        hidden = apply_dropout(self.down_proj(hidden), p=self.dropout, training=self.training)
        return self.norm(queries + hidden)

    def _attend(self, queries: Tensor, memory: Tensor, memory_mask: Tensor | None) -> Tensor:
        query, key, value = (
            projection(states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, states in ((self.q_proj, queries), (self.k_proj, memory), (self.v_proj, memory))
        )  # (batch, heads, length, head_dim)
        implementation = self.config._attn_implementation
        bias = None
        if memory_mask is not None:
            # The flash kernels take padding on the left or queries as long as keys; ours are neither.
            implementation = "sdpa" if "flash" in implementation else implementation
            bias = torch.zeros_like(memory_mask, dtype=query.dtype)
            bias = bias.masked_fill(memory_mask == 0, torch.finfo(query.dtype).min)[:, None, None, :]
        attended, _ = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)(
            self,
            query,
            key,
            value,
            bias,
            scaling=query.shape[-1] ** -0.5,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.out_proj(attended.flatten(2))


class SemanticSlots(nn.Module):
    """Learnable queries that turn a description into a few semantic slots.

    Paper: arXiv:2409.19961, multi-view semantic slots. Official: `queries`, `crossattn_query`, `caption_proj`.
    Differs: the queries start at random (`slot_init_std`), because equal queries stay equal slots; items without a
    description read a learned null description.
    """

    def __init__(self, config: PreTrainedConfig, text_dim: int) -> None:
        super().__init__()
        self.slot_queries = nn.Parameter(torch.empty(config.num_slots, config.slot_dim))
        self.description_projection = nn.Linear(text_dim, config.slot_dim)
        self.layers = nn.ModuleList(
            CrossAttentionBlock(config, starts_as_reading=config.aligned_slots) for _ in range(config.num_slot_layers)
        )
        self.description_dropout = float(config.description_dropout)
        # Without description dropout nothing would ever train it, and an untrained parameter stalls DDP.
        self.null_description = nn.Parameter(torch.empty(1, config.slot_dim)) if self.description_dropout else None

    def forward(
        self, description_states: Tensor | None, description_attention_mask: Tensor | None, batch_size: int
    ) -> Tensor:
        """Read the slots of each item.

        Args:
            description_states: (batch, description_length, text_dim) token states, or None for no description at all.
            description_attention_mask: (batch, description_length), 1 = keep. A row of zeros has no description.
            batch_size: number of items.

        Returns:
            slots (batch, num_slots, slot_dim).

        Raises:
            ValueError: an item has no description and the model was not trained with description dropout.
        """
        memory, memory_mask = self._memory(description_states, description_attention_mask, batch_size)
        slots = self.slot_queries.to(memory.dtype).expand(batch_size, -1, -1)
        for layer in self.layers:
            slots = layer(slots, memory, memory_mask)
        return slots

    def _memory(
        self, states: Tensor | None, attention_mask: Tensor | None, batch_size: int
    ) -> tuple[Tensor, Tensor | None]:
        if states is None or attention_mask is None:
            if self.null_description is None:
                raise ValueError(missing_description_message(batch_size, batch_size))
            return self.null_description.expand(batch_size, 1, -1), None
        memory = self.description_projection(states)
        has_description = attention_mask.any(dim=-1)
        if self.null_description is None:
            if not torch.compiler.is_compiling() and not bool(has_description.all()):
                raise ValueError(missing_description_message(int((~has_description).sum()), batch_size))
            return memory, attention_mask
        if self.training:
            kept = torch.rand(batch_size, device=memory.device) >= self.description_dropout
            has_description = has_description & kept
        first_token = torch.zeros_like(attention_mask)
        first_token[:, 0] = 1
        memory = torch.where(has_description[:, None, None], memory, self.null_description.to(memory.dtype))
        return memory, torch.where(has_description[:, None], attention_mask, first_token)


class VisualSemanticInteraction(nn.Module):
    """Slots and visual tokens attend to each other, each to the other as it was before.

    Paper: arXiv:2409.19961, multi-view visual-semantic interaction. Official: `crossattn` (visual tokens attend),
    `crossattn2` (slots attend).
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.interaction = config.interaction
        self.visual_layers = self._stack(config, "dual", "v2s", starts_as_reading=config.aligned_slots)
        self.slot_layers = self._stack(config, "dual", "s2v")
        self.joint_layers = self._stack(config, "co_attention")

    @staticmethod
    def _stack(config: PreTrainedConfig, *interactions: str, starts_as_reading: bool = False) -> nn.ModuleList:
        depth = config.num_interaction_layers if config.interaction in interactions else 0
        return nn.ModuleList(CrossAttentionBlock(config, starts_as_reading=starts_as_reading) for _ in range(depth))

    def forward(
        self,
        patch_states: Tensor,
        slots: Tensor,
        patch_mask: Tensor | None = None,
        *,
        first_token_only: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Exchange information between an image or video and its slots.

        Args:
            patch_states: (batch, num_patches, slot_dim) visual tokens; of a video one a frame.
            slots: (batch, num_slots, slot_dim).
            patch_mask: (batch, num_patches), 1 = keep; None keeps all.
            first_token_only: return the first visual token alone. A block treats query positions independently, so
                class-token pooling needs no other row, and the result of that row is the same.

        Returns:
            enhanced patch_states (batch, num_patches or 1, slot_dim) and enhanced slots (batch, num_slots, slot_dim).
        """
        num_patches = patch_states.shape[1]
        visual = patch_states[:, :1] if first_token_only else patch_states
        if self.interaction == "co_attention":
            joint = torch.cat([patch_states, slots], dim=1)
            joint_mask = None if patch_mask is None else pad(patch_mask, (0, slots.shape[1]), value=1)
            for layer in self.joint_layers:
                joint = layer(joint, joint, joint_mask)
            return joint[:, : visual.shape[1]], joint[:, num_patches:]
        enhanced_slots = slots
        for layer in self.visual_layers:
            visual = layer(visual, slots)
        for layer in self.slot_layers:
            enhanced_slots = layer(enhanced_slots, patch_states, patch_mask)
        return visual, enhanced_slots


def missing_description_message(num_missing: int, num_items: int) -> str:
    """What to tell somebody whose items lack the descriptions that this model needs."""
    return (
        f"{num_missing} of {num_items} items have no description, and this model was trained without description "
        f"dropout, so it cannot embed them; make them with `python -m hub_scripts.describe` (a search of a "
        f"folder reads them by --description-file), or train with description_dropout > 0."
    )
