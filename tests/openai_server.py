"""An OpenAI-compatible chat server on loopback whose faults are scripted, for tests of its clients.

with OpenAiServer(lambda body: "Ein Hund.", faults=["http_429", None, "cut"]) as server:
    client(server.url)
assert server.faults == {"http_429": 1, "cut": 1}
"""

import base64
import io
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

Body = dict[str, Any]
Faults = Sequence[str | None] | Callable[[Body], str | None]

REFUSAL = "I'm sorry, but I can't help with that."
NAMED_FAULTS = frozenset(
    {"hang", "cut", "refusal", "empty", "invalid_utf8", "truncated", "not_json", "no_choices", "http_429_date"}
)
_STATUS_FAULT = re.compile(r"http_([45]\d\d)")


@dataclass(frozen=True)
class SeenRequest:
    """What a client sent, with header names in lower case, and the fault it met; body None for GET."""

    path: str
    headers: dict[str, str]
    body: Body | None
    fault: str | None


def prompt_of(body: Body) -> str:
    """The text of the last message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def pictures_of(body: Body) -> list[Image.Image]:
    """The pictures of the last message, in order, decoded from their data URLs."""
    content = body["messages"][-1]["content"]
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(";base64,")[2]))) for url in urls]


def random_faults(names: Sequence[str], *, rate: float, seed: int = 0) -> Callable[[Body], str | None]:
    """Faults that befall a share of the requests in [0, 1], the same for the same order of requests."""
    generator = random.Random(seed)
    return lambda body: generator.choice(names) if generator.random() < rate else None


class OpenAiServer:
    """Answers `POST /v1/chat/completions` and `GET /v1/models` from a thread until the block ends.

    Args:
        answer: body of a request -> text of the answer. An exception of it is raised again at the end of the block.
        faults: one name or None a request, in the order of arrival, and none after the last; or body -> name or None.
            Names: NAMED_FAULTS, or a status such as "http_500".
        retry_after: seconds in the `Retry-After` of http_429 and http_503; http_429_date gives it as an HTTP date.

    Attributes:
        url: the base URL for a client, which ends in `/v1`.
        requests: all requests so far, in order of arrival.
        faults: how often each fault was made.
    """

    def __init__(
        self, answer: Callable[[Body], str] = lambda body: "An answer.", *, faults: Faults = (), retry_after: float = 0
    ) -> None:
        self.requests: list[SeenRequest] = []
        self.faults: Counter[str] = Counter()
        self._answer = answer
        self._next_fault = faults if callable(faults) else _from_script(faults)
        self._retry_after = retry_after
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._error: Exception | None = None
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "OpenAiServer":
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    @property
    def bodies(self) -> list[Body]:
        """The bodies of the chat requests so far."""
        return [request.body for request in self.requests if request.body is not None]

    def handle(self, handler: "_Handler", body: Body | None) -> None:
        """Answer one request, or fail as the script says."""
        with self._lock:
            fault = None if body is None else self._next_fault(body)
            if fault is not None:
                self.faults[fault] += 1
            headers = {name.lower(): value for name, value in handler.headers.items()}
            self.requests.append(SeenRequest(handler.path, headers, body, fault))
        if handler.path == "/v1/models" and body is None:
            return handler.send(200, {"object": "list", "data": [{"id": "test-model", "object": "model"}]})
        if handler.path != "/v1/chat/completions" or body is None:
            return handler.send(404, {"error": {"message": f"no such path: {handler.path}"}})
        try:
            text = self._answer(body)
        except Exception as error:
            self._error = self._error or error
            return handler.send(400, {"error": {"message": f"the test's answer() failed: {error!r}"}})
        return self._reply(handler, fault, text)

    def _reply(self, handler: "_Handler", fault: str | None, text: str) -> None:
        status = _STATUS_FAULT.match(fault or "")
        if fault == "hang":
            self._closing.wait()
        elif status:
            seconds = self._retry_after
            date = formatdate(time.time() + seconds, usegmt=True)
            after = {"Retry-After": date if fault == "http_429_date" else f"{seconds:g}"}
            extra = after if status[1] in {"429", "503"} else {}
            handler.send(int(status[1]), {"error": {"message": f"scripted fault {fault}"}}, extra)
        elif fault == "not_json":
            handler.send(200, b"<html>It works!</html>")
        elif fault == "no_choices":
            handler.send(200, {**completion(text), "choices": []})
        elif fault == "invalid_utf8":
            handler.send(200, json.dumps(completion("@")).encode().replace(b"@", b"caf\xe9 \xff"))
        elif fault == "cut":
            handler.send(200, json.dumps(completion(text)).encode(), cut=True)
        else:
            text = {"refusal": REFUSAL, "empty": "", "truncated": text[: len(text) // 2]}.get(fault or "", text)
            handler.send(200, completion(text, finish_reason="length" if fault == "truncated" else "stop"))


def completion(text: str | None, *, finish_reason: str = "stop") -> Body:
    """The body of an answer."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "test-model",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def _from_script(names: Sequence[str | None]) -> Callable[[Body], str | None]:
    unknown = [name for name in names if name and name not in NAMED_FAULTS and not _STATUS_FAULT.fullmatch(name)]
    if unknown:
        raise ValueError(f"faults must be of {sorted(NAMED_FAULTS)} or http_<status>, got {unknown}.")
    script = iter(names)
    return lambda body: next(script, None)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away while it was answered is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    owner: OpenAiServer

    def do_GET(self) -> None:
        self.owner.handle(self, None)

    def do_POST(self) -> None:
        self.owner.handle(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def send(
        self, status: int, content: Body | bytes, headers: dict[str, str] | None = None, *, cut: bool = False
    ) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
