"""What generating models are asked, by versioned name: an id stands for one exact text, in every manifest."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

CUSTOM_PREFIX = "custom-"


@dataclass(frozen=True)
class Prompt:
    """One instruction to a generating model.

    Attributes:
        id: its name in manifests and cards. A changed text gets a new id.
        text: the instruction; `fill` replaces fields such as `{caption}`.
    """

    id: str
    text: str

    def fill(self, **values: str) -> str:
        """The text with its fields replaced, in one pass: braces and field names inside a caption stay as they are.

        Raises:
            ValueError: the text lacks a field that has a value.
        """
        lacking = [name for name in values if f"{{{name}}}" not in self.text]
        if lacking:
            raise ValueError(f"prompt {self.id!r} must hold the fields {lacking} in braces, got {self.text!r}.")
        fields = "|".join(re.escape(name) for name in values)
        return re.sub(rf"\{{({fields})\}}", lambda match: values[match[1]], self.text) if values else self.text


# A description is read by a text encoder of 200 tokens; 120 English words stay below that.
_TABLE = (
    Prompt(
        "image-v1",
        "Describe this picture in one English paragraph of 60 to 120 words. "
        "Name the objects and people, how many there are, and what each looks like: colour, size, material, clothing. "
        "Say what they do, where they are in relation to each other, and what the place around them is. "
        "Write only what can be seen. Leave out guesses, feelings, names of persons, and what is absent. "
        'Begin with what is seen, not with words such as "the image shows". '
        "Write full sentences in plain text, without a heading or a list.",
    ),
    Prompt(
        "video-v1",
        "These pictures are frames of one video, in the order of time. "
        "Describe the video in one English paragraph of 60 to 120 words. "
        "Name the objects and people, how many there are, and what each looks like: colour, size, material, clothing. "
        "Say what they do and what changes from the first frame to the last, where they are in relation to each other, "
        "and what the place around them is. "
        "Write only what can be seen. Leave out guesses, sounds, feelings, names of persons, and what is absent. "
        'Begin with what happens, not with words such as "the video shows", and do not mention frames. '
        "Write full sentences in plain text, without a heading or a list.",
    ),
    Prompt(
        "captions-v1",
        "Write five different English captions for this picture, one on each line. "
        "Each is a single sentence of 6 to 20 words, as different people would write who see the picture: "
        "one may tell what is done, one who or what is there, one what it looks like, one where it is. "
        "Write only what can be seen. Do not begin a caption with words such as "
        '"the image shows". Write the five lines and nothing else, without numbers.',
    ),
    Prompt(
        "translate-v1",
        "Translate this caption of a picture from {source_language} to {target_language}. "
        "Keep all that it says, add nothing, and write it as a native speaker would. "
        "Answer with the translation alone, on one line, without quotation marks or notes.\n\n{caption}",
    ),
)
PROMPTS: dict[str, Prompt] = {prompt.id: prompt for prompt in _TABLE}


def read_prompt(name_or_path: str | Path) -> Prompt:
    """A prompt by its id, or from a file of one's own.

    Args:
        name_or_path: an id of `PROMPTS`, or a UTF-8 text file; white space around its text does not count.

    Returns:
        The prompt; the id of a file is "custom-" and 12 hex digits of the hash of its text, so that a changed file
        never passes for the old one.

    Raises:
        ValueError: neither an id nor a file, or the file is empty or not UTF-8.
    """
    if str(name_or_path) in PROMPTS:
        return PROMPTS[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        raise ValueError(f"prompt must be one of {sorted(PROMPTS)} or a text file, got {str(name_or_path)!r}.")
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"the prompt {path} must be UTF-8 text, got {error}; save it as UTF-8.") from error
    if not text:
        raise ValueError(f"the prompt {path} must hold an instruction, got an empty file.")
    return Prompt(CUSTOM_PREFIX + hashlib.sha256(text.encode()).hexdigest()[:12], text)
