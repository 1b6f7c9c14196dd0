"""Prometheus metrics: a listener that counts the reports."""

import time
from collections import Counter
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client import Counter as Total

from dispatcher.policy.decision import Action, DeadLetterReason, PauseReason
from dispatcher.policy.outcome import OutcomeKind
from dispatcher.store import Answer
from dispatcher.telemetry.distribution import Distribution
from dispatcher.telemetry.reports import (
    Answered,
    BreakerTurned,
    CrashBuried,
    EventsCollected,
    Gauged,
    LeaseLost,
    Report,
    Stranded,
    Ticked,
)

REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LAG_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15, 60, 300, 1800, 3600, 21600, 86400)


class Metrics:
    """Prometheus metrics in a registry of their own. No label carries an id, a URL or free text."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        total, gauge = self._total, self._gauge
        self._collected = total("events_collected", "Events moved from the outbox to deliveries.")
        requests = total("requests", "Requests by outcome.", "outcome")
        self._requests = {kind: requests.labels(kind.value) for kind in OutcomeKind}
        self._seconds = Distribution(
            "dispatcher_request_seconds", "How long a request took.", REQUEST_SECONDS, self.registry
        )
        self._lag = Distribution(
            "dispatcher_lag_seconds", "From an event's created_at to its delivery.", LAG_SECONDS, self.registry
        )
        self._backlog = gauge("backlog", "Events in the outbox, deliveries due, waiting and paused.", "state")
        self._oldest = gauge(
            "oldest_event_age_seconds", "Age of the oldest undelivered event, excluding paused installations."
        )
        self._overdue = gauge(
            "overdue_seconds",
            "How long the longest waiting event or installation has been ready to be sent: neither in backoff nor at the rate limit"
            " nor paused.",
        )
        self._in_flight = gauge("in_flight", "Requests in flight.")
        self._lost = total("lease_lost", "Installations whose lease was lost before an answer could be settled.")
        self._stranded = total("stranded", "Installations that the sweep had to fix: must stay 0.")
        self._dead = gauge("dead_letters", "Unresolved dead letters.", "reason")
        self._buried = total("dead_lettered", "Deliveries that became dead letters.", "reason")
        self._installations = gauge(
            "installations",
            "Installations: known ones, and failing ones, whose last request did not succeed (without paused ones).",
            "state",
        )
        self._paused = gauge("installations_paused", "Paused installations.", "reason")
        self._breaker = gauge(
            "breaker_open", "Open breakers: the host's as this replica sees it, and those of installations.", "scope"
        )
        self._tick = gauge("tick_timestamp_seconds", "When the last tick succeeded (epoch seconds).")
        gauge("build_info", "Always 1; the labels identify the build.", "version").labels(version).set(1)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """A rate notices the first increase of a series only if the series has existed before, at 0."""
        for reason in DeadLetterReason:
            self._buried.labels(reason.value)
        for scope in ("host", "installation"):
            self._breaker.labels(scope)

    def _total(self, name: str, text: str, *labels: str) -> Total:
        return Total(f"dispatcher_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"dispatcher_{name}", text, labels, registry=self.registry)

    def __call__(self, report: Report) -> None:  # noqa: C901 (a case a report)
        match report:
            case Answered(answers):
                self._count_answers(answers)
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
            case BreakerTurned(is_open, None):
                self._breaker.labels("host").set(is_open)
            case _:
                pass

    def _count_answers(self, answers: Sequence[Answer]) -> None:
        for kind, number in Counter(answer.outcome.kind for answer in answers).items():
            self._requests[kind].inc(number)
        self._seconds.observe([answer.outcome.duration for answer in answers])
        self._lag.observe([max(0.0, one.lag) for one in answers if one.decision.action is Action.DELIVERED])
        for answer in answers:
            if answer.decision.action is Action.BURY and answer.decision.reason is not None:
                self._buried.labels(answer.decision.reason.value).inc()

    def _gauge_all(self, gauged: Gauged) -> None:
        for state, count in gauged.backlog.items():
            self._backlog.labels(state).set(count)
        self._oldest.set(gauged.oldest_event_age)
        self._overdue.set(gauged.overdue)
        self._breaker.labels("installation").set(gauged.open_breakers)
        self._installations.labels("known").set(gauged.installations)
        self._installations.labels("failing").set(gauged.failing)
        for reason in DeadLetterReason:
            self._dead.labels(reason.value).set(gauged.dead_letters.get(reason, 0))
        for pause in PauseReason:
            self._paused.labels(pause.value).set(gauged.paused.get(pause, 0))
