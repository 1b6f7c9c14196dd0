"""The backlog and its age: one reading for the gauges and for `dispatcher status`.

The cost of a reading is bounded: it counts along an index, in the order in which installations are due, and stops at a limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Select

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import dead_letter, delivery, installation, outbox
from dispatcher.policy.installation_breaker import BREAKER_FAULTS
from dispatcher.store.outbox_rows import instant

MAX_COUNTED_ROWS = 100_000
"""At most this many rows of each kind are counted; beyond that the figures are lower bounds."""
MAX_SCANNED_ROWS = 5_000
"""Rows that are searched for a value that no index covers, such as the oldest event; the longest due come first."""


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
    dead_letters: dict[str, int]
    """Unresolved dead letters, by reason."""
    paused_installations: dict[str, int]
    """Paused installations, by the reason for the pause."""
    open_breakers: int
    """Installations with pending work whose requests have failed several times in a row."""
    complete: bool = True
    """Whether every row was counted; if not, the figures are lower bounds."""

    @property
    def left(self) -> int:
        """The number of events and deliveries that are not delivered yet."""
        return self.outbox + self.due + self.waiting + self.paused


def measure(database: Database, limit: int = MAX_COUNTED_ROWS) -> Backlog:
    """Reads the backlog, counting at most `limit` rows of each kind. Locks nothing."""
    with database.read() as connection:
        now = connection.execute(sa.select(database.dialect.clock())).scalar_one()
        events = _count(connection, sa.select(outbox.c.id), limit)
        deliveries = _count(connection, sa.select(delivery.c.installation_id), limit)
        due, paused = _due_and_paused(connection, now, limit)
        oldest = (_oldest_in_outbox(connection, database.dialect, now), _oldest_delivery(connection))
        return Backlog(
            outbox=events,
            due=due,
            waiting=max(0, deliveries - due - paused),
            paused=paused,
            oldest_event_age=_age(oldest, now),
            dead_letters=_by_reason(connection, dead_letter.c.reason, dead_letter.c.resolved_at.is_(None), limit),
            paused_installations=_by_reason(
                connection, installation.c.pause_reason, installation.c.pause_reason.is_not(None), limit
            ),
            open_breakers=_count(connection, _with_open_breaker(), limit),
            complete=max(events, deliveries) < limit,
        )


def _with_open_breaker() -> Select[Any]:
    # A literal, as in the predicate of the index: with a parameter, a database could not tell that the index applies.
    faulty: ColumnElement[bool] = sa.literal_column("faults > 0")
    return sa.select(installation.c.installation_id).where(
        faulty, installation.c.faults >= BREAKER_FAULTS, installation.c.due_at.is_not(None)
    )


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


def _oldest_delivery(connection: Connection) -> datetime | None:
    rows = (
        _longest_due_first(delivery.c.first_created_at)
        .where(installation.c.pause_reason.is_(None))
        .limit(MAX_SCANNED_ROWS)
        .subquery()
    )
    oldest: datetime | None = connection.execute(sa.select(sa.func.min(rows.c.first_created_at))).scalar()
    return oldest


def _oldest_in_outbox(connection: Connection, dialect: Dialect, now: datetime) -> datetime | None:
    first = connection.execute(sa.select(dialect.raw_time(outbox.c.created_at)).order_by(outbox.c.id).limit(1)).first()
    return None if first is None else instant(first[0], now)


def _by_reason(
    connection: Connection, reason: ColumnElement[str], condition: ColumnElement[bool], limit: int
) -> dict[str, int]:
    rows = sa.select(reason.label("reason")).where(condition).limit(limit).subquery()
    counted = connection.execute(
        sa.select(rows.c.reason, sa.func.count()).group_by(rows.c.reason).order_by(rows.c.reason)
    )
    return {row[0]: row[1] for row in counted}


def _age(times: Sequence[datetime | None], now: datetime) -> float:
    known = [time for time in times if time is not None]
    return max(0.0, (now - min(known)).total_seconds()) if known else 0.0
