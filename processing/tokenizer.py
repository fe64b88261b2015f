"""A WordPiece tokenizer trained on the captions at hand, for text towers that start from scratch."""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUATION = "##"


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, lowercase: bool = True, max_length: int
) -> PreTrainedTokenizerFast:
    """Learn a WordPiece vocabulary and wrap it as a transformers tokenizer.

    Accents stay, Chinese characters are tokens of their own, kana and Latin words learn merges. The same texts, in
    any order, give the same vocabulary in every process. If there are more characters than places, the rarest are
    left to [UNK].

    Args:
        texts: captions (and descriptions) in all languages of the model.
        vocab_size: upper bound of the vocabulary, the five special tokens included.
        lowercase: ignore case.
        max_length: `model_max_length`, the number of positions of the text tower.

    Returns:
        A tokenizer that writes [CLS] text [SEP]; [PAD] has id 0.

    Raises:
        ValueError: there is no text, or the vocabulary or the length has no room.
    """
    if vocab_size <= len(SPECIAL_TOKENS):
        raise ValueError(f"vocab_size must exceed the {len(SPECIAL_TOKENS)} special tokens, got {vocab_size}.")
    if max_length < 3:
        raise ValueError(f"max_length must be at least 3 ([CLS], a token, [SEP]), got {max_length}.")
    words = _count_words(texts, _normalizer(lowercase))
    if not words:
        raise ValueError("texts must hold at least one word, got none; pass the captions of the training split.")
    backend = Tokenizer(models.WordPiece(_learn_vocabulary(words, vocab_size), unk_token="[UNK]"))
    backend.normalizer = _normalizer(lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _normalizer(lowercase: bool) -> normalizers.Normalizer:
    # NFC first: the same accent or kana voicing mark can arrive as one code point or as two.
    bert = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=lowercase
    )
    return normalizers.Sequence([normalizers.NFC(), bert])


def _count_words(texts: Iterable[str], normalizer: normalizers.Normalizer) -> Counter[str]:
    """How often each word occurs, with words as the tokenizer will see them."""
    splitter = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    return words


def _learn_vocabulary(words: Counter[str], vocab_size: int) -> dict[str, int]:
    """Token → id, special tokens first, then characters, then the merges in the order in which they were learned."""
    alphabet, continuations = _alphabet(words, vocab_size - len(SPECIAL_TOKENS))
    # Merges tie by id, and the trainer would number continuations (`##x`) in the order of a randomly seeded hash
    # map. Named up front in sorted order, as if they were special tokens, their ids and so the merges are fixed.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[*SPECIAL_TOKENS, *continuations],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=CONTINUATION,
    )
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator((" ".join([word] * count) for word, count in sorted(words.items())), trainer)
    return learner.get_vocab(with_added_tokens=False)


def _alphabet(words: Counter[str], room: int) -> tuple[list[str], list[str]]:
    """The characters that get a token and their continuations, both sorted; the most frequent ones if room is short."""
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    for word, count in words.items():
        for character in word:
            counts[character] += count
        inside.update(word[1:])
    alphabet: list[str] = []
    continuations: list[str] = []
    # Ties by code point: the order of a counter follows that of the texts.
    for character in sorted(counts, key=lambda character: (-counts[character], character)):
        cost = 2 if character in inside else 1
        if cost > room:
            break
        room -= cost
        alphabet.append(character)
        if character in inside:
            continuations.append(CONTINUATION + character)
    return sorted(alphabet), sorted(continuations)
