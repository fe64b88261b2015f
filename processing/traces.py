"""What tells of a machine or its user, taken out of settings before they are published."""

import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

PRIVATE_SERVER = "(a private server)"
HIDDEN = "(hidden)"
_TOKEN = re.compile(r"\b(?:hf_|sk-|xox[a-z]-|gh[a-z]_|github_pat_|glpat-|gsk_|AKIA)[A-Za-z0-9_-]{12,}")
# With a digit, so that a sentence about a flag bearer stays.
_BEARER = re.compile(r"\b(bearer\s+)(?=\S*\d)[\w.~+/=-]{16,}", re.IGNORECASE)
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>)\]]+", re.IGNORECASE)
_PRIVATE_HOSTS = (".local", ".internal", ".lan", ".home", ".corp", ".localdomain")
# Without a scheme, but with a port: 10.0.0.7:8000/v1.
_HOST = re.compile(
    rf"(?<![\w.:/@-])(localhost|[\d.]+\.\d+|[\w.-]+(?:{'|'.join(map(re.escape, _PRIVATE_HOSTS))})):\d{{2,5}}\b"
    r"(?:/[^\s\"'<>)\]]*)?",
    re.IGNORECASE,
)
# Where ssh copies to: ann@gpu7:/data.
_COPY = re.compile(r"(?<![\w.@/-])[\w.+-]+@[\w.-]+:[/~][^\s\"'<>)\]]*")
# At least two folders deep, so that "and/or" and "/" in a prompt stay.
_PATH = re.compile(r"(?<![\w/:.~\\])(?:~|/[\w.@+-]+)(?:/[\w.@+-]+)+/?|(?<!\w)[A-Za-z]:[\\/][^\s\"'<>|]+")
_RELATIVE_WINDOWS_PATH = re.compile(r"[\w.-]+(?:\\[\w.-]+)+\\?")
_SEPARATOR = re.compile(r"[\\/]")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def without_traces(value: Any) -> Any:
    """A copy in which each path on this machine is its last part, and private addresses and tokens are hidden.

    Args:
        value: JSON: a setting, or mappings and lists of them. A mapping with `id` and `text` is a prompt; its text is
            never taken for one path as a whole.
    """
    if isinstance(value, Mapping):
        is_prompt = {"id", "text"} <= set(value)
        return {
            without_traces(name): _clean_inside(item)
            if is_prompt and name == "text" and isinstance(item, str)
            else without_traces(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_traces(item) for item in value]
    return _clean(value) if isinstance(value, str) else value


def without_local_origins(config: Any) -> Any:
    """A saved configuration without the paths that it or its parts were loaded from; names on the Hub stay.

    Args:
        config: the content of a `config.json`; the origin of each part is its `_name_or_path`. A relative path may look
            like a name on the Hub; `LeccrConfig` forgets it while it is known to be one.
    """
    if not isinstance(config, Mapping):
        return config
    origin = config.get("_name_or_path")
    is_hub_name = isinstance(origin, str) and _HUB_NAME.fullmatch(origin)
    return {
        name: without_local_origins(value) for name, value in config.items() if name != "_name_or_path" or is_hub_name
    }


def is_local_path(text: str) -> bool:
    """Whether a text as a whole is a path that starts at a root or a home folder, or climbs out of its folder."""
    starts_at_root = text.startswith(("/", "~/", "../", "./", "file:", "\\\\")) or re.match(r"[A-Za-z]:[\\/]", text)
    return bool(starts_at_root) or ".." in PureWindowsPath(text).parts


def _clean(text: str) -> str:
    # The name of a folder may have a space in it, but words from the start are a sentence: "/no_think Describe ...".
    is_sentence = "\n" in text or (" " in text and len(_SEPARATOR.findall(text.partition(" ")[0])) < 2)
    if (is_local_path(text) and not is_sentence) or _RELATIVE_WINDOWS_PATH.fullmatch(text):
        return PureWindowsPath(PurePosixPath(text).name).name
    return _clean_inside(text)


def _clean_inside(text: str) -> str:
    text = _BEARER.sub(rf"\1{HIDDEN}", _TOKEN.sub(HIDDEN, text))
    text = _ADDRESS.sub(lambda found: _public_address(found[0]), text)
    text = _COPY.sub(PRIVATE_SERVER, text)
    text = _HOST.sub(lambda found: found[0] if _is_public(found[1]) else PRIVATE_SERVER, text)
    return _PATH.sub(lambda found: PureWindowsPath(found[0].rstrip("/")).name, text)


def _public_address(address: str) -> str:
    """The address without user, password and query; nothing of it where the host is not public."""
    parts = urlsplit(address)
    if not _is_public(parts.hostname or ""):
        return PRIVATE_SERVER
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _is_public(host: str) -> bool:
    try:
        return ip_address(host).is_global
    except ValueError:
        return "." in host and not host.lower().endswith(_PRIVATE_HOSTS)
