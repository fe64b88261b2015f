"""LECCR and CL2CM for transformers: importing this package registers their Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor

from processing.processing_leccr import LeccrProcessor

from .configuration_cl2cm import Cl2cmConfig, CrossLingualConfig
from .configuration_leccr import LeccrConfig
from .modeling_cl2cm import Cl2cmModel, CrossLingualModel
from .modeling_leccr import LeccrModel
from .outputs_cl2cm import Cl2cmOutput, CrossLingualOutput
from .outputs_leccr import LeccrImageFeatures, LeccrOutput

for _model_class in (LeccrModel, Cl2cmModel, CrossLingualModel):
    _config_class = _model_class.config_class
    AutoConfig.register(_config_class.model_type, _config_class, exist_ok=True)
    AutoModel.register(_config_class, _model_class, exist_ok=True)
    AutoProcessor.register(_config_class, LeccrProcessor, exist_ok=True)
    # Whatever saves or pushes a model then saves the code with it, which a stranger needs to load it.
    _config_class.register_for_auto_class()
    _model_class.register_for_auto_class("AutoModel")
    if _model_class.main_input_name == "pixel_values":
        AutoModelForZeroShotImageClassification.register(_config_class, _model_class, exist_ok=True)
LeccrProcessor.register_for_auto_class("AutoProcessor")

__all__ = [
    "Cl2cmConfig",
    "Cl2cmModel",
    "Cl2cmOutput",
    "CrossLingualConfig",
    "CrossLingualModel",
    "CrossLingualOutput",
    "LeccrConfig",
    "LeccrImageFeatures",
    "LeccrModel",
    "LeccrOutput",
    "LeccrProcessor",
]
