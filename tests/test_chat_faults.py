"""Waiting as long as a server asks, and no longer than the user allows."""

import random
from email.utils import formatdate

import pytest

from processing.chat_faults import retry_after_seconds, wait_seconds

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("0", 0),
        ("7", 7),
        (" 1.5 ", 1.5),
        ("-3", 0),
        ("nan", 0),
        ("inf", 0),
        ("soon", 0),
        (formatdate(NOW + 90, usegmt=True), 90),
        (formatdate(NOW - 90, usegmt=True), 0),
        ("Wed, 99 Nov 2023 22:15:00 GMT", 0),
    ],
)
def test_retry_after_is_read_in_both_forms(header: str | None, seconds: float):
    """A date taken for nothing hammers a server that asked for a rest; nonsense must not stop the job."""
    assert retry_after_seconds(header, now=NOW) == pytest.approx(seconds)


def test_waits_double_with_jitter_and_never_undercut_the_server():
    """Clients that come back together, or too early, are turned away together."""
    jitter = random.Random(0)
    for num_faults, full in ((1, 2.0), (2, 4.0), (5, 32.0)):
        waits = [wait_seconds(num_faults, 0, backoff_s=2, max_wait_s=1e9, jitter=jitter) for _ in range(200)]
        assert full / 2 <= min(waits) < full * 0.55 and full * 0.95 < max(waits) <= full
    assert wait_seconds(1, 30, backoff_s=2, max_wait_s=1e9, jitter=jitter) >= 30


def test_waits_are_bounded():
    """A server that asks for a day would hold the job for a day."""
    jitter = random.Random(0)
    assert wait_seconds(1, 86_400, backoff_s=1, max_wait_s=60, jitter=jitter) == 60
    assert wait_seconds(10_000, 0, backoff_s=1, max_wait_s=60, jitter=jitter) == 60
