"""Tiny translation models with random weights and real tokenizers, saved to a folder, one for each family."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    NllbTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

from tests.tiny import SENTENCES

TEXTS = [text for sentence in SENTENCES for text in sentence]
# Large enough that a random model says something else about each source, which the usual 0.02 is not.
INIT_STD = 1.0
SIZES: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 160,
    "init_std": INIT_STD,
}
FAMILIES = ("marian", "m2m100", "nllb", "mbart50", "madlad")


def make_model(family: str, folder: Path, **options: Any) -> str:
    """Save a tiny model of a family; the name to load it by."""
    makers = {"marian": tiny_marian, "m2m100": tiny_m2m100, "nllb": tiny_nllb, "mbart50": tiny_mbart50,
              "madlad": tiny_t5}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    return makers[family](folder, **options)


def tiny_marian(
    folder: Path, *, labels: Sequence[str] = (), target_lang: str | None = None, end_bias: float = 0.0
) -> str:
    """Marian; with labels such as `>>deu<<` it is one with several target languages."""
    pieces = _train_pieces(folder / "source.spm")
    (folder / "target.spm").write_bytes((folder / "source.spm").read_bytes())
    vocabulary = ["</s>", "<unk>", *(piece for piece, _ in pieces), *labels, "<pad>"]
    _write_vocabulary(folder / "vocab.json", vocabulary)
    tokenizer = MarianTokenizer(
        str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json"),
        source_lang="en" if target_lang else None, target_lang=target_lang, model_max_length=60,
    )  # fmt: skip
    pad = len(vocabulary) - 1
    config = MarianConfig(
        vocab_size=len(vocabulary), pad_token_id=pad, eos_token_id=0, decoder_start_token_id=pad, forced_eos_token_id=0,
        **SIZES,
    )  # fmt: skip
    model = MarianMTModel(config)
    model.generation_config.bad_words_ids = [[pad]]
    model.generation_config.num_beams = 4
    model.final_logits_bias[0, 0] = end_bias
    return _save(folder, model, tokenizer)


def tiny_m2m100(folder: Path) -> str:
    """M2M100, which knows its languages as `__de__`."""
    pieces = _train_pieces(folder / "sentencepiece.bpe.model")
    _write_vocabulary(folder / "vocab.json", ["<s>", "<pad>", "</s>", "<unk>", *(piece for piece, _ in pieces)])
    tokenizer = M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"))
    vocab_size = len(tokenizer) + len(tokenizer.lang_token_to_id) + tokenizer.num_madeup_words
    return _save(folder, M2M100ForConditionalGeneration(M2M100Config(vocab_size=vocab_size, **SIZES)), tokenizer)


def tiny_nllb(folder: Path) -> str:
    """NLLB: the architecture of M2M100, languages as `deu_Latn`."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=90, special_tokens=specials, show_progress=False))
    parts = json.loads(trained.to_str())["model"]
    tokenizer = NllbTokenizer(vocab=parts["vocab"], merges=[tuple(merge) for merge in parts["merges"]])
    return _save(folder, M2M100ForConditionalGeneration(M2M100Config(vocab_size=len(tokenizer), **SIZES)), tokenizer)


def tiny_mbart50(folder: Path) -> str:
    """mBART-50, languages as `de_DE`."""
    control = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    tokenizer = MBart50Tokenizer(vocab=[*control, *_train_pieces(folder / "unused.spm")])
    config = MBartConfig(vocab_size=len(tokenizer), decoder_start_token_id=2, forced_eos_token_id=2, **SIZES)
    return _save(folder, MBartForConditionalGeneration(config), tokenizer)


def tiny_t5(folder: Path, *, labels: Sequence[str] = ("<2en>", "<2de>", "<2fr>", "<2iw>")) -> str:
    """T5; with labels such as `<2de>` it is MADLAD."""
    control = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((label, 0.0) for label in labels)]
    tokenizer = T5Tokenizer(vocab=[*control, *_train_pieces(folder / "unused.spm")], extra_ids=0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, initializer_factor=5.0,
        decoder_start_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    return _save(folder, T5ForConditionalGeneration(config), tokenizer)


def _train_pieces(path: Path) -> list[tuple[str, float]]:
    """Train a small vocabulary, write it, and give its pieces with their scores, without the control pieces."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3), model_writer=written, vocab_size=80, hard_vocab_limit=False,
        character_coverage=1.0, minloglevel=2,
    )  # fmt: skip
    path.write_bytes(written.getvalue())
    vocabulary = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    return [(vocabulary.id_to_piece(i), vocabulary.get_score(i)) for i in range(3, vocabulary.get_piece_size())]


def _write_vocabulary(path: Path, tokens: Sequence[str]) -> None:
    path.write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")


def _save(folder: Path, model: torch.nn.Module, tokenizer: Any) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
