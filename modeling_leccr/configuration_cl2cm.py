"""Configuration of CL2CM: the cross-lingual network, which teaches, and the cross-modal one, which is kept."""

from huggingface_hub.dataclasses import strict

from .configuration_streams_leccr import TextStreamConfig, TwoStreamConfig


@strict
class CrossLingualConfig(TextStreamConfig):
    r"""
    Everything that shapes a [`CrossLingualModel`]: a text tower and its projection; it checks itself.

    Paper: arXiv:2312.08984, cross-lingual network. Args: those of `TextStreamConfig`.
    """

    model_type = "cl2cm_text"


@strict
class Cl2cmConfig(TwoStreamConfig):
    r"""
    Everything that shapes a [`Cl2cmModel`]; it checks itself.

    Paper: arXiv:2312.08984, cross-modal network. It is the two-stream baseline by shape; what it learns from differs.

    Args: those of `TwoStreamConfig`, and
        visual_dim: width of the visual tokens after projection; CLIP's own projection is taken over where it fits.
    """

    model_type = "cl2cm"
    sizes = (*TwoStreamConfig.sizes, "visual_dim")

    visual_dim: int = 512
