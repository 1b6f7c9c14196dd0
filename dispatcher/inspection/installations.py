"""Installations as operators see them, and the pending work of one."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Row, Select

from dispatcher.database.transactions import Database
from dispatcher.inspection.graces import Graces
from dispatcher.outbox.columns import is_exactly
from dispatcher.outbox.tables import delivery, installation, outbox
from dispatcher.policy.decision import PauseReason
from dispatcher.store.installations import is_pausable, is_paused

MAX_COUNTED_DELIVERIES = 1_000
"""At most this many deliveries of each installation in a list are counted."""


@dataclass(frozen=True, slots=True)
class Installation:
    """A row of `vercel_installation`, the number of its deliveries, and the database's clock."""

    installation_id: str
    due_at: datetime | None
    leased_until: datetime | None
    leased_by: str | None
    paused_until: datetime | None
    pause_reason: str | None
    paused_since: datetime | None
    throttled_until: datetime | None
    failures: int
    last_delivered_at: datetime | None
    deliveries: int
    """A lower bound unless `deliveries_complete`."""
    now: datetime
    dies_at: datetime | None = None
    """When failures begin to turn its deliveries into dead letters; None if it is not paused, or if that pause never ends by itself."""
    deliveries_complete: bool = True
    """Whether all its deliveries were counted."""
    paused_by: str | None = None
    """The operator who paused it."""
    pause_note: str | None = None
    """The operator's reason."""

    @classmethod
    def of(cls, row: Row[Any], graces: Graces) -> Self:
        values = {name: getattr(row, name) for name in cls.__slots__ if name in row._fields}
        if row.pause_reason != PauseReason.OPERATOR:  # a resume by an older program leaves these
            values |= {"paused_by": None, "pause_note": None}
        dies_at = graces.end(row.pause_reason, row.paused_since)
        return cls(**values, dies_at=dies_at, deliveries_complete=row.deliveries < MAX_COUNTED_DELIVERIES)

    @property
    def state(self) -> str:
        """What the installation is doing, in one word."""
        if self.pause_reason is not None:
            return "paused"
        if self.leased_until is not None and self.leased_until > self.now:
            return "sending"
        if not self.deliveries:
            return "idle"
        if self.throttled_until is not None and self.throttled_until > self.now:
            return "throttled"
        return "due" if self.due_at is not None and self.due_at <= self.now else "waiting"


@dataclass(frozen=True, slots=True)
class Waiting:
    """The pending work of an installation: its events in the outbox, and its deliveries."""

    events: int
    """A lower bound unless `events_complete`."""
    deliveries: int
    events_complete: bool = True
    """Whether the whole outbox was searched."""


@dataclass(frozen=True, slots=True)
class Due:
    """The pending work of an installation by when it is due."""

    events: int
    """Not collected yet."""
    now: int
    """Deliveries that are due."""
    later: int
    """Deliveries that are not due yet, because of a backoff or a settle delay."""
    first_later: datetime | None
    """When the first of those is due."""
    events_complete: bool = True
    """Whether the whole outbox was searched; if not, `events` is a lower bound."""


def find_installations(
    connection: Connection, database: Database, graces: Graces, ids: Collection[str]
) -> dict[str, Installation]:
    """Returns, by id, those for which anything has been collected. Runs in the caller's transaction."""
    rows = connection.execute(with_deliveries(database).where(installation.c.installation_id.in_(ids)))
    return {row.installation_id: Installation.of(row, graces) for row in rows}


def with_deliveries(database: Database) -> Select[Any]:
    """Selects what `Installation.of` needs."""
    is_of_it = delivery.c.installation_id == installation.c.installation_id
    counted = sa.select(sa.func.count()).where(is_of_it).correlate(installation).scalar_subquery()
    # Not a count of limited rows: in MariaDB, a subquery of a subquery cannot refer to the installation.
    last = sa.select(delivery.c.due_at).where(is_of_it).order_by(delivery.c.due_at).correlate(installation)
    beyond = last.offset(MAX_COUNTED_DELIVERIES - 1).limit(1).scalar_subquery()
    deliveries = sa.case((beyond.is_not(None), MAX_COUNTED_DELIVERIES), else_=counted).label("deliveries")
    return sa.select(*database.columns(installation), deliveries, database.dialect.clock().label("now"))


def count_waiting(database: Database, installation_id: str, max_events: int | None = None) -> Waiting | None:
    """Returns what a purge would bury; None if the installation is unknown.

    No index of the outbox has the installation: with `max_events`, only its oldest events are searched.
    """
    with database.read() as connection:
        events, all_events = _count_events(connection, installation_id, max_events)
        deliveries, known = (
            _count(connection, is_exactly(table.c.installation_id, installation_id))
            for table in (delivery, installation)
        )
    return Waiting(events, deliveries, all_events) if events or deliveries or known else None


def count_due(database: Database, installation_id: str, max_events: int | None = None) -> Due:
    """Counts the installation's events and deliveries; with `max_events`, only the oldest events of the outbox are searched."""
    due_at = delivery.c.due_at
    with database.read() as connection:
        is_later = due_at > connection.execute(sa.select(database.dialect.clock())).scalar_one()
        figures = (sa.func.count(), sa.func.count(sa.case((is_later, 1))), sa.func.min(sa.case((is_later, due_at))))
        of_it = is_exactly(delivery.c.installation_id, installation_id)
        events, all_events = _count_events(connection, installation_id, max_events)
        all_, later, first = connection.execute(sa.select(*figures).where(of_it)).one()
    return Due(events, all_ - later, later, first, all_events)


def _count_events(connection: Connection, installation_id: str, max_events: int | None) -> tuple[int, bool]:
    """Returns the number of the installation's events, and whether the whole outbox was searched."""
    if max_events is None:
        return _count(connection, is_exactly(outbox.c.installation_id, installation_id)), True
    oldest = sa.select(outbox.c.installation_id).order_by(outbox.c.id).limit(max_events).subquery()
    of_it = is_exactly(oldest.c.installation_id, installation_id)
    events, searched = connection.execute(sa.select(sa.func.count(sa.case((of_it, 1))), sa.func.count())).one()
    return events, searched < max_events


def count_pausable(database: Database) -> int:
    """Counts the installations that no operator has paused."""
    with database.read() as connection:
        return _count(connection, is_pausable())


def count_paused(database: Database, reason: PauseReason | None = None) -> int:
    """Counts the paused installations, or those paused for this reason."""
    with database.read() as connection:
        return _count(connection, is_paused(reason))


def _count(connection: Connection, condition: ColumnElement[bool]) -> int:
    return int(connection.execute(sa.select(sa.func.count()).where(condition)).scalar_one())
