"""The values that the store and the worker pass to each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from dispatcher.outbox.events import Subject
from dispatcher.policy.decision import Action, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.store.outbox_rows import Malformed, Removal

CHUNK_ROWS = 500
"""Operators' commands, removals and prune, which may work through a whole table, lock at most this many rows at a time."""
Progress = Callable[[int], None]
"""Called after each chunk with the number of rows done so far."""
VERSION = ("subject_key", "version")
"""A settlement only changes a row that still has these values, that is, one that no collection has changed since. Each collection draws
a new random version, because counts, ids and times repeat after an asynchronous replica has been promoted.
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
"""The columns of `vercel_delivery` that identify what to announce; a dead letter copies them."""
READ = (*ANNOUNCED, "version", "attempts", "traceparent", "gone", "visible_at")
"""The columns read to plan a request, in the order that `Delivery.of` expects."""


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
    """How many of the attempts were answered with 404 or 410."""
    early: bool = False
    """Whether its request may begin before its newest event is visible everywhere. If so, another request must follow."""

    @classmethod
    def of(cls, row: Sequence[Any], now: datetime) -> "Delivery":
        """Creates it from the columns of `READ`. `now` must not be later than the time of reading."""
        key, installation_id, type_, resource_id, *others, visible_at = row
        # `_make`, because a claim makes hundreds of them: naming the parameters takes longer.
        return cls._make((key, Subject._make((installation_id, type_, resource_id)), *others, visible_at > now))

    @property
    def guard(self) -> dict[str, str]:
        """The values of the `VERSION` columns."""
        return {"subject_key": self.subject_key, "version": self.version}


@dataclass(frozen=True, slots=True)
class Removed:
    """The result of one step of a removal."""

    events: int = 0
    """Events taken out of the outbox."""
    purged: int = 0
    """Deliveries that became dead letters, all of them resolved."""
    resolved: int = 0
    """Older dead letters that were resolved."""
    done: bool = False
    """Whether the removal is complete. Otherwise it needs another step."""
    forgotten: bool = False
    """Whether the installation's row was deleted, and with it any lease."""
    locked: bool = False
    """Whether another session has the installation's row locked, so nothing was done."""


@dataclass(frozen=True, slots=True)
class Collected:
    """The result of one collection."""

    events: int = 0
    """Events moved, malformed ones included."""
    subject_keys: frozenset[str] = frozenset()
    """A text for each subject, different for different subjects; not the hash that the tables hold."""
    installation_ids: frozenset[str] = frozenset()
    malformed: tuple[Malformed, ...] = ()
    """Events that became dead letters."""
    last_event_id: int = 0
    """Id of the last event read; 0 if none was read."""
    left: int = 0
    """Events left in the outbox: another session has their installation locked, or they are `removals`."""
    removals: tuple[Removal, ...] = ()
    """The events that report a removed installation, in the order of their ids. They stay in the outbox until `remove` is done."""
    full: bool = False
    """Whether the limit was reached, so more events may be waiting."""
    skipped: bool = False
    """Whether another dispatcher was collecting, so the outbox was not read."""
    contended: bool = False
    """Whether the transaction was repeated, because others were changing the same rows."""


@dataclass(frozen=True, slots=True)
class Leased:
    """An installation under our lease, with the values of its row at the claim."""

    installation_id: str
    token: str
    deliveries: tuple[Delivery, ...]
    rate_window: str | None
    failures: int
    faults: int
    suspects: int
    """How many deliveries must still be read one at a time, because one of them may have crashed a worker."""
    pause_reason: str | None
    paused_for: timedelta | None
    """How long the installation has been paused for this reason; None if it is not paused."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """The result of one claim."""

    at: datetime
    """The database's time."""
    leased: tuple[Leased, ...] = ()
    full: bool = False
    """Whether the limit was reached, so more installations may be due."""


@dataclass(frozen=True, slots=True)
class Suspects:
    """The result of `pull_suspects`."""

    ours: frozenset[str] = frozenset()
    """Installations whose lease was renewed."""
    locked: frozenset[str] = frozenset()
    """Installations skipped because another session has their rows locked."""
    due: frozenset[str] = frozenset()
    """Those of `ours` that had a due delivery."""
    deliveries: tuple[Delivery, ...] = ()
    """At most one per installation; any of them may crash its worker. Their rows already count one attempt more than `attempts`."""
    buried: int = 0
    """Deliveries that repeatedly crashed their worker and are now dead letters."""


class Pulled(NamedTuple):
    """The result of a pull."""

    deliveries: dict[str, list[Delivery]]
    """The deliveries read of each installation whose lease was renewed."""
    locked: frozenset[str] = frozenset()
    """Installations skipped because another session has their rows locked."""


_USES_UP = frozenset({Action.RETRY, Action.BURY})


@dataclass(slots=True)
class Answer:
    """The outcome of a request and the decision on it."""

    delivery: Delivery
    token: str
    outcome: Outcome
    decision: Decision
    age: float = 0.0
    """Seconds from the answer to its settlement; set when it is settled."""
    answered_at: float = 0.0
    """Time of the answer by the worker's monotonic clock."""
    lag: float = 0.0
    """Seconds from the first event's `created_at` to the answer."""

    @property
    def attempts_after(self) -> int:
        """Attempts used up once this answer is settled; waiting for the rate limit or a credential uses up none."""
        uses_one_up = self.decision.action in _USES_UP and not self.decision.spares_attempt
        return self.delivery.attempts + uses_one_up

    @property
    def gone_after(self) -> int:
        """How many attempts were answered with 404 or 410 once this answer is settled."""
        return self.delivery.gone + (self.outcome.kind is OutcomeKind.GONE)

    def began_at(self, now: datetime) -> datetime:
        """Returns the approximate time at which the request began."""
        return now - timedelta(seconds=self.age + self.outcome.duration)

    def due_after(self, now: datetime) -> datetime:
        """Returns when the delivery is due again if it is not removed. Throttles and pauses delay the installation, not the delivery."""
        delay = self.decision.delay if self.decision.action is Action.RETRY else 0.0
        return now + timedelta(seconds=delay)


@dataclass(slots=True)
class InstallationState:
    """The state to write to an installation's row at a settlement."""

    installation_id: str
    token: str
    rate_window: str | None = None
    failures: int = 0
    faults: int = 0
    suspects: int = 0
    throttled_for: float = 0.0
    """In seconds."""
    release: bool = False
    """Whether to give the lease back."""
    as_written: bool = field(default=False, compare=False)
    """Whether the row already has these values and its lease is still long. Then the row is not written, not even the time of the last
    delivery: each new row version slows down every look-up of the row until the database has cleaned up."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The result of a settlement."""

    lost: frozenset[str] = frozenset()
    """Installations that are no longer under our lease; nothing was written for them."""
    buried: int = 0
    superseded: int = 0
    paused: frozenset[str] = frozenset()
    """Installations that an operator has paused in the meantime; nothing more may be sent for them."""
    locked: frozenset[str] = frozenset()
    """Installations whose row is locked by another session; nothing was written for them yet."""
