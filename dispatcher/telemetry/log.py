"""The log: a listener that writes noteworthy reports as lines."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import structlog

from dispatcher.policy.decision import Action
from dispatcher.store import Answer
from dispatcher.telemetry.console_links import dead_letters_link, explain_link, installation_link
from dispatcher.telemetry.repetition import Repetition
from dispatcher.telemetry.reports import (
    Answered,
    BreakerTurned,
    CrashBuried,
    InstallationForgotten,
    InstallationPaused,
    InstallationResumed,
    LeaseLost,
    MalformedBuried,
    Report,
    StepFailed,
    StepRecovered,
    Stranded,
)
from dispatcher.telemetry.retry_storm import RetryStorm

WINDOW_SECONDS = 10.0
"""The time after which the lines that were left out are counted in one."""


class Log:
    """Writes each attempt at debug level, and each noteworthy change above it. Of each kind, the first few lines of a window are
    written, then one that counts the rest. With the URL of the console, lines about a pause or a dead letter link to its pages.
    """

    def __init__(self, console_url: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = structlog.get_logger("dispatcher")
        self._debug = logging.getLogger("dispatcher").isEnabledFor(logging.DEBUG)
        self._console_url = console_url
        self._clock = clock
        self._window_ends = clock() + WINDOW_SECONDS
        self._repetition: Repetition[tuple[int, str, str | None]] = Repetition()
        self._storm = RetryStorm()

    def __call__(self, report: Report) -> None:  # noqa: C901 (a case a report)
        """Writes the report, if it is noteworthy."""
        match report:
            case Answered(answers):
                self._storm.count(answers)
                self._write_answers(answers)
            case LeaseLost(installations):
                self._write(logging.WARNING, "lease lost", installations=installations)
            case CrashBuried(deliveries):
                fields = {"deliveries": deliveries, "why": "lease expired each time"}
                self._write_dead_letter("exhausted", dead_letters_link("exhausted"), fields)
            case Stranded(installations):
                self._write(logging.ERROR, "stranded installations fixed", installations=installations)
            case MalformedBuried():
                self._write_dead_letter("malformed", dead_letters_link("malformed"), _given(asdict(report)))
            case InstallationPaused():
                self._write_pause(report)
            case InstallationResumed(installation_id):
                self._write(logging.INFO, "installation resumed", installation_id=installation_id)
            case InstallationForgotten(installation_id, purged, resolved):
                self._write(
                    logging.INFO,
                    "installation removed",
                    installation_id=installation_id,
                    purged=purged,
                    resolved=resolved,
                )
            case BreakerTurned():
                self._write_breaker(report)
            case StepFailed(step, _, why):
                self._write(logging.ERROR, "step failed, trying again", step=step, why=why)
            case StepRecovered(step, seconds):
                self._write(logging.INFO, "step works again", step=step, seconds=round(seconds, 1))
            case _:
                pass
        if self._clock() >= self._window_ends:
            self.sum_up()

    def sum_up(self) -> None:
        """Ends the window: writes the counts of its lines that were left out, and whether a retry storm began or ended."""
        self._window_ends = self._clock() + WINDOW_SECONDS
        for (level, event, reason), more in self._repetition.end().items():
            fields = {} if reason is None else {"reason": reason}
            self._log.log(level, f"{event}: more of them", more=more, **fields)
        if self._storm.end():
            retries = {f"retry_{kind.value}": count for kind, count in self._storm.retries.items()}
            level, event = (
                (logging.WARNING, "retry storm") if self._storm.raging else (logging.INFO, "retry storm over")
            )
            self._log.log(level, event, attempts=self._storm.attempts, seconds=WINDOW_SECONDS, **retries)
        self._storm.clear()

    @contextmanager
    def limiting(self, *loggers: str) -> Iterator[None]:
        """Limits the lines of these library loggers like the log's own, for the duration of the block."""
        limited = [logging.getLogger(name) for name in loggers]
        for logger in limited:
            logger.addFilter(self._allows)
        try:
            yield
        finally:
            for logger in limited:
                logger.removeFilter(self._allows)

    def _allows(self, record: logging.LogRecord) -> bool:
        # asyncio lists the objects concerned after its first line, which would make each line a kind of its own.
        event = str(record.msg).partition("\n")[0].rstrip(".")
        return self._repetition.allows((record.levelno, event, None))

    def _write(self, level: int, event: str, *, reason: str | None = None, **fields: object) -> None:
        if self._repetition.allows((level, event, reason)):
            self._log.log(level, event, **({} if reason is None else {"reason": reason}), **fields)

    def _write_dead_letter(self, reason: str | None, link: str, fields: Mapping[str, object]) -> None:
        self._write(logging.ERROR, "dead letter", reason=reason, **fields, **self._console(link))

    def _write_pause(self, paused: InstallationPaused) -> None:
        id_, link = paused.installation_id, installation_link(paused.installation_id)
        self._write(
            logging.WARNING,
            "installation paused",
            reason=paused.reason.value,
            installation_id=id_,
            **self._console(link),
        )

    def _console(self, link: str) -> dict[str, str]:
        """The field with the absolute URL of a page of the console, if people open that under a known address."""
        return {} if self._console_url is None else {"console": f"{self._console_url}/{link}"}

    def _write_breaker(self, turned: BreakerTurned) -> None:
        scope = "host" if turned.installation_id is None else "installation"
        fields = {} if turned.installation_id is None else {"installation_id": turned.installation_id}
        if turned.is_open:
            self._write(logging.WARNING, "breaker open", scope=scope, **fields)
        else:
            self._write(logging.INFO, "breaker closed", scope=scope, **fields)

    def _write_answers(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            if self._debug:
                self._log.debug("attempt", **_fields_of(answer))
            if answer.decision.action is Action.BURY:
                reason = answer.decision.reason
                self._write_dead_letter(reason and reason.value, _history_of(answer), _fields_of(answer))


def _history_of(answer: Answer) -> str:
    subject = answer.delivery.subject
    if subject.resource_id is None:
        return explain_link(subject.installation_id)
    return explain_link(subject.resource_id, subject.installation_id)


def _fields_of(answer: Answer) -> dict[str, object]:
    subject, outcome = answer.delivery.subject, answer.outcome
    return _given(
        {
            "installation_id": subject.installation_id,
            "resource_id": subject.resource_id,
            "attempt": answer.delivery.attempts + 1,
            "outcome": outcome.kind.value,
            "status": outcome.status,
            "error": outcome.error,
            "vercel_id": outcome.vercel_id,
            "decision": answer.decision.action.value,
            "delay": round(answer.decision.delay, 3),
        }
    )


def _given(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}
