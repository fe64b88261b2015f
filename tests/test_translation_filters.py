"""Each filter on cases decided by hand, and on real translations."""

import gzip
from math import ceil

import datasets
import pytest

from processing.languages import LANGUAGES
from processing.translation_filters import (
    LENGTH_SLACK,
    MAX_LENGTH_FACTOR,
    filter_settings,
    find_fault,
    is_copy,
    is_empty,
    is_length_suspect,
    is_other_language,
    without_names,
)
from tests.test_language_id import SENTENCES


def fault(source, translation, language="de"):
    return find_fault(source, translation, source_language="en", target_language=language)


@pytest.mark.parametrize("language", sorted(LANGUAGES.keys() - {"en"}))
def test_a_good_translation_passes_in_every_language(language):
    """A table entry that is wrong for one language (script, length, code) would empty its whole column."""
    assert fault(SENTENCES["en"], SENTENCES[language], language) == "ok"
    assert fault("A dog.", {"zh": "狗。", "ja": "犬。"}.get(language, SENTENCES[language][:8]), language) == "ok"


@pytest.mark.parametrize(
    ("source", "translation", "language", "flag"),
    [
        ("A dog runs.", "  ", "de", "empty"),
        ("A dog runs.", "@@ 12", "de", "empty"),
        ("A dog runs.", "a dog runs", "de", "copy"),
        ("A dog runs.", "A dog runs.", "zh", "copy"),
        ("Four riders look into the water.", "四 horseriders look 着水。", "zh", "script"),
        ("A dog runs.", "Собака бежит.", "de", "script"),
        (SENTENCES["en"], "A brown dog is running over a green meadow with a ball", "de", "language"),
        ("A dog runs.", "Ein Hund läuft.\nEin Hund rennt.", "de", "lines"),
        ("A dog runs.", "Ein Hund läuft.\n\nNote: literal.", "de", "lines"),
        ("A dog\nruns.", "Ein Hund\n\nläuft.\n", "de", "ok"),
        (SENTENCES["en"], "I'm sorry, but I can't help with that.", "de", "refusal"),
        (SENTENCES["en"], SENTENCES["de"] * 4, "de", "length"),
        (SENTENCES["en"], "Ein Hund läuft", "de", "length"),
        (SENTENCES["en"], "一只狗", "zh", "length"),
        ("42", "42", "de", "ok"),
        ("Michael Jackson", "Michael Jackson", "de", "ok"),
        ("A female DJ holds up a Nike shirt.", "一个女DJ举起一件Nike衬衫。", "zh", "ok"),
        ("A man with a Nike T-shirt and iPhone", "NikeのTシャツとiPhoneの男", "ja", "ok"),
        ("BMW Z4 coupe parked.", "BMW Z4 クーペ。", "ja", "ok"),
        ("A sign reading Starbucks Coffee", "「Starbucks Coffee」の看板", "ja", "ok"),
        ("KFC sign", "KFC 간판", "ko", "ok"),
        ("A Nike sign", "一 adidas sign", "zh", "script"),
        ("A MAN RIDES A BIKE", "A MAN RIDES BIKE", "zh", "script"),
        ("fast food restaurant", "Fast-Food-Restaurant", "de", "ok"),
        ("Three.", "3", "de", "ok"),
    ],
)
def test_faults_are_found_by_hand(source, translation, language, flag):
    """The first fault names the flag that a user sees in the counts."""
    assert fault(source, translation, language) == flag


@pytest.mark.parametrize(
    ("source", "translation", "expected"),
    [
        ("A dog runs.", "a  dog, runs!", True),
        ("Ａ dog runs", "A dog runs", True),
        ("A dog runs.", "Ein Hund läuft.", False),
        ("Restaurant", "Restaurant", False),
        ("tennis", "Tennis", False),
        ("Coca-Cola 2012", "Coca-Cola 2012", False),
        ("A BMW", "A BMW", False),
        ("fast food restaurant", "Fast-Food-Restaurant", False),
        ("hot dog", "hot dog", True),
        ("", "", False),
    ],
)
def test_copies_are_told_from_names_numbers_and_shared_words(source, translation, expected):
    """A caption of a name alone is translated by itself; refusing it would lose a good pair."""
    assert is_copy(source, translation) is expected


@pytest.mark.parametrize(
    ("source", "translation", "expected"),
    [("A dog", "", True), ("A dog", "\n", True), ("A dog", "?!", True), ("12", "12", False), ("12", "", True),
     ("Three.", "3", False), ("Three.", "?", True), ("Three dogs.", "3", True)],
)  # fmt: skip
def test_a_text_without_letters_is_empty_unless_the_source_has_none(source, translation, expected):
    """Two human "translations" of Multi30K are "@@"."""
    assert is_empty(source, translation) is expected


def test_short_texts_are_not_judged_by_language():
    """24 letters of English pass and 25 do not: the identifier guesses on less."""
    for text, num_letters in (("the man with the four dogs xyz", 24), ("the man with the four dogs xyzz", 25)):
        assert sum(map(str.isalpha, text)) == num_letters
        assert is_other_language(text, source_language="en", target_language="de") is (num_letters == 25)
    assert not is_other_language("der Mann mit den drei Hunden", source_language="en", target_language="de")


SCANDINAVIAN = {"da", "no", "sv"}


