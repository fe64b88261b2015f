"""What a data set is like, in Markdown: written from `quality.json` alone, for its card or as a report of its own."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from processing.files import write_json_atomic, write_text_atomic
from processing.records import DESCRIPTION_COLUMN, OK_FLAG, SOURCE_LANGUAGE, caption_column, query_title
from reporting.report import ABSENT, markdown_table
from retrieval.pictures import shorten

REPORT_FILE, QUALITY_FILE = "report.md", "quality.json"
KINDS = {
    "human": "human captions",
    "partly_generated": "captions, partly generated",
    "translation": "machine translations",
    "description": "descriptions",
}
_CONCLUSIONS = {
    True: "The {medium}s confirm the descriptions as well as the captions; one wrong detail among right ones would not "
    "show.",
    False: "The {medium}s confirm the descriptions less than the captions: the new words may be wrong, or the encoder "
    "reads too little of a long text (see the texts cut, below).",
    None: "The encoder can hardly tell which {medium} belongs to a caption, so it cannot judge descriptions: take "
    "another one, or a larger sample.",
}
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
        f"Agreement of {_medium(agreement)}s and texts": _agreement(agreement),
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
        f"{table}\n\nIdentified by py3langid on a sample of texts with letters; a caption of a few words is sometimes "
        f"misjudged."
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
    """The answer: how much is new, and whether it fits the pictures; in bold only where both were measured."""
    against, further = descriptions.get("against_captions"), descriptions.get("against_a_further_caption")
    if not against:
        return ""
    found = f"A description brings {against['new_words']:.1f} content words that no caption of its item has."
    if further:
        new, share = further["new_words"], further["novelty"]
        found = (
            f"Beside the other captions of its item, a description brings {new['description']:.1f} new content words "
            f"({_percent(share['description'])} of its own); a further human caption brings {new['caption']:.1f} "
            f"({_percent(share['caption'])})."
        )
    columns = agreement.get("columns", {})
    own, caption = columns.get(DESCRIPTION_COLUMN), columns.get(caption_column(SOURCE_LANGUAGE))
    if not own or not caption:
        return f"{found} Whether the new words are true of the items was not measured; false ones count as well."
    confirmed, medium = pictures_confirm(own, caption), _medium(agreement)
    answer = f"**{_bold_answer(further, confirmed)}.** " if further else ""
    return (
        f"{answer}{found} With `{agreement['encoder']['name']}`, {_percent(own['own_beats_other'])} of the "
        f"descriptions score higher with their own {medium} than with another and {own['t2i_R@1']:.1f} % find their "
        f"own among {own['items']:,}; of the English captions {_percent(caption['own_beats_other'])} and "
        f"{caption['t2i_R@1']:.1f} %. {_CONCLUSIONS[confirmed].format(medium=medium)}"
    )


def _bold_answer(further: Numbers, confirmed: bool | None) -> str:
    new, share = further["new_words"], further["novelty"]
    if new["description"] <= new["caption"]:
        return "No"
    if confirmed is None:
        return "Undecided"
    if not confirmed:
        return "Not confirmed"
    return "Yes" if share["description"] > share["caption"] else "By their length only"


def pictures_confirm(description: Numbers, caption: Numbers) -> bool | None:
    """Whether descriptions agree with their own pictures about as well as captions do.

    New words alone are no merit: the description of another picture has more of them.

    Args:
        description: the numbers of this column in `agreement`, see retrieval/agreement.py.
        caption: those of the English captions.

    Returns:
        None if the encoder cannot tell the own picture of the captions from another. False if it cannot for the
        descriptions, or if `own_beats_other` or R@1 is lower than that of the captions by more than a tenth of what
        the captions have above chance and by more than two standard errors of the difference.
    """
    num_items = description["items"]
    # Two standard errors of a share of 50 %.
    least = 0.5 + 1 / math.sqrt(num_items)
    if caption["own_beats_other"] <= least:
        return None
    if description["own_beats_other"] <= least:
        return False
    shares = [
        (description["own_beats_other"], caption["own_beats_other"], 0.5),
        (description["t2i_R@1"] / 100, caption["t2i_R@1"] / 100, 1 / num_items),
    ]
    for own, expected, chance in shares:
        # The texts of one item are not independent, so its captions count as one.
        noise = 2 * math.sqrt((own * (1 - own) + expected * (1 - expected)) / num_items)
        if expected - own > max(noise, 0.1 * (expected - chance)):
            return False
    return True


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
    encoder, sample, medium = agreement["encoder"], agreement["sample"], _medium(agreement)
    table = markdown_table(
        ["column", "items", "texts", f"own {medium}", f"another {medium}", "own is higher", "R@1", "R@5", "texts cut",
         "tokens lost"],
        [
            [f"`{name}`", f"{column['items']:,}", f"{column['texts']:,}", f"{column['own']:.3f}",
             f"{column['other']:.3f}", _percent(column["own_beats_other"]), f"{column['t2i_R@1']:.1f}",
             f"{column['t2i_R@5']:.1f}", _percent(column["cut_rate"]), _percent(column["tokens_lost_rate"])]
            for name, column in columns.items()
        ],
    )  # fmt: skip
    return (
        f"Measured with `{encoder['name']}` ({encoder['model_type']}), which reads {encoder['max_length']} tokens of a "
        f"text, on {_sample(sample, medium)}. The encoder saw {medium}s without their descriptions.\n\n{table}\n\n"
        f"Own {medium}, another {medium}: mean score of a text with its own and with that of another item, -1 to 1. "
        f"Own is higher: share of the texts that score higher with their own, 50 % by chance. R@K: percent of the "
        f"texts whose own {medium} is among the K that fit best, of all items in the row "
        f"({100 / sample['items']:.2g} for K = 1 by chance on all items). Texts cut, tokens lost: what is longer than "
        f"the encoder reads. Scores and R@K depend on the encoder and on the number of items, so compare rows of one "
        f"report. A column in a language that the encoder does not know is near chance, whatever its quality; a model "
        f"agrees best with data that it was trained on."
    )


def _medium(agreement: Numbers) -> str:
    """What the encoder looked at, in one word; older reports are of pictures and do not say so."""
    return str(agreement.get("medium", "picture"))


def _sample(sample: Numbers, medium: str) -> str:
    if sample["items"] == sample["eligible"]:
        return f"all {sample['items']:,} items that have a {medium} and texts"
    return (
        f"{sample['items']:,} of the {sample['eligible']:,} items that have a {medium} and texts (drawn with seed "
        f"{sample['seed']})"
    )


def _worst(agreement: Numbers, picture: str | None) -> str:
    worst: Sequence[Numbers] = agreement.get("worst", ())
    rows = [
        [item["id"], f"{item['score']:.3f}", _short(item["text"]), _short(item.get("caption", ABSENT))]
        for item in worst
    ]
    table = markdown_table(["item", "score", "text", "English caption that fits best"], rows)
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
