"""What the store and the worker hand to each other."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Row

from dispatcher.outbox.events import Subject
from dispatcher.policy.decision import Action, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind

CHUNK_ROWS = 500
"""How many rows a step locks at most that works through a whole table: replay, purge, prune."""
Progress = Callable[[int], None]
"""Called after each chunk with the number of rows done so far."""
VERSION = ("subject_key", "version")
"""What a settlement must still find: the row as the last collection left it. Each collection draws a version of its own, because
counts, ids and times repeat once an asynchronous replica has been promoted.
"""


ANNOUNCED = (
    "subject_key",
    "installation_id",
    "type",
    "resource_id",
    "product_id",
    "billing_plan_id",
    "events",
    "first_event_id",
    "last_event_id",
    "first_created_at",
)
"""The columns of `vercel_delivery` that say what is announced."""
READ = (*ANNOUNCED, "version", "attempts", "traceparent", "gone", "visible_at")
"""Those that a request is planned with, in the order in which `Delivery.of` expects them."""


class Delivery(NamedTuple):
    """A row of `vercel_delivery` as it was when a request was planned."""

    subject_key: str
    subject: Subject
    product_id: str | None
    billing_plan_id: str | None
    events: int
    first_event_id: int
    last_event_id: int
    first_created_at: datetime
    version: str
    attempts: int
    traceparent: str | None
    gone: int = 0
    """Answers 404 or 410, of the attempts."""
    early: bool = False
    """Whether its request may begin before its newest event is visible everywhere: then another one must follow."""

    @classmethod
    def of(cls, row: Row[Any], now: datetime) -> "Delivery":
        """From a row that begins with the columns of `READ`; `now` is no later than when it was read."""
        key, installation_id, type_, resource_id, *others, visible_at = row[: len(READ)]
        values = (*others, visible_at > now)
        return cls(key, Subject(installation_id, type_, resource_id), *values)

    @property
    def guard(self) -> dict[str, str]:
        """The values of `VERSION`."""
        return {"subject_key": self.subject_key, "version": self.version}


@dataclass(frozen=True, slots=True)
class Collected:
    """What one collection moved. `full`: more may wait. `last_event_id`: of what it read, 0 if that was nothing. `left`: events that
    stay in the outbox while somebody keeps their installation locked. `skipped`: another dispatcher was collecting, so this one has
    seen nothing of the outbox.
    """

    events: int = 0
    subject_keys: frozenset[str] = frozenset()
    installation_ids: frozenset[str] = frozenset()
    malformed: int = 0
    last_event_id: int = 0
    left: int = 0
    full: bool = False
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Leased:
    """An installation under our lease, as its row was at the claim."""

    installation_id: str
    token: str
    deliveries: tuple[Delivery, ...]
    rate_window: str | None
    failures: int
    faults: int
    suspects: int
    """Deliveries that are still to be read one at a time, because one of them may have ended a worker."""
    pause_reason: str | None
    paused_for: timedelta | None
    """How long it has been paused for this reason; None if it isn't."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """What one claim leased. `at` is the database's clock. `full`: more may be due."""

    at: datetime
    leased: tuple[Leased, ...] = ()
    full: bool = False


@dataclass(frozen=True, slots=True)
class Suspects:
    """Deliveries that may end their worker, at most one of an installation; in the database each has used up an attempt more than it
    says itself. `ours`: the installations whose lease was renewed; `due`: those of them for which anything was due. `locked`: somebody
    keeps their rows locked, so nothing was done. `buried`: deliveries that ended their worker each time, and are dead letters now.
    """

    ours: frozenset[str] = frozenset()
    locked: frozenset[str] = frozenset()
    due: frozenset[str] = frozenset()
    deliveries: tuple[Delivery, ...] = ()
    buried: int = 0


class Pulled(NamedTuple):
    """What a pull read of each installation whose lease it renewed. `locked`: somebody keeps their rows locked, so nothing was done."""

    deliveries: dict[str, list[Delivery]]
    locked: frozenset[str] = frozenset()


_USES_UP = frozenset({Action.RETRY, Action.BURY})


@dataclass(slots=True)
class Answer:
    """A request that came to an outcome, and what was decided. `answered_at`: when, by the worker's monotonic clock;
    `age`: how many seconds ago that is, which whoever settles it says."""

    delivery: Delivery
    token: str
    outcome: Outcome
    decision: Decision
    age: float = 0.0
    answered_at: float = 0.0

    @property
    def attempts_after(self) -> int:
        """Attempts used up once this answer is settled; waiting for the rate or a credential uses up none."""
        uses_one_up = self.decision.action in _USES_UP and not self.decision.spares_attempt
        return self.delivery.attempts + uses_one_up

    @property
    def gone_after(self) -> int:
        """Answers 404 or 410 once this one is settled."""
        return self.delivery.gone + (self.outcome.kind is OutcomeKind.GONE)

    def began_at(self, now: datetime) -> datetime:
        """When its request began, about."""
        return now - timedelta(seconds=self.age + self.outcome.duration)

    def due_after(self, now: datetime) -> datetime:
        """When the delivery is due again, should it stay. Where its installation waits, the delivery itself needn't."""
        delay = self.decision.delay if self.decision.action is Action.RETRY else 0.0
        return now + timedelta(seconds=delay)


@dataclass(slots=True)
class InstallationState:
    """What an installation's row shall say after a settlement. `throttled_for` in seconds; `release`: give the lease back.

    `as_written`: the row says all this already, and its lease has long to go. Then it is left alone, its time of the last delivery
    too: each version of a row that is written makes every look for it slower until the database has cleaned up.
    """

    installation_id: str
    token: str
    rate_window: str | None = None
    failures: int = 0
    faults: int = 0
    suspects: int = 0
    throttled_for: float = 0.0
    release: bool = False
    as_written: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Settled:
    """What a settlement changed. `lost`: installations whose lease was no longer ours, so that nothing of theirs was written.

    `paused`: those that an operator has paused meanwhile: nothing more may be sent for them. `locked`: those whose row somebody keeps
    locked, so that nothing of theirs was written yet.
    """

    lost: frozenset[str] = frozenset()
    buried: int = 0
    superseded: int = 0
    paused: frozenset[str] = frozenset()
    locked: frozenset[str] = frozenset()
