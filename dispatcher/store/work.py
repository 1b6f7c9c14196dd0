"""look: is there anything to do? One statement that locks nothing; all that an idle dispatcher asks of its database."""

from dataclasses import dataclass
from datetime import datetime
from functools import cache

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Executable

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.outbox.columns import Timestamp
from dispatcher.outbox.tables import installation, outbox


@dataclass(frozen=True, slots=True)
class Work:
    """Whether committed events wait in the outbox, and whether an installation is due and free."""

    to_collect: bool
    to_claim: bool


def look(database: Database, floor: int, due_floor: datetime) -> Work:
    """Looks above the floors only: an id of the outbox, a due time of an installation."""
    with database.peek() as connection:
        row = connection.execute(_look(database.dialect), {"floor": floor, "due_floor": due_floor}).one()
    return Work(row.event is not None, row.due is not None)


@cache
def _look(dialect: Dialect) -> Executable:
    event = sa.select(outbox.c.id).where(outbox.c.id > sa.bindparam("floor")).order_by(outbox.c.id).limit(1)
    due = (
        sa.select(installation.c.installation_id)
        .where(*is_free_and_due(dialect))
        .order_by(installation.c.due_at)
        .limit(1)
    )
    return sa.select(event.scalar_subquery().label("event"), due.scalar_subquery().label("due"))


def is_free_and_due(dialect: Dialect) -> tuple[ColumnElement[bool], ...]:
    """Due, above `:due_floor`, and under nobody's lease, or under one that has expired."""
    now = dialect.clock()
    return (
        installation.c.due_at <= now,
        installation.c.due_at >= sa.bindparam("due_floor", type_=Timestamp()),
        sa.or_(installation.c.leased_until.is_(None), installation.c.leased_until <= now),
    )
