"""The tables, in memory: what the steps of `dispatcher/store` read and write, without SQL, crashes and other people's locks.

A collection takes the events that are visible when it begins, and its deliveries appear when it ends; a claim's leases exist from its
beginning, a settlement's effect from its end. So a look overlooks nothing but what another dispatcher is about to lease.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import NamedTuple

from dispatcher.outbox.events import Subject
from dispatcher.policy.decision import Action
from dispatcher.store import Answer, Delivery, InstallationState, Leased

SOME_TIME = datetime(2026, 1, 1, tzinfo=UTC)
"""For columns on which nothing here depends."""
_PUT_OFF = {Action.RETRY, Action.THROTTLE, Action.PAUSE}


class Event(NamedTuple):
    """A row of the outbox."""

    committed_at: float
    installation_id: str
    subject_key: str


@dataclass(slots=True)
class Waiting:
    """A row of `vercel_delivery`."""

    version: str
    due_at: float
    first_at: float
    """The commit of its first event …"""
    last_at: float
    """… and of its newest."""
    events: int = 1
    attempts: int = 0
    gone: int = 0


@dataclass(slots=True)
class Installation:
    """A row of `vercel_installation`."""

    due_at: float | None = None
    token: str | None = None
    leased_until: float = 0.0
    pause_reason: str | None = None
    paused_until: float | None = None
    paused_since: float = 0.0
    throttled_until: float | None = None
    rate_window: str | None = None
    failures: int = 0
    faults: int = 0
    waiting: dict[str, Waiting] = field(default_factory=dict)


Concluded = Callable[[Answer, Waiting], object]
"""Is called with each answer that ends a delivery."""


class Tables:
    """`concluded`: see there."""

    def __init__(self, concluded: Concluded) -> None:
        self._concluded = concluded
        self._outbox: deque[Event] = deque()
        self._collecting = 0
        self._due: list[tuple[float, str]] = []
        self._version = 0
        self.is_locked = False
        """Whether a dispatcher has the collector's row locked."""
        self.installations: dict[str, Installation] = {}

    @property
    def in_outbox(self) -> int:
        """Events whose collection has not ended."""
        return len(self._outbox) + self._collecting

    def commit(self, events: Iterable[Event]) -> None:
        """Adds events to the outbox."""
        self._outbox.extend(events)

    # collect ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def begin_collection(self, limit: int) -> list[Event]:
        """Locks the collector's row and returns the events to move."""
        self.is_locked = True
        events = [self._outbox.popleft() for _ in range(min(limit, len(self._outbox)))]
        self._collecting = len(events)
        return events

    def end_collection(self, events: Sequence[Event], now: float) -> None:
        """Adds the events to the deliveries, makes their installations due, and unlocks the collector's row."""
        self._version += 1
        version = str(self._version)
        for event in events:
            row = self.installations.get(event.installation_id)
            if row is None:
                row = self.installations[event.installation_id] = Installation()
            self._mark_due(event.installation_id, row, now)
            one = row.waiting.get(event.subject_key)
            if one is None:
                row.waiting[event.subject_key] = Waiting(version, now, event.committed_at, event.committed_at)
                continue
            one.version, one.events, one.last_at = version, one.events + 1, event.committed_at
            if not one.attempts:
                one.due_at = now
        self.is_locked, self._collecting = False, 0

    def _mark_due(self, installation_id: str, row: Installation, now: float) -> None:
        allowed = max(now, row.paused_until or 0.0, row.throttled_until or 0.0)
        if row.due_at is None or row.due_at > allowed:
            row.due_at = allowed
            if row.token is None:
                heapq.heappush(self._due, (allowed, installation_id))

    # claim and pull ───────────────────────────────────────────────────────────────────────────────────────────────────

    def any_due(self, now: float) -> bool:
        """Whether an installation is due and free."""
        due = self._due
        while due and due[0][0] <= now:
            row = self.installations[due[0][1]]
            if row.token is None and row.due_at == due[0][0]:
                return True
            heapq.heappop(due)
        return False

    def lease(self, limit: int, now: float, token: str, until: float) -> list[str]:
        """Leases at most `limit` due installations."""
        ids: list[str] = []
        while len(ids) < limit and self.any_due(now):
            _, installation_id = heapq.heappop(self._due)
            row = self.installations[installation_id]
            row.token, row.leased_until = token, until
            ids.append(installation_id)
        return ids

    def read(self, ids: Iterable[str], limit: int, token: str, now: float) -> list[Leased]:
        """Returns the leased rows with at most `limit` due deliveries each."""
        return [self._leased(id_, self.installations[id_], limit, token, now) for id_ in ids]

    def _leased(self, id_: str, row: Installation, limit: int, token: str, now: float) -> Leased:
        paused_for = None if row.pause_reason is None else timedelta(seconds=now - row.paused_since)
        deliveries = tuple(_delivery(id_, key, one) for key, one in self._first_due(row, limit, now))
        return Leased(
            id_, token, deliveries, row.rate_window, row.failures, row.faults, 0, row.pause_reason, paused_for
        )

    def _first_due(self, row: Installation, limit: int, now: float) -> list[tuple[str, Waiting]]:
        due = [(key, one) for key, one in row.waiting.items() if one.due_at <= now]
        if len(due) > limit:
            due.sort(key=lambda pair: pair[1].due_at)
        return due[:limit]

    def renew(self, ids: Iterable[str], until: float) -> None:
        """Extends these leases."""
        for id_ in ids:
            self.installations[id_].leased_until = until

    # settle ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def settle(self, answers: Sequence[Answer], states: Sequence[InstallationState], now: float, lease: float) -> None:
        """Writes the answers, then the states of their installations."""
        for answer in answers:
            self._write_answer(answer, now)
        for state in states:
            row = self.installations[state.installation_id]
            assert row.leased_until >= now, "a lease has expired, which this model does not have"
            if not state.as_written:
                self._write_state(row, state, now, lease)

    def _write_answer(self, answer: Answer, now: float) -> None:
        row = self.installations[answer.delivery.subject.installation_id]
        decision, key = answer.decision, answer.delivery.subject_key
        one = row.waiting[key]
        if decision.action is Action.DELIVERED:
            row.pause_reason = row.paused_until = None
            if one.version == answer.delivery.version:
                del row.waiting[key]
                self._concluded(answer, one)
            else:
                one.attempts = one.gone = 0
                one.due_at = now
        elif decision.action is Action.BURY:
            del row.waiting[key]
            self._concluded(answer, one)
        elif decision.action in _PUT_OFF:
            one.attempts, one.gone = answer.attempts_after, answer.gone_after
            one.due_at = now + (decision.delay if decision.action is Action.RETRY else 0.0)
            if decision.action is Action.PAUSE:
                if row.pause_reason != decision.reason:
                    row.pause_reason, row.paused_since = decision.reason, now
                row.paused_until = now + decision.delay

    def _write_state(self, row: Installation, state: InstallationState, now: float, lease: float) -> None:
        row.rate_window, row.failures, row.faults = state.rate_window, state.failures, state.faults
        row.throttled_until = now + state.throttled_for if state.throttled_for else None
        if not state.release:
            row.leased_until = now + lease
            return
        row.token, row.due_at = None, None
        if row.waiting:
            first = min(map(attrgetter("due_at"), row.waiting.values()))
            row.due_at = max(first, now, row.paused_until or 0.0, row.throttled_until or 0.0)
            heapq.heappush(self._due, (row.due_at, state.installation_id))


def _delivery(installation_id: str, subject_key: str, one: Waiting) -> Delivery:
    subject = Subject(installation_id, "resource.updated", subject_key)
    rest = (None, None, one.events, 0, 0, SOME_TIME, one.version, one.attempts, None, one.gone)
    return Delivery(subject_key, subject, *rest)
