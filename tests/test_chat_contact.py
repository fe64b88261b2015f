"""The first contact with a chat server: whether it is away, set up wrongly, or asked for what it cannot do."""

import logging
import socket
from collections import Counter
from typing import Any

import pytest
from PIL import Image

from processing import chat_server
from processing.chat_server import EASY_PROMPT, FIRST_TRIES, MAX_LOST_IN_A_ROW, ChatServer, ChatSettings
from processing.generation import Answer, Request
from tests.openai_server import Body, OpenAiServer, pictures_of, prompt_of

NUM_BAD = 2 * MAX_LOST_IN_A_ROW
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that reaches its servers itself."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def chat(url: str, **changes: Any) -> ChatServer:
    settings = {"timeout_s": 20.0, "backoff_s": 0.001, "max_tries": 3, "concurrency": 4, **changes}
    return ChatServer(ChatSettings(url, "test-model", **settings))


def asked(client: ChatServer, requests: list[Request]) -> tuple[list[Answer], Counter[str]]:
    events: Counter[str] = Counter()
    return client.generate(requests, attempt=0, events=events), events


def bad_requests(number: int, *, pictures: tuple[Image.Image, ...] = ()) -> list[Request]:
    return [Request(str(position), f"bad {position}", pictures) for position in range(number)]


@pytest.mark.parametrize("fault", ["http_400", "http_413", "http_422", "http_500", "not_json"])
@pytest.mark.parametrize("number", [1, NUM_BAD])
def test_requests_that_fail_by_themselves_do_not_stop_a_process_that_asks_nothing_else(fault: str, number: int):
    """A redo asks just the rows that always fail; its data set could be neither opened nor completed any more."""
    with OpenAiServer(faults=lambda body: fault if "bad" in prompt_of(body) else None) as server:
        answers, events = asked(chat(server.url, max_tries=1), bad_requests(number))
        assert [answer.text for answer in answers] == [None] * number
        # The easy request is no row, so that it is in no count; it is asked once.
        event = "invalid_answer" if fault == "not_json" else fault
        assert events == {event: number} and [prompt_of(body) for body in server.bodies].count(EASY_PROMPT) == 1


@pytest.mark.parametrize("fault", ["http_400", "http_500"])
@pytest.mark.parametrize("number", [1, NUM_BAD])
def test_a_form_of_request_that_the_server_cannot_answer_stops_the_job(fault: str, number: int):
    """A parameter that the server does not know would make a data set of nulls."""
    with (
        OpenAiServer(faults=lambda body: fault) as server,
        pytest.raises(ConnectionError, match=f"with {fault} .*Check that the server runs"),
    ):
        asked(chat(server.url, max_tries=1), bad_requests(number))
    assert len(server.bodies) <= MAX_LOST_IN_A_ROW + 2 * 4


def test_a_server_that_takes_no_pictures_stops_the_job():
    """It answers an easy request without a picture, and fails at every row."""
    picture = Image.new("RGB", (8, 8), "red")

    def refuse_pictures(body: Body) -> str | None:
        return (
            "http_400" if len(pictures_of(body) if isinstance(body["messages"][0]["content"], list) else []) else None
        )

    with OpenAiServer(faults=refuse_pictures) as server, pytest.raises(ConnectionError, match="http_400"):
        asked(chat(server.url), bad_requests(3, pictures=(picture, picture)))
    easy = server.bodies[-1]
    assert len(pictures_of(easy)) == 2 and pictures_of(easy)[0].size > (8, 8) and prompt_of(easy).startswith("bad")


def test_a_picture_that_the_server_cannot_read_costs_its_row():
    """The pictures that fail in a redo are just these."""
    with OpenAiServer(faults=lambda body: "http_400" if pictures_of(body)[0].size == (8, 8) else None) as server:
        answers, _ = asked(chat(server.url), bad_requests(2, pictures=(Image.new("RGB", (8, 8), "red"),)))
    assert [answer.text for answer in answers] == [None, None]


def test_a_server_that_is_away_is_told_at_once_and_given_up_soon(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """The user of a wrong port looked at nothing for minutes."""
    monkeypatch.setattr(chat_server, "wait_seconds", lambda *_, **__: 0.0)
    with OpenAiServer() as server:
        pass
    with caplog.at_level(logging.WARNING), pytest.raises(ConnectionError, match="Check that the server runs"):
        asked(chat(server.url, max_tries=8), bad_requests(NUM_BAD))
    told = [record.message for record in caplog.records]
    assert len(told) == FIRST_TRIES - 1 and all(f"{server.url} cannot be reached" in line for line in told)


def test_an_address_where_nothing_answers_is_not_waited_for_as_long_as_for_an_answer(monkeypatch: pytest.MonkeyPatch):
    """A firewall that drops packets took forty minutes to be told."""
    timeouts: list[float] = []

    def drop(address: Any, timeout: float) -> socket.socket:
        timeouts.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", drop)
    with pytest.raises(ConnectionError, match="timed out"):
        asked(chat("http://model.invalid/v1", timeout_s=300.0, max_tries=2), bad_requests(2))
    assert timeouts == [chat_server.CONNECT_TIMEOUT_S] * 2
    with pytest.raises(ConnectionError):
        asked(chat("http://model.invalid/v1", timeout_s=3.0, max_tries=1), bad_requests(2))
    assert timeouts[2:] == [3.0]


def test_a_server_that_comes_up_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    """A job and its server are often started by one script."""
    connect, failures = socket.create_connection, [ConnectionRefusedError("refused")]

    def refuse_once(*arguments: Any, **options: Any) -> socket.socket:
        if failures:
            raise failures.pop()
        return connect(*arguments, **options)

    monkeypatch.setattr(socket, "create_connection", refuse_once)
    with OpenAiServer() as server:
        assert asked(chat(server.url), bad_requests(1)) == ([Answer("An answer.")], Counter())
    assert not failures


@pytest.mark.parametrize("bypass", [True, False])
def test_a_server_behind_a_proxy_is_left_to_the_proxy(monkeypatch: pytest.MonkeyPatch, bypass: bool):
    """Its name may be known to the proxy alone, so that a connection of one's own fails."""
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", "model.invalid" if bypass else "")
    assert chat_server._has_proxy("https", "model.invalid") is not bypass
    assert not chat_server._has_proxy("http", "model.invalid")


def test_the_first_fault_of_a_server_that_never_answered_is_told(caplog: pytest.LogCaptureFixture):
    """A server that is still loading its model answers 503 for minutes."""
    with (
        OpenAiServer(faults=["http_503", "http_503", "http_503", None, "http_503"]) as server,
        caplog.at_level(logging.WARNING),
    ):
        client = chat(server.url, max_tries=5, concurrency=1)
        asked(client, bad_requests(2))
    assert [record.message for record in caplog.records if "has not answered yet, http_503" in record.message] == [
        caplog.records[0].message
    ]


def test_a_server_that_hangs_from_the_start_is_given_up_soon():
    """Eight times five minutes are forty."""
    with OpenAiServer(faults=lambda body: "hang") as server, pytest.raises(ConnectionError, match="timeout"):
        asked(chat(server.url, timeout_s=0.1, max_tries=50, concurrency=1), bad_requests(1))
    assert len(server.bodies) == FIRST_TRIES
