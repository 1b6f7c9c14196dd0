"""What a partner's process loads when it only publishes."""

import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest

PUBLISHING = {"dispatcher", "sqlalchemy", "pydantic"}
"""And what these need themselves; the examples install nothing else."""
THEIRS = {"annotated_types", "greenlet", "pydantic_core", "typing_extensions", "typing_inspection"}
OPTIONAL = {"opentelemetry"}
LOADED = "import sys; before = set(sys.modules); import {module}; print(*(sys.modules.keys() - before))"


@pytest.mark.parametrize("module", ["dispatcher", "dispatcher.testing"])
def test_importing_the_producer_api_loads_nothing_of_the_service(module: str) -> None:
    assert PUBLISHING <= load(module) <= PUBLISHING | THEIRS | OPTIONAL


def test_the_same_question_finds_what_the_service_does_load() -> None:
    assert "pyreqwest" in load("dispatcher.transport.reqwest")


def load(module: str) -> set[str]:
    """The installed packages that a fresh interpreter loads with `module`."""
    command = [sys.executable, "-c", LOADED.format(module=module)]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return {name.partition(".")[0] for name in modules} & packages_distributions().keys()
