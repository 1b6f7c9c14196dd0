"""What an operator wants to know at 3 a.m., in one bounded reading: what is waiting, what is failing, and what is being sent."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from dispatcher.database.transactions import Database
from dispatcher.inspection.backlog import MAX_COUNTED_ROWS, MAX_SCANNED_ROWS, Backlog, measure
from dispatcher.inspection.dispatchers import Dispatcher, read_dispatchers
from dispatcher.outbox.tables import attempt, installation
from dispatcher.policy.outcome import OutcomeKind

RECENT_SECONDS = 300.0
"""Rates and lag cover at most this much of the log of attempts, of which only the newest rows are read."""
MAX_NAMED_INSTALLATIONS = 5
"""Failing installations that are named at most, the worst first."""
MAX_NAMED_HOLDERS = 20
"""Holders of leases that are named at most, those of the most expired leases first."""


@dataclass(frozen=True, slots=True)
class Failing:
    """An installation whose last `failures` requests have failed."""

    installation_id: str
    failures: int


@dataclass(frozen=True, slots=True)
class Holder:
    """A dispatcher by the leases that it holds, or let expire."""

    name: str | None
    held: int
    expired: int


@dataclass(frozen=True, slots=True)
class Leases:
    """The leases on installations. An expired lease means that a dispatcher died or hangs; another takes over."""

    held: int
    expired: int
    holders: tuple[Holder, ...] = ()


@dataclass(frozen=True, slots=True)
class Recent:
    """The requests of the last `seconds` by outcome, and the lag of the delivered ones: seconds from created_at to delivery."""

    seconds: float
    outcomes: dict[str, int]
    lag_median: float | None
    lag_p95: float | None
    lag_max: float | None

    @property
    def requests(self) -> int:
        """The number of all requests."""
        return sum(self.outcomes.values())

    @property
    def delivered(self) -> int:
        """The number of requests that Vercel accepted."""
        return self.outcomes.get(OutcomeKind.DELIVERED, 0)


@dataclass(frozen=True, slots=True)
class LastRequest:
    """The newest request in the log of attempts."""

    age: float
    """In seconds."""
    outcome: str
    status: int | None
    installation_id: str
    resource_id: str | None


@dataclass(frozen=True, slots=True)
class Status:
    """One reading."""

    at: datetime
    """By the database's clock."""
    backlog: Backlog
    leases: Leases
    failing: tuple[Failing, ...]
    recent: Recent
    last_request: LastRequest | None
    dispatchers: tuple[Dispatcher, ...] | None
    """None if the database's schema is too old to tell."""
    logs_successes: bool
    """Whether the log of attempts has the successful requests too."""

    @property
    def running(self) -> list[Dispatcher]:
        """The dispatchers that run, as far as is known."""
        return [one for one in self.dispatchers or () if one.is_running]


def read_status(database: Database, *, logs_successes: bool = True, max_dead_letters: int = MAX_COUNTED_ROWS) -> Status:
    """Reads the status at a cost that does not grow with the backlog. Locks nothing."""
    backlog = measure(database, max_dead_letters=max_dead_letters)
    with database.read() as connection:
        now: datetime = connection.execute(sa.select(database.dialect.clock())).scalar_one()
        leases, failing = _installations(connection, now)
        return Status(
            now,
            backlog,
            leases,
            failing,
            _recent(connection, now),
            _last_request(connection, now),
            read_dispatchers(database, connection, now),
            logs_successes,
        )


def _installations(connection: Connection, now: datetime) -> tuple[Leases, tuple[Failing, ...]]:
    """Reads the installations with pending work, longest due first: no index covers leases."""
    names = ("installation_id", "leased_until", "leased_by", "failures", "pause_reason")
    with_work = sa.select(*(installation.c[name] for name in names)).where(installation.c.due_at.is_not(None))
    rows = connection.execute(with_work.order_by(installation.c.due_at).limit(MAX_SCANNED_ROWS)).all()
    failing = sorted((row for row in rows if row.failures and row.pause_reason is None), key=lambda row: -row.failures)
    return (
        _leases([(row.leased_by, row.leased_until > now) for row in rows if row.leased_until is not None]),
        tuple(Failing(row.installation_id, row.failures) for row in failing[:MAX_NAMED_INSTALLATIONS]),
    )


def _leases(leased: Sequence[tuple[str | None, bool]]) -> Leases:
    """Counts the leases, of which each has a holder and is valid or not."""
    valid = Counter(name for name, is_valid in leased if is_valid)
    all_ = Counter(name for name, _ in leased)
    holders = [Holder(name, valid[name], number - valid[name]) for name, number in all_.items()]
    holders.sort(key=lambda one: (-one.expired, -one.held, one.name or ""))
    held = valid.total()
    return Leases(held, all_.total() - held, tuple(holders[:MAX_NAMED_HOLDERS]))


def _last_request(connection: Connection, now: datetime) -> LastRequest | None:
    names = ("at", "outcome", "status", "installation_id", "resource_id")
    newest = sa.select(*(attempt.c[name] for name in names)).order_by(attempt.c.at.desc()).limit(1)
    row = connection.execute(newest).first()
    if row is None:
        return None
    seconds = max(0.0, (now - row.at).total_seconds())
    return LastRequest(seconds, row.outcome, row.status, row.installation_id, row.resource_id)


def _recent(connection: Connection, now: datetime) -> Recent:
    since = sa.literal(now - timedelta(seconds=RECENT_SECONDS), attempt.c.at.type)
    newest = (
        sa.select(attempt.c.at, attempt.c.first_created_at, attempt.c.outcome)
        .where(attempt.c.at >= since)
        .order_by(attempt.c.at.desc())
        .limit(MAX_SCANNED_ROWS)
    )
    rows = connection.execute(newest).all()
    seconds = RECENT_SECONDS if len(rows) < MAX_SCANNED_ROWS else max(1.0, (now - rows[-1].at).total_seconds())
    delivered = [row for row in rows if row.outcome == OutcomeKind.DELIVERED]
    lags = sorted(max(0.0, (row.at - row.first_created_at).total_seconds()) for row in delivered)
    outcomes = dict(Counter(row.outcome for row in rows).most_common())
    return Recent(seconds, outcomes, _quantile(lags, 0.5), _quantile(lags, 0.95), _quantile(lags, 1.0))


def _quantile(ascending: Sequence[float], share: float) -> float | None:
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] if ascending else None
