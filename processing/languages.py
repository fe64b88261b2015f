"""Languages: how each is named by people, by column names and by the families of translation models."""

from dataclasses import dataclass

SOURCE_LANGUAGE = "en"


@dataclass(frozen=True)
class Language:
    """One language.

    Attributes:
        code: ISO 639-1 code (639-2 where there is none), used in column names and on command lines.
        name: English name.
        scripts: Unicode script names that its letters may have, such as ("Latin",).
        flores: code of NLLB and FLORES-200, such as `deu_Latn`.
        mbart: code of mBART-50, such as `de_DE`; None where that model does not know the language.
        m2m100: code of M2M100; None where that model does not know the language.
        has_spaces: whether words are separated by spaces.
    """

    code: str
    name: str
    scripts: tuple[str, ...]
    flores: str
    mbart: str | None
    m2m100: str | None
    has_spaces: bool = True


_LATIN, _CYRILLIC, _ARABIC = ("Latin",), ("Cyrillic",), ("Arabic",)
# The languages of the Crossmodal-3600 benchmark that public translation models cover; a further one is a line here.
_TABLE = (
    Language("ar", "Arabic", _ARABIC, "arb_Arab", "ar_AR", "ar"),
    Language("bn", "Bengali", ("Bengali",), "ben_Beng", "bn_IN", "bn"),
    Language("cs", "Czech", _LATIN, "ces_Latn", "cs_CZ", "cs"),
    Language("da", "Danish", _LATIN, "dan_Latn", None, "da"),
    Language("de", "German", _LATIN, "deu_Latn", "de_DE", "de"),
    Language("el", "Greek", ("Greek",), "ell_Grek", None, "el"),
    Language("en", "English", _LATIN, "eng_Latn", "en_XX", "en"),
    Language("es", "Spanish", _LATIN, "spa_Latn", "es_XX", "es"),
    Language("fa", "Persian", _ARABIC, "pes_Arab", "fa_IR", "fa"),
    Language("fi", "Finnish", _LATIN, "fin_Latn", "fi_FI", "fi"),
    Language("fil", "Filipino", _LATIN, "tgl_Latn", "tl_XX", "tl"),
    Language("fr", "French", _LATIN, "fra_Latn", "fr_XX", "fr"),
    Language("he", "Hebrew", ("Hebrew",), "heb_Hebr", "he_IL", "he"),
    Language("hi", "Hindi", ("Devanagari",), "hin_Deva", "hi_IN", "hi"),
    Language("hr", "Croatian", _LATIN, "hrv_Latn", "hr_HR", "hr"),
    Language("hu", "Hungarian", _LATIN, "hun_Latn", None, "hu"),
    Language("id", "Indonesian", _LATIN, "ind_Latn", "id_ID", "id"),
    Language("it", "Italian", _LATIN, "ita_Latn", "it_IT", "it"),
    Language("ja", "Japanese", ("Han", "Hiragana", "Katakana"), "jpn_Jpan", "ja_XX", "ja", has_spaces=False),
    Language("ko", "Korean", ("Hangul", "Han"), "kor_Hang", "ko_KR", "ko"),
    Language("nl", "Dutch", _LATIN, "nld_Latn", "nl_XX", "nl"),
    Language("no", "Norwegian", _LATIN, "nob_Latn", None, "no"),
    Language("pl", "Polish", _LATIN, "pol_Latn", "pl_PL", "pl"),
    Language("pt", "Portuguese", _LATIN, "por_Latn", "pt_XX", "pt"),
    Language("ro", "Romanian", _LATIN, "ron_Latn", "ro_RO", "ro"),
    Language("ru", "Russian", _CYRILLIC, "rus_Cyrl", "ru_RU", "ru"),
    Language("sv", "Swedish", _LATIN, "swe_Latn", "sv_SE", "sv"),
    Language("sw", "Swahili", _LATIN, "swh_Latn", "sw_KE", "sw"),
    Language("te", "Telugu", ("Telugu",), "tel_Telu", "te_IN", None),
    Language("th", "Thai", ("Thai",), "tha_Thai", "th_TH", "th", has_spaces=False),
    Language("tr", "Turkish", _LATIN, "tur_Latn", "tr_TR", "tr"),
    Language("uk", "Ukrainian", _CYRILLIC, "ukr_Cyrl", "uk_UA", "uk"),
    Language("vi", "Vietnamese", _LATIN, "vie_Latn", "vi_VN", "vi"),
    Language("zh", "Chinese", ("Han",), "zho_Hans", "zh_CN", "zh", has_spaces=False),
)
LANGUAGES: dict[str, Language] = {language.code: language for language in _TABLE}


def find_language(code: str) -> Language:
    """The language of a code.

    Raises:
        ValueError: the code is unknown; the message lists the known ones.
    """
    if code not in LANGUAGES:
        raise ValueError(
            f"language must be one of {sorted(LANGUAGES)}, got {code!r}; add a line to processing/languages.py."
        )
    return LANGUAGES[code]
