"""What the worker reports, and who listens: the metrics and the log. The core itself counts and writes nothing."""

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client import Counter as Total

from dispatcher.events import Subject
from dispatcher.policy import Action, Decision, Outcome
from dispatcher.settings import LogFormat, LogLevel


@dataclass(frozen=True, slots=True)
class EventsCollected:
    """Events moved from the outbox to deliveries; `malformed` of them became dead letters."""

    events: int
    malformed: int


@dataclass(frozen=True, slots=True)
class Attempted:
    """A request came to an outcome. `lag`: seconds from the first event's `created_at` to now."""

    subject: Subject
    attempt: int
    events: int
    outcome: Outcome
    decision: Decision
    lag: float


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """A settlement found that the lease of these installations was no longer ours."""

    installations: int


@dataclass(frozen=True, slots=True)
class CrashBuried:
    """Deliveries whose leases expired each time they were due became dead letters."""

    deliveries: int


@dataclass(frozen=True, slots=True)
class Stranded:
    """The sweep mended installations that nothing would have looked at again: a defect in the protocol."""

    installations: int


@dataclass(frozen=True, slots=True)
class Ticked:
    """A tick went through. `in_flight` requests were under way at its end."""

    in_flight: int


@dataclass(frozen=True, slots=True)
class TickFailed:
    """A tick broke off; the next one tries again. `reason` holds no secret."""

    reason: str


@dataclass(frozen=True, slots=True)
class Gauged:
    """What the scheduled query found. Global figures: every replica reports the same ones."""

    backlog: dict[str, int]
    oldest_event_age: float
    dead_letters: dict[str, int]
    paused: dict[str, int]


Report = EventsCollected | Attempted | LeaseLost | CrashBuried | Stranded | Ticked | TickFailed | Gauged
Listener = Callable[[Report], None]


class Metrics:
    """Prometheus metrics in a registry of their own. No label carries an id, a URL or free text."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        total, gauge = self._total, self._gauge
        self._collected = total("events_collected", "Events moved from the outbox to deliveries.")
        self._requests = total("requests", "Requests by what they came to.", "outcome")
        self._seconds = Histogram(
            "dispatcher_request_seconds",
            "How long a request took.",
            registry=self.registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )
        self._lag = Histogram(
            "dispatcher_lag_seconds",
            "From an event's created_at to its delivery.",
            registry=self.registry,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15, 60, 300, 1800, 3600, 21600, 86400),
        )
        self._backlog = gauge("backlog", "Events in the outbox, deliveries due, waiting and paused.", "state")
        self._oldest = gauge(
            "oldest_event_age_seconds", "Age of the oldest event that is not delivered, unless paused."
        )
        self._in_flight = gauge("in_flight", "Requests under way.")
        self._lost = total("lease_lost", "Installations whose lease was gone when an answer was to be settled.")
        self._stranded = total("stranded", "Installations that the sweep had to mend: must stay 0.")
        self._dead = gauge("dead_letters", "Unresolved dead letters.", "reason")
        self._buried = total("dead_lettered", "Deliveries that became dead letters.", "reason")
        self._paused = gauge("installations_paused", "Paused installations.", "reason")
        self._breaker = gauge("breaker_open", "1 while a breaker is open.", "scope")
        self._breaker.labels("host").set(0)
        self._tick = gauge("tick_timestamp_seconds", "When the last tick went through (epoch seconds).")
        gauge("build_info", "1; the labels say which build this is.", "version").labels(version).set(1)

    def _total(self, name: str, text: str, *labels: str) -> Total:
        return Total(f"dispatcher_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"dispatcher_{name}", text, labels, registry=self.registry)

    def __call__(self, report: Report) -> None:  # noqa: C901 (a case a report)
        """Counts what is reported."""
        match report:
            case Attempted():
                self._count_attempt(report)
            case Ticked(in_flight):
                self._tick.set(time.time())
                self._in_flight.set(in_flight)
            case EventsCollected(events, malformed):
                self._collected.inc(events)
                if malformed:
                    self._buried.labels("malformed").inc(malformed)
            case LeaseLost(installations):
                self._lost.inc(installations)
            case CrashBuried(deliveries):
                self._buried.labels("exhausted").inc(deliveries)
            case Stranded(installations):
                self._stranded.inc(installations)
            case Gauged():
                self._gauge_all(report)
            case TickFailed():
                pass

    def _count_attempt(self, attempted: Attempted) -> None:
        self._requests.labels(attempted.outcome.kind.value).inc()
        self._seconds.observe(attempted.outcome.duration)
        if attempted.decision.action is Action.DELIVERED:
            self._lag.observe(max(0.0, attempted.lag))
        elif attempted.decision.action is Action.BURY and attempted.decision.reason is not None:
            self._buried.labels(attempted.decision.reason.value).inc()

    def _gauge_all(self, found: Gauged) -> None:
        for state, count in found.backlog.items():
            self._backlog.labels(state).set(count)
        self._oldest.set(found.oldest_event_age)
        for gauge, counts in ((self._dead, found.dead_letters), (self._paused, found.paused)):
            gauge.clear()
            for reason, count in counts.items():
                gauge.labels(reason).set(count)


class Log:
    """One line for each attempt at debug, and one for each noteworthy change above it."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("dispatcher")
        self._debug = logging.getLogger("dispatcher").isEnabledFor(logging.DEBUG)

    def __call__(self, report: Report) -> None:
        """Writes what is reported."""
        match report:
            case Attempted():
                self._write_attempt(report)
            case LeaseLost(installations):
                self._log.warning("lease lost", installations=installations)
            case CrashBuried(deliveries):
                self._log.error("dead letter", reason="exhausted", deliveries=deliveries, why="lease expired each time")
            case Stranded(installations):
                self._log.error("stranded installations mended", installations=installations)
            case EventsCollected(_, malformed) if malformed:
                self._log.error("dead letter", reason="malformed", events=malformed)
            case TickFailed(reason):
                self._log.error("tick failed, trying again", why=reason)
            case _:
                pass

    def _write_attempt(self, attempted: Attempted) -> None:
        action = attempted.decision.action
        if action is not Action.BURY and not self._debug:
            return
        subject, outcome = attempted.subject, attempted.outcome
        fields = {
            "installation_id": subject.installation_id,
            "resource_id": subject.resource_id,
            "attempt": attempted.attempt,
            "outcome": outcome.kind.value,
            "status": outcome.status,
            "error": outcome.error,
            "decision": action.value,
            "delay": round(attempted.decision.delay, 3),
        }
        told = {name: value for name, value in fields.items() if value is not None}
        if action is Action.BURY:
            self._log.error("dead letter", reason=attempted.decision.reason, **told)
        else:
            self._log.debug("attempt", **told)


def listen(*listeners: Listener) -> Listener:
    """One listener that tells them all."""

    def tell(report: Report) -> None:
        for listener in listeners:
            listener(report)

    return tell


def configure_logging(log_format: LogFormat, log_level: LogLevel) -> None:
    """Lines on stderr: JSON, or for people on a terminal. Those of uvicorn, APScheduler and SQLAlchemy look the same."""
    as_json = log_format is LogFormat.JSON or (log_format is LogFormat.AUTO and not sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    plain = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
    ends = [plain, structlog.processors.JSONRenderer()] if as_json else [structlog.dev.ConsoleRenderer()]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ends]
    )
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [stream]
    root.setLevel(log_level.value.upper())
    for chatty in ("apscheduler", "uvicorn.access", "httpcore", "httpx", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
