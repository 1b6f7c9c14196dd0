"""Installations as operators see them: the list, and the pending work of one."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Row, Select

from dispatcher.database.transactions import Database
from dispatcher.outbox.columns import is_exactly
from dispatcher.outbox.tables import delivery, installation, outbox
from dispatcher.policy.decision import PauseReason


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
    now: datetime

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
    deliveries: int


def list_installations(database: Database, limit: int, *, paused: bool = False) -> list[Installation]:
    """Returns at most `limit` installations, only paused ones if `paused`.

    Trouble comes first: those without a valid token, then failing ones, the worst first, then other pauses, then the others with pending
    work, the longest due first.
    """
    columns = installation.c
    by_trouble = (_TROUBLE, columns.failures.desc(), columns.due_at, columns.installation_id)
    first = _with_deliveries(database).order_by(*by_trouble).limit(limit)
    with database.read() as connection:
        rows = connection.execute(first.where(installation.c.pause_reason.is_not(None)) if paused else first)
        return [_installation(row) for row in rows]


_TROUBLE = sa.case(
    (installation.c.pause_reason.in_([PauseReason.UNAUTHORIZED, PauseReason.NO_CREDENTIAL]), 0),
    (sa.and_(installation.c.pause_reason.is_(None), installation.c.failures > 0), 1),
    (installation.c.pause_reason.is_not(None), 2),
    (installation.c.due_at.is_not(None), 3),
    else_=4,
)


def find_installations(connection: Connection, database: Database, ids: Collection[str]) -> dict[str, Installation]:
    """Returns, by id, those for which anything has been collected. Runs in the caller's transaction."""
    rows = connection.execute(_with_deliveries(database).where(installation.c.installation_id.in_(ids)))
    return {row.installation_id: _installation(row) for row in rows}


def _with_deliveries(database: Database) -> Select[Any]:
    counted = (
        sa.select(sa.func.count())
        .where(delivery.c.installation_id == installation.c.installation_id)
        .scalar_subquery()
        .label("deliveries")
    )
    return sa.select(*database.columns(installation), counted, database.dialect.clock().label("now"))


def _installation(row: Row[Any]) -> Installation:
    return Installation(**{name: getattr(row, name) for name in Installation.__slots__})


def count_waiting(database: Database, installation_id: str) -> Waiting | None:
    """Returns what a purge would bury; None if the installation is unknown."""
    with database.read() as connection:
        events, deliveries, known = (
            _count(connection, is_exactly(table.c.installation_id, installation_id))
            for table in (outbox, delivery, installation)
        )
    return Waiting(events, deliveries) if events or deliveries or known else None


def _count(connection: Connection, condition: ColumnElement[bool]) -> int:
    return int(connection.execute(sa.select(sa.func.count()).where(condition)).scalar_one())
