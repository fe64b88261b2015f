"""Texts in one block: the same texts, in little memory, whichever process reads them."""

import pickle
import random

import pytest

from processing.packed_texts import PackedTexts

TEXTS = ["", "a dog", None, "Ein Hund läuft.", "一只狗", None, "", "\ud83d", "😀 ok", "x" * 300]


def test_packed_texts_are_a_list_of_texts():
    """An offset that counts characters instead of bytes moves every text behind the first umlaut."""
    packed = PackedTexts(iter(TEXTS))
    assert list(packed) == TEXTS and len(packed) == len(TEXTS)
    assert [packed[-1 - position] for position in range(len(TEXTS))] == TEXTS[::-1]
    assert list(pickle.loads(pickle.dumps(packed))) == TEXTS
    assert list(PackedTexts([])) == [] and list(PackedTexts([None])) == [None]
    for index in (len(TEXTS), -len(TEXTS) - 1):
        with pytest.raises(IndexError):
            packed[index]


def test_the_texts_take_the_place_of_their_bytes():
    """A Python string takes fifty bytes more than it says, and is copied into each worker that looks at it."""
    draw = random.Random(0)
    texts = ["".join(draw.choices("abc ", k=40)) for _ in range(1000)]
    assert len(pickle.dumps(PackedTexts(texts))) < 1000 * (40 + 9) + 2000
