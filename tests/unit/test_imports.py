"""What a partner's process loads when it only publishes."""

import subprocess
import sys

SERVICE_ONLY = {"apscheduler", "httpx", "starlette", "structlog", "typer", "uvicorn", "uvloop", "pyreqwest", "alembic"}
LOADED = "import sys, {module}; print(' '.join({{name.partition('.')[0] for name in sys.modules}}))"


def test_importing_the_producer_api_loads_nothing_of_the_service() -> None:
    assert not SERVICE_ONLY & load("dispatcher")


def test_the_same_question_finds_what_the_service_does_load() -> None:
    assert "httpx" in load("dispatcher.vercel")


def load(module: str) -> set[str]:
    """The top-level packages in a fresh interpreter that has imported `module`."""
    command = [sys.executable, "-c", LOADED.format(module=module)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
