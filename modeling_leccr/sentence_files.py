"""What sentence-transformers reads in a model folder: which method embeds texts, and if any images and both together.

    model = SentenceTransformer("org/leccr-x", trust_remote_code=True)
    model.encode(["ein roter ball", "两棵绿树"])                        # captions and queries
    model.encode([image])                                              # if it was trained with description dropout
    model.encode([{"image": image, "text": "An English description."}])  # items; None or "" where one is missing
    model.encode([{"video": frames}])                                  # of a model of clips; or the path of a clip

It takes no features of frames, so a model of these embeds captions and queries alone there.

Items are embedded by `pooler_output` of `get_image_features`, the global half of the model. Its fused score also takes
the best of an item's slots, which is no product of two vectors, so here the ranking is that of the global score alone;
`hub_scripts.search` and `retrieval` rank by the fused one.
"""

import json
from collections.abc import Mapping
from typing import Any

from modeling_leccr.configuration_streams_leccr import TextStreamConfig, TwoStreamConfig

# A module of its own would be refused without `trust_remote_code`, even where this package is installed.
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]


def sentence_files(config: TextStreamConfig, processor: Mapping[str, Any]) -> dict[str, str]:
    """The files by which sentence-transformers (6.0 or newer) uses a saved model.

    Without them it would find the methods for texts and for images by itself, but not the way to give an image with
    its description; it would name the tokenizer's limit as the one of the inputs, and replace the model card on saving.

    Args:
        config: of the model.
        processor: content of `processor_config.json`.

    Returns:
        Content by file name.
    """
    items = {"method": "get_image_features", "method_output_name": "pooler_output"}
    modalities = {"text": {"method": "get_text_features", "method_output_name": "pooler_output"}}
    # Parts of a pair are in the order of the alphabet.
    kinds = {"image": ("image", "image+text"), "frames": ("video", "text+video")}
    alone, described = kinds.get(getattr(config, "vision_input", "image"), (None, None))
    if isinstance(config, TwoStreamConfig) and alone is not None:
        modalities[alone] = items
    transformer: dict[str, Any] = {"transformer_task": "feature-extraction", "module_output_name": "sentence_embedding"}
    if config.reads_description and described is not None:
        modalities[described] = items
        transformer["processing_kwargs"] = {"text": {"describes_images": True}}
    transformer |= {"modality_config": modalities, "max_seq_length": processor["max_length"]}
    settings = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}
    contents = {
        "modules.json": MODULES,
        "sentence_bert_config.json": transformer,
        "config_sentence_transformers.json": settings,
    }
    return {name: json.dumps(content, indent=2) + "\n" for name, content in contents.items()}
