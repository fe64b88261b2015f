"""The common tests of transformers, from the source archive of the installed version: the wheel does not hold them."""

import subprocess
import sys
import tarfile
from importlib.metadata import version as installed_version
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "conformance"
# Not `tests`, as in the archive: that is the name of our own tests, of which the conformance tests use tests/tiny.py.
PACKAGE = "transformers_tests"
REQUIRED = ("test_modeling_common.py", "test_configuration_common.py", "test_processing_common.py")
# What the common tests import and the archive lacks: tests of generation, of export and of text configurations, which
# do not apply, and a cache of the files on the Hub that some inputs name.
STUBS = {
    f"{PACKAGE}/__init__.py": "",
    f"{PACKAGE}/utils/__init__.py": "",
    f"{PACKAGE}/utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    f"{PACKAGE}/exporters/__init__.py": "",
    f"{PACKAGE}/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    f"{PACKAGE}/generation/__init__.py": "",
    f"{PACKAGE}/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url):\n    return url\n",
}


def common_tests(cache: Path = CACHE, version: str | None = None) -> Path:
    """Folder from which `transformers_tests` can be imported; fetched once for each version, whole or not at all.

    Args:
        cache: where the folders of all versions lie.
        version: of transformers; None is the installed one.

    Raises:
        ConnectionError: pip could not download the archive.
        ValueError: the archive is not what it should be.
    """
    version = version or installed_version("transformers")
    folder = cache / f"transformers-{version}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache) as staging:
            unpacked = Path(staging) / "unpacked"
            unpack(_download(version, Path(staging)), version, unpacked)
            unpacked.rename(folder)
    return folder


def unpack(archive: Path, version: str, folder: Path) -> None:
    """Write the common tests of a source archive and what they import to a new folder.

    Raises:
        ValueError: the archive is of another version, has a path outside its root, or lacks a common test.
    """
    root = f"transformers-{version}"
    with tarfile.open(archive) as members:
        for name in members.getnames():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or path.parts[0] != root:
                raise ValueError(
                    f"{archive.name} must hold nothing outside {root}/, got {name!r}; delete and fetch it."
                )
        files = {member.name: member for member in members.getmembers() if member.isfile()}
        missing = [name for name in REQUIRED if f"{root}/tests/{name}" not in files]
        if missing:
            raise ValueError(f"{archive.name} lacks the common tests {missing}; this version may have moved them.")
        (folder / PACKAGE).mkdir(parents=True)
        for name, member in files.items():
            path = PurePosixPath(name)
            content = members.extractfile(member)
            if path.parent == PurePosixPath(root, "tests") and path.suffix == ".py" and content is not None:
                (folder / PACKAGE / path.name).write_bytes(content.read())
    for name, text in STUBS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _download(version: str, folder: Path) -> Path:
    """The source archive, by pip, which checks it against the hash of the index."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    source = ["--no-binary", "transformers", f"transformers=={version}", "--dest", str(folder)]
    result = subprocess.run([*pip, *source], capture_output=True, text=True, check=False)
    archive = folder / f"transformers-{version}.tar.gz"
    if result.returncode or not archive.is_file():
        raise ConnectionError(
            f"pip could not download the source archive of transformers {version}, which holds its common tests; "
            f"connect to the package index and try again. pip said:\n{result.stderr.strip()[-1000:]}"
        )
    return archive
