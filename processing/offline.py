"""Addresses that may be reached under HF_HUB_OFFLINE."""

import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import get_session, is_offline_mode

_LOCK = threading.Lock()
_DEFAULT_PORTS = {"http": 80, "https": 443}


def allow_address(url: str) -> None:
    """Let huggingface_hub reach the server of `url` though HF_HUB_OFFLINE is set.

    The variable is about the Hub, but the client holds every address back, a model server on this machine included.
    """
    if not is_offline_mode():
        return
    with _LOCK:
        # Looked up each time: the session is replaced after a fork and after some errors.
        session = get_session()
        hooks = session.event_hooks
        if not any(isinstance(hook, _ExceptFor) for hook in hooks["request"]):
            hooks = {**hooks, "request": [_ExceptFor(hook) for hook in hooks["request"]]}
            session.event_hooks = hooks
        for hook in hooks["request"]:
            if isinstance(hook, _ExceptFor):
                hook.origins.add(_origin(url))


class _ExceptFor:
    """A hook that is called before each request, but for some servers."""

    def __init__(self, hook: Callable[[Any], Any]) -> None:
        self.hook = hook
        self.origins: set[tuple[str, str | None, int | None]] = set()

    def __call__(self, request: Any) -> None:
        if _origin(str(request.url)) not in self.origins:
            self.hook(request)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
