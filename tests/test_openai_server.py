"""The chat server of the tests itself: a fault that it does not make leaves a client untested."""

import http.client
import json
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.openai_server import (
    REFUSAL,
    OpenAiServer,
    completion,
    random_faults,
)


def post(server: OpenAiServer, prompt: str = "Hello", *, timeout: float = 10) -> tuple[int, Any, bytes]:
    """Status, headers and bytes of one answer; the standard library's client knows nothing of retries."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=timeout)
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def test_an_answer_is_made_from_the_request():
    """Clients under test tell requests apart by what comes back."""
    with OpenAiServer(lambda body: body["messages"][-1]["content"].upper()) as server:
        status, _, data = post(server, "grüße")
    assert status == 200
    assert json.loads(data) == completion("GRÜSSE")
    assert server.bodies == [{"model": "m", "messages": [{"role": "user", "content": "grüße"}]}]
    assert not server.faults


def test_a_script_is_used_in_the_order_of_arrival_and_counted():
    """Counts that are compared with a manifest must be of faults that were really made."""
    faults = ["http_429", None, "http_500", "refusal", "empty", "truncated", "no_choices"]
    with OpenAiServer(lambda body: "abcdef", faults=faults, retry_after=7) as server:
        replies = [post(server) for _ in range(8)]
    assert [status for status, _, _ in replies] == [429, 200, 500, 200, 200, 200, 200, 200]
    assert replies[0][1]["Retry-After"] == "7"
    assert replies[2][1]["Retry-After"] is None
    contents = [json.loads(data)["choices"] for status, _, data in replies if status == 200]
    assert [choice[0]["message"]["content"] for choice in contents if choice] == [
        "abcdef",
        REFUSAL,
        "",
        "abc",
        "abcdef",
    ]
    assert contents[3][0]["finish_reason"] == "length" and contents[4] == []
    assert server.faults == {name: 1 for name in faults if name}
    assert [request.fault for request in server.requests] == [*faults, None]


def test_retry_after_may_be_a_date():
    """RFC 9110 allows both forms and proxies send both."""
    with OpenAiServer(faults=["http_429_date"], retry_after=90) as server:
        _, headers, _ = post(server)
    moment = parsedate_to_datetime(headers["Retry-After"])
    assert 80 < (moment - parsedate_to_datetime(headers["Date"])).total_seconds() < 100


def test_broken_answers_are_really_broken():
    """A fault that a lenient client repairs tests nothing."""
    with OpenAiServer(faults=["invalid_utf8", "not_json", "cut"]) as server:
        with pytest.raises(UnicodeDecodeError):
            post(server)[2].decode()
        with pytest.raises(ValueError):
            json.loads(post(server)[2])
        with pytest.raises(http.client.IncompleteRead):
            post(server)
    assert server.faults == {"invalid_utf8": 1, "not_json": 1, "cut": 1}


def test_a_hanging_request_does_not_hold_up_the_others_or_the_end():
    """A server that waits for its own hang would hang the suite."""
    with OpenAiServer(faults=["hang"]) as server:
        with pytest.raises(TimeoutError):
            post(server, timeout=0.1)
        assert post(server)[0] == 200


def test_models_are_listed_and_other_paths_are_not_found():
    """A wrong base URL must look as it does on a real server."""
    with OpenAiServer() as server:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
        connection.request("GET", "/v1/models")
        assert json.loads(connection.getresponse().read())["data"][0]["id"] == "test-model"
        connection.close()
        connection.request("POST", "/chat", "{}")
        assert connection.getresponse().status == 404
        connection.close()


def test_random_faults_repeat_with_their_seed():
    """A failure that cannot be repeated cannot be fixed."""
    first, second = (random_faults(["cut", "empty"], rate=0.5, seed=3) for _ in range(2))
    drawn = [first({}) for _ in range(50)]
    assert drawn == [second({}) for _ in range(50)]
    assert set(drawn) == {None, "cut", "empty"}


def test_an_unknown_fault_is_refused():
    """A typing error in a script would test the good case twice."""
    with pytest.raises(ValueError, match=r"http_5oo"):
        OpenAiServer(faults=["http_5oo"])


def test_an_error_in_the_answer_function_fails_the_test():
    """It would look like a server fault, which clients forgive."""

    def broken(body: dict[str, Any]) -> str:
        raise KeyError("oops")

    with pytest.raises(KeyError, match="oops"), OpenAiServer(broken) as server:
        assert post(server)[0] == 400
