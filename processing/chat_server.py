"""A generator that is a server: any that speaks the OpenAI chat protocol, such as vLLM, TGI or a hosted endpoint."""

import base64
import io
import logging
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HTTPError
from PIL import Image, ImageOps

from processing.chat_faults import Fault, fault_of, wait_seconds
from processing.generation import Answer, Request, seed_of, without_thinking
from processing.offline import allow_address

logger = logging.getLogger(__name__)

# A greedy answer that will not do would come again; later attempts sample.
RETRY_TEMPERATURE = 0.7
MAX_PICTURE_SIDE = 1280
MAX_LOST_IN_A_ROW = 20
# A server that never answered may be a wrong address: it is told in a minute or two, not in the forty that all tries
# would take.
FIRST_TRIES = 4
CONNECT_TIMEOUT_S = 10.0
EASY_PROMPT = "Say hello."
EASY_PICTURE_SIDE = 512
# The session of huggingface_hub holds 100 connections; more requests would time out while they wait for one.
MAX_CONCURRENCY = 100
JPEG_QUALITY = 95
# Without a key, InferenceClient would send the user's Hub token to whatever server was named.
_NO_KEY = "none"
_CUT_OFF = frozenset({"length", "content_filter", "abort"})
_UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, RecursionError)


@dataclass(frozen=True)
class ChatSettings:
    """How a chat server is asked.

    Attributes:
        base_url: such as `http://localhost:8000/v1`; no key or password in it.
        model: the name by which the server knows the model.
        max_tokens: limit of an answer, thinking included; at least 1.
        temperature: in [0, 2]; 0 is greedy, but attempts after the first sample with at least RETRY_TEMPERATURE.
        top_p: in (0, 1].
        seed: of sampling; each request and attempt derives its own, see `seed_of`.
        timeout_s: seconds without a byte from the server after which a try is given up; positive.
        max_tries: how often a request is sent before it is lost; at least 1.
        concurrency: requests in flight, in [1, 100].
        backoff_s: seconds before the second try, doubled each time, less a random share up to a half; at least 0.
        max_wait_s: longest wait between tries in seconds, whatever the server asks; at least 0.

    Raises:
        ValueError: a value is outside its range.
    """

    base_url: str
    model: str
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    timeout_s: float = 300.0
    max_tries: int = 8
    concurrency: int = 16
    backoff_s: float = 1.0
    max_wait_s: float = 60.0

    def __post_init__(self) -> None:
        _check_url(self.base_url)
        rules = {
            "model": (bool(self.model.strip()), "the name by which the server knows its model"),
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature <= 2, "in [0, 2]"),
            "top_p": (0 < self.top_p <= 1, "in (0, 1]"),
            "timeout_s": (0 < self.timeout_s < float("inf"), "a positive number of seconds"),
            "max_tries": (self.max_tries >= 1, "at least 1"),
            "concurrency": (1 <= self.concurrency <= MAX_CONCURRENCY, f"in [1, {MAX_CONCURRENCY}]"),
            "backoff_s": (0 <= self.backoff_s < float("inf"), "at least 0 seconds"),
            "max_wait_s": (0 <= self.max_wait_s < float("inf"), "at least 0 seconds"),
        }
        for name, (kept, rule) in rules.items():
            if not kept:
                raise ValueError(f"{name} must be {rule}, got {getattr(self, name)!r}.")


