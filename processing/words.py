"""Words of a text by one simple rule for all languages, and the content words of an English one.

A word is a run of letters, digits and their marks, in lower case; everything else separates, apostrophes and hyphens
too ("t-shirt" is two words). Languages without spaces are counted in characters: each letter or digit is a unit.

A content word is an English word of two letters or more that is not in `STOP_WORDS`, reduced by `stem`, so that "dogs
run" and "a running dog" hold the same two. The rule is coarse: it knows neither synonyms ("kid", "child") nor most
irregular forms ("sat", "sit").
"""

import unicodedata

_STOP_WORD_LINES = """
a about above across after again against all along also although am among an and another any are around as at away
be because been before behind being below beside besides between beyond both but by can could did do does doing
down during each either else even ever every few for from further had has have having he her here hers herself him
himself his how however if in inside into is isn it its itself just least less like ll many may me might more most
much must my near neither next no nor not of off on once one only onto or other others our out outside over own per
quite rather re s same several shall she should since so some someone something still such than that the their
theirs them themselves then there these they this those though through throughout to together too toward towards
under until up upon us ve very was we well were what when where whether which while who whole whom whose why will
with within without would yet you your
aren couldn didn doesn don hadn hasn haven shouldn wasn weren won wouldn
"""
STOP_WORDS = frozenset(_STOP_WORD_LINES.split())
IRREGULAR_PLURALS = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "people": "person",
    "feet": "foot",
    "teeth": "tooth",
    "mice": "mouse",
    "geese": "goose",
    "leaves": "leaf",
    "wolves": "wolf",
    "knives": "knife",
    "shelves": "shelf",
}
_VOWELS = frozenset("aeiouy")


class _Separators(dict):
    """A table for `str.translate`: letters, digits and marks stay, all else becomes a space. Filled as it is asked."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        # A vowel sign of Hindi or Thai is a mark, not a letter; without it each word would fall apart.
        keep = character.isalnum() or unicodedata.category(character).startswith("M")
        self[code] = character if keep else " "
        return self[code]


_SEPARATORS = _Separators()


def split_words(text: str, *, has_spaces: bool = True) -> list[str]:
    """The words of a text, in order; for a language without spaces its letters and digits, one by one."""
    pieces = unicodedata.normalize("NFKC", text).lower().translate(_SEPARATORS).split()
    return pieces if has_spaces else list("".join(pieces))


def content_words(text: str) -> set[str]:
    """The different content words of an English text, as stems."""
    return {stem(word) for word in split_words(text) if len(word) > 1 and word not in STOP_WORDS}


def stem(word: str) -> str:
    """An English word without the ending of its plural or verb form.

    "ies" becomes "y"; "es" goes after a hiss, "s" elsewhere but after "s", "u" or "i"; "ing" and "ed" go where three
    letters with a vowel remain, and a doubled consonant but "l", "s" and "z" becomes single; a last "e" goes. The stem
    need not be a word: it is only compared with other stems.
    """
    if word in IRREGULAR_PLURALS:
        return stem(IRREGULAR_PLURALS[word])
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("ses", "xes", "zes", "ches", "shes")):
        word = word[:-2]
    elif word.endswith("s") and len(word) > 3 and word[-2] not in "sui":
        word = word[:-1]
    for ending in ("ing", "ed"):
        rest = word.removesuffix(ending)
        if rest != word and len(rest) >= 3 and _VOWELS & set(rest):
            is_doubled = rest[-1] == rest[-2] and rest[-1] not in _VOWELS | set("lsz")
            word = rest[:-1] if is_doubled else rest
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word
