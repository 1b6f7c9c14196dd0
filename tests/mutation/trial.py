"""Runs quick tests on a mutant, in a process that is forked from one that has loaded the libraries."""

import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType

import pytest

from tests.mutation.mutants import Mutant

LIBRARIES = (
    "aiosqlite", "alembic.command", "apscheduler", "httpx", "hypothesis", "opentelemetry.sdk.trace", "prometheus_client",
    "pydantic_settings", "pytest_asyncio", "pytest_cov.plugin", "rich.console", "sqlalchemy.dialects.sqlite",
    "sqlalchemy.orm", "starlette.applications", "structlog", "typer", "uvicorn",
)  # fmt: skip
QUIET_OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
"""The ignored warning is about libraries that are also plugins: they are loaded before pytest starts."""
MAX_TRIAL_SECONDS = 120.0
"""A mutant whose trial takes longer hangs, and counts as noticed."""


def load_libraries() -> None:
    """Imports the libraries that every trial needs, and nothing of the project: each trial imports it with a change."""
    for name in LIBRARIES:
        importlib.import_module(name)


def survives(mutant: Mutant, tests: Sequence[str], failed: Path) -> bool:
    """Whether all these tests pass. The name of a test that fails is written to `failed`."""
    trial = os.fork()
    if trial == 0:
        try:
            os._exit(_run(mutant, tests, failed))
        finally:
            os._exit(1)
    deadline = time.monotonic() + MAX_TRIAL_SECONDS
    passed = False
    while time.monotonic() < deadline:
        ended, status = os.waitpid(trial, os.WNOHANG)
        if ended:
            passed = status == 0
            break
        time.sleep(0.02)
    _kill(trial)
    return passed


def _kill(trial: int) -> None:
    """Kills the trial if it hangs, and the processes that it left behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(trial, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(trial, 0)


def _run(mutant: Mutant, tests: Sequence[str], failed: Path) -> int:
    os.setsid()
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(silence, stream)
    sys.meta_path.insert(0, _Changed(mutant))
    return pytest.main([*QUIET_OPTIONS, *tests], plugins=[_Failure(failed)])


class _Changed(SourceFileLoader):
    """Imports the mutant's module with the change."""

    def __init__(self, mutant: Mutant) -> None:
        name = ".".join(mutant.path.with_suffix("").parts).removesuffix(".__init__")
        super().__init__(name, str(mutant.path.resolve()))
        self._changed = mutant.applied(mutant.path.read_text())

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Returns a spec only for the mutant's module."""
        return spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, _fullname: str) -> CodeType:
        """Compiles the changed text, without reading or writing a cache."""
        return compile(self._changed, self.path, "exec", dont_inherit=True)


class _Failure:
    def __init__(self, failed: Path) -> None:
        self._failed = failed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes the test that failed."""
        if report.failed:
            self._failed.write_text(report.nodeid)
