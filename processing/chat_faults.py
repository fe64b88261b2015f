"""What goes wrong between a client and a chat server, and what each fault calls for."""

import math
import random
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from huggingface_hub.errors import HTTPError, InferenceTimeoutError

# Who is to blame decides what is done:
#   job       wrong key, path or model: the job stops, for no request will do better
#   request   too long, or a picture the server cannot read: not tried again, its row is flagged
#   answer    the server failed at this request: tried again, then its row is flagged
#   server    away or busy: tried again; many requests lost like this in a row stop the job
Blame = Literal["job", "request", "answer", "server"]

_REQUEST_STATUSES = frozenset({400, 413, 422})
_BUSY_STATUSES = frozenset({408, 409, 425, 429})
_MAX_DETAIL = 300


@dataclass(frozen=True)
class Fault:
    """One failed try.

    Attributes:
        name: what is counted: "http_<status>", "timeout", "connection" or "invalid_answer".
        blame: see `Blame`.
        detail: what the server or the client said, shortened.
        retry_after_s: seconds that the server asked to wait, at least 0.
    """

    name: str
    blame: Blame
    detail: str
    retry_after_s: float = 0.0


def fault_of(error: Exception) -> Fault:
    """Sort an exception of `InferenceClient.chat_completion`, or of reading what it returned."""
    detail = " ".join(str(getattr(error, "server_message", None) or error).split())[:_MAX_DETAIL]
    response = _response_of(error)
    if response is not None:
        status = int(response.status_code)
        after = retry_after_seconds(response.headers.get("Retry-After"), now=time.time())
        return Fault(f"http_{status}", _blame_of(status), detail, after)
    # huggingface_hub 1 lets some timeouts of its HTTP library through.
    if isinstance(error, InferenceTimeoutError) or "TimeoutException" in {
        base.__name__ for base in type(error).__mro__
    }:
        return Fault("timeout", "server", detail)
    if isinstance(error, HTTPError):
        return Fault("connection", "server", detail)
    return Fault("invalid_answer", "answer", detail)


def retry_after_seconds(header: str | None, *, now: float) -> float:
    """Seconds to wait by a `Retry-After` header: a number or an HTTP date; 0 if absent, past or unreadable.

    Args:
        header: its value, or None.
        now: seconds since the epoch.
    """
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def wait_seconds(
    num_faults: int, retry_after_s: float, *, backoff_s: float, max_wait_s: float, jitter: random.Random
) -> float:
    """How long to wait before the next try, in [0, max_wait_s].

    Args:
        num_faults: tries that failed so far, at least 1.
        retry_after_s: seconds that the server asked for; the wait is not shorter, unless `max_wait_s` is.
        backoff_s: wait after the first fault; doubled with each.
        max_wait_s: upper limit, whatever the server asks.
        jitter: takes up to half of the doubled wait off, or clients that failed together would come back together.
    """
    backoff = backoff_s * 2.0 ** min(num_faults - 1, 20) * jitter.uniform(0.5, 1.0)
    return min(max_wait_s, retry_after_s + backoff)


def _blame_of(status: int) -> Blame:
    if status in _REQUEST_STATUSES:
        return "request"
    if status == 500:
        return "answer"
    return "server" if status > 500 or status in _BUSY_STATUSES else "job"


def _response_of(error: BaseException | None) -> Any:
    # The client stumbles over error bodies that are no JSON object; the status is then in the exception before.
    while error is not None:
        if (response := getattr(error, "response", None)) is not None:
            return response
        error = error.__cause__ or error.__context__
    return None