class ChatServer:
    """Asks a chat server, many requests at a time; a `Generator`.

    Faults that pass are tried again after a growing wait, or the one that the server asks for. A request that keeps
    failing gives an answer without a text. The thinking of reasoning models, up to `</think>`, is not part of an
    answer. A server named by hand is reached under HF_HUB_OFFLINE too.

    Args:
        settings: how to ask.
        api_key: sent as the bearer token; None sends no key of the user. It appears in no message and no log.

    Raises:
        ValueError: the key has characters that no HTTP header can hold.
    """

    def __init__(self, settings: ChatSettings, *, api_key: str | None = None) -> None:
        if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key):
            raise ValueError(
                "api_key must be printable ASCII without spaces around it (it is not shown here); look for a line "
                "break at its end."
            )
        self.settings = settings
        self._api_key = api_key or _NO_KEY
        self._jitter = random.Random()
        self._lock = threading.Lock()
        self._asking_easily = threading.Lock()
        self._reached = False
        self._warned = False
        self._ever_answered = False
        self._lost_in_a_row = 0

    @property
    def decoding(self) -> dict[str, Any]:
        """What decides the answers, for a manifest; not the address, which may change between runs of a job."""
        return {
            "model": self.settings.model,
            "max_tokens": self.settings.max_tokens,
            "temperature": self.settings.temperature,
            "retry_temperature": max(self.settings.temperature, RETRY_TEMPERATURE),
            "top_p": self.settings.top_p,
            "seed": self.settings.seed,
            "max_picture_side": MAX_PICTURE_SIDE,
        }

    def generate(self, requests: Sequence[Request], *, attempt: int, events: Counter[str]) -> list[Answer]:
        """Answer each request, in order; see `Generator`.

        Raises:
            ConnectionError: the server cannot be reached, refuses all requests (wrong key, path or model), never
                answered one, not even an easy one of their form, or lost MAX_LOST_IN_A_ROW in a row.
        """
        allow_address(self.settings.base_url)
        if requests and not self._reached:
            self._reach()
        stop = threading.Event()
        pool = ThreadPoolExecutor(self.settings.concurrency, thread_name_prefix="chat")
        try:
            futures = [pool.submit(self._ask, request, attempt, stop) for request in requests]
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        finally:
            # On an error, waits end at once and requests in flight are not repeated.
            stop.set()
            pool.shutdown(cancel_futures=True)
        results = [future.result() for future in futures]
        for _, faults in results:
            events.update(fault.name for fault in faults)
        lost = [(request, faults[-1]) for request, (_, faults) in zip(requests, results, strict=True) if faults]
        if lost and not self._ever_answered:
            # Any loss that is not the server's tells that there is one.
            request, fault = next((loss for loss in lost if loss[1].blame != "server"), lost[-1])
            if not self._answers_easily(request, fault, threading.Event()):
                raise self._down(f"gave no answer to {len(requests)} requests in a row", fault)
        return [answer for answer, _ in results]

    def _reach(self) -> None:
        """Wait until the server takes connections; not behind a proxy, which alone can tell."""
        parts = urlsplit(self.settings.base_url)
        address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        faults: list[Fault] = []
        while not _has_proxy(parts.scheme, address[0]):
            try:
                socket.create_connection(address, timeout=min(CONNECT_TIMEOUT_S, self.settings.timeout_s)).close()
                break
            except (OSError, UnicodeError) as error:
                faults.append(Fault("connection", "server", str(error)))
            if len(faults) >= min(FIRST_TRIES, self.settings.max_tries):
                raise self._down(f"took no connection in {len(faults)} tries", faults[-1])
            logger.warning("%s cannot be reached, %s; trying again", self.settings.base_url, faults[-1].detail)
            time.sleep(self._pause(faults))
        self._reached = True

    def _ask(self, request: Request, attempt: int, stop: threading.Event) -> tuple[Answer, list[Fault]]:
        """Send one request until it is answered or lost; the answer, and the faults on the way."""
        answer, faults = self._try(request, attempt, stop)
        if answer is not None:
            return answer, faults
        if (
            not stop.is_set()
            and self._count_loss(request, faults) >= MAX_LOST_IN_A_ROW
            and not self._answers_easily(request, faults[-1], stop)
        ):
            stop.set()
            raise self._down(f"gave no answer to {MAX_LOST_IN_A_ROW} requests in a row", faults[-1])
        return Answer(None), faults

    def _answers_easily(self, request: Request, fault: Fault, stop: threading.Event) -> bool:
        """Whether a server that never answered answers an easy request of the same form as one that was lost.

        When the rows that failed are done again, they may be all that a process asks, and say nothing of the server.
        But if every request fails for its parameters or the number of its pictures, the job must not go on.
        """
        if fault.blame == "server":
            return False
        with self._asking_easily:
            if not self._ever_answered:
                side = EASY_PICTURE_SIDE
                pictures = tuple(Image.new("RGB", (side, side), "gray") for _ in request.pictures)
                # What is asked about pictures is the same for all of them, and may be what is wrong.
                self._try(Request("an easy request", request.prompt if pictures else EASY_PROMPT, pictures), 0, stop)
            return self._ever_answered

    def _try(self, request: Request, attempt: int, stop: threading.Event) -> tuple[Answer | None, list[Fault]]:
        """Send one request until it is answered, cannot be, or the tries are used up."""
        body = self._body(request, attempt)
        faults: list[Fault] = []
        while len(faults) < self._max_tries(faults) and not stop.is_set():
            try:
                answer = self._send(body)
            except (HTTPError, *_UNREADABLE) as error:
                faults.append(self._without_key(fault_of(error)))
            else:
                with self._lock:
                    self._ever_answered, self._lost_in_a_row = True, 0
                return answer, faults
            if faults[-1].blame == "job":
                stop.set()
                # Outside the `except`: its exception may repeat the key, and a traceback would show it as the cause.
                raise self._refused(faults[-1])
            if faults[-1].blame == "request":
                break
            if len(faults) < self._max_tries(faults):
                self._tell_first(faults[-1])
                stop.wait(self._pause(faults))
        return None, faults

    def _max_tries(self, faults: Sequence[Fault]) -> int:
        never = not self._ever_answered and faults and faults[-1].name == "timeout"
        return min(FIRST_TRIES, self.settings.max_tries) if never else self.settings.max_tries

    def _tell_first(self, fault: Fault) -> None:
        """Tell the first fault of a server that never answered, or its user waits for minutes without a word."""
        with self._lock:
            told, self._warned = self._warned or self._ever_answered, True
        if not told:
            logger.warning(
                "%s has not answered yet, %s: %s; trying again", self.settings.base_url, fault.name, fault.detail
            )

    def _send(self, body: dict[str, Any]) -> Answer:
        # A client of its own for each try: that of huggingface_hub 1 keeps all its responses until it is closed. The
        # connections are shared all the same.
        with InferenceClient(
            base_url=self.settings.base_url, api_key=self._api_key, timeout=self.settings.timeout_s
        ) as client:
            return _read_answer(client.chat_completion(**body))

    def _body(self, request: Request, attempt: int) -> dict[str, Any]:
        content: Any = request.prompt
        if request.pictures:
            urls = [{"type": "image_url", "image_url": {"url": picture_url(image)}} for image in request.pictures]
            content = [*urls, {"type": "text", "text": request.prompt}]
        return {
            "messages": [{"role": "user", "content": content}],
            "model": self.settings.model,
            "max_tokens": self.settings.max_tokens,
            "temperature": self.decoding["retry_temperature"] if attempt else self.settings.temperature,
            "top_p": self.settings.top_p,
            "seed": seed_of(self.settings.seed, request.key, attempt),
        }

    def _pause(self, faults: Sequence[Fault]) -> float:
        return wait_seconds(
            len(faults),
            faults[-1].retry_after_s,
            backoff_s=self.settings.backoff_s,
            max_wait_s=self.settings.max_wait_s,
            jitter=self._jitter,
        )

    def _count_loss(self, request: Request, faults: Sequence[Fault]) -> int:
        """Requests lost in a row, this one included."""
        last = faults[-1]
        logger.warning("%s: no answer after %d tries, %s: %s", request.key, len(faults), last.name, last.detail)
        with self._lock:
            # A request that a working server cannot answer says nothing about the next one.
            if last.blame == "server" or not self._ever_answered:
                self._lost_in_a_row += 1
            return self._lost_in_a_row

    def _down(self, what: str, last: Fault) -> ConnectionError:
        return ConnectionError(
            f"{self.settings.base_url} {what}, the last with {last.name} ({last.detail}). "
            f"Check that the server runs, its address, and the model {self.settings.model!r}; "
            f"finished shards are kept, so the same command continues."
        )

    def _refused(self, fault: Fault) -> ConnectionError:
        hints = {"http_401": "give a valid API key", "http_403": "use a key that may use this model"}
        hint = hints.get(fault.name, f"check the address, and that the server has the model {self.settings.model!r}")
        return ConnectionError(
            f"{self.settings.base_url} refused a chat completion with {fault.name} ({fault.detail}); {hint}. "
            f"Finished shards are kept, so the same command continues."
        )

    def _without_key(self, fault: Fault) -> Fault:
        if self._api_key == _NO_KEY:
            return fault
        return Fault(fault.name, fault.blame, fault.detail.replace(self._api_key, "***"), fault.retry_after_s)


