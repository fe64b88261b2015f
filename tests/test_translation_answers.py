"""Answers of chat models: the translation inside, and refusals."""

import gzip

import datasets
import pytest

from processing.translation_answers import clean_answer, is_refused


@pytest.mark.parametrize(
    ("answer", "source", "expected"),
    [
        (" Ein Hund.\n", "A dog.", "Ein Hund."),
        ('"Ein Hund."', "A dog.", "Ein Hund."),
        ("„Ein Hund.“", "A dog.", "Ein Hund."),
        ("Translation: Ein Hund.", "A dog.", "Ein Hund."),
        ('**German**: "Ein Hund."', "A dog.", "Ein Hund."),
        ("**Ein Hund.**", "A dog.", "Ein Hund."),
        ("Ein *Hund*", "A *dog*", "Ein *Hund*"),
        ("```\nEin Hund.\n```", "A dog.", "Ein Hund."),
        ("<think>A dog, so Hund.</think>\n\nEin Hund.", "A dog.", "Ein Hund."),
        ("<think>A dog, so", "A dog.", ""),
        ("»Ein Hund.«", "A dog.", "Ein Hund."),
        ("Deutsch: Ein Hund.", "A dog.", "Ein Hund."),
        ("Übersetzung:\nEin Hund.", "A dog.", "Ein Hund."),
        ("Sure! Ein Hund.", "A dog.", "Ein Hund."),
        ("Sure, here is the German translation:\n\n„Ein Hund.“", "A dog.", "Ein Hund."),
        ("Here is: ein Hund", "Here is: a dog", "Here is: ein Hund"),
        ('German translation: "Ein Hund."', "A dog.", "Ein Hund."),
        ("german：Ein Hund.", "A dog.", "Ein Hund."),
        ('"Ja", sagt "er"', '"Yes", says "he"', '"Ja", sagt "er"'),
        ('"Ja"', '"Yes"', '"Ja"'),
        ('"Ja" und "nein"', "Yes and no", '"Ja" und "nein"'),
        ("German: ein Schild", "German: a sign", "German: ein Schild"),
        ("Schild: Ausgang", "A sign: exit", "Schild: Ausgang"),
        ("'s ist des Hunds'", "It is the dog's", "'s ist des Hunds'"),
        ("Ein Hund.\n\nNote: literal.", "A dog.", "Ein Hund.\n\nNote: literal."),
        ('"', "A dog", '"'),
        ("", "A dog", ""),
    ],
)
def test_answers_of_a_server_lose_labels_and_quotes_only(answer, source, expected):
    """What is cut too eagerly is lost; what stays by mistake is caught by the filters and asked again."""
    assert clean_answer(answer, source, "de") == expected


@pytest.mark.parametrize(
    ("language", "answer"),
    [
        ("zh", "中文翻译：一只狗。"),
        ("zh", "翻译: 一只狗。"),
        ("ja", "日本語訳：犬。"),
        ("fr", "Traduction : Un chien."),
    ],
)
def test_labels_in_the_language_itself_are_taken_away(language, answer):
    """A label inside every caption of a column is a feature that no query has."""
    assert clean_answer(answer, "A dog.", language) == answer.replace("：", ":").partition(":")[2].strip()


def test_an_unknown_language_is_refused():
    """Its labels could not be taken away."""
    with pytest.raises(ValueError, match="language must be one of"):
        clean_answer("a", "b", "xx")


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "Es tut mir leid, aber dabei kann ich Ihnen nicht helfen.",
        "Je suis désolé, mais je ne peux pas vous aider.",
        "Lo siento, no puedo ayudarte con eso.",
        "Omlouvám se, ale s tím nemohu pomoci.",
        "对不起，我无法提供帮助。",
        "申し訳ありませんが、お手伝いできません。",
    ],
)
def test_refusals_are_told_in_the_main_languages(text):
    """A polite sentence in the right language has the right script, language and length."""
    assert is_refused("A man holds a knife in his hand.", text)


def test_captions_that_apologise_themselves_are_no_refusals():
    """A caption of speech may be translated; a sign that says sorry inside is no refusal anyway."""
    assert not is_refused("Sorry, we are closed", "Désolé, nous sommes fermés")
    assert not is_refused("A sign that says sorry", "Ein Schild, auf dem tut mir leid steht")


@pytest.mark.realdata
def test_no_human_caption_is_taken_for_a_refusal_or_loses_a_part(data_dir):
    """87,000 captions in three languages and 30,000 Chinese ones."""
    folder = data_dir / "multi30k" / "data" / "task1" / "raw"
    texts = {
        code: gzip.decompress((folder / f"train.{code}.gz").read_bytes()).decode().splitlines()
        for code in ("de", "fr", "cs")
    }
    rows = datasets.load_dataset(str(data_dir / "flickr8k-ccr"), split="train")["caption_zh"]
    texts["zh"] = [text for row in rows for text in row]
    assert sum(map(len, texts.values())) == 117_000
    for code, captions in texts.items():
        assert not [text for text in captions if is_refused("A dog.", text)]
        changed = [text for text in captions if clean_answer(text, "A dog.", code) != text.strip()]
        assert len(changed) <= 3, changed[:9]
