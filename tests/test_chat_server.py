"""Asking a chat server: order, seeds, pictures, faults that pass, faults that do not, and keys that stay secret."""

import logging
import threading
import time
import traceback
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from huggingface_hub import get_session
from huggingface_hub.errors import OfflineModeIsEnabled
from PIL import Image

from processing import chat_server
from processing.chat_server import MAX_LOST_IN_A_ROW, MAX_PICTURE_SIDE, RETRY_TEMPERATURE, ChatServer, ChatSettings
from processing.generation import Answer, Request, seed_of
from tests.openai_server import Body, OpenAiServer, completion, pictures_of, prompt_of

KEY = "sk-very-secret"


class RawServer(OpenAiServer):
    """Replies with the status and bytes of a test, whatever is asked."""

    def __init__(self, status: int, data: bytes | Body) -> None:
        super().__init__()
        self.raw = (status, data)

    def _reply(self, handler: Any, fault: str | None, text: str) -> None:
        handler.send(*self.raw)


def chat(server: OpenAiServer | str, *, api_key: str | None = None, **changes: Any) -> ChatServer:
    url = server if isinstance(server, str) else server.url
    settings = {"timeout_s": 20.0, "backoff_s": 0.001, "max_tries": 3, "concurrency": 4, **changes}
    return ChatServer(ChatSettings(url, "test-model", **settings), api_key=api_key)


def texts(*prompts: str) -> list[Request]:
    return [Request(f"key of {prompt}", prompt) for prompt in prompts]


def asked(client: ChatServer, requests: list[Request], *, attempt: int = 0) -> tuple[list[Answer], Counter[str]]:
    events: Counter[str] = Counter()
    return client.generate(requests, attempt=attempt, events=events), events


def test_answers_come_in_the_order_of_the_requests():
    """With many in flight the fast ones come back first; a mixed-up row gets another picture's text."""
    prompts = [f"p{number}" for number in range(12)]

    def slow_first(body: Body) -> str:
        time.sleep(0.05 if prompt_of(body) in {"p0", "p5"} else 0)
        return prompt_of(body).upper()

    with OpenAiServer(slow_first) as server:
        answers, events = asked(chat(server), texts(*prompts))
    assert [answer.text for answer in answers] == [prompt.upper() for prompt in prompts]
    assert not events and len(server.requests) == 12


def test_as_many_requests_are_in_flight_as_allowed_and_no_more():
    """One at a time wastes the server; more than allowed is what rate limits are for."""
    barrier, lock, active, peak = threading.Barrier(3), threading.Lock(), 0, 0

    def together(body: Body) -> str:
        nonlocal active, peak
        with lock:
            active += 1
            peak = max(peak, active)
        barrier.wait(timeout=10)
        time.sleep(0.03)
        with lock:
            active -= 1
        return "x"

    with OpenAiServer(together) as server:
        asked(chat(server, concurrency=3), texts(*"abcdef"))
    assert peak == 3


def test_a_request_carries_the_settings_and_its_own_seed():
    """The result must not depend on which process asks, or in which order."""
    with OpenAiServer() as server:
        client = chat(server, temperature=0.3, top_p=0.8, max_tokens=9, seed=5)
        asked(client, texts("a", "b"))
        asked(client, texts("b", "a"), attempt=1)
    bodies = {(prompt_of(body), body["temperature"]): body for body in server.bodies}
    assert len(bodies) == 4
    for (prompt, _), body in bodies.items():
        attempt = int(body["temperature"] != 0.3)
        assert body == {
            "model": "test-model",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 9,
            "temperature": RETRY_TEMPERATURE if attempt else 0.3,
            "top_p": 0.8,
            "seed": seed_of(5, f"key of {prompt}", attempt),
            "stream": False,
        }


def test_a_higher_temperature_is_kept_when_asking_again():
    """A second attempt that is greedier than the first would repeat itself."""
    with OpenAiServer() as server:
        asked(chat(server, temperature=1.2), texts("a"), attempt=2)
    assert server.bodies[0]["temperature"] == 1.2


