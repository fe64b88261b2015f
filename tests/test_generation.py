"""Asking again where an answer will not do, and seeds that do not depend on the order of the work."""

from collections import Counter
from collections.abc import Sequence

import pytest

from processing.generation import EMPTY_FLAG, ERROR_FLAG, MAX_SEED, Answer, Outcome, Request, ask, seed_of
from processing.records import OK_FLAG


class Scripted:
    """Gives the n-th answer of a key at its n-th attempt, and notes what it was asked."""

    def __init__(self, answers: dict[str, list[str | None]]) -> None:
        self.answers = answers
        self.asked: list[tuple[int, list[str]]] = []

    def generate(self, requests: Sequence[Request], *, attempt: int, events: Counter[str]) -> list[Answer]:
        self.asked.append((attempt, [request.key for request in requests]))
        events["calls"] += 1
        return [Answer(self.answers[request.key][attempt]) for request in requests]


def judge(request: Request, answer: Answer) -> Outcome:
    if answer.text is None:
        return Outcome(None, ERROR_FLAG)
    return Outcome(answer.text, OK_FLAG) if answer.text else Outcome(None, EMPTY_FLAG)


def requests_of(answers: dict[str, list[str | None]]) -> list[Request]:
    return [Request(key, f"prompt of {key}") for key in answers]


def test_only_what_was_not_good_is_asked_again_and_lands_in_its_place():
    """A retry that shifts the answers by one gives every later row another row's text."""
    answers: dict[str, list[str | None]] = {"a": ["A"], "b": ["", None, "B"], "c": ["C"], "d": [None, "D"]}
    generator, events = Scripted(answers), Counter[str]()
    outcomes = ask(generator, requests_of(answers), judge, max_attempts=3, events=events)
    assert outcomes == [Outcome(text, OK_FLAG) for text in "ABCD"]
    assert generator.asked == [(0, ["a", "b", "c", "d"]), (1, ["b", "d"]), (2, ["b"])]
    assert events == {"calls": 3, "retry_empty": 1, "retry_error": 2}


def test_the_last_outcome_stays_when_the_attempts_are_used_up():
    """The row is kept with its flag; it is neither lost nor asked for ever."""
    answers: dict[str, list[str | None]] = {"a": ["", None], "b": ["B"]}
    generator, events = Scripted(answers), Counter[str]()
    outcomes = ask(generator, requests_of(answers), judge, max_attempts=2, events=events)
    assert outcomes == [Outcome(None, ERROR_FLAG), Outcome("B", OK_FLAG)]
    assert events == {"calls": 2, "retry_empty": 1}


def test_one_attempt_asks_nothing_again():
    """Off by one here doubles the cost of every run."""
    answers: dict[str, list[str | None]] = {"a": [""]}
    generator, events = Scripted(answers), Counter[str]()
    assert ask(generator, requests_of(answers), judge, max_attempts=1, events=events) == [Outcome(None, EMPTY_FLAG)]
    assert generator.asked == [(0, ["a"])] and events == {"calls": 1}


def test_less_than_one_attempt_is_refused():
    """It would flag every row as an error without asking."""
    with pytest.raises(ValueError, match="max_attempts must be at least 1, got 0"):
        ask(Scripted({}), [], judge, max_attempts=0, events=Counter())


def test_a_generator_that_loses_answers_is_stopped():
    """Texts would land in the rows of others."""

    class Loses(Scripted):
        def generate(self, requests: Sequence[Request], *, attempt: int, events: Counter[str]) -> list[Answer]:
            return super().generate(requests, attempt=attempt, events=events)[1:]

    answers: dict[str, list[str | None]] = {"a": ["A"], "b": ["B"]}
    with pytest.raises(RuntimeError, match="1 answers to 2 requests"):
        ask(Loses(answers), requests_of(answers), judge, max_attempts=1, events=Counter())


def test_seeds_are_fixed_and_differ_by_request_attempt_and_seed():
    """A seed that changes with the release or the order of work makes a data set nobody can make again."""
    assert seed_of(0, "train/1", 0) == 286301082
    seeds = {seed_of(seed, key, attempt) for seed in range(5) for key in ("1", "11", "a") for attempt in range(5)}
    assert len(seeds) == 5 * 3 * 5
    assert all(0 <= seed < MAX_SEED for seed in seeds)
