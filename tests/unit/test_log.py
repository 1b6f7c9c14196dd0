"""Which lines the log contains, and how many of them."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from dispatcher.policy.decision import Action, DeadLetterReason, Decision, PauseReason
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.store import Answer
from dispatcher.telemetry import (
    Answered,
    BreakerTurned,
    CrashBuried,
    EventsCollected,
    InstallationForgotten,
    InstallationPaused,
    InstallationResumed,
    LeaseLost,
    Log,
    MalformedBuried,
    Report,
    StepFailed,
    StepRecovered,
    Stranded,
    Ticked,
)
from dispatcher.telemetry.log import WINDOW_SECONDS
from dispatcher.telemetry.repetition import MAX_LINES
from dispatcher.telemetry.retry_storm import MIN_RETRIES
from tests.unit.answered import answer

DELIVERED = answer(Outcome(OutcomeKind.DELIVERED, 201), Decision(Action.DELIVERED))
RETRIED = answer(Outcome(OutcomeKind.FAILED, 503), Decision(Action.RETRY, delay=2.0))


def buried(ids: tuple[str, str | None]) -> Answer:
    """The answer that makes this delivery a dead letter."""
    decision = Decision(Action.BURY, DeadLetterReason.REJECTED)
    return answer(Outcome(OutcomeKind.REJECTED, 400), decision, ids=ids)


REJECTED = buried(("icfg_1", "db_1"))


class LogUnderTest:
    """A log with a clock that the test moves, and its lines."""

    def __init__(self, lines: list[Any], console_url: str | None = None) -> None:
        self.now = 0.0
        self.lines = lines
        self._log = Log(console_url, lambda: self.now)

    def __call__(self, *reports: Report) -> None:
        for report in reports:
            self._log(report)

    def end_of_window(self) -> None:
        """Moves the clock to the end of the window, where a tick sums it up."""
        self.now += WINDOW_SECONDS
        self._log(Ticked(0))

    def with_event(self, event: str) -> list[Any]:
        return [line for line in self.lines if line["event"] == event]


@pytest.fixture
def log() -> Iterator[LogUnderTest]:
    with structlog.testing.capture_logs() as lines:
        yield LogUnderTest(lines)


@pytest.mark.parametrize(
    ("report", "level", "event"),
    [
        (Answered([REJECTED]), "error", "dead letter"),
        (MalformedBuried(7, "icfg_1", None, "resource_id is missing"), "error", "dead letter"),
        (CrashBuried(2), "error", "dead letter"),
        (LeaseLost(1), "warning", "lease lost"),
        (Stranded(1), "error", "stranded installations fixed"),
        (InstallationPaused("icfg_1", PauseReason.UNAUTHORIZED), "warning", "installation paused"),
        (InstallationResumed("icfg_1"), "info", "installation resumed"),
        (InstallationForgotten("icfg_1", purged=2, resolved=1), "info", "installation removed"),
        (BreakerTurned(True), "warning", "breaker open"),
        (BreakerTurned(False, "icfg_1"), "info", "breaker closed"),
        (StepFailed("tick", "ValueError", "ValueError: no"), "error", "step failed, trying again"),
        (StepRecovered("tick", 12.34), "info", "step works again"),
    ],
)
def test_each_noteworthy_change_is_a_line(log: LogUnderTest, report: Report, level: str, event: str) -> None:
    log(report)
    (line,) = log.lines
    assert (line["log_level"], line["event"]) == (level, event)


def test_a_malformed_row_is_named(log: LogUnderTest) -> None:
    log(MalformedBuried(7, "icfg_1", None, "resource_id is missing"))
    (line,) = log.lines
    assert (line["reason"], line["event_id"], line["installation_id"]) == ("malformed", 7, "icfg_1")
    assert line["why"] == "resource_id is missing"
    assert "resource_id" not in line


@pytest.mark.parametrize(
    ("report", "path"),
    [
        (InstallationPaused("icfg_1", PauseReason.UNAUTHORIZED), "installations/icfg_1"),
        (InstallationPaused("icfg/1?", PauseReason.DISABLED), "explain?id=icfg%2F1%3F"),
        (Answered([REJECTED]), "explain?id=db_1&installation=icfg_1"),
        (Answered([buried(("icfg_1", "a b/#?&=ü"))]), "explain?id=a+b%2F%23%3F%26%3D%C3%BC&installation=icfg_1"),
        (Answered([buried(("icfg_1", None))]), "explain?id=icfg_1"),
        (MalformedBuried(7, "<icfg>", None, "resource_id is missing"), "dead-letters?reason=malformed"),
        (CrashBuried(2), "dead-letters?reason=exhausted"),
    ],
)
def test_a_pause_and_a_dead_letter_link_to_the_console(log: LogUnderTest, report: Report, path: str) -> None:
    LogUnderTest(log.lines, "https://ops.example.com/outbox")(report)
    log(report)
    linked, plain = log.lines
    assert linked.pop("console") == f"https://ops.example.com/outbox/{path}"
    assert linked == plain


def test_success_writes_no_line(log: LogUnderTest) -> None:
    log(Answered([DELIVERED, RETRIED]), EventsCollected(7, 0), Ticked(3))
    log.end_of_window()
    assert log.lines == []


def test_at_debug_level_each_answer_is_a_line_with_its_attempt(log: LogUnderTest) -> None:
    logging.getLogger("dispatcher").setLevel(logging.DEBUG)
    try:
        log = LogUnderTest(log.lines)
    finally:
        logging.getLogger("dispatcher").setLevel(logging.NOTSET)
    log(Answered([DELIVERED, REJECTED]))
    assert [(line["event"], line["attempt"], line["status"]) for line in log.lines] == [
        ("attempt", 1, 201),
        ("attempt", 1, 400),
        ("dead letter", 1, 400),
    ]


def test_a_thousand_dead_letters_are_a_few_lines_and_a_sum(log: LogUnderTest) -> None:
    log(
        Answered([REJECTED] * 1_000),
        *[CrashBuried(1)] * 3,
        *[InstallationPaused("icfg_1", PauseReason.DISABLED)] * 1_000,
    )
    assert len(log.with_event("dead letter")) == MAX_LINES + 3
    assert len(log.with_event("installation paused")) == MAX_LINES
    log.end_of_window()
    (sum_,) = log.with_event("dead letter: more of them")
    assert (sum_["reason"], sum_["more"], sum_["log_level"]) == ("rejected", 1_000 - MAX_LINES, "error")
    (paused,) = log.with_event("installation paused: more of them")
    assert (paused["reason"], paused["more"]) == ("disabled", 1_000 - MAX_LINES)
    lines = len(log.lines)
    log.end_of_window()
    assert len(log.lines) == lines
    log(Answered([REJECTED]))
    assert len(log.lines) == lines + 1


def test_a_retry_storm_is_a_line_when_it_begins_and_when_it_is_over(log: LogUnderTest) -> None:
    log(Answered([RETRIED] * (MIN_RETRIES - 1)))
    log.end_of_window()
    log(Answered([RETRIED] * MIN_RETRIES), Answered([DELIVERED] * (MIN_RETRIES + 1)))  # many fail, but most succeed
    log.end_of_window()
    assert log.lines == []
    for _ in range(3):
        log(Answered([*[RETRIED] * MIN_RETRIES, DELIVERED]))
        log.end_of_window()
    (storm,) = log.lines
    assert (storm["event"], storm["log_level"]) == ("retry storm", "warning")
    assert (storm["attempts"], storm["retry_failed"]) == (MIN_RETRIES + 1, MIN_RETRIES)
    log.end_of_window()
    log.end_of_window()
    assert [line["event"] for line in log.lines] == ["retry storm", "retry storm over"]


def test_lines_of_a_library_are_limited_like_our_own() -> None:
    log, library = Log(), logging.getLogger("a.library")
    written: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: written.append(record.getMessage())  # type: ignore[method-assign]  # its only purpose
    library.addHandler(handler)
    with structlog.testing.capture_logs() as lines:
        with log.limiting("a.library"):
            for number in range(MAX_LINES + 3):
                library.warning("It broke.\ntransport: <%d>", number)
            library.warning("Something else")
        log.sum_up()
        library.warning("It broke.\nafterwards")
    library.removeHandler(handler)
    assert len(written) == MAX_LINES + 2
    assert [(line["event"], line["more"], line["log_level"]) for line in lines] == [
        ("It broke: more of them", 3, "warning")
    ]
