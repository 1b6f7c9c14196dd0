"""The backlog and its age: one reading for the gauges and for `dispatcher status`.

The cost of a reading is bounded: it counts along an index, in the order in which installations are due, and stops at a limit.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Select

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import dead_letter, delivery, installation, outbox
from dispatcher.policy.installation_breaker import BREAKER_FAULTS
from dispatcher.store import LOWEST_ID
from dispatcher.store.batch import committed
from dispatcher.store.outbox_rows import group

MAX_COUNTED_ROWS = 100_000
"""At most this many rows of each kind are counted; beyond that the figures are lower bounds."""
MAX_SCANNED_ROWS = 5_000
"""Rows that are searched for a value that no index covers, such as the oldest event; the longest due come first."""


@dataclass(frozen=True, slots=True)
class OldestEvent:
    """The oldest event that is not delivered, not counting paused installations."""

    id: int
    created_at: datetime
    installation_id: str | None
    """None if a malformed row has none."""
    resource_id: str | None
    """None for an event of the installation itself."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The events and deliveries that are not delivered yet, and what holds them up."""

    outbox: int
    """Events that are not collected yet."""
    due: int
    """Deliveries that could be sent now."""
    waiting: int
    """Deliveries that wait for a retry or a slot in the rate window."""
    paused: int
    """Deliveries of paused installations."""
    oldest_event_age: float
    """Seconds since the oldest undelivered event was created, not counting paused installations; 0 if there is none."""
    oldest_event: OldestEvent | None
    dead_letters: dict[str, int]
    """Unresolved dead letters, by reason."""
    paused_installations: dict[str, int]
    """Paused installations, by the reason for the pause."""
    open_breakers: int
    """Installations with pending work whose requests have failed several times in a row."""
    overdue: float
    """Seconds for which the longest waiting event or installation has been ready to be sent; 0 if nothing is ready."""
    installations: int
    """Installations that are known."""
    failing: int
    """Unpaused installations with pending work whose last request did not succeed."""
    complete: bool = True
    """Whether every event and delivery was counted; if not, the figures are lower bounds."""
    dead_letters_complete: bool = True
    """Whether every unresolved dead letter was counted."""

    @property
    def left(self) -> int:
        """The number of events and deliveries that are not delivered yet."""
        return self.outbox + self.due + self.waiting + self.paused


def measure(database: Database, limit: int = MAX_COUNTED_ROWS, max_dead_letters: int = MAX_COUNTED_ROWS) -> Backlog:
    """Reads the backlog, counting at most `limit` rows of each kind. Locks nothing.

    The unresolved dead letters lie among the resolved ones, where to read each can take as long as to read a page of the disk.
    """
    max_dead_letters = min(limit, max_dead_letters)
    with database.read() as connection:
        now = connection.execute(sa.select(database.dialect.clock())).scalar_one()
        events = _count(connection, sa.select(outbox.c.id), limit)
        deliveries = _count(connection, sa.select(delivery.c.installation_id), limit)
        due, paused = _due_and_paused(connection, now, limit)
        in_outbox = _oldest_in_outbox(connection, database.dialect, now)
        oldest = min(
            filter(None, (in_outbox, _oldest_delivery(connection))), key=lambda event: event.created_at, default=None
        )
        dead_letters = _by_reason(
            connection, dead_letter.c.reason, dead_letter.c.resolved_at.is_(None), max_dead_letters
        )
        longest_due, failing = _overdue_and_failing(connection, now, min(limit, MAX_SCANNED_ROWS))
        return Backlog(
            outbox=events,
            due=due,
            waiting=max(0, deliveries - due - paused),
            paused=paused,
            oldest_event_age=_age(now, oldest.created_at if oldest else None),
            oldest_event=oldest,
            dead_letters=dead_letters,
            paused_installations=_by_reason(
                connection, installation.c.pause_reason, installation.c.pause_reason.is_not(None), limit
            ),
            open_breakers=_count(connection, _with_open_breaker(), limit),
            overdue=_age(now, in_outbox.created_at if in_outbox else None, longest_due),
            installations=_count(connection, _known(), limit),
            failing=failing,
            complete=max(events, deliveries) < limit,
            dead_letters_complete=sum(dead_letters.values()) < max_dead_letters,
        )


def _with_open_breaker() -> Select[Any]:
    # A literal, as in the predicate of the index: with a parameter, a database could not tell that the index applies.
    faulty: ColumnElement[bool] = sa.literal_column("faults > 0")
    return sa.select(installation.c.installation_id).where(
        faulty, installation.c.faults >= BREAKER_FAULTS, installation.c.due_at.is_not(None)
    )


