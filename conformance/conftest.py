"""Run the common tests of transformers against LECCR; at the end, what passed and what was skipped for which reason."""

import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

# Set before torch and huggingface_hub are imported, for both read their environment once.
_HUB_CACHE = tempfile.mkdtemp(prefix="leccr-conformance-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = _HUB_CACHE
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"

import pytest  # noqa: E402

from conformance.fetch import common_tests  # noqa: E402
from conformance.skips import OUR_SKIPS, check_skips  # noqa: E402

sys.path.insert(0, str(common_tests()))

OURS = "ours: "


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is in our list, and refuse an entry that names no test any more."""
    modules = {item.path: vars(item.module) for item in items if isinstance(item, pytest.Function)}
    classes = {name: value for module in modules.values() for name, value in module.items() if isinstance(value, type)}
    try:
        check_skips(OUR_SKIPS, classes, is_whole=set(modules) >= set(Path(__file__).parent.glob("test_*.py")))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    for item in items:
        reason = OUR_SKIPS.get("::".join(item.nodeid.split("::")[1:]))
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=OURS + reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of passed tests, and each reason to skip with the number of tests that it took away."""
    reasons: dict[str, Counter[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        reasons.setdefault(reason, Counter())[report.nodeid.rpartition("::")[2]] += 1
    terminalreporter.section("conformance")
    terminalreporter.write_line(f"{len(terminalreporter.stats.get('passed', []))} passed")
    for title, ours in (("skipped by us", True), ("skipped by transformers", False)):
        chosen = {reason: tests for reason, tests in reasons.items() if reason.startswith(OURS) == ours}
        terminalreporter.write_line(f"{sum(tests.total() for tests in chosen.values())} {title}")
        for reason, tests in sorted(chosen.items(), key=lambda row: -row[1].total()):
            more = f" and {len(tests) - 1} more" if len(tests) > 1 else ""
            terminalreporter.write_line(f"  {tests.total():4} {reason.removeprefix(OURS)} ({min(tests)}{more})")


def pytest_unconfigure() -> None:
    """Remove the Hub cache of this run."""
    shutil.rmtree(_HUB_CACHE, ignore_errors=True)
