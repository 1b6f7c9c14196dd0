"""The format of every line, those of libraries included."""

import json
import os
import pty
import subprocess
import sys

import pytest

# Lines that libraries write through `logging` in the process of the service.
LIBRARIES = """
import logging, sys, warnings
from dispatcher.settings.settings import LogFormat, LogLevel
from dispatcher.telemetry import configure_logging

configure_logging(LogFormat(sys.argv[1]), LogLevel.DEBUG)
logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
logging.getLogger("uvicorn.access").info("GET /livez")
logging.getLogger("apscheduler.executors.default").error("Job raised an exception")
logging.getLogger("apscheduler.scheduler").info("Added job")
logging.getLogger("sqlalchemy.pool").error("Exception closing connection")
logging.getLogger("sqlalchemy.engine.Engine").info("SELECT %s", "s3cret")
warnings.warn("old", DeprecationWarning)
try:
    token = "s3cret"
    raise ValueError("no\\x1b[3J")
except ValueError:
    logging.getLogger("asyncio").exception("Task exception was never retrieved \\x1b[2J")
import structlog
structlog.get_logger("dispatcher").info("attempt", resource_id="\\x1b[2J\\nforged")
"""
EXPECTED = ["uvicorn", "apscheduler.executors.default", "sqlalchemy.pool", "py.warnings", "asyncio", "dispatcher"]


def on_terminal(log_format: str, **environment: str) -> str:
    """Returns what the process writes to a terminal."""
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "wb") as screen:
        command = [sys.executable, "-c", LIBRARIES, log_format]
        subprocess.run(command, check=True, stderr=screen, env=os.environ | environment)
        os.set_blocking(controller, False)
        shown = os.read(controller, 65_536).decode()
    os.close(controller)
    return shown


def test_the_lines_of_libraries_are_json_too_and_contain_no_secret() -> None:
    done = subprocess.run([sys.executable, "-c", LIBRARIES, "auto"], check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["logger"] for line in lines] == EXPECTED
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    assert lines[0]["event"] == "Invalid HTTP request received."
    assert lines[4]["exception"][0]["exc_type"] == "ValueError"
    assert "s3cret" not in done.stderr


DEAD_LETTER = """
from dispatcher.policy.decision import Action, DeadLetterReason, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.settings.settings import LogFormat, LogLevel
from tests.unit.answered import answer
from dispatcher.telemetry import Answered, Log, configure_logging

configure_logging(LogFormat.TEXT, LogLevel.INFO)
decision = Decision(Action.BURY, DeadLetterReason.REJECTED)
Log()(Answered([answer(Outcome(OutcomeKind.REJECTED, 400, vercel_id="fra1::abc"), decision)]))
"""


def test_text_names_a_reason_by_its_word() -> None:
    done = subprocess.run([sys.executable, "-c", DEAD_LETTER], check=True, capture_output=True, text=True)
    assert "dead letter" in done.stderr
    for field in ("reason='rejected'", "outcome='rejected'", "decision='dead_letter'", "vercel_id='fra1::abc'"):
        assert field in done.stderr
    assert "<" not in done.stderr


def test_text_in_a_file_has_no_colors() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIBRARIES, "text"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "TERM": "xterm"},
    )
    assert "Invalid HTTP request received." in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(("no_color", "colored"), [("", True), ("1", False)])
def test_a_terminal_has_colors_unless_they_are_declined(no_color: str, colored: bool) -> None:
    shown = on_terminal("auto", TERM="xterm", NO_COLOR=no_color)
    assert ("\x1b[" in shown) is colored


def test_on_a_terminal_lines_are_for_people_and_cannot_control_it() -> None:
    shown = on_terminal("auto", TERM="dumb")
    assert not shown.startswith("{")
    assert "ValueError: no" in shown
    assert "\x1b" not in shown
    assert "s3cret" not in shown
    assert "\nforged" not in shown
