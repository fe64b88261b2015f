import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processing_parts import TEXTS, tiny_tokenizer
from transformers import AutoTokenizer

from processing.tokenizer import train_tokenizer

_PRINT_VOCABULARY = """
import json, sys
from processing.tokenizer import train_tokenizer
words = [f"{a}{b}{c}" for a in "bcdfg" for b in "aeiouäö" for c in "klmnp"]
texts = json.loads(sys.argv[1]) + [" ".join(words[i::7]) for i in range(7)]
texts += ["のテスト", "テストです", "すてきなテスト"]
ids = train_tokenizer(sorted(set(texts), key=hash) * 2, 260, max_length=32).get_vocab()
print(json.dumps(sorted(ids.items())))
"""


def test_special_tokens_have_the_agreed_ids_and_places():
    """A model config with pad id 0 over a tokenizer with another one masks real words."""
    tokenizer = tiny_tokenizer()
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [0, 1, 2, 3, 4]
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (0, 1, 4)
    encoded = tokenizer("two dogs")
    assert set(encoded) == {"input_ids", "attention_mask"}
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"])[0] == "[CLS]"
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"])[-1] == "[SEP]"


def test_accents_stay_and_case_goes():
    """Stripped accents merge German and French words that mean different things."""
    tokenizer = tiny_tokenizer()
    assert tokenizer.tokenize("FÄHRT") == tokenizer.tokenize("fährt") == ["fährt"]
    assert tokenizer.tokenize("fa\u0308hrt") == ["fährt"]  # the same letter as two code points
    assert tokenizer.tokenize("fahrt") != ["fährt"]
    cased = train_tokenizer(TEXTS * 3, 300, lowercase=False, max_length=64)
    assert cased.tokenize("Mann") == ["Mann"] and cased.tokenize("mann") != ["Mann"]


def test_chinese_is_split_and_japanese_kana_merge():
    """Without spaces a whole sentence is one word, hence one [UNK]."""
    tokenizer = tiny_tokenizer()
    assert tokenizer.tokenize("一个男人。") == ["一", "个", "男", "人", "。"]
    kana = tokenizer.tokenize("に乗っています")
    assert "乗" in kana and "[UNK]" not in kana
    assert any(len(token.removeprefix("##")) > 1 for token in kana)


def test_unknown_characters_map_to_the_unknown_token():
    """A query in an unseen script must be searchable, not an error."""
    tokenizer = tiny_tokenizer()
    assert tokenizer.tokenize("dogs Ω") == ["dogs", "[UNK]"]


def test_the_vocabulary_is_bounded_and_dense_and_drops_the_rarest_characters():
    """An id beyond the embedding table is an index error in the first step."""
    for size in (6, 12, 40, 120, 300):
        vocabulary = train_tokenizer(TEXTS * 3, size, max_length=64).get_vocab()
        assert len(vocabulary) <= size
        assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    small = train_tokenizer(["aaaa aaaa bb c", "aaaa bb"], 9, max_length=8)
    assert small.tokenize("a b c") == ["a", "b", "[UNK]"]


def test_every_word_of_the_training_texts_is_known():
    """A vocabulary that lost the inner form of a character turns training words into [UNK]."""
    tokenizer = tiny_tokenizer()
    for text in TEXTS:
        assert "[UNK]" not in tokenizer.tokenize(text)


def test_the_same_texts_give_the_same_vocabulary_in_every_process(root_dir: Path):
    """A vocabulary that depends on a hash seed makes runs with the same seed differ."""
    command = [sys.executable, "-c", _PRINT_VOCABULARY, json.dumps(TEXTS)]
    environment = os.environ | {"PYTHONPATH": str(root_dir)}
    processes = [
        subprocess.Popen(command, env=environment | {"PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, text=True)
        for seed in ("1", "2")
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    vocabularies = [json.loads(output) for output in outputs]
    assert vocabularies[0] == vocabularies[1]
    assert len(vocabularies[0]) > 200


def test_a_saved_tokenizer_comes_back_the_same(tmp_path: Path):
    """A reloaded tokenizer that loses its normalizer or its limit changes the ids in silence."""
    tokenizer = tiny_tokenizer(max_length=9)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.model_max_length == 9
    assert again.get_vocab() == tokenizer.get_vocab()
    texts = [*TEXTS, "FA\u0308HRT Ω", "a ladder " * 9]
    assert again(texts, truncation=True)["input_ids"] == tokenizer(texts, truncation=True)["input_ids"]
    assert set(again("dogs")) == {"input_ids", "attention_mask"}


def test_impossible_requests_are_refused():
    """An empty corpus or vocabulary would give a tokenizer of nothing but [UNK]."""
    with pytest.raises(ValueError, match="texts must hold at least one word"):
        train_tokenizer([" ", ""], 100, max_length=8)
    with pytest.raises(ValueError, match="vocab_size"):
        train_tokenizer(TEXTS, 5, max_length=8)
    with pytest.raises(ValueError, match="max_length"):
        train_tokenizer(TEXTS, 100, max_length=2)
