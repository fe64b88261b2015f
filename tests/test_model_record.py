"""The record of a model: read whole, or refused with what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from reporting.model_record import RECORD_FILE, ModelRecord


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The card is made from it again at each push."""
    record = ModelRecord(("de",), {"test": {"de/sum_r": 1}}, seconds=2.5, origin="elsewhere", settings={"a": [None]})
    record.write(tmp_path)
    assert ModelRecord.read(tmp_path) == record
    assert ModelRecord.read(tmp_path / "absent") == ModelRecord()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is no record of a model but a list"),
        (None, "is no record of a model but a NoneType"),
        ({"languages": 3}, r"wrong type in \['languages'\]"),
        ({"languages": "de"}, r"wrong type in \['languages'\]"),
        ({"languages": [3]}, r"wrong type in \['languages'\]"),
        ({"metrics": []}, r"wrong type in \['metrics'\]"),
        ({"settings": None}, r"wrong type in \['settings'\]"),
        ({"origin": []}, r"wrong type in \['origin'\]"),
        ({"colour": 1}, r"unknown fields \['colour'\]"),
    ],
)
def test_another_content_is_refused_by_name(tmp_path: Path, content: Any, message: str) -> None:
    """A list was an empty record, whose card says nothing; a number was an error without the name of the file."""
    (tmp_path / RECORD_FILE).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"metrics\.json .*{message}"):
        ModelRecord.read(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_no_number_is_named(tmp_path: Path, value: float) -> None:
    """JSON has no form for it, and its own error does not say which one it was."""
    with pytest.raises(ValueError, match=r"got NaN or an infinity for \['de/sum_r'\] of 'test'"):
        ModelRecord(metrics={"test": {"en/sum_r": 1.0, "de/sum_r": value}}).write(tmp_path)
    assert not list(tmp_path.iterdir())
