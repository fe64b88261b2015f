"""What a data set is like, in Markdown: written from `quality.json` alone, for its card or as a report of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from processing.files import write_json_atomic, write_text_atomic
from processing.records import DESCRIPTION_COLUMN, OK_FLAG, SOURCE_LANGUAGE, caption_column, query_title
from reporting.report import ABSENT, markdown_table
from retrieval.pictures import shorten

REPORT_FILE, QUALITY_FILE = "report.md", "quality.json"
KINDS = {"human": "human captions", "translation": "machine translations", "description": "descriptions"}
_SHOWN_LANGUAGES = 3
_SHOWN_CHARACTERS = 200

Numbers = Mapping[str, Any]


def write_dataset_report(folder: str | Path, quality: Numbers, *, title: str, picture: str | None = None) -> Path:
    """Write `report.md` and `quality.json` into a folder.

    Args:
        folder: made if needed.
        quality: see processing/quality.py for its parts; those that are absent are left out of the report.
        title: the heading.
        picture: file of the contact sheet, relative to the folder.

    Returns:
        The Markdown file.
    """
    write_json_atomic(Path(folder) / QUALITY_FILE, quality)
    text = f"# {title}\n\n{quality_sections(quality, picture=picture)}"
    return write_text_atomic(Path(folder) / REPORT_FILE, text)


def quality_sections(quality: Numbers, *, picture: str | None = None, heading: str = "##") -> str:
    """The sections of the report without its title, to be embedded in a card.

    Args:
        quality: the content of `quality.json`.
        picture: address of the contact sheet, as the document names it.
        heading: marks before each heading, such as "##".
    """
    columns: Mapping[str, Numbers] = quality.get("columns", {})
    descriptions: Numbers = quality.get("descriptions", {})
    agreement: Numbers = quality.get("agreement", {})
    sections = {
        "Texts": _texts(quality.get("rows", {}), columns),
        "Length and vocabulary": _lengths(columns),
        "Languages": _languages(columns),
        "Flags of generated texts": _flags(columns),
        "Back-translation": _similarities(columns),
        "Do descriptions say more than captions?": _answer(descriptions, agreement),
        "Agreement of pictures and texts": _agreement(agreement),
        "Items whose text fits least": _worst(agreement, picture),
        "Not measured": "\n".join(f"- {note}" for note in quality.get("notes", ())),
    }
    return "\n\n".join(f"{heading} {name}\n\n{body}" for name, body in sections.items() if body) + "\n"


def _texts(rows: Mapping[str, int], columns: Mapping[str, Numbers]) -> str:
    if not columns:
        return ""
    splits = ", ".join(f"{name} {count:,}" for name, count in rows.items())
    table = markdown_table(
        ["column", "language", "kind", "items", "items without text", "texts", "empty", "duplicates"],
        [
            [
                f"`{name}`",
                query_title(column["language"]),
                KINDS[column["kind"]],
                f"{column['items']:,}",
                f"{column['items_without_text']:,}",
                f"{column['texts']:,}",
                _percent(column["empty_rate"]),
                _percent(column["duplicates"]["text_rate"]) if "duplicates" in column else ABSENT,
            ]
            for name, column in columns.items()
        ],
    )
    return (
        f"Rows: {splits}.\n\n{table}\n\nDuplicates: texts that occur more than once in their column, whatever their "
        f"case and punctuation."
    )


def _lengths(columns: Mapping[str, Numbers]) -> str:
    found = {name: column for name, column in columns.items() if "characters" in column}
    rows = []
    for name, column in found.items():
        vocabulary = column["vocabulary"]
        sizes = f"{vocabulary['types']:,} in {vocabulary['tokens']:,} {vocabulary['unit']}s"
        rows.append(
            [f"`{name}`", _spread(column.get("words")), _spread(column["characters"]), sizes,
             f"{vocabulary['type_token_ratio']:.3f}"]
        )  # fmt: skip
    table = markdown_table(["column", "words a text", "characters a text", "different ones", "type-token ratio"], rows)
    return table and (
        f"{table}\n\nLengths: mean (median; 5th to 95th percentile). The vocabulary is counted on a sample of one "
        f"size, in characters for languages without spaces."
    )


def _languages(columns: Mapping[str, Numbers]) -> str:
    rows = []
    for name, column in columns.items():
        if "language_id" not in column:
            continue
        found = column["language_id"]
        others = {code: count for code, count in found["found"].items() if code != column["language"]}
        first = list(others.items())[:_SHOWN_LANGUAGES]
        named = ", ".join(f"{query_title(code)} {count}" for code, count in first) or ABSENT
        rows.append([f"`{name}`", f"{found['texts']:,}", _percent(found["expected_rate"]), named])
    table = markdown_table(["column", "texts", "in the language of the column", "most of the others"], rows)
    return table and (
        f"{table}\n\nIdentified by py3langid on a sample of texts; a caption of a few words is sometimes misjudged."
    )


def _flags(columns: Mapping[str, Numbers]) -> str:
    rows = []
    for name, column in columns.items():
        flags: Mapping[str, int] = column.get("flags", {})
        if flags:
            faults = ", ".join(f"{flag} {count:,}" for flag, count in flags.items() if flag != OK_FLAG)
            rows.append([f"`{name}`", _percent(flags.get(OK_FLAG, 0) / sum(flags.values())), faults or ABSENT])
    return markdown_table(["column", "ok", "others"], rows)


def _similarities(columns: Mapping[str, Numbers]) -> str:
    rows = [[f"`{name}`", _spread(column["similarity"])] for name, column in columns.items() if "similarity" in column]
    table = markdown_table(["column", "chrF against the English caption"], rows)
    return table and f"{table}\n\nchrF from 0 to 100: mean (median; 5th to 95th percentile)."


def _answer(descriptions: Numbers, agreement: Numbers) -> str:
    if not descriptions:
        return ""
    refusals = (
        f"Of {descriptions['texts']:,} descriptions {descriptions['refusals']:,} are refusals "
        f"({_percent(descriptions['refusal_rate'])})."
    )
    verdict = _verdict(descriptions, agreement) or "Not compared: no item has both a description and English captions."
    parts = [verdict, _content_words(descriptions), refusals]
    return "\n\n".join(part for part in parts if part)


def _verdict(descriptions: Numbers, agreement: Numbers) -> str:
    """The answer in two sentences: how much is new, and whether it fits the picture."""
    sentences = []
    against, further = descriptions.get("against_captions"), descriptions.get("against_a_further_caption")
    if further:
        new, share = further["new_words"], further["novelty"]
        more, denser = new["description"] > new["caption"], share["description"] > share["caption"]
        answer = "No" if not more else "Yes" if denser else "By their length only"
        sentences.append(
            f"**{answer}.** Beside the other captions of its item, a description brings {new['description']:.1f} new "
            f"content words ({_percent(share['description'])} of its own) and a further human caption "
            f"{new['caption']:.1f} ({_percent(share['caption'])})."
        )
    elif against:
        new_words = f"{against['new_words']:.1f}"
        sentences.append(f"A description brings {new_words} content words that no caption of its item has.")
    columns = agreement.get("columns", {})
    own, caption = columns.get(DESCRIPTION_COLUMN), columns.get(caption_column(SOURCE_LANGUAGE))
    if sentences and own and caption:
        sentences.append(
            f"New words may be wrong, so the picture has to confirm them: with {agreement['encoder']['name']}, "
            f"{own['t2i_R@1']:.1f} % of the descriptions and {caption['t2i_R@1']:.1f} % of the English captions find "
            f"their picture among {own['items']:,}."
        )
    elif sentences:
        sentences.append("Whether the new words are true of the pictures was not measured.")
    return " ".join(sentences)


def _content_words(descriptions: Numbers) -> str:
    against, further = descriptions.get("against_captions"), descriptions.get("against_a_further_caption")
    if not against:
        return ""
    words = against["content_words"]
    rows = [
        ["content words of a description", f"{words['description']:.1f}"],
        ["content words of one caption", f"{words['caption']:.1f}"],
        [f"content words of all captions of an item ({against['captions_per_item']:.1f})", f"{words['captions']:.1f}"],
        ["words of the description that no caption has", f"{against['new_words']:.1f}"],
        ["novelty: their share of the description", _percent(against["novelty"])],
        ["coverage: share of the captions' words that the description has", _percent(against["coverage"])],
    ]
    if further:
        shares = further["novelty"]
        rows += [
            ["novelty of the description against all captions but one", _percent(shares["description"])],
            ["novelty of that one caption against the same captions", _percent(shares["caption"])],
        ]
    return (
        f"{markdown_table(['mean of the items', 'value'], rows)}\n\nContent words are the different English words of a "
        f"text without function words and endings; synonyms count as different. A longer text has more of them, so "
        f"compare the shares as well. {against['items']:,} items have both a description and captions."
    )


def _agreement(agreement: Numbers) -> str:
    columns: Mapping[str, Numbers] = agreement.get("columns", {})
    if not columns:
        return ""
    encoder, sample = agreement["encoder"], agreement["sample"]
    table = markdown_table(
        ["column", "items", "texts", "own picture", "another picture", "own is higher", "R@1", "R@5", "texts cut",
         "tokens lost"],
        [
            [f"`{name}`", f"{column['items']:,}", f"{column['texts']:,}", f"{column['own']:.3f}",
             f"{column['other']:.3f}", _percent(column["own_beats_other"]), f"{column['t2i_R@1']:.1f}",
             f"{column['t2i_R@5']:.1f}", _percent(column["cut_rate"]), _percent(column["tokens_lost_rate"])]
            for name, column in columns.items()
        ],
    )  # fmt: skip
    return (
        f"Measured with {encoder['name']} ({encoder['model_type']}), which reads {encoder['max_length']} tokens of a "
        f"text, on {sample['items']:,} items drawn from {sample['eligible']:,} with seed {sample['seed']}. The encoder "
        f"saw pictures without their descriptions.\n\n{table}\n\nMean scores of a text with its own picture and with "
        f"that of another item; own is higher: 50 % by chance. R@K: percent of the texts that find their picture among "
        f"the first K of all items of the line ({100 / sample['items']:.2g} for K = 1 by chance on all items). A "
        f"column in a language that the encoder does not know is near chance, whatever its quality; a model agrees "
        f"best with data that it was trained on."
    )


def _worst(agreement: Numbers, picture: str | None) -> str:
    worst: Sequence[Numbers] = agreement.get("worst", ())
    rows = [
        [item["id"], f"{item['score']:.3f}", _short(item["text"]), _short(item.get("caption", ABSENT))]
        for item in worst
    ]
    table = markdown_table(["item", "score", "text", "caption that fits best"], rows)
    if not table:
        return ""
    parts = [f"![The items whose text fits least]({picture})"] if picture else []
    return "\n\n".join([*parts, table, "A low score may also be the encoder's mistake: look before you drop an item."])


def _spread(numbers: Mapping[str, float] | None) -> str:
    if numbers is None:
        return ABSENT
    return f"{numbers['mean']:.1f} ({numbers['median']:g}; {numbers['p5']:g} to {numbers['p95']:g})"


def _short(text: str) -> str:
    return shorten(" ".join(text.split()), _SHOWN_CHARACTERS, len)


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"
