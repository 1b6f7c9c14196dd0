"""What an operator wants to know at 3 a.m., in one bounded reading: what is waiting, what is failing, and what is being sent."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from dispatcher.database.transactions import Database
from dispatcher.inspection.backlog import MAX_SCANNED_ROWS, Backlog, measure
from dispatcher.inspection.dispatchers import Dispatcher, read_dispatchers
from dispatcher.outbox.tables import attempt, installation
from dispatcher.policy.outcome import OutcomeKind

RECENT_SECONDS = 300.0
"""Rates and lag cover at most this much of the log of attempts, of which only the newest rows are read."""
MAX_NAMED_INSTALLATIONS = 5
"""Failing installations that are named at most, the worst first."""
OLD_EVENT_SECONDS = 60.0
"""An event that has waited for longer is reported."""
SILENCE_SECONDS = 30.0
"""If something is due and nothing has been sent for longer, the silence is reported."""


@dataclass(frozen=True, slots=True)
class Failing:
    """An installation whose last `failures` requests have failed."""

    installation_id: str
    failures: int


@dataclass(frozen=True, slots=True)
class Leases:
    """The leases on installations. An expired lease means that a dispatcher died or hangs; another takes over."""

    held: int
    expired: int


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

    @property
    def running(self) -> list[Dispatcher]:
        """The dispatchers that run, as far as is known."""
        return [one for one in self.dispatchers or () if one.is_running]


def read_status(database: Database) -> Status:
    """Reads the status at a cost that does not grow with the backlog. Locks nothing."""
    backlog = measure(database)
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
        )


def _installations(connection: Connection, now: datetime) -> tuple[Leases, tuple[Failing, ...]]:
    """Reads the installations with pending work, longest due first: no index covers leases."""
    columns = (installation.c.installation_id, installation.c.leased_until, installation.c.failures)
    with_work = sa.select(*columns, installation.c.pause_reason).where(installation.c.due_at.is_not(None))
    rows = connection.execute(with_work.order_by(installation.c.due_at).limit(MAX_SCANNED_ROWS)).all()
    ends = [row.leased_until for row in rows if row.leased_until is not None]
    failing = sorted((row for row in rows if row.failures and row.pause_reason is None), key=lambda row: -row.failures)
    expired = sum(end <= now for end in ends)
    return (
        Leases(len(ends) - expired, expired),
        tuple(Failing(row.installation_id, row.failures) for row in failing[:MAX_NAMED_INSTALLATIONS]),
    )


def _last_request(connection: Connection, now: datetime) -> LastRequest | None:
    columns = (attempt.c.at, attempt.c.outcome, attempt.c.status)
    row = connection.execute(sa.select(*columns).order_by(attempt.c.at.desc()).limit(1)).first()
    return None if row is None else LastRequest(max(0.0, (now - row.at).total_seconds()), row.outcome, row.status)


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


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that an operator should know."""

    urgent: bool
    """Whether an operator must act, because it does not resolve by itself."""
    what: str
    command: str
    """The `dispatcher` command that shows more."""


def concerns(status: Status) -> list[Concern]:
    """Returns everything that is not as it should be, urgent concerns first."""
    return sorted(_concerns(status), key=lambda concern: not concern.urgent)


def _concerns(status: Status) -> Iterator[Concern]:
    backlog, recent = status.backlog, status.recent
    if dead := sum(backlog.dead_letters.values()):
        yield Concern(True, f"dead letters: {dead:,} ({_by_size(backlog.dead_letters)})", "dead-letters list")
    if backlog.outbox + backlog.due and backlog.oldest_event_age > SILENCE_SECONDS and (why := _why_silent(status)):
        yield Concern(True, f"events are waiting, and nothing is being sent: {why}", "check")
    if recent.requests and not recent.delivered:
        yield Concern(True, f"every recent request failed ({_by_size(recent.outcomes)})", "explain INSTALLATION")
    if backlog.oldest_event_age > OLD_EVENT_SECONDS:
        yield Concern(False, f"the oldest event has waited for {backlog.oldest_event_age:,.0f} s", "explain RESOURCE")
    if paused := sum(backlog.paused_installations.values()):
        by_reason = _by_size(backlog.paused_installations)
        yield Concern(False, f"paused installations: {paused:,} ({by_reason})", "installations list")
    if out := [one for one in status.running if one.outage is not None]:
        since = min(one.outage for one in out if one.outage is not None)
        yield Concern(
            False,
            f"Vercel has been unavailable since {since:%Y-%m-%d %H:%M:%S} UTC, as {len(out)} of {len(status.running)} dispatchers see it:"
            " only probes are sent",
            "requests --failed",
        )
    if status.failing:
        worst = ", ".join(f"{one.installation_id} {one.failures}×" for one in status.failing)
        yield Concern(False, f"failing in a row: {worst}", "explain INSTALLATION")
    if status.leases.expired:
        yield Concern(
            False, f"leases that have expired: {status.leases.expired:,}; a dispatcher died or hangs", "check"
        )


def _why_silent(status: Status) -> str | None:
    """Returns why nothing is sent; None if requests are being sent, or if only probes are, because of an outage."""
    last = status.last_request
    if last is not None and last.age <= SILENCE_SECONDS:
        return None
    if status.dispatchers is None:
        return "is `dispatcher run` running?"
    if not status.running:
        return _last_seen(status)
    if any(one.outage for one in status.running):
        return None
    return "a dispatcher is running, but makes no request: see its log"


def _last_seen(status: Status) -> str:
    silent = max(status.dispatchers or (), key=lambda one: one.seen_at, default=None)
    if silent is None:
        return "no dispatcher is running: start `dispatcher run`"
    ago = f"{(status.at - silent.seen_at).total_seconds():,.0f} s ago"
    return f"no dispatcher is running. {silent.name} was last seen {ago}, and did not stop in good order"


def _by_size(counts: dict[str, int]) -> str:
    return ", ".join(
        f"{count:,} {name}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
