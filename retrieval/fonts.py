"""Find a font that has every character of a text, so that no picture shows empty boxes.

Searched in this order: DejaVu Sans (it comes with matplotlib), Noto Sans CJK from the package `notojp-matplotlib` (the
extra `demo`; Chinese and Japanese), then the fonts of the system whose names promise those scripts.
"""

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_SYSTEM_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.fonts",
    "~/.local/share/fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)
_CJK_NAMES = (
    "notosanscjk", "notosanssc", "notosansjp", "sourcehansans", "wqy", "droidsansfallback", "ipaexg", "ipag",
    "takao", "vl-gothic", "uming", "ukai", "pingfang", "hiragino", "stheiti", "arial unicode", "msyh", "simhei",
    "simsun", "meiryo", "yugoth", "msgothic",
)  # fmt: skip
# A character that no font has: its picture is the font's empty box.
_NO_CHARACTER = "\U0010fffe"


def font_for(text: str, size: int, *, bold: bool = False) -> Font | None:
    """The first known font with a glyph for each character of the text; None if there is none.

    Args:
        size: height in pixels.
        bold: prefer the bold face, where there is one.
    """
    needed = frozenset(character for character in text if not character.isspace())
    for path in font_paths(bold=bold):
        if needed <= _covered(path, needed):
            return _load(path, size)
    return None


def plain_font(size: int, *, bold: bool = False) -> Font:
    """A font for Latin text that is always there; DejaVu Sans if matplotlib is installed."""
    return font_for("Aa1", size, bold=bold) or ImageFont.load_default(size)


@lru_cache(maxsize=2)
def font_paths(*, bold: bool = False) -> tuple[Path, ...]:
    """Font files in the order in which they are tried."""
    dejavu = _package_file("matplotlib", "mpl-data/fonts/ttf/DejaVuSans.ttf")
    candidates = [
        _package_file("matplotlib", "mpl-data/fonts/ttf/DejaVuSans-Bold.ttf") if bold else None,
        dejavu,
        _package_file("notojp_matplotlib", "fonts/NotoSansCJKjp-Regular.otf"),
    ]
    return tuple(path for path in candidates if path is not None) + tuple(_system_fonts(_SYSTEM_FOLDERS))


def _package_file(package: str, relative: str) -> Path | None:
    """A file inside an installed package, without importing it: the import would change matplotlib's settings."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / relative).is_file():
            return Path(folder) / relative
    return None


def _system_fonts(folders: Iterable[str]) -> Iterator[Path]:
    for folder in folders:
        for root, _, names in os.walk(Path(folder).expanduser()):
            for name in sorted(names):
                plain = name.lower()
                is_font = plain.endswith((".ttf", ".otf", ".ttc"))
                if is_font and (plain == "dejavusans.ttf" or any(part in plain for part in _CJK_NAMES)):
                    yield Path(root) / name


@lru_cache(maxsize=64)
def _load(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)


@lru_cache(maxsize=4096)
def _covered(path: Path, characters: frozenset[str]) -> frozenset[str]:
    """The characters that a font draws as something else than its empty box."""
    font = _load(path, 24)
    empty_box = bytes(font.getmask(_NO_CHARACTER))
    return frozenset(character for character in characters if bytes(font.getmask(character)) != empty_box)
