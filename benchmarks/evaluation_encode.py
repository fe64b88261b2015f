"""Encoding a test split (captions and items) against its official form.

    python -m benchmarks.evaluation_encode

ViT-B/32 at 224 px and mBERT-base from random weights, captions of 12 to 20 tokens, descriptions of 60 to 120, five
captions an item. Official: texts in the order they come, each padded to 200 tokens, and all visual tokens through the
interaction. Tokenizing and resizing are part of both. Embeddings are compared before any time is taken.
"""

import argparse
import random
import sys
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast

from benchmarks import commands, measuring, official_form, sizes
from modeling_leccr import LeccrProcessor
from retrieval.encode import encode_items, encode_texts

TOLERANCE = 1e-5
NUM_ITEMS, TINY_ITEMS = 32, 4
CAPTIONS_PER_ITEM = 5
BATCH_SIZE = 64


def main(argv: list[str] | None = None) -> int:
    """Compare and time the two forms; see the module's docstring."""
    parser = commands.form_arguments("evaluation_encode", __doc__, repeats=2)
    parser.add_argument("--num-items", type=int, help=f"items, with {CAPTIONS_PER_ITEM} captions each")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    return commands.main_of(run, parser, argv)


def run(options: argparse.Namespace) -> None:
    """Check, time, report."""
    num_items = options.num_items or (TINY_ITEMS if options.tiny else NUM_ITEMS)
    model = sizes.build_model(tiny=options.tiny).eval()
    processor = build_processor(model.config.text_config.vocab_size, model.config.vision_config.image_size)
    words = random.Random(options.seed)
    captions = [random_text(words, sizes.CAPTION_TOKENS, processor) for _ in range(num_items * CAPTIONS_PER_ITEM)]
    rows = [random_item(words, processor) for _ in range(num_items)]
    arguments = (model, processor)
    forms: dict[str, dict[str, Any]] = {
        "captions": {
            "official": lambda: official_form.encode_texts(*arguments, captions, options.batch_size),
            "ours": lambda: encode_texts(*arguments, captions, options.batch_size, progress=False),
        },
        "items": {
            "official": lambda: official_form.encode_items(*arguments, rows, options.batch_size),
            "ours": lambda: encode_items(*arguments, Rows(rows), options.batch_size, progress=False),
        },
    }
    differences, seconds, table = {}, {}, []
    for name, pair in forms.items():
        differences[name] = measuring.check_equal(_named(pair["ours"]()), _named(pair["official"]()), TOLERANCE)
    for name, pair in forms.items():
        seconds[name] = measuring.interleave(pair, options.repeats, warm_up=False)
        row = measuring.timing_row(name, seconds[name])
        table.append({**row, "max_difference": max(differences[name].values())})
    both = {
        form: [sum(runs) for runs in zip(*(seconds[name][form] for name in forms), strict=True)]
        for form in measuring.FORMS
    }
    worst = max(max(part.values()) for part in differences.values())
    table.append({**measuring.timing_row("whole split", both), "max_difference": worst})
    facts = {"num_items": num_items, "num_captions": len(captions), "batch_size": options.batch_size}
    commands.finish("evaluation_encode", options, table, sizes=facts)


class Rows(list):
    """Rows in memory that give a column by its name, as a data set does."""

    @property
    def column_names(self) -> list[str]:
        """Names of the columns."""
        return list(super().__getitem__(0))

    def __getitem__(self, key: Any) -> Any:
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


def build_processor(vocabulary: int, image_size: int) -> LeccrProcessor:
    """Words `w1000`, `w1001`, ... are a token each, so that texts of any number of tokens can be written."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokens = special + [f"w{i}" for i in range(len(special), vocabulary)]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=512, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    )
    size = {"height": image_size, "width": image_size}
    return LeccrProcessor(CLIPImageProcessorPil(size=size, do_center_crop=False), fast)


def random_text(words: random.Random, tokens: tuple[int, int], processor: LeccrProcessor) -> str:
    """A text that the tokenizer turns into a number of tokens in the range, the two special ones included."""
    length = words.randint(*tokens) - 2
    return " ".join(f"w{words.randrange(sizes.FIRST_WORD, len(processor.tokenizer))}" for _ in range(length))


def random_item(words: random.Random, processor: LeccrProcessor) -> dict[str, Any]:
    """A picture of noise with a description."""
    size = processor.image_processor.size["height"]
    pixels = np.frombuffer(words.randbytes(size * size * 3), dtype=np.uint8).reshape(size, size, 3)
    description = random_text(words, sizes.DESCRIPTION_TOKENS, processor)
    return {"image": Image.fromarray(pixels), "description": description}


def _named(embeds: Tensor | tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    if isinstance(embeds, tuple):
        return {"image_embeds": embeds[0], "slot_embeds": embeds[1]}
    return {"text_embeds": embeds}


if __name__ == "__main__":
    sys.exit(main())
