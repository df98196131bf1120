"""The order of the tests, their time limits, and what continuous integration does not accept."""

import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.charmap import charmap

HERE = Path(__file__).parent
CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}

ORDER = ("", "unit", "contract", "keras", "ray", "chaos", "docs")
"""Folders in the order they run: what is quick and narrow fails first. "" are the files beside
this one; whatever bears the marker `docs` runs last, wherever it lies."""

LONG = (
    "chaos/test_training.py",
    "ray/test_tune.py",
    "chaos/test_serving.py",
    "ray/test_jobs.py",
    "ray/test_ray_train.py",
)
"""Files that take minutes, the longest first. Where processes share the tests, file by file, these
begin, or one process would be left with one of them when the other has nothing to do."""

TIMEOUT_S = {"unit": 60, "contract": 60, "keras": 240, "ray": 400, "chaos": 400, "docs": 400}
"""Seconds of wall time a test. A last resort: on a busy machine wall time says little."""

CPU_S = {"unit": 2.0, "contract": 2.0}
"""Seconds of processor time a test; the same on a busy machine as on an idle one."""

settings.register_profile(
    "hapredict",
    deadline=None,  # CPU_S is the limit
    database=None,  # a failure is kept as a test, not as a file that nobody sees
    derandomize=CI,  # a change is blamed for its own failures only
    suppress_health_check=[HealthCheck.too_slow],  # says that the machine is busy
)
settings.load_profile("hapredict")


def folder_of(item: pytest.Item) -> str:
    """The entry of ORDER to which a test belongs."""
    if item.get_closest_marker("docs"):
        return "docs"
    parts = item.path.relative_to(HERE).parts
    return parts[0] if len(parts) > 1 else ""


def file_of(item: pytest.Item) -> str:
    """A test's file, as LONG names it."""
    return item.path.relative_to(HERE).as_posix()


@pytest.fixture(scope="session", autouse=True)
def _unicode_table() -> None:
    """Hypothesis builds it on first use, which would count against whatever test comes first."""
    charmap()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        folder = folder_of(item)
        if folder not in ORDER:
            message = f"tests/{folder} is no known folder; add it to ORDER in tests/conftest.py"
            raise pytest.UsageError(message)
        if folder in {"keras", "ray", "chaos"}:
            item.add_marker(folder)
        if folder in TIMEOUT_S and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S[folder]))
    items.sort(key=lambda item: ORDER.index(folder_of(item)))
    if hasattr(config, "workerinput"):  # a process of xdist
        items.sort(
            key=lambda item: LONG.index(file_of(item)) if file_of(item) in LONG else len(LONG)
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    limit_s = CPU_S.get(folder_of(item))
    if limit_s is None:
        return (yield)
    if sys.gettrace() is not None:
        limit_s *= 2  # coverage follows each line, which costs about as much again
    start_s = time.process_time()
    outcome = yield
    used_s = time.process_time() - start_s
    if used_s > limit_s:
        pytest.fail(f"took {used_s:.1f} s of processor time; the limit here is {limit_s:g} s")
    return outcome


NO_GPU = "no GPU here"
"""The one thing that integration has to do without."""


def _left_out(reporter) -> int:
    stats = reporter.stats
    excused = [one for one in stats.get("skipped", []) if NO_GPU in str(one.longrepr)]
    counts = (len(stats.get(kind, [])) for kind in ("skipped", "xfailed", "xpassed"))
    return sum(counts) - len(excused)


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if CI and reporter is not None and _left_out(reporter) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter) -> None:
    left_out = _left_out(terminalreporter)
    if CI and left_out:
        terminalreporter.section("skipped tests", red=True)
        terminalreporter.line(f"{left_out} tests were left out; with CI=true each must run")