def test_frames_are_sent_in_order_before_the_prompt():
    """A video told backwards is another video."""
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    frames = tuple(Image.new("RGB", (16, 8), colour) for colour in colours)
    with OpenAiServer() as server:
        asked(chat(server), [Request("1", "Describe.", frames)])
    content = server.bodies[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url"] * 3 + ["text"]
    assert content[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert prompt_of(server.bodies[0]) == "Describe."
    seen = [np.asarray(picture).mean(axis=(0, 1)) for picture in pictures_of(server.bodies[0])]
    np.testing.assert_allclose(seen, colours, atol=6)


def test_pictures_are_upright_bounded_and_left_as_they_were():
    """Phones store pictures on their side, and cameras store more pixels than a server takes."""
    picture = Image.new("RGBA", (4 * MAX_PICTURE_SIDE, MAX_PICTURE_SIDE), (9, 200, 9, 255))
    picture.getexif()[0x0112] = 6
    with OpenAiServer() as server:
        asked(chat(server), [Request("1", "Describe.", (picture,))])
    sent = pictures_of(server.bodies[0])[0]
    assert sent.size == (MAX_PICTURE_SIDE // 4, MAX_PICTURE_SIDE) and sent.mode == "RGB"
    assert picture.size == (4 * MAX_PICTURE_SIDE, MAX_PICTURE_SIDE) and picture.mode == "RGBA"


@pytest.mark.parametrize(
    ("fault", "event"),
    [
        ("http_429", "http_429"),
        ("http_429_date", "http_429"),
        ("http_500", "http_500"),
        ("http_503", "http_503"),
        ("http_408", "http_408"),
        ("cut", "connection"),
        ("invalid_utf8", "invalid_answer"),
        ("not_json", "invalid_answer"),
        ("no_choices", "invalid_answer"),
    ],
)
def test_a_fault_that_passes_is_counted_and_tried_again(fault: str, event: str):
    """A fault that is not counted is a rate that no card reports; one not tried again is a lost row."""
    with OpenAiServer(prompt_of, faults=[fault, fault]) as server:
        answers, events = asked(chat(server), texts("a", "b", "c"))
    assert [answer.text for answer in answers] == ["a", "b", "c"]
    assert events == {event: 2} and len(server.requests) == 5


def test_a_hang_is_given_up_and_tried_again():
    """Without a timeout the job waits for ever."""
    with OpenAiServer(prompt_of, faults=["hang"]) as server:
        answers, events = asked(chat(server, timeout_s=0.3, max_tries=5), texts("a", "b"))
    assert [answer.text for answer in answers] == ["a", "b"]
    assert events["timeout"] >= 1 and set(events) == {"timeout"}


def test_the_server_is_not_asked_before_the_time_it_named():
    """Coming back early makes a rate limit longer."""
    moments: list[float] = []

    def note(body: Body) -> str:
        moments.append(time.monotonic())
        return "x"

    with OpenAiServer(note, faults=["http_429"], retry_after=0.3) as server:
        asked(chat(server, backoff_s=0), texts("a"))
    assert moments[1] - moments[0] >= 0.3


def test_a_wait_is_no_longer_than_allowed():
    """A server that asks for an hour would hold the job for an hour."""
    with OpenAiServer(prompt_of, faults=["http_429"], retry_after=3600) as server:
        answers, _ = asked(chat(server, max_wait_s=0.01), texts("a"))
    assert answers == [Answer("a")]


def test_a_request_that_keeps_failing_is_an_answer_without_text(monkeypatch: pytest.MonkeyPatch):
    """Its row is kept and flagged; no wait is spent after its last try."""
    waits: list[int] = []

    def no_wait(num_faults: int, *_: float, **__: Any) -> float:
        waits.append(num_faults)
        return 0.0

    monkeypatch.setattr(chat_server, "wait_seconds", no_wait)
    with OpenAiServer(prompt_of, faults=lambda body: "http_500" if prompt_of(body) == "bad" else None) as server:
        answers, events = asked(chat(server), texts("a", "bad", "c"))
    assert [answer.text for answer in answers] == ["a", None, "c"]
    assert events == {"http_500": 3} and waits == [1, 2]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_the_server_cannot_take_is_not_repeated(status: int):
    """One caption that is too long must neither stop a job of a million nor be sent eight times."""
    with OpenAiServer(prompt_of, faults=lambda body: f"http_{status}" if prompt_of(body) == "bad" else None) as server:
        answers, events = asked(chat(server), texts("a", "bad", "c"))
    assert [answer.text for answer in answers] == ["a", None, "c"]
    assert events == {f"http_{status}": 1}


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "API key"), (403, "key"), (404, "'test-model'"), (402, "address"), (405, "address")]
)
def test_a_refusal_of_all_requests_stops_at_once_and_says_what_to_do(status: int, hint: str):
    """Eight tries for each of a million rows with a wrong key would take days and write nulls."""
    with (
        OpenAiServer(faults=lambda body: f"http_{status}") as server,
        pytest.raises(ConnectionError, match=hint) as caught,
    ):
        asked(chat(server, concurrency=1), texts(*"abcdef"))
    assert f"http_{status}" in str(caught.value) and "/v1 " in str(caught.value)
    assert len(server.requests) == 1


