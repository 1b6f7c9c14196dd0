"""How much waits, and for how long: one reading for the gauges and for `dispatcher status`.

Its cost is bounded, whatever waits: it counts in an index, in the order in which installations are due, and stops at a limit.
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

COUNTED = 100_000
"""So many rows are counted of each kind; what is beyond is not told apart."""
LOOKED_AT = 5_000
"""Deliveries, those longest due first, among which the oldest event is looked for: it stands in no index."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """`outbox`: events that are not collected yet; `due`, `waiting`, `paused`: deliveries. Ages in seconds.

    A delivery is due if it could be sent now; it waits for a retry or a slot in the rate window.
    """

    outbox: int
    due: int
    waiting: int
    paused: int
    oldest_event_age: float
    """Of the oldest event that is not delivered yet, those of paused installations left out; 0 if there is none."""
    dead_letters: dict[str, int]
    """Unresolved ones, by reason."""
    paused_installations: dict[str, int]
    """By reason of the pause."""
    open_breakers: int
    """Installations with work whose requests have failed several times in a row."""
    complete: bool = True
    """Whether everything was counted. If not, the figures are lower bounds."""

    @property
    def left(self) -> int:
        """Everything that is not delivered."""
        return self.outbox + self.due + self.waiting + self.paused


def measure(database: Database, most: int = COUNTED) -> Backlog:
    """Reads it, and counts up to `most` rows of each kind; locks nothing."""
    with database.read() as connection:
        now = connection.execute(sa.select(database.dialect.clock())).scalar_one()
        events = _count(connection, sa.select(outbox.c.id), most)
        deliveries = _count(connection, sa.select(delivery.c.installation_id), most)
        due, paused = _due_and_paused(connection, now, most)
        oldest = (_oldest_in_outbox(connection, database.dialect, now), _oldest_delivery(connection))
        return Backlog(
            outbox=events,
            due=due,
            waiting=max(0, deliveries - due - paused),
            paused=paused,
            oldest_event_age=_age(oldest, now),
            dead_letters=_by_reason(connection, dead_letter.c.reason, dead_letter.c.resolved_at.is_(None), most),
            paused_installations=_by_reason(
                connection, installation.c.pause_reason, installation.c.pause_reason.is_not(None), most
            ),
            open_breakers=_count(connection, _with_open_breaker(), most),
            complete=max(events, deliveries) < most,
        )


def _with_open_breaker() -> Select[Any]:
    faulty: ColumnElement[bool] = sa.literal_column(
        "faults > 0"
    )  # as the index says it: a database takes a parameter for any number
    return sa.select(installation.c.installation_id).where(
        faulty, installation.c.faults >= BREAKER_FAULTS, installation.c.due_at.is_not(None)
    )


def _count(connection: Connection, rows: Select[Any], most: int) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(rows.limit(most).subquery())).scalar_one())


def _due_and_paused(connection: Connection, now: datetime, most: int) -> tuple[int, int]:
    time = sa.literal(now, delivery.c.due_at.type)
    first = _longest_due_first(
        installation.c.pause_reason.is_not(None).label("paused"),
        sa.and_(installation.c.due_at <= time, delivery.c.due_at <= time).label("due"),
    )
    rows = first.limit(most).subquery()
    found = connection.execute(
        sa.select(rows.c.paused, rows.c.due, sa.func.count()).group_by(rows.c.paused, rows.c.due)
    )
    counts = {(bool(paused), bool(due)): int(count) for paused, due, count in found}
    return counts.get((False, True), 0), counts.get((True, False), 0) + counts.get((True, True), 0)


def _longest_due_first(*columns: ColumnElement[Any]) -> Select[Any]:
    """Deliveries in the order in which their installations are due: what could be sent now, then what waits, then the paused."""
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
        .limit(LOOKED_AT)
        .subquery()
    )
    oldest: datetime | None = connection.execute(sa.select(sa.func.min(rows.c.first_created_at))).scalar()
    return oldest


def _oldest_in_outbox(connection: Connection, dialect: Dialect, now: datetime) -> datetime | None:
    first = connection.execute(sa.select(dialect.raw_time(outbox.c.created_at)).order_by(outbox.c.id).limit(1)).first()
    return None if first is None else instant(first[0], now)


def _by_reason(
    connection: Connection, reason: ColumnElement[str], condition: ColumnElement[bool], most: int
) -> dict[str, int]:
    rows = sa.select(reason.label("reason")).where(condition).limit(most).subquery()
    found = connection.execute(
        sa.select(rows.c.reason, sa.func.count()).group_by(rows.c.reason).order_by(rows.c.reason)
    )
    return {row[0]: row[1] for row in found}


def _age(times: Sequence[datetime | None], now: datetime) -> float:
    known = [time for time in times if time is not None]
    return max(0.0, (now - min(known)).total_seconds()) if known else 0.0
