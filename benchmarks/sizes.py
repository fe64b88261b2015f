"""Models and batches of the benchmarks: the published geometry, or toy sizes, with random weights and inputs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, CLIPVisionConfig

from modeling_leccr import LeccrConfig, LeccrModel

CAPTION_TOKENS = (12, 20)
DESCRIPTION_TOKENS = (60, 120)
FIRST_WORD = 1000  # below lie the special tokens
TINY_VOCABULARY = 1200


def build_model(*, tiny: bool, attention: str = "sdpa", dropout: float = 0.0) -> LeccrModel:
    """CLIP ViT-B/32 at 224 px and mBERT-base, both with random weights; `tiny` is two layers of width 32.

    Without dropout the two forms of a benchmark must agree; with it they could not be compared.
    """
    vision: dict[str, Any] = {}
    text: dict[str, Any] = {"vocab_size": 119_547}
    ours: dict[str, Any] = {}
    if tiny:
        tower: dict[str, Any] = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        vision = {**tower, "image_size": 64, "projection_dim": 16}
        text = {**tower, "vocab_size": TINY_VOCABULARY}
        ours = {"slot_dim": 16, "embed_dim": 8, "num_attention_heads": 2}
    text |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = LeccrConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=BertConfig(**text),
        dropout=dropout,
        **ours,
    )
    model = LeccrModel(config)
    model.set_attn_implementation(attention)
    return model


def random_texts(num_texts: int, tokens: tuple[int, int], vocabulary: int) -> tuple[Tensor, Tensor]:
    """Texts of random length, padded to the longest: input_ids and attention_mask (num_texts, length)."""
    lengths = torch.randint(tokens[0], tokens[1] + 1, (num_texts,))
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return torch.randint(FIRST_WORD, vocabulary, mask.shape) * mask, mask


def training_batch(model: LeccrModel, batch_size: int) -> dict[str, Tensor]:
    """Images, descriptions and caption pairs as the collator gives them."""
    size, vocabulary = model.config.vision_config.image_size, model.config.text_config.vocab_size
    batch = {"pixel_values": torch.randn(batch_size, 3, size, size), "image_ids": torch.arange(batch_size)}
    kinds: Sequence[tuple[str, tuple[int, int]]] = (
        ("source", CAPTION_TOKENS),
        ("target", CAPTION_TOKENS),
        ("description", DESCRIPTION_TOKENS),
    )
    for kind, tokens in kinds:
        batch[f"{kind}_input_ids"], batch[f"{kind}_attention_mask"] = random_texts(batch_size, tokens, vocabulary)
    return batch
