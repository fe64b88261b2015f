"""Tiny vision-language models with random weights, real processors and chat templates, saved to a folder."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

# fmt: off
WORDS = [
    "a", "dog", "cat", "man", "woman", "house", "tree", "car", "boat", "runs", "sits", "stands", "waits", "in", "on",
    "beside", "the", "park", "street", "red", "blue", "green", "small", "old", "two", "and", "with", ".", ",",
    "describe", "this", "picture", "write", "captions",
]
# fmt: on
TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
KINDS = ("llava", "idefics3")
END_ID = 2


def tiny_mllm(folder: Path, kind: str = "llava", *, seed: int = 1, template: str | None = TEMPLATE) -> str:
    """Save a model, and give its folder.

    Args:
        kind: "llava" gives each picture the same number of tokens; "idefics3" pads the number of pictures.
        seed: of the weights.
        template: chat template; None leaves it out.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, processor = {"llava": _llava, "idefics3": _idefics3}[kind](template)
    with torch.no_grad():
        # Less likely than the end, so that answers hold words alone.
        rows = model.lm_head.weight
        rows[[row for row in range(len(rows) - len(WORDS)) if row != END_ID]] = rows[END_ID] / 4
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def _llava(template: str | None) -> tuple[Any, Any]:
    tokenizer = _tokenizer("<image>")
    side = {"height": 16, "width": 16}
    pictures = LlavaImageProcessorPil(size={"shortest_edge": 16}, crop_size=side)
    processor = LlavaProcessor(
        pictures, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    config = LlavaConfig(
        vision_config=vision, text_config=_text_config(len(tokenizer)), image_token_index=_id(tokenizer, "<image>"),
        image_seq_length=4,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config), processor


def _idefics3(template: str | None) -> tuple[Any, Any]:
    tokenizer = _tokenizer("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    side = {"longest_edge": 16}
    pictures = Idefics3ImageProcessorPil(size=side, max_image_size=side, do_image_splitting=False)
    processor = Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=template)
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 4,
    }  # fmt: skip
    config = Idefics3Config(
        vision_config=vision, text_config=_text_config(len(tokenizer)), image_token_id=_id(tokenizer, "<image>"),
        scale_factor=2, pad_token_id=0,
    )  # fmt: skip
    return Idefics3ForConditionalGeneration(config), processor


def _text_config(vocab_size: int) -> LlamaConfig:
    # Large weights, so that answers depend on the picture.
    return LlamaConfig(
        vocab_size=vocab_size, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=0, bos_token_id=1, eos_token_id=END_ID, initializer_range=0.5,
    )  # fmt: skip


def _tokenizer(*specials: str) -> PreTrainedTokenizerFast:
    tokens = ["<pad>", "<s>", "</s>", "<unk>", *specials, "USER:", "ASSISTANT:", *WORDS]
    words = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=list(specials), extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip


def _id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    return tokenizer.convert_tokens_to_ids(token)
