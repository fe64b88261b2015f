"""The translation inside the answer of a chat model, and refusals told from translations."""

import re

from processing.description_answers import is_refusal, without_emphasis, without_fence
from processing.generation import without_thinking
from processing.languages import find_language

# What some models write before a translation, in the language that was asked for.
_OWN_LABELS = {
    "cs": ("česky", "čeština", "překlad"),
    "de": ("deutsch", "übersetzung", "deutsche übersetzung"),
    "es": ("español", "traducción", "traducción al español"),
    "fr": ("français", "traduction", "traduction française"),
    "ja": ("日本語", "日本語訳", "翻訳"),
    "zh": ("中文", "中文翻译", "翻译", "译文"),
}
_PREAMBLE = re.compile(
    r"(?:(?:sure|certainly|of course|absolutely|okay)[,.!]\s+)?(?:here(?:['’]s| is)\b[^:：\n]{0,60}[:：]\s*)?",
    re.IGNORECASE,
)
# Captions tell of others, so that none begins with an apology or with what "I" cannot do.
_OWN_REFUSAL = re.compile(
    r"(?:es )?tut mir leid\b|entschuldigung\b|leider kann ich\b|ich kann (?:ihnen|dir|das|dabei|diese|leider)\b"
    r"|je suis (?:vraiment )?désolée?\b|désolée?,|je ne peux pas\b"
    r"|lo siento\b|no puedo\b"
    r"|omlouvám se\b|je mi líto\b|bohužel ne\w+\b"
    r"|(?:很|非常|十分)?(?:抱歉|对不起)|我(?:无法|不能)"
    r"|(?:大変)?申し訳(?:あり|ござい|ない)|すみません",
    re.IGNORECASE,
)
# Single ones are left out: they are apostrophes as well.
_QUOTES = ('""', "“”", "„“", "„”", "«»", "»«", "「」", "『』")


def clean_answer(answer: str, source: str, language: str) -> str:
    """The translation inside the answer of a chat model.

    Taken away: spaces around it, the thinking of a reasoning model, a code block, marks of Markdown, an opening such
    as "Sure! Here is the translation:", a label such as "Translation:", "German:" or "Deutsch:" (own words for Czech,
    German, Spanish, French, Japanese and Chinese), and one pair of quotation marks around all of it. What the caption
    has itself stays.

    Args:
        answer: what the model wrote.
        source: the caption.
        language: code of the language that was asked for.

    Raises:
        ValueError: the language is unknown.
    """
    text = without_fence(without_thinking(answer)).strip()
    if not set("*_") & set(source):
        text = without_emphasis(text)
    for pattern in (_PREAMBLE, _label_pattern(language)):
        in_source, found = pattern.match(source), pattern.match(text)
        if found and not (in_source and in_source[0]):
            text = text[found.end() :]
    if _quoted(text) and not _quoted(source.strip()):
        text = text[1:-1].strip()
    return text


def is_refused(source: str, translation: str) -> bool:
    """Whether a model declined to translate: in English, or with the usual words of six other languages.

    The others are Czech, German, Spanish, French, Japanese and Chinese. A caption that reads like a refusal itself may
    be translated.
    """
    found = is_refusal(translation) or _OWN_REFUSAL.match(translation.strip())
    return bool(found) and not is_refusal(source)


def _label_pattern(language: str) -> re.Pattern[str]:
    name = find_language(language).name
    labels = ["translation", "translated caption", name, f"{name} translation", *_OWN_LABELS.get(language, ())]
    return re.compile(rf"\s*(?:{'|'.join(map(re.escape, labels))})\s*[:：]\s*", re.IGNORECASE)


def _quoted(text: str) -> bool:
    """Whether one pair of quotation marks encloses the whole text, with none of its kind inside."""
    return len(text) > 1 and text[0] + text[-1] in _QUOTES and not {text[0], text[-1]} & set(text[1:-1])
