"""Two voices over the same facts, as in `processing/scenes/language.py`, for clips and their verbs."""

from processing.scenes.language import CaptionWriter, Grammar, Voice

from .actions import ClipFacts
from .chinese import CHINESE_CLIPS
from .czech import CZECH_CLIPS
from .english import ENGLISH_CLIPS
from .french import FRENCH_CLIPS
from .german import GERMAN_CLIPS
from .japanese import JAPANESE_CLIPS
from .telling import Telling

CLIP_GRAMMARS: dict[str, Grammar[ClipFacts, Telling]] = {
    "en": ENGLISH_CLIPS,
    "de": GERMAN_CLIPS,
    "fr": FRENCH_CLIPS,
    "cs": CZECH_CLIPS,
    "zh": CHINESE_CLIPS,
    "ja": JAPANESE_CLIPS,
}
CLIP_WRITER = CaptionWriter(CLIP_GRAMMARS)
write_clip_caption, translate_clip_caption = CLIP_WRITER.write, CLIP_WRITER.translate

SOURCE_CLIP_VOICE = Voice(
    Telling,
    {"says": 0.3, "see": 0.2, "place": 0.1, "who": 0.2, "while": 0.2},
    synonym_rate=0.3,
    texture_noun_rate=0.3,
)
HUMAN_CLIP_VOICE = Voice(Telling, {"who": 0.5, "while": 0.5}, synonym_rate=0.6, texture_noun_rate=0.7)