def _known() -> Select[Any]:
    # A range of the primary key, in its order: so no database reads the table for it.
    id_ = installation.c.installation_id
    return sa.select(id_).where(id_ > "").order_by(id_)


def _count(connection: Connection, rows: Select[Any], limit: int) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(rows.limit(limit).subquery())).scalar_one())


def _due_and_paused(connection: Connection, now: datetime, limit: int) -> tuple[int, int]:
    time = sa.literal(now, delivery.c.due_at.type)
    first = _longest_due_first(
        installation.c.pause_reason.is_not(None).label("paused"),
        sa.and_(installation.c.due_at <= time, delivery.c.due_at <= time).label("due"),
    )
    rows = first.limit(limit).subquery()
    counted = connection.execute(
        sa.select(rows.c.paused, rows.c.due, sa.func.count()).group_by(rows.c.paused, rows.c.due)
    )
    counts = {(bool(paused), bool(due)): int(count) for paused, due, count in counted}
    return counts.get((False, True), 0), counts.get((True, False), 0) + counts.get((True, True), 0)


def _longest_due_first(*columns: ColumnElement[Any]) -> Select[Any]:
    """Selects deliveries in the order in which their installations are due: first those that are due, then the waiting, then the paused."""
    joined = installation.join(delivery, delivery.c.installation_id == installation.c.installation_id)
    return (
        sa.select(*columns)
        .select_from(joined)
        .where(installation.c.due_at.is_not(None))
        .order_by(installation.c.due_at)
        .prefix_with("STRAIGHT_JOIN", dialect="mysql")
    )


def _oldest_delivery(connection: Connection) -> OldestEvent | None:
    names = ("first_event_id", "first_created_at", "installation_id", "resource_id")
    rows = (
        _longest_due_first(*(delivery.c[name] for name in names))
        .where(installation.c.pause_reason.is_(None))
        .limit(MAX_SCANNED_ROWS)
        .subquery()
    )
    oldest = sa.select(rows).order_by(rows.c.first_created_at, rows.c.first_event_id).limit(1)
    row = connection.execute(oldest).one_or_none()
    return None if row is None else OldestEvent(*row)


def _overdue_and_failing(connection: Connection, now: datetime, limit: int) -> tuple[datetime | None, int]:
    """Returns since when the longest due installation that no dispatcher holds has been due, and how many installations fail.

    Reads the installations that have been due longest, without the paused ones: no index covers failures.
    """
    names = ("due_at", "leased_until", "failures", "pause_reason")
    columns = [installation.c[name] for name in names]
    first = sa.select(*columns).where(installation.c.due_at.is_not(None)).order_by(installation.c.due_at)
    rows = first.limit(limit).subquery().c
    time = sa.literal(now, rows.due_at.type)
    is_free = sa.or_(rows.leased_until.is_(None), rows.leased_until <= time)
    overdue = sa.func.min(sa.case((sa.and_(rows.due_at <= time, is_free), rows.due_at)))
    failing = sa.func.count(sa.case((rows.failures > 0, 1)))
    since, number = connection.execute(sa.select(overdue, failing).where(rows.pause_reason.is_(None))).one()
    return since, number


def _oldest_in_outbox(connection: Connection, dialect: Dialect, now: datetime) -> OldestEvent | None:
    rows = connection.execute(committed(dialect), {"low_water": LOWEST_ID, "limit": 1}).all()
    changes, malformed = group(rows, now)
    if changes:
        (change,) = changes
        id_, resource_id = change.subject.installation_id, change.subject.resource_id
        return OldestEvent(change.first_event_id, change.first_created_at, id_, resource_id)
    if malformed:
        (row,) = malformed
        return OldestEvent(row.event_id, row.created_at, row.values["installation_id"], row.values["resource_id"])
    return None


def _by_reason(
    connection: Connection, reason: ColumnElement[str], condition: ColumnElement[bool], limit: int
) -> dict[str, int]:
    rows = sa.select(reason.label("reason")).where(condition).limit(limit).subquery()
    counted = connection.execute(
        sa.select(rows.c.reason, sa.func.count()).group_by(rows.c.reason).order_by(rows.c.reason)
    )
    return {row[0]: row[1] for row in counted}


def _age(now: datetime, *times: datetime | None) -> float:
    known = [time for time in times if time is not None]
    return max(0.0, (now - min(known)).total_seconds()) if known else 0.0
