"""Tests of real processes and of a real browser get a second try, because other processes on the machine can starve them. Second tries are
never hidden: each is printed as FLAKY at the end, and more than three make the run fail. Every other test gets one try.
"""

from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

MAX_FLAKY = 3
WITH_SECOND_TRY = [Path(__file__).with_name("processes"), Path(__file__).with_name("console") / "browser"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives these tests their second try."""
    for item in items:
        if any(item.path.is_relative_to(one) for one in WITH_SECOND_TRY):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a run in which too many tests needed their second try."""
    if len(flaky_tests(session.config)) > MAX_FLAKY and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Prints each test that needed its second try, with its first failure."""
    flaky = flaky_tests(terminalreporter.config)
    for name, report in flaky.items():
        terminalreporter.section(f"FLAKY {name}", yellow=True)
        terminalreporter.write_line(report.longreprtext)
    if len(flaky) > MAX_FLAKY:
        terminalreporter.section(f"{len(flaky)} FLAKY tests, at most {MAX_FLAKY} are allowed", red=True)


def flaky_tests(config: pytest.Config) -> dict[str, pytest.TestReport]:
    """Returns the first failure of each test whose second try passed, by the test's name; empty in pytest-xdist's worker processes."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return {}
    broken = {report.nodeid for outcome in ("failed", "error") for report in reporter.stats.get(outcome, [])}
    return {report.nodeid: report for report in reporter.stats.get("rerun", []) if report.nodeid not in broken}
