"""Configuration of what all systems share: a text stream, and the stream of images beside it."""

import dataclasses
import math
import os
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

POOLINGS = ("cls", "mean")
VISION_INPUTS = ("image", "frames", "features")
FRAME_POSITIONS = ("sinusoidal", "none")

# The first output token of these vision encoders is a class token; every other encoder puts a patch there.
VISION_TOWERS_WITH_CLS = frozenset(
    {
        "beit",
        "chinese_clip_vision_model",
        "clip_vision_model",
        "data2vec-vision",
        "deit",
        "dinov2",
        "dinov2_with_registers",
        "dinov3_vit",
        "mlcd_vision_model",
        "vit",
        "vit_msn",
    }
)

# Beyond these a configuration is damaged or hostile: it would fill the memory before a weight has been read.
MAX_LAYERS = 1_000
MAX_SIZE = 10_000_000
POSITIVE_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
TOWER_CONFIGS = ("vision_config", "text_config")


@strict
class TextStreamConfig(PreTrainedConfig):
    r"""
    A text tower, its projection and the temperature; it checks itself.

    Args:
        text_config: configuration (or its dictionary with `model_type`) of any text encoder of transformers;
            multilingual where queries are.
        embed_dim: width of the space in which items and captions are compared.
        text_pooling: `"cls"` reads the first token, `"mean"` averages the tokens without padding. Published: `"cls"`,
            which suits BERT; an encoder from scratch or one trained with mean pooling learns faster with `"mean"`.
        initial_temperature: softmax temperature at the start (the learned `logit_scale` is the log of its inverse).
        max_logit_scale: upper bound of `logit_scale.exp()`. Official: none.
    """

    attribute_map = {"projection_dim": "embed_dim"}  # noqa: RUF012  # CLIP's name, which sentence-transformers reads
    sub_configs_defaults = {  # noqa: RUF012
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
    }
    # Fields that name one of a few choices, and fields that count or measure something.
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"text_pooling": POOLINGS}
    sizes: ClassVar[tuple[str, ...]] = ("embed_dim",)

    text_config: dict | PreTrainedConfig | None = None
    embed_dim: int = 256
    text_pooling: str = "cls"
    initial_temperature: float = 0.07
    max_logit_scale: float | int | None = 100.0

    def __post_init__(self, **kwargs: Any) -> None:
        """Called by `@strict` as well. A tower keeps the name on the Hub that it is from, which the card names; a
        folder of this machine is nobody else's business, and only here and now it is known to be one.
        """
        for tower in self._towers().values():
            if isinstance(tower, PreTrainedConfig) and os.path.isdir(tower.name_or_path or ""):
                tower.name_or_path = ""
        super().__post_init__(**kwargs)

    @classmethod
    def choosable(cls) -> frozenset[str]:
        """The fields that a recipe can set: those of ours but the towers, which it names on their own."""
        names = {entry.name for entry in dataclasses.fields(cls)}
        return frozenset(names - {entry.name for entry in dataclasses.fields(PreTrainedConfig)} - set(TOWER_CONFIGS))

    # What evaluation, search and training ask of every system.

    @property
    def item_source(self) -> str:
        """What an item is embedded from: of texts alone, its English captions."""
        return "source_captions"

    @property
    def captions_are_items(self) -> bool:
        """Whether items are embedded from their English captions, which then ask for nothing."""
        return self.item_source == "source_captions"

    @property
    def has_slots(self) -> bool:
        """Whether items have semantic slots beside their embedding."""
        return self.item_source == "image_and_description"

    @property
    def reads_image(self) -> bool:
        """Whether items are embedded from their image or video (alone or with the description)."""
        return self.item_source in ("image", "image_and_description")

    @property
    def reads_description(self) -> bool:
        """Whether items are embedded from their description (alone or with the image)."""
        return self.item_source in ("description", "image_and_description")

    @property
    def has_frames(self) -> bool:
        """Whether an item is a video: some frames, or features of them, under a mask."""
        return False

    @property
    def has_vision_tower(self) -> bool:
        """Whether pixels are read; features of frames were made by somebody else's tower."""
        return self.reads_image

    @property
    def needs_description(self) -> bool:
        """Whether an item without a description is refused."""
        return self.reads_description

    @property
    def global_weight(self) -> float | int:
        """Share of the item's embedding in its score: all of it, where there are no slots."""
        return 1.0

    @property
    def initial_logit_scale(self) -> float:
        """`logit_scale` at the start: the natural logarithm of 1 / `initial_temperature`."""
        return -math.log(self.initial_temperature)

    def validate_architecture(self) -> None:
        """Called by `@strict` after the fields have been set.

        Raises:
            ValueError: a field is out of range, or two fields exclude each other.
        """
        for name, allowed in self.choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}.")
        for name in self.sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        # Written so that NaN, with which no comparison is true, is refused as well.
        if not 0 < self.initial_temperature < math.inf:
            raise ValueError(f"initial_temperature must be positive and finite, got {self.initial_temperature}.")
        lowest = 1 / self.initial_temperature
        if self.max_logit_scale is not None and not lowest <= self.max_logit_scale < math.inf:
            raise ValueError(
                f"max_logit_scale must be finite and at least 1 / initial_temperature = {lowest:.3g}, "
                f"got {self.max_logit_scale}."
            )
        self._check_bounds()

    def _towers(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in TOWER_CONFIGS if hasattr(self, name)}

    def _check_bounds(self) -> None:
        for half, config in {"": self, **{f"{name}.": tower for name, tower in self._towers().items()}}.items():
            for name, value in vars(config).items():
                if name in POSITIVE_SIZES and isinstance(value, int) and value < 1:
                    raise ValueError(f"{half}{name} must be at least 1, got {value}.")
                limit = MAX_LAYERS if "layers" in name or "depth" in name else MAX_SIZE
                for number in value if isinstance(value, list | tuple) else [value]:
                    if isinstance(number, int) and number > limit:
                        raise ValueError(f"{half}{name} must be at most {limit}, got {number}.")


