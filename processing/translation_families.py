"""How each family of translation models is told the two languages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from processing.languages import LANGUAGES, Language, find_language

FAMILIES = "Marian (opus-mt), NLLB, M2M100, mBART-50 and MADLAD"
# Codes by which model makers know a language besides those of the table.
_OTHER_CODES: dict[str, tuple[str, ...]] = {
    "ar": ("ara",),
    "fil": ("tl",),
    "he": ("iw",),
    "no": ("nor",),
    "sw": ("swa",),
    "zh": ("cmn_Hans", "cmn"),
}


@dataclass(frozen=True)
class Direction:
    """What makes a model translate from one language into another.

    Attributes:
        source_code: what the tokenizer calls the source language; None where it need not know.
        prefix: put before each text.
        forced_token: the token that a translation begins with; None where the model begins by itself.
    """

    source_code: str | None = None
    prefix: str = ""
    forced_token: int | None = None


def find_direction(model_type: str, tokenizer: Any, source: str, target: str) -> Direction:
    """How a model is told to translate between two languages.

    Args:
        model_type: of its configuration.
        tokenizer: its tokenizer, which knows the language codes.
        source: code of the source language.
        target: code of the target language.

    Raises:
        ValueError: the model is of no known family, or does not know one of the languages.
    """
    check_family(model_type)
    return _RULES[model_type](tokenizer, find_language(source), find_language(target))


def check_family(model_type: str) -> None:
    """Refuse a model before its weights are loaded.

    Raises:
        ValueError: the model type is of no known family.
    """
    if model_type not in _RULES:
        raise ValueError(f"model must be of the families {FAMILIES}, got the model type {model_type!r}.")


def _marian(tokenizer: Any, source: Language, target: Language) -> Direction:
    labels = tokenizer.supported_language_codes
    if labels:
        for code in _codes(target):
            if f">>{code}<<" in labels:
                return Direction(prefix=f">>{code}<< ")
        raise _unknown_language(target, f"it knows {sorted(labels)}")
    # A model of one pair would translate into its own language without a word.
    for role, language in (("source_lang", source), ("target_lang", target)):
        own = getattr(tokenizer, role, None)
        other = next((found for found in LANGUAGES.values() if own in _codes(found)), None)
        if other is not None and other != language:
            raise ValueError(
                f"the {role} of this Marian model is {own!r}, so it cannot be used for {source.code!r} to "
                f"{target.code!r}; name another model, or use a field: Helsinki-NLP/opus-mt-en-{{language}}."
            )
    return Direction()


def _m2m100_or_nllb(tokenizer: Any, source: Language, target: Language) -> Direction:
    # Both have the same architecture; only their vocabularies tell them apart.
    if _find_token(tokenizer, source.flores) is not None:
        return _nllb(tokenizer, source, target)
    codes = [_require_code(language.m2m100, language, "M2M100") for language in (source, target)]
    _require_token(tokenizer, f"__{codes[0]}__", source)
    return Direction(source_code=codes[0], forced_token=_require_token(tokenizer, f"__{codes[1]}__", target))


def _nllb(tokenizer: Any, source: Language, target: Language) -> Direction:
    _require_token(tokenizer, source.flores, source)
    return Direction(source_code=source.flores, forced_token=_require_token(tokenizer, target.flores, target))


def _mbart(tokenizer: Any, source: Language, target: Language) -> Direction:
    codes = [_require_code(language.mbart, language, "mBART-50") for language in (source, target)]
    _require_token(tokenizer, codes[0], source)
    return Direction(source_code=codes[0], forced_token=_require_token(tokenizer, codes[1], target))


def _madlad(tokenizer: Any, source: Language, target: Language) -> Direction:
    if _find_token(tokenizer, f"<2{source.code}>") is None:
        raise ValueError(
            f"model must be of the families {FAMILIES}; this T5 model has no language tokens such as "
            f"'<2{source.code}>', so it cannot be told what to translate into."
        )
    for code in (target.code, *_codes(target)):
        token = _find_token(tokenizer, f"<2{code}>")
        if token is None:
            continue
        prefix = f"<2{code}> "
        if token not in tokenizer(prefix + "a")["input_ids"]:
            raise ValueError(f"the tokenizer cuts {prefix.strip()!r} into pieces; load its original files.")
        return Direction(prefix=prefix)
    raise _unknown_language(target, f"its tokenizer has no token '<2{target.code}>'")


def _codes(language: Language) -> tuple[str, ...]:
    """Codes that a model may use for a language, such as deu_Latn, deu and de; those that name a script come first."""
    return (language.flores, *_OTHER_CODES.get(language.code, ()), language.flores.partition("_")[0], language.code)


def _find_token(tokenizer: Any, token: str) -> int | None:
    found = tokenizer.convert_tokens_to_ids(token)
    return None if found is None or found == tokenizer.unk_token_id else int(found)


def _require_code(code: str | None, language: Language, family: str) -> str:
    if code is None:
        raise _unknown_language(language, f"{family} was not trained for it")
    return code


def _require_token(tokenizer: Any, token: str, language: Language) -> int:
    found = _find_token(tokenizer, token)
    if found is None:
        raise _unknown_language(language, f"its tokenizer has no token {token!r}")
    return found


def _unknown_language(language: Language, reason: str) -> ValueError:
    return ValueError(f"the model cannot translate {language.name} ({language.code!r}): {reason}; name another model.")


_RULES: dict[str, Callable[[Any, Language, Language], Direction]] = {
    "marian": _marian,
    "m2m_100": _m2m100_or_nllb,
    "nllb-moe": _nllb,
    "mbart": _mbart,
    "t5": _madlad,
}