@pytest.mark.parametrize("language", sorted(LANGUAGES.keys() - {"en"}))
def test_sentences_in_other_languages_are_refused(language):
    """A model that confuses two codes writes fluent text in a wrong language, which trains a wrong pair."""
    for other, sentence in SENTENCES.items():
        expected = "ok" if language == other or {language, other} <= SCANDINAVIAN else "refused"
        found = fault("x" * len(SENTENCES["en"]), sentence, language)
        assert found == expected or (expected == "refused" and found in {"script", "language", "length"}), other


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("一只棕色的狗跑过草地", "ja", True),
        ("一只棕色的狗跑过草", "ja", False),
        ("一只棕色的狗跑过草地", "ko", True),
        ("一只棕色的狗跑过草地", "zh", False),
        ("野球選手集合写真撮影中の人", "ja", False),
    ],
)
def test_han_signs_alone_are_neither_japanese_nor_korean(text, language, expected):
    """Both are written with Han signs too, so that Chinese passes as their script; nine may be a noun phrase."""
    assert is_other_language(text, source_language="en", target_language=language) is expected


def test_names_of_the_source_are_left_out_of_the_script():
    """Only whole words with a capital letter that stand in both, and only if something is left to judge."""
    source = "A Nike shirt and the word Star"
    assert without_names("Nikeのシャツ", source, "ja").strip() == "のシャツ"
    assert without_names("Nikesのシャツ", source, "ja") == "Nikesのシャツ"
    assert without_names("shirt シャツ", source, "ja") == "shirt シャツ"
    assert without_names("Nike Star", source, "ja") == "Nike Star"


def test_the_settings_tell_every_number():
    """A job that continues under other thresholds would mix two selections."""
    settings = filter_settings()
    assert settings["length_ratios"]["zh"] == 0.31
    assert {"min_han_for_language", "min_letters_for_language", "min_script_share", "length_slack"} < settings.keys()


@pytest.mark.parametrize(("language", "ratio"), [("de", 1.0), ("zh", 0.31), ("ja", 0.4)])
def test_lengths_are_refused_just_outside_the_factor(language, ratio):
    """Oracle: the bounds solved for the length by hand."""
    source = "x" * 100
    upper = (MAX_LENGTH_FACTOR * (100 + LENGTH_SLACK) - LENGTH_SLACK) * ratio
    lower = ((100 + LENGTH_SLACK) / MAX_LENGTH_FACTOR - LENGTH_SLACK) * ratio
    for length, expected in (
        (int(upper), False),
        (int(upper) + 1, True),
        (ceil(lower), False),
        (ceil(lower) - 1, True),
    ):
        found = is_length_suspect(source, "y" * length, source_language="en", target_language=language)
        assert found is expected, length


def test_lengths_are_symmetric_in_direction():
    """Back-translations run the other way; the expectation must be turned round with them."""
    assert not is_length_suspect(SENTENCES["zh"], SENTENCES["en"], source_language="zh", target_language="en")
    assert is_length_suspect(SENTENCES["zh"], SENTENCES["en"] * 4, source_language="zh", target_language="en")


def test_equal_languages_and_unknown_ones_are_refused():
    """Every text would be flagged as untranslated."""
    with pytest.raises(ValueError, match="must differ"):
        find_fault("a", "b", source_language="en", target_language="en")
    with pytest.raises(ValueError, match="language must be one of"):
        find_fault("a dog", "b", source_language="en", target_language="xx")


@pytest.mark.realdata
@pytest.mark.parametrize("language", ["de", "fr", "cs"])
def test_human_translations_pass_but_for_one_in_ten_thousand(data_dir, language):
    """The thresholds are chosen by this count; see the head of translation_filters.py."""
    folder = data_dir / "multi30k" / "data" / "task1" / "raw"
    sources, translations = (
        gzip.decompress((folder / f"train.{code}.gz").read_bytes()).decode().splitlines() for code in ("en", language)
    )
    assert len(sources) == len(translations) == 29_000
    flags = [fault(*pair, language) for pair in zip(sources, translations, strict=True)]
    assert sum(flag != "ok" for flag in flags) <= 3
    assert [flags[i] for i, text in enumerate(translations) if text == "@@"] == ["empty"] * (2 * (language == "de"))
    returned = [find_fault(text, text, source_language="en", target_language=language) for text in sources[:1000]]
    assert set(returned) == {"copy"}
    for other in {"de", "fr", "cs"} - {language}:
        wrong = [fault(*pair, other) for pair in zip(sources[:3000], translations[:3000], strict=True)]
        assert wrong.count("language") >= 0.91 * len(wrong)


@pytest.mark.realdata
@pytest.mark.parametrize("column", ["caption_zh_mt", "caption_zh_mt2"])
def test_machine_translations_into_chinese_lose_one_in_two_hundred(data_dir, column):
    """An older engine leaves unknown words in English; those captions are what the script filter is for."""
    split = datasets.load_dataset(str(data_dir / "flickr8k-ccr"), split="train").select_columns(["caption_en", column])
    pairs = [pair for row in split for pair in zip(row["caption_en"], row[column], strict=True)]
    flags = [fault(*pair, "zh") for pair in pairs]
    assert len(flags) == 18_000
    assert 50 <= flags.count("script") <= 100
    # Chinese of less than ten signs passes as a Japanese noun phrase.
    assert [fault(*pair, "ja") for pair in pairs[:3000]].count("language") >= 0.7 * 3000
    assert flags.count("ok") + flags.count("script") == 18_000
