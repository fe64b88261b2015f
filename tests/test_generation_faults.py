"""A whole job against a server that fails in every way: no row lost, none doubled, each fault in the manifest."""

import random
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from processing.chat_server import ChatServer, ChatSettings
from processing.description import PictureDescriber, description_job
from processing.generation import (
    EMPTY_FLAG,
    ERROR_FLAG,
    TRUNCATED_FLAG,
    Answer,
    Outcome,
    Request,
    ask,
)
from processing.jobs import Job, Worker, run_job
from processing.manifest import Manifest, read_manifest
from processing.prompts import read_prompt
from processing.records import OK_FLAG, schema_features
from processing.sources import open_splits
from processing.translation import CaptionTranslator, ServerTranslators, translation_job
from tests.openai_server import REFUSAL, Body, OpenAiServer, pictures_of, prompt_of, random_faults

REFUSAL_FLAG = "refusal"
ROWS = {"train": 40, "validation": 11}
# What the server does -> what the client counts; the rest is seen in the answers and asked again.
EVENTS = {
    "http_429": "http_429",
    "http_429_date": "http_429",
    "http_500": "http_500",
    "http_503": "http_503",
    "hang": "timeout",
    "cut": "connection",
    "invalid_utf8": "invalid_answer",
    "not_json": "invalid_answer",
    "no_choices": "invalid_answer",
}
JUDGED = {"refusal": REFUSAL_FLAG, "empty": EMPTY_FLAG, "truncated": TRUNCATED_FLAG}


def good_answer(body: Body) -> str:
    return f"<{prompt_of(body)}>"


def splits_of_captions() -> datasets.DatasetDict:
    ids = {split: [f"{split}-{number}" for number in range(rows)] for split, rows in ROWS.items()}
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {"image_id": found, "caption_en": [[f"caption of {item_id}"] for item_id in found]},
                features=schema_features(["image_id", "caption_en"]),
            )
            for split, found in ids.items()
        }
    )


def judge(request: Request, answer: Answer) -> Outcome:
    if answer.text is None:
        return Outcome(None, ERROR_FLAG)
    if answer.truncated:
        return Outcome(answer.text, TRUNCATED_FLAG)
    if answer.text == REFUSAL:
        return Outcome(None, REFUSAL_FLAG)
    return Outcome(answer.text, OK_FLAG) if answer.text else Outcome(None, EMPTY_FLAG)


class Describer:
    """The smallest worker: one request a row."""

    max_attempts = 8

    def __init__(self, server: ChatServer) -> None:
        self.server = server

    def __call__(self, rows: datasets.Dataset, events: Counter[str]) -> dict[str, list[Any]]:
        requests = [Request(row["image_id"], row["caption_en"][0]) for row in rows]
        outcomes = ask(self.server, requests, judge, max_attempts=self.max_attempts, events=events)
        return {
            "description": [outcome.text for outcome in outcomes],
            "description_flag": [outcome.flag for outcome in outcomes],
        }


def chat(server: OpenAiServer, **changes: Any) -> ChatServer:
    settings = {"timeout_s": 1.0, "backoff_s": 0.001, "max_wait_s": 0.05, "max_tries": 4, "concurrency": 8, **changes}
    return ChatServer(ChatSettings(server.url, "test-model", **settings))


def describe(server: OpenAiServer, out: Path, *, redo: tuple[str, ...] = (), **changes: Any) -> Manifest:
    client = chat(server, **changes)

    def make_worker() -> Worker:
        return Describer(client)

    job = Job("describe", client.decoding, schema_features(["description", "description_flag"]), rows_per_shard=16)
    return run_job(job, splits_of_captions(), out, make_worker, redo=redo, progress=False)


def counts_of(manifest: Manifest, column: str = "description_flag") -> tuple[Counter[str], Counter[str]]:
    """Events and flags of the last step."""
    counts = manifest.steps[-1].counts
    return Counter(counts["events"]), Counter(counts[column])


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {split: rows.to_list() for split, rows in open_splits(folder).items()}


def expected_rows(flags: dict[str, str] | None = None) -> dict[str, list[dict[str, Any]]]:
    """All rows in order, with the good answer to their own prompt, or the flag of those that have none."""
    rows = {split: part.to_list() for split, part in splits_of_captions().items()}
    for row in (row for part in rows.values() for row in part):
        flag = (flags or {}).get(row["image_id"], OK_FLAG)
        row["description"] = f"<{row['caption_en'][0]}>" if flag == OK_FLAG else None
        row["description_flag"] = flag
    return rows


