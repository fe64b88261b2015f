"""What an installed wheel gives: all files that the packages read, and commands that work from any folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hub_scripts import verify_export
from tests.loading_worker import PACKAGES

# Each reads files beside its modules; the metric is pushed from where it is installed.
CHILD = """
import sys
import modeling_leccr
from hub_scripts import cli, dataset_card
from reporting import model_card
for module in (modeling_leccr, cli, model_card):
    assert module.__file__.startswith(sys.argv[1]), module.__file__
assert model_card.TEMPLATE.is_file()
cli.main(["push_metric", "--repo", "org/crosslingual_retrieval", "--dry-run"])
"""


@pytest.fixture(scope="module")
def installed(root_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of a wheel that was built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in PACKAGES:
        shutil.copytree(root_dir / name, folder / "source" / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root_dir / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(folder / "source")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_every_file_of_the_packages(installed: Path, root_dir: Path):
    """An editable install reads a template from the repository, and so hides that the wheel has none."""
    missing = [
        path.relative_to(root_dir).as_posix()
        for name in PACKAGES
        for path in (root_dir / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not (installed / path.relative_to(root_dir)).is_file()
    ]
    assert not missing


def test_a_stranger_has_none_of_the_packages_of_the_wheel(installed: Path):
    """A package that is not hidden from strangers lets a model pass that nobody else can load."""
    names = {path.name for path in installed.iterdir() if path.is_dir() and path.suffix != ".dist-info"}
    assert names == set(PACKAGES) == set(verify_export.PACKAGES)


def test_what_is_installed_works_from_any_folder(installed: Path, tmp_path: Path):
    """Paths relative to the repository work for us alone."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(installed)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told, _ = json.JSONDecoder().raw_decode(done.stdout)  # the card comes after it
    assert sorted(told["would_send"]) == ["README.md", "app.py", "crosslingual_retrieval.py", "requirements.txt"]
