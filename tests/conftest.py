"""What every test gets: no network, one thread, fixed seeds, a Hub cache of its own."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Set before torch and huggingface_hub are imported, for both read their environment once. Child processes inherit it.
_HUB_CACHE = tempfile.mkdtemp(prefix="leccr-tests-")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["HF_HOME"] = _HUB_CACHE
# A shell may point these at the user's cache, where the modules of one test would be seen by the next.
for _variable in ("HF_MODULES_CACHE", "HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_ASSETS_CACHE"):
    os.environ.pop(_variable, None)
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import random  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from processing import hub_upload  # noqa: E402
from tests.hub_server import HubServer, hub  # noqa: E402

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]


def _data_folder() -> Path | None:
    return Path(os.environ["LECCR_DATA"]) if "LECCR_DATA" in os.environ else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, with the reason."""
    data = _data_folder()
    no_data = pytest.mark.skip(reason="LECCR_DATA does not name a folder of data sets")
    no_gpu = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "realdata" in item.keywords and (data is None or not data.is_dir()):
            item.add_marker(no_data)
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)


def pytest_unconfigure() -> None:
    """Remove the Hub cache of this run."""
    shutil.rmtree(_HUB_CACHE, ignore_errors=True)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """A test gives the same numbers alone, in the suite, and in any order."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub on loopback, to which an upload that failed is repeated at once."""
    monkeypatch.setattr(hub_upload.time, "sleep", lambda seconds: None)
    with hub(tmp_path / "home") as running:
        yield running


@pytest.fixture(scope="session")
def root_dir() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder with values of the official code: LECCR_GOLDEN, or the copy in tests/golden."""
    folder = Path(os.environ.get("LECCR_GOLDEN", ROOT / "tests" / "golden"))
    if not (folder / "config.json").is_file():
        pytest.skip(f"no config.json in {folder}; set LECCR_GOLDEN to a folder of golden values")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the data sets, from LECCR_DATA. For tests marked `realdata`."""
    return Path(os.environ["LECCR_DATA"])