def check_counts(
    manifest: Manifest, server: OpenAiServer, column: str = "description_flag", judged: Mapping[str, str] = JUDGED
) -> None:
    """The manifest tells of exactly the faults that the server made."""
    events, flags = counts_of(manifest, column)
    made = Counter[str]()
    for fault, count in server.faults.items():
        made[EVENTS.get(fault, judged.get(fault, fault))] += count
    # An outcome that is not good was either asked again or is what the row keeps.
    seen = Counter({name: count for name, count in events.items() if not name.startswith("retry_")})
    for flag in judged.values():
        seen[flag] = events[f"retry_{flag}"] + flags[flag]
    assert +seen == +made
    assert manifest.steps[-1].counts["rows"] == sum(manifest.splits.values())
    # Nothing was asked twice without a fault between: each request is a good answer or a fault.
    assert len(server.requests) == flags[OK_FLAG] + sum(server.faults.values())


def shuffled_faults(seed: int) -> list[str | None]:
    """Each fault twice, among requests that go well."""
    faults: list[str | None] = [*EVENTS, *EVENTS, *JUDGED, *JUDGED, *[None] * 20]
    random.Random(seed).shuffle(faults)
    return faults


@pytest.mark.parametrize("seed", [0, 1])
def test_every_fault_passes_and_is_counted(tmp_path: Path, seed: int):
    """A fault that drops a row shifts ids; one that is not counted hides how the data set came about."""
    faults = shuffled_faults(seed)
    with OpenAiServer(good_answer, faults=faults) as server:
        # More tries and attempts than faults: whichever requests meet them, each row is good in the end.
        manifest = describe(server, tmp_path, max_tries=len(faults))
    assert server.faults == Counter(name for name in faults if name)
    assert rows_of(tmp_path) == expected_rows()
    check_counts(manifest, server)
    assert manifest.complete and read_manifest(tmp_path) == manifest


def test_the_translation_worker_loses_nothing_either(tmp_path: Path):
    """The captions of a row are aligned with their translations by index; a lost one shifts the others."""
    captions = [[f"A dog runs across the green meadow, take {3 * row + n}." for n in range(3)] for row in range(24)]
    rows = {"image_id": [str(row) for row in range(24)], "caption_en": captions}
    split = datasets.Dataset.from_dict(rows, features=schema_features(rows))

    def translate(body: Body) -> str:
        found = re.search(r"A dog runs across the green meadow, take (\d+)\.", prompt_of(body))
        assert found
        return german(found[1])

    def german(number: int | str) -> str:
        return f"Ein Hund läuft über die grüne Wiese, Aufnahme {number}."

    faults = shuffled_faults(2)
    with OpenAiServer(translate, faults=faults) as server:
        translators = ServerTranslators(chat(server, max_tries=len(faults)), read_prompt("translate-v1"))
        # More attempts than answers that are no translations, as above.
        translators.max_attempts = 7
        job = translation_job({"train": split}, ["de"], translators, rows_per_shard=10)
        manifest = run_job(
            job,
            datasets.DatasetDict({"train": split}),
            tmp_path,
            lambda: CaptionTranslator(translators, ["de"]),
            progress=False,
        )
    assert server.faults == Counter(name for name in faults if name)
    translations = [[german(3 * row + n) for n in range(3)] for row in range(24)]
    flags = [[OK_FLAG] * 3] * 24
    assert open_splits(tmp_path)["train"].to_dict() == {
        **rows,
        "caption_de_mt": translations,
        "caption_de_mt_flag": flags,
    }
    check_counts(manifest, server, "caption_de_mt_flag")
    assert len(server.requests) == 72 + sum(server.faults.values())


def test_the_description_worker_loses_nothing_either(tmp_path: Path):
    """A row whose picture cannot be read must not shift the descriptions of the rows after it."""
    rows = {"image_id": [f"picture {row}" for row in range(30)], "image": [grey_picture(8 * row) for row in range(30)]}
    split = datasets.Dataset.from_dict(rows, features=schema_features(rows))

    def description(row: int) -> str:
        return f"The picture shows a wall in the grey {8 * row}."

    def answer(body: Body) -> str:
        (picture,) = pictures_of(body)
        return description(round(np.asarray(picture).mean() / 8))

    faults = shuffled_faults(3)
    with OpenAiServer(answer, faults=faults) as server:
        client, prompt, attempts = chat(server, max_tries=len(faults)), read_prompt("image-v1"), 7
        job = description_job({"train": split}, client, prompt, max_attempts=attempts, rows_per_shard=8)
        manifest = run_job(
            job,
            datasets.DatasetDict({"train": split}),
            tmp_path,
            lambda: PictureDescriber(client, prompt, max_attempts=attempts),
            progress=False,
        )
    assert server.faults == Counter(name for name in faults if name)
    assert open_splits(tmp_path)["train"].to_dict() == {
        "image_id": rows["image_id"],
        "description": [description(row) for row in range(30)],
        "description_flag": [OK_FLAG] * 30,
    }
    check_counts(manifest, server)
    assert len(server.requests) == 30 + sum(server.faults.values())


