"""What is kept of an answer of an MLLM: refusals told from descriptions, decoration taken off, cut ends taken back.

The rules look at the start or the form of an answer, so that a description of a sign with "I can't" on it stays a
description. Where a rule is in doubt, it leaves the text as it is.
"""

import re

from processing.generation import without_thinking

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u00b4\uff07`", "'"))
_QUOTES = (('"', '"'), ("'", "'"), ("\u201c", "\u201d"), ("\u2018", "\u2019"), ("\u00ab", "\u00bb"))

_MEDIUM = r"(?:image|picture|photo|photograph|video|clip|frame|file|attachment)s?"
_SEND = r"(?:attach|upload|provide|include|share|send|supply)"
_SENT = r"(?:attached|uploaded|provided|included|shared|sent|supplied|received|loaded)"
_GREETING = (
    r"(?:(?:hi|hello|oh|hmm|well|unfortunately|regrettably|thank you|thanks)\b[^.,!;:]{0,30}[.,!;:]?\s+(?:but )?)?"
)
_IT_SEEMS = r"(?:it (?:seems|appears|looks)(?: like| that| as if| as though)?,? )?"
_NOT = r"(?:n't|not| not)"
_REFUSAL_STARTS = (
    # "I can't help but ..." and "I can't help noticing ..." go on to describe.
    rf"i (?:can|could|do|did|will|would|wo|have|was|ca){_NOT}\b(?! help (?:but|notic\w+)\b)",
    r"i (?:was unable|(?:must|have to|need to) (?:decline|refuse)|apologi[sz]e|refuse|decline|regret)\b",
    r"i(?:'m| am) (?:(?:so|very|really|truly|just|only|currently) )?"
    r"(?:sorry|not|unable|afraid|an? (?:\w+ )?(?:ai|language))\b",
    r"sorry(?:[,.!;:]| (?:but|for|about|to say|i|that)\b)",
    r"(?:my )?(?:sincere )?apologies(?:[,.!;:]| (?:but|for|i)\b)",
    r"as an? (?:(?:large|multimodal|visual|vision|text|text-based|responsible|ethical|helpful)[ -])*"
    r"(?:ai|artificial intelligence|language model|llm|chatbot)\b",
    rf"i(?:'d| would) (?:be (?:happy|glad|pleased)|love|like) to\b.{{0,120}}?"
    rf"(?:\bbut (?:i|it|there|no|you|the {_MEDIUM})|\bhowever|\bplease|\bif you)\b",
    rf"(?:please|could you|can you|kindly)(?: please)? {_SEND}\b",
    rf"{_IT_SEEMS}(?:there (?:is|was) )?no {_MEDIUM}(?: \w+){{0,3}}? (?:{_SENT}|to (?:see|describe|view|analy[sz]e))\b",
    rf"{_IT_SEEMS}(?:the|your|this) {_MEDIUM}(?: you \w+)? (?:(?:was|is|has|did|does|could|can){_NOT}(?: \w+){{0,2}}?"
    rf" (?:{_SENT}|load|visible|available|accessible|displayed)|failed to load)\b",
    rf"{_IT_SEEMS}you (?:(?:have|did){_NOT}|forgot to) (?:{_SENT}|{_SEND})\b",
    r"(?:unable|not able) to (?:process|describe|view|see|analy[sz]e|access|generate|comply|help|assist|open)\b",
    r"(?:it|this|that)(?:'s| is) not (?:\w+ ){0,3}?(?:to (?:describe|identify|provide|comply|assist|generate)|i can)\b",
    r"(?:this|your|the) request (?:was|is|has|cannot|can't|violates|goes)\b",
    r"(?:for|due to|because of|out of|to protect) (?:[\w-]+ ){0,4}?"
    r"(?:privacy|safety|ethical|policy|legal|security|guidelines)\b[\w\s]{0,20}, i\b",
)
_REFUSAL = re.compile(rf"{_GREETING}(?:{'|'.join(_REFUSAL_STARTS)})")

_KIND = r"(?:description|caption|paragraph|summary|answer)s?"
_SURE = r"(?:(?:sure|certainly|of course|absolutely|okay)(?: thing)?[,.!](?:\s+|$))"
_PREAMBLE = re.compile(
    rf"{_SURE}?(?:here(?:['\u2019]s| is| are)\b[^:.\n]{{0,60}}\b{_KIND}\b[^:.\n]{{0,60}}"
    rf"|(?:(?:the|a|image|picture|video|detailed|short|brief) ){{0,4}}{_KIND}(?: of (?:the|this) {_MEDIUM})?)\s*:\s+",
    re.IGNORECASE,
)
_ONLY_SURE = re.compile(_SURE, re.IGNORECASE)
_OFFER = re.compile(
    r"(?<=[.!?])\s+(?:let me know if|would you like me to|feel free to ask|do you want me to)\b[^.!?]*[.!?]?$",
    re.IGNORECASE,
)
_TITLE = re.compile(rf"\s*(?:#{{1,6}} [^\n]*|\*\*(?:\w+ )?{_KIND}:?\*\*:?)\n\s*(?=\S)|\s*#{{1,6}} ", re.IGNORECASE)
_BULLET = re.compile(r"^\s*[-*\u2022+] +", re.MULTILINE)
_NUMBER = re.compile(r"^\s*\(?\d{1,2}[.):] +", re.MULTILINE)
_BOLD = re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1", re.DOTALL)
_ITALIC = re.compile(r"(?<![\w*])\*(?=[^\s*])([^*\n]+)(?<=[^\s*])\*(?![\w*])")

_SENTENCE_END = re.compile(r"[.!?]+[\"'\u201d\u2019)\]]*(?=\s|$)")
# What a dot may follow inside a sentence; one letter is an initial.
_ABBREVIATION = re.compile(r"\b(?:st|mr|mrs|ms|dr|vs|no|approx|e\.g|i\.e|\w)$", re.IGNORECASE)


def is_refusal(text: str) -> bool:
    """Whether an answer declines to describe, or says that there was no picture, instead of describing.

    Only the start of the answer counts. Curly apostrophes and quotation marks around the whole answer do not matter;
    an answer that begins with a quoted phrase and goes on is a description.
    """
    plain = " ".join(_without_quotes(text.translate(_APOSTROPHES)).lower().split())
    return _REFUSAL.match(plain.lstrip("*_#> ")) is not None


def is_empty(text: str) -> bool:
    """Whether a text has neither a letter nor a digit."""
    return not any(character.isalnum() for character in text)


def tidy_description(answer: str) -> str:
    """The description in an answer, on one line.

    Taken off are the thinking of a reasoning model, a title, an opening such as "Here is a description:", marks of
    Markdown, a last offer such as "Let me know if ...", and quotation marks around the whole.
    """
    text = without_fence(without_thinking(answer))
    text = without_emphasis(_without_start(_TITLE, text)).strip()
    text = _without_start(_ONLY_SURE, _without_start(_PREAMBLE, text))
    text = " ".join(_without_list_marks(text).split())
    return _without_quotes(_OFFER.sub("", text)).strip()


def tidy_captions(answer: str) -> list[str]:
    """The different captions in an answer of one caption a line, without numbers, bullets and introduction."""
    lines = without_emphasis(without_fence(without_thinking(answer))).splitlines()
    captions: dict[str, str] = {}
    for line in lines:
        bare = _BULLET.sub("", _NUMBER.sub("", line.strip())).strip()
        # An introduction ends in a colon; a title begins with a hash.
        if bare.endswith(":") or bare.startswith("#") or _ONLY_SURE.fullmatch(bare):
            continue
        caption = _without_quotes(" ".join(bare.split())).strip()
        if not is_empty(caption):
            captions.setdefault(caption.rstrip(".!").casefold(), caption)
    return list(captions.values())


def cut_to_sentences(text: str) -> str:
    """A text without what follows its last whole sentence; empty if it has none."""
    for match in reversed(list(_SENTENCE_END.finditer(text))):
        if match[0] != "." or not _ABBREVIATION.search(text[: match.start()]):
            return text[: match.end()]
    return ""


def without_fence(text: str) -> str:
    """The inside of a code block that is the whole answer."""
    match = re.fullmatch(r"\s*```\w*\n(.*?)\n?```\s*", text, re.DOTALL)
    return match[1] if match else text


def without_emphasis(text: str) -> str:
    """A text without the marks of bold and italic words."""
    return _ITALIC.sub(r"\1", _BOLD.sub(r"\2", text))


def _without_start(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.match(text)
    return text[match.end() :] if match else text


def _without_list_marks(text: str) -> str:
    # A single number may belong to the text; a list has several.
    text = _NUMBER.sub("", text) if len(_NUMBER.findall(text)) > 1 else text
    return _BULLET.sub("", text)


def _without_quotes(text: str) -> str:
    """The text inside quotation marks around the whole of it; quotation marks inside mean that they are not."""
    bare = text.strip()
    for start, end in _QUOTES:
        inside = bare[1:-1]
        if len(bare) > 1 and bare.startswith(start) and bare.endswith(end):
            # An apostrophe inside a word closes nothing.
            closed = re.search(rf"{end}(?!\w)" if end in "'\u2019" else end, inside)
            return text if closed else inside
    return text