def test_a_stop_ends_the_waits_of_other_requests():
    """A wrong key would otherwise be reported after the longest wait of all requests."""
    met = threading.Barrier(2)

    def meet(body: Body) -> str:
        met.wait(timeout=10)
        return "x"

    with (
        OpenAiServer(meet, faults=["http_429", "http_401"], retry_after=15) as server,
        pytest.raises(ConnectionError, match="http_401"),
    ):
        asked(chat(server, concurrency=2, max_wait_s=15), texts("a", "b"))
    assert len(server.requests) == 2


def test_a_server_that_is_not_there_stops_the_job():
    """A wrong port would make a data set full of nulls."""
    with OpenAiServer() as server:
        pass
    with pytest.raises(ConnectionError, match=r"took no connection in 3 tries.*\(.*refused.*same command continues"):
        asked(chat(server), texts("a", "b"))


@pytest.mark.parametrize("fault", ["http_500", "http_400", "not_json"])
def test_a_server_that_never_answered_stops_the_job(fault: str):
    """A page of a login portal, or a parameter that the server does not know, fails every request alike."""
    with OpenAiServer(faults=lambda body: fault) as server, pytest.raises(ConnectionError, match="Check that"):
        asked(chat(server), texts("a", "b"))


def test_a_server_that_goes_away_stops_the_job_in_the_middle():
    """The rest of the data set would be nulls; requests that were not sent yet are not."""
    total = 10 * MAX_LOST_IN_A_ROW
    with OpenAiServer(prompt_of, faults=lambda body: None if prompt_of(body) == "first" else "http_503") as server:
        client = chat(server, max_tries=1, concurrency=1)
        asked(client, texts("first"))
        with pytest.raises(ConnectionError, match=f"no answer to {MAX_LOST_IN_A_ROW} requests in a row.*http_503"):
            asked(client, texts(*map(str, range(total))))
    assert len(server.requests) == 1 + MAX_LOST_IN_A_ROW