def grey_picture(level: int) -> Image.Image:
    """A picture of one grey, in [0, 255], by which a server knows it."""
    return Image.new("RGB", (16, 16), (level, level, level))


# Requests that never succeed: what the server does to them -> the flag that their row keeps.
LASTING = {
    "http_500": ERROR_FLAG,
    "http_400": ERROR_FLAG,
    "cut": ERROR_FLAG,
    "invalid_utf8": ERROR_FLAG,
    "refusal": REFUSAL_FLAG,
    "empty": EMPTY_FLAG,
}


def test_rows_that_never_succeed_are_kept_with_their_flag_and_can_be_done_again(tmp_path: Path):
    """A row that is dropped has no picture in the benchmark; a redo that asks for everything costs the whole job."""
    bad = {f"train-{number}": fault for number, fault in zip(range(1, 40, 3), [*LASTING, *LASTING], strict=False)}
    with OpenAiServer(good_answer, faults=lambda body: bad.get(prompt_of(body).rpartition(" ")[2])) as server:
        manifest = describe(server, tmp_path)
    assert len(bad) == 12
    assert rows_of(tmp_path) == expected_rows({item_id: LASTING[fault] for item_id, fault in bad.items()})
    check_counts(manifest, server)
    _, flags = counts_of(manifest)
    assert flags == {OK_FLAG: 39, ERROR_FLAG: 8, REFUSAL_FLAG: 2, EMPTY_FLAG: 2}

    with OpenAiServer(good_answer) as healed:
        again = describe(healed, tmp_path, redo=(ERROR_FLAG, REFUSAL_FLAG))
    assert sorted(map(prompt_of, healed.bodies)) == sorted(
        f"caption of {item_id}" for item_id, fault in bad.items() if LASTING[fault] != EMPTY_FLAG
    )
    assert rows_of(tmp_path) == expected_rows(
        {item_id: EMPTY_FLAG for item_id, fault in bad.items() if fault == "empty"}
    )
    assert counts_of(again)[1] == {OK_FLAG: 49, EMPTY_FLAG: 2}


def test_rows_that_the_server_never_takes_do_not_lock_a_finished_data_set(tmp_path: Path):
    """A redo that asks only them sees no answer; taken for a server that is down, the job could never be finished."""
    bad = [f"train-{number}" for number in range(40)]  # all of the first shards
    faults = lambda body: "http_400" if prompt_of(body).rpartition(" ")[2] in bad else None  # noqa: E731
    with OpenAiServer(good_answer, faults=faults) as server:
        first = describe(server, tmp_path)
        again = describe(server, tmp_path, redo=(ERROR_FLAG,))
    assert first.complete and again.complete
    assert counts_of(again)[1] == counts_of(first)[1] == {OK_FLAG: 11, ERROR_FLAG: 40}
    assert rows_of(tmp_path) == expected_rows(dict.fromkeys(bad, ERROR_FLAG))


def test_a_server_that_goes_down_stops_the_job_and_another_one_finishes_it(tmp_path: Path):
    """Nulls for the rest of the data set would look like a finished job; done shards must not be asked again."""
    with (
        OpenAiServer(good_answer, faults=lambda body: "cut" if len(server.requests) >= 20 else None) as server,
        pytest.raises(ConnectionError, match="the same command continues"),
    ):
        describe(server, tmp_path, concurrency=4)
    assert not read_manifest(tmp_path).complete
    with OpenAiServer(good_answer) as other:
        manifest = describe(other, tmp_path)
    # The first shard of 16 rows was whole; the second was not, so its rows are asked again.
    assert len(other.requests) == sum(ROWS.values()) - 16
    assert rows_of(tmp_path) == expected_rows()
    events, flags = counts_of(manifest)
    assert not events and flags == {OK_FLAG: sum(ROWS.values())}


def test_the_result_does_not_depend_on_the_number_of_requests_in_flight(tmp_path: Path):
    """Two people with one recipe would publish different data sets."""

    def by_seed(body: Body) -> str:
        return f"{prompt_of(body)} drawn with {body['seed']} at {body['temperature']}"

    found = []
    for concurrency in (1, 8):
        fault_at_random = random_faults(["http_500", "cut", "not_json"], rate=0.1, seed=concurrency)
        # Which answers are empty is decided by the request, as a model at a fixed seed would.
        faults = lambda body, rest=fault_at_random: "empty" if body["seed"] % 5 == 0 else rest(body)  # noqa: E731
        with OpenAiServer(by_seed, faults=faults) as server:
            describe(server, tmp_path / str(concurrency), concurrency=concurrency, temperature=0.5, max_tries=30)
        found.append(rows_of(tmp_path / str(concurrency)))
    assert found[0] == found[1]
    assert "at 0.7" in str(found) and "at 0.5" in str(found)
