"""LECCR for transformers: importing this package registers its Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor

from processing.processing_leccr import LeccrProcessor

from .configuration_leccr import LeccrConfig
from .modeling_leccr import LeccrImageFeatures, LeccrModel, LeccrOutput

AutoConfig.register("leccr", LeccrConfig, exist_ok=True)
AutoModel.register(LeccrConfig, LeccrModel, exist_ok=True)
AutoModelForZeroShotImageClassification.register(LeccrConfig, LeccrModel, exist_ok=True)
AutoProcessor.register(LeccrConfig, LeccrProcessor, exist_ok=True)

# Whatever saves or pushes a model then saves the code with it, which a stranger needs to load it.
LeccrConfig.register_for_auto_class()
LeccrModel.register_for_auto_class("AutoModel")
LeccrProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["LeccrConfig", "LeccrImageFeatures", "LeccrModel", "LeccrOutput", "LeccrProcessor"]
