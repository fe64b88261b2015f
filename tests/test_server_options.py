"""Options of a chat server on the command line."""

import argparse
import logging
from collections import Counter

import pytest

from hub_scripts.server_options import (
    SAMPLING_OPTIONS,
    SERVER_OPTIONS,
    add_server_arguments,
    refuse_unused,
    server_from_options,
)
from processing.chat_server import ChatSettings
from processing.generation import Request
from tests.openai_server import OpenAiServer


def options_of(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_server_arguments(parser, max_tokens=77)
    return parser.parse_args(["--model", "m", *words])


def test_every_option_reaches_the_settings():
    """An option that is parsed and dropped changes nothing, in silence."""
    words = "--server http://h:1/v1 --max-tokens 5 --temperature 0.5 --top-p 0.9 --seed 3 --concurrency 4 --timeout 9"
    assert server_from_options(options_of(*words.split())).settings == ChatSettings(
        "http://h:1/v1", "m", max_tokens=5, temperature=0.5, top_p=0.9, seed=3, concurrency=4, timeout_s=9
    )
    assert server_from_options(options_of("--server", "http://h/v1")).settings.max_tokens == 77


def test_the_key_comes_from_the_named_variable_only(monkeypatch: pytest.MonkeyPatch):
    """A token that is sent because it happens to be set goes to a stranger's server."""
    monkeypatch.setenv("MY_KEY", "sk-mine\n")
    monkeypatch.setenv("HF_TOKEN", "hf_private")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-private")
    with OpenAiServer() as server:
        for words in (["--api-key-variable", "MY_KEY"], []):
            chat = server_from_options(options_of("--server", server.url, *words))
            chat.generate([Request("1", "Hi")], attempt=0, events=Counter())
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer sk-mine", "Bearer none"]


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_a_variable_that_is_not_set_is_an_error(monkeypatch: pytest.MonkeyPatch, value: str | None):
    """The server's 401 would come after the pictures are loaded."""
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(ValueError, match="'MY_KEY', which is not set"):
        server_from_options(options_of("--server", "http://h/v1", "--api-key-variable", "MY_KEY"))


def test_a_million_requests_are_not_a_million_lines_of_log(caplog: pytest.LogCaptureFixture):
    """The faults that a user must see drown in one line for each request that went well."""
    caplog.set_level(logging.INFO)
    with OpenAiServer() as server:
        chat = server_from_options(options_of("--server", server.url))
        chat.generate([Request("1", "Hi")], attempt=0, events=Counter())
    assert not caplog.records


def test_an_option_without_effect_is_refused(capsys: pytest.CaptureFixture[str]):
    """Whoever asks for --top-p 0.9 and gets greedy texts finds out after a day, if at all."""
    parser = argparse.ArgumentParser()
    add_server_arguments(parser, max_tokens=77)
    options = parser.parse_args(["--model", "m", "--top-p", "0.9", "--timeout", "9", "--seed", "0"])
    refuse_unused(parser, options, ["concurrency", "seed"], "without --server")
    with pytest.raises(SystemExit):
        refuse_unused(parser, options, [*SERVER_OPTIONS, *SAMPLING_OPTIONS], "without --server")
    message = capsys.readouterr().err
    assert "--timeout, --top-p would have no effect without --server; leave it out." in message
