"""Running the common tests of transformers: what is unpacked, which archives are refused, and what may be skipped."""

import io
import re
import tarfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from conformance import fetch
from conformance.skips import check_skips

VERSION = "5.0.0"


def archive(folder: Path, *, names: tuple[str, ...] = (), version: str = VERSION) -> Path:
    """A source archive with the common tests and more files."""
    path = folder / f"transformers-{VERSION}.tar.gz"
    required = tuple(f"transformers-{version}/tests/{name}" for name in fetch.REQUIRED)
    with tarfile.open(path, "w:gz") as members:
        for name in (*required, *names):
            member = tarfile.TarInfo(name)
            member.size = 1
            members.addfile(member, io.BytesIO(b"#"))
    return path


def test_only_the_common_tests_and_what_they_import_are_unpacked(tmp_path: Path) -> None:
    """As `tests`, the package would hide our own; the rest of the archive is 10 MB of sources."""
    names = (f"transformers-{VERSION}/src/transformers/__init__.py", f"transformers-{VERSION}/tests/models/x.py")
    fetch.unpack(archive(tmp_path, names=names), VERSION, tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.py")}
    assert found == {*(f"{fetch.PACKAGE}/{name}" for name in fetch.REQUIRED), *fetch.STUBS}


@pytest.mark.parametrize("name", ["transformers-5.0.0/../../evil.py", "/evil.py", "other/tests/evil.py"])
def test_an_archive_with_a_path_outside_of_its_root_is_refused(tmp_path: Path, name: str) -> None:
    """It would write anywhere."""
    with pytest.raises(ValueError, match=r"nothing outside transformers-5\.0\.0/"):
        fetch.unpack(archive(tmp_path, names=(name,)), VERSION, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_of_another_version_is_refused(tmp_path: Path) -> None:
    """The tests of one version fail on the classes of another for reasons that are not ours."""
    with pytest.raises(ValueError, match=r"nothing outside transformers-5\.0\.0/"):
        fetch.unpack(archive(tmp_path, version="4.57.0"), VERSION, tmp_path / "out")


def test_an_archive_without_the_common_tests_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run would end with 0 failures."""
    path = archive(tmp_path)
    monkeypatch.setattr(fetch, "REQUIRED", (*fetch.REQUIRED, "test_moved.py"))
    with pytest.raises(ValueError, match=r"test_moved\.py"):
        fetch.unpack(path, VERSION, tmp_path / "out")


def test_the_tests_are_fetched_once_and_a_failure_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-unpacked folder would be taken for the whole one by the next run."""
    calls: list[str] = []

    def download(version: str, folder: Path) -> Path:
        calls.append(version)
        return archive(folder, names=("evil.py",) if len(calls) == 1 else ())

    monkeypatch.setattr(fetch, "_download", download)
    with pytest.raises(ValueError, match=r"evil\.py"):
        fetch.common_tests(tmp_path, VERSION)
    assert not list(tmp_path.iterdir())
    folder = fetch.common_tests(tmp_path, VERSION)
    assert fetch.common_tests(tmp_path, VERSION) == folder
    assert calls == [VERSION, VERSION]
    assert (folder / fetch.PACKAGE / fetch.REQUIRED[0]).is_file()


def test_without_an_index_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip's own error names neither the purpose nor the remedy."""
    monkeypatch.setattr(fetch.sys, "executable", "false")
    with pytest.raises(ConnectionError, match="connect to the package index"):
        fetch.common_tests(tmp_path, VERSION)


class Renamed:
    def test_one(self) -> None:
        """What a skipped test looks like."""


@pytest.mark.parametrize(
    ("key", "is_whole", "refused"),
    [
        ("Renamed::test_one", True, False),
        ("Renamed::test_two", True, True),
        ("Renamed::test_two", False, True),
        ("OldName::test_one", True, True),
        ("OldName::test_one", False, False),  # it may be in a file that was not asked for
    ],
)
def test_an_entry_of_the_list_of_skips_that_names_no_test_is_refused(key: str, is_whole: bool, refused: bool) -> None:
    """A test that was renamed would run, or be missed, while the list says that it is skipped."""
    with pytest.raises(ValueError, match=f"names {key}, which does not exist") if refused else nullcontext():
        check_skips([key], {"Renamed": Renamed}, is_whole=is_whole)


def test_every_skip_of_ours_is_in_the_list(root_dir: Path) -> None:
    """The run prints the list as all that LECCR does not pass; a mark or a flag elsewhere is not in it."""
    paths = [path for path in (root_dir / "conformance").glob("*.py") if path.name not in ("conftest.py", "skips.py")]
    sources = {path.name: path.read_text(encoding="utf-8") for path in paths}
    assert {"common_modeling.py", "test_common_modeling.py", "test_common_processing.py"} < set(sources)
    assert not [name for name, text in sources.items() if re.search(r"skip|xfail", text)]