def _has_proxy(scheme: str, host: str) -> bool:
    proxies = getproxies()
    return bool(proxies.get(scheme) or proxies.get("all")) and not proxy_bypass(host)


def picture_url(picture: Image.Image) -> str:
    """A picture as a data URL: upright, RGB, at most MAX_PICTURE_SIDE pixels high and wide, JPEG."""
    upright = ImageOps.exif_transpose(picture).convert("RGB")
    upright.thumbnail((MAX_PICTURE_SIDE, MAX_PICTURE_SIDE))
    buffer = io.BytesIO()
    upright.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _read_answer(completion: Any) -> Answer:
    """The text of a completion without the model's thinking.

    Raises:
        _UNREADABLE: there is no text where the protocol has it, or one that UTF-8 cannot hold.
    """
    choice = completion.choices[0]
    text = "" if choice.message.content is None else choice.message.content
    if not isinstance(text, str):
        raise TypeError(f"content must be a text, got {type(text).__name__}")
    # JSON may hold half a surrogate pair, which no parquet file takes.
    text.encode("utf-8")
    return Answer(without_thinking(text).strip(), truncated=choice.finish_reason in _CUT_OFF)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and url.strip() == url
    except ValueError:
        raise ValueError("base_url must look like http://localhost:8000/v1; its host or port is malformed.") from None
    # A password or a key in the address would end up in messages and logs, so such an address is not repeated.
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            "base_url must hold no user, password, query or fragment (it is not shown here); give the key with "
            "--api-key-variable."
        )
    if not usable:
        raise ValueError(f"base_url must look like http://localhost:8000/v1, got {url!r}.")
