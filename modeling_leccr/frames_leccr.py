"""From the frames of a video to its visual tokens, one a frame."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .slots_leccr import CrossAttentionBlock

# Wavelengths of the sinusoids run from 2 pi to 2 pi times this, in frames, as in "Attention Is All You Need".
_LONGEST_WAVE = 10_000.0


class FrameEncoder(nn.Module):
    """Frames of a video attend to each other.

    Paper: arXiv:2409.19961, video form. Official: `vid_encoder`. Differs: each token also holds the place of its frame
    in time (`frame_positions`); without it the embedding of a video is the same in whatever order its frames come. The
    blocks start as readings: in a new model each frame adds the mean of all.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.has_positions = config.frame_positions == "sinusoidal"
        self.layers = nn.ModuleList(
            CrossAttentionBlock(config, starts_as_reading=True) for _ in range(config.num_frame_layers)
        )

    def forward(self, frame_states: Tensor, frame_mask: Tensor) -> Tensor:
        """Let each frame read from all of its video.

        Args:
            frame_states: (batch, num_frames, width).
            frame_mask: (batch, num_frames), 1 = keep; each video has a frame.

        Returns:
            (batch, num_frames, width); the states of padding are arbitrary but finite.
        """
        if self.has_positions:
            frame_states = frame_states + frame_positions(frame_states)
        encoded = frame_states
        for layer in self.layers:
            encoded = layer(encoded, frame_states, frame_mask)  # all read the same memory, as those of slots do
        return encoded


def frame_positions(frame_states: Tensor) -> Tensor:
    """Sines and cosines of the places of frames: (num_frames, width), as `frame_states` in type and device.

    Args:
        frame_states: (batch, num_frames, width).
    """
    _, num_frames, width = frame_states.shape
    places = torch.arange(num_frames, device=frame_states.device, dtype=torch.float32)
    steps = torch.arange((width + 1) // 2, device=frame_states.device, dtype=torch.float32)
    angles = places[:, None] * _LONGEST_WAVE ** (-2 * steps / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width].to(frame_states.dtype)