@strict
class TwoStreamConfig(TextStreamConfig):
    r"""
    A stream of images or videos beside the text stream.

    Args: those of `TextStreamConfig`, and
        vision_config: configuration (or its dictionary with `model_type`) of any vision encoder of transformers. Not
            used when `vision_input` is `"features"`.
        vision_input: what the stream reads. `"image"`: one picture, each patch a visual token. `"frames"`: frames of a
            video through the vision encoder, each frame a visual token. `"features"`: the same from frame features
            that were extracted before.
        image_pooling: `"cls"` reads the class token, `"mean"` averages the tokens; of a video, those of each frame.
            Frames are always averaged.
        feature_dim: width of the frame features; with `vision_input="features"` alone.
        project_features: map frame features to the width of the visual tokens first. Official: no; then that width is
            `feature_dim`.
        num_frame_layers: attention blocks over the frames of a video.
        frame_positions: `"sinusoidal"` adds the place of each frame in time to its token, `"none"` leaves the frames
            without order. Official: `"none"`.
        num_attention_heads: heads of these blocks (and of LECCR's between slots and visual tokens).
        dropout: dropout of these blocks, likewise.
    """

    sub_configs_defaults = {  # noqa: RUF012
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_vision_model"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
    }
    choices = TextStreamConfig.choices | {
        "image_pooling": POOLINGS,
        "vision_input": VISION_INPUTS,
        "frame_positions": FRAME_POSITIONS,
    }
    sizes = (*TextStreamConfig.sizes, "num_frame_layers", "num_attention_heads")
    # Name of the field with the width of the visual tokens after projection.
    visual_width_field: ClassVar[str] = "visual_dim"

    vision_config: dict | PreTrainedConfig | None = None
    vision_input: str = "image"
    image_pooling: str = "cls"
    feature_dim: int | None = None
    project_features: bool = True
    num_frame_layers: int = 1
    frame_positions: str = "sinusoidal"
    num_attention_heads: int = 8
    dropout: float | int = 0.1

    @property
    def item_source(self) -> str:
        """What an item is embedded from."""
        return "image"

    @property
    def visual_width(self) -> int:
        """Width of the visual tokens after projection, and of the blocks that read them."""
        return getattr(self, self.visual_width_field)

    @property
    def has_frames(self) -> bool:
        """Whether an item is a video: some frames, or features of them, under a mask."""
        return self.reads_image and self.vision_input != "image"

    @property
    def has_vision_tower(self) -> bool:
        """Whether pixels are read; features of frames were made by somebody else's tower."""
        return self.reads_image and self.vision_input != "features"

    def validate_architecture(self) -> None:
        """As of the parent.

        Raises:
            ValueError: a field is out of range, the vision tower has no class token to pool by, or what is said of
                videos does not fit together.
        """
        super().validate_architecture()
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout must lie in [0, 1], got {self.dropout}.")
        self._check_video()
        self._check_heads()
        tower = getattr(self.vision_config, "model_type", None)
        if self.has_vision_tower and self.image_pooling == "cls" and tower not in VISION_TOWERS_WITH_CLS:
            raise ValueError(
                f"image_pooling='cls' needs a vision tower with a class token, got {tower!r} "
                f"(with one: {sorted(VISION_TOWERS_WITH_CLS)}); use image_pooling='mean'."
            )

    def _check_video(self) -> None:
        reads_features = self.vision_input == "features"
        if self.vision_input != "image" and not self.reads_image:
            raise ValueError(
                f"vision_input={self.vision_input!r} needs items that are seen, got item_source={self.item_source!r}; "
                f"leave it out."
            )
        if reads_features != (self.feature_dim is not None) or (self.feature_dim is not None and self.feature_dim < 1):
            raise ValueError(
                f"feature_dim must be the width of the frame features with vision_input='features', and None without, "
                f"got {self.feature_dim} with {self.vision_input!r}."
            )
        if not self.project_features and self.feature_dim != self.visual_width:
            raise ValueError(
                f"project_features=False needs features as wide as the visual tokens, got feature_dim="
                f"{self.feature_dim} and {self.visual_width_field}={self.visual_width}; set the same width."
            )

    def _check_heads(self) -> None:
        if (self.has_frames or self.has_slots) and self.visual_width % self.num_attention_heads:
            raise ValueError(
                f"{self.visual_width_field} must be a multiple of num_attention_heads, got {self.visual_width} and "
                f"{self.num_attention_heads}."
            )