def test_losses_with_answers_between_them_do_not_stop_the_job():
    """One slow or unlucky request in ten is a rate to report, not a server that is down."""
    prompts = [f"{number}{'!' * (number % 2)}" for number in range(3 * MAX_LOST_IN_A_ROW)]
    with OpenAiServer(prompt_of, faults=lambda body: "http_503" if "!" in prompt_of(body) else None) as server:
        answers, events = asked(chat(server, max_tries=1, concurrency=1), texts(*prompts))
    assert [answer.text for answer in answers] == [None if "!" in prompt else prompt for prompt in prompts]
    assert events == {"http_503": len(prompts) // 2}


@pytest.mark.parametrize("fault", ["http_400", "http_500"])
def test_many_requests_that_are_themselves_at_fault_do_not_stop_the_job(fault: str):
    """When failed rows are asked again, they come in a row; the server is well all the same."""
    with OpenAiServer(prompt_of, faults=lambda body: None if prompt_of(body) == "first" else fault) as server:
        client = chat(server, max_tries=1)
        asked(client, texts("first"))
        answers, events = asked(client, texts(*map(str, range(2 * MAX_LOST_IN_A_ROW))))
    assert [answer.text for answer in answers] == [None] * 2 * MAX_LOST_IN_A_ROW
    assert events == {fault: 2 * MAX_LOST_IN_A_ROW}


def test_the_key_is_sent_and_shown_nowhere(caplog: pytest.LogCaptureFixture):
    """Logs and tracebacks are pasted into public issues; some servers repeat the key in their refusal."""
    for name in (None, "httpx2", "httpcore2", "huggingface_hub"):
        caplog.set_level(logging.DEBUG, logger=name)
    for status in (401, 500):
        with RawServer(status, {"error": {"message": f"Incorrect key: {KEY}."}}) as server:
            client = chat(server, api_key=KEY, concurrency=1)
            with pytest.raises(ConnectionError, match=r"Incorrect key: \*\*\*\.") as caught:
                asked(client, texts("a"))
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
        shown = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(client) + repr(client.settings)
        assert "Incorrect key" in shown and KEY not in shown
        assert KEY not in str(client.decoding)


def test_no_token_of_the_user_is_sent_without_being_asked_for(monkeypatch: pytest.MonkeyPatch):
    """InferenceClient sends the saved Hub token to any address that it is given."""
    monkeypatch.setenv("HF_TOKEN", "hf_private")
    with OpenAiServer() as server:
        asked(chat(server), texts("a"))
    assert "hf_private" not in str(server.requests)


@pytest.mark.parametrize("key", ["sk-1\n", " sk-1", "sk-é", "sk-1\x00"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(key: str):
    """The HTTP library would show it in its error."""
    with pytest.raises(ValueError, match="api_key must be printable ASCII") as caught:
        chat("http://h/v1", api_key=key)
    assert "sk-" not in str(caught.value)


def test_only_named_servers_are_reached_when_offline():
    """HF_HUB_OFFLINE is set on clusters whose model server is next door; the Hub must stay out of reach."""
    with OpenAiServer() as server, OpenAiServer() as other:
        for named in (server, server, other, server):
            asked(chat(named), texts("a"))
    assert (len(server.requests), len(other.requests)) == (3, 1)
    with pytest.raises(OfflineModeIsEnabled):
        get_session().get("http://hub.invalid/api/models")
    with pytest.raises(OfflineModeIsEnabled):
        get_session().get(f"https://{urlsplit(server.url).netloc}/v1/models")
    assert len(get_session().event_hooks["request"]) == 1


@pytest.mark.parametrize(
    ("content", "finish_reason", "answer"),
    [
        ("  A dog.\n", "stop", Answer("A dog.")),
        ("A dog ru", "length", Answer("A dog ru", truncated=True)),
        ("A dog", "content_filter", Answer("A dog", truncated=True)),
        (None, "stop", Answer("")),
        ("<think>A cat? No.</think>\n\nA dog.", "stop", Answer("A dog.")),
        ("A cat? No.</think>A dog.", "stop", Answer("A dog.")),
        ("<think>A cat? Or", "length", Answer("", truncated=True)),
    ],
)
def test_the_text_of_an_answer_is_what_the_model_says_at_the_end(
    content: str | None, finish_reason: str, answer: Answer
):
    """Thinking in a description teaches the retriever the model's doubts."""
    with RawServer(200, completion(content, finish_reason=finish_reason)) as server:
        assert asked(chat(server), texts("a"))[0] == [answer]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"3",
        b'{"error": {"message": "overloaded"}}',
        b'{"choices": 3}',
        b'{"choices": [null]}',
        b'{"choices": ["x"]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": ["x"]}}]}',
        b'{"choices": [{"message": {"content": "half \\ud83d"}, "finish_reason": "stop"}]}',
        b"[" * 100_000,
    ],
)
def test_an_answer_off_the_protocol_is_an_invalid_answer(data: bytes):
    """It must cost a try of one row, not the job; half a surrogate pair would fail when the shard is written."""
    with RawServer(200, data) as server:
        client = chat(server, max_tries=2)
        with pytest.raises(ConnectionError, match="invalid_answer"):
            asked(client, texts("a"))
        server.raw = (200, completion("fine"))
        asked(client, texts("a"))
        server.raw = (200, data)
        assert asked(client, texts("a"))[1] == {"invalid_answer": 2}


@pytest.mark.parametrize("data", [b'["x"]', b'"x"', b'{"error": "caf\xe9"}', b"", b"<html>"])
def test_the_status_counts_whatever_the_body_of_an_error_is(data: bytes):
    """The client library stumbles over such bodies, and a wrong key would be tried again for ever."""
    with RawServer(500, data) as server:
        with pytest.raises(ConnectionError, match="http_500"):
            asked(chat(server), texts("a"))
        server.raw = (401, data)
        with pytest.raises(ConnectionError, match="refused a chat completion with http_401"):
            asked(chat(server), texts("a"))


def test_decoding_is_what_decides_the_answers_and_nothing_else():
    """A job continued on another node has another address; a changed temperature is another data set."""
    first, second = chat("http://a/v1"), chat("http://b/v1", concurrency=9, timeout_s=3.0, max_tries=1)
    assert first.decoding == second.decoding
    for change in ({"temperature": 0.9}, {"top_p": 0.9}, {"seed": 1}, {"max_tokens": 3}):
        assert chat("http://a/v1", **change).decoding != first.decoding


def test_nothing_is_asked_for_no_requests():
    """An empty shard must not look like a server that is down."""
    assert asked(chat("http://127.0.0.1:9/v1"), []) == ([], Counter())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": " "}, "model must be the name"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"temperature": 2.5}, r"temperature must be in \[0, 2\], got 2.5"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"timeout_s": 0.0}, "timeout_s must be a positive"),
        ({"timeout_s": float("inf")}, "timeout_s must be a positive"),
        ({"max_tries": 0}, "max_tries must be at least 1"),
        ({"concurrency": 101}, r"concurrency must be in \[1, 100\], got 101"),
        ({"concurrency": 0}, "concurrency must be"),
        ({"backoff_s": -1.0}, "backoff_s must be"),
        ({"max_wait_s": float("nan")}, "max_wait_s must be"),
        ({"base_url": "localhost:8000"}, "base_url must look like http://localhost:8000/v1, got 'localhost:8000'"),
        ({"base_url": "http://"}, "base_url must look like"),
        ({"base_url": "http://h/v1 "}, "base_url must look like"),
        ({"base_url": "http://h:99999/v1"}, "port is malformed"),
        ({"base_url": "http://[h/v1"}, "malformed"),
    ],
)
def test_settings_outside_their_range_are_refused(change: dict[str, Any], message: str):
    """The server would refuse them after the data set is opened, or worse, accept them."""
    with pytest.raises(ValueError, match=message):
        ChatSettings(**{"base_url": "http://h/v1", "model": "m", **change})


@pytest.mark.parametrize("url", [f"http://me:{KEY}@h/v1", f"http://h/v1?key={KEY}", f"http://h/v1#{KEY}"])
def test_a_key_in_the_address_is_refused_unseen(url: str):
    """The address is part of messages and logs."""
    with pytest.raises(ValueError, match="--api-key-variable") as caught:
        ChatSettings(url, "m")
    assert KEY not in str(caught.value)
