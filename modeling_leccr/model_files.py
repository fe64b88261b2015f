"""The files that `save_for_hub` writes: the next save may replace them, a push may delete them."""

import json
import re
from pathlib import Path

from modeling_leccr.configuration_cl2cm import Cl2cmConfig, CrossLingualConfig
from modeling_leccr.configuration_leccr import LeccrConfig
from processing.hub_upload import CARD_FILE

CONFIG_FILE, PROCESSOR_FILE, TOKENIZER_FILE = "config.json", "processor_config.json", "tokenizer_config.json"
ADAPTER_FILE = "adapter_config.json"  # of a model with an adapter, in the place of config.json
MODEL_TYPES = tuple(config.model_type for config in (LeccrConfig, Cl2cmConfig, CrossLingualConfig))
_OURS = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|\w+_(leccr|cl2cm)\.py|check_embeddings\.py|"
    r"golden/(inputs\.json|\d+\.png|(embeds|features)\.safetensors)|\.eval_results/[\w.-]+--[\w.-]+\.yaml|"
    r"(config|metrics|processor_config|modules|sentence_bert_config|config_sentence_transformers)\.json|"
    # What the tokenizers of transformers write.
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens)\.json|"
    r"((entity_)?vocab|emoji|byte_maps|word_shape|word_pronunciation)\.json|(vocab|merges|dict)\.txt|bpe\.codes|"
    r"(tokenizer|spiece|sentencepiece|sentencepiece\.bpe|spm)\.model|"
    r"chat_template\.jinja|additional_chat_templates/[\w.-]+\.jinja"
)


def is_ours(path: str) -> bool:
    """Whether a file has a name that a save of a model gives, beside the card."""
    return _OURS.fullmatch(path) is not None


def foreign_files(folder: Path) -> list[str]:
    """The files of a folder that `save_for_hub` did not write, relative to it; they would be lost if it was replaced.

    Those are the files with a name that it does not give; and all files of a folder without a card and a model of this
    library, because other models have files of the same names. None where the folder is absent or empty.
    """
    # A link to a folder is no folder here: what is behind it is not replaced, but the link would be lost.
    files = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    names = [path.relative_to(folder).as_posix() for path in files]
    if CARD_FILE not in names or not _holds_a_model(folder):
        return names
    return [name for name in names if name != CARD_FILE and not is_ours(name)]


def _holds_a_model(folder: Path) -> bool:
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") in MODEL_TYPES
