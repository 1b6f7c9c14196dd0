"""look: checks whether there is work, in one statement that locks nothing. An idle dispatcher executes no other statement."""

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
    """The work that a look has found."""

    to_collect: bool
    """Whether committed events are waiting in the outbox."""
    to_claim: bool
    """Whether an installation is due and not under a lease."""


def look(database: Database, low_water: int, due_low_water: datetime) -> Work:
    """Looks for outbox events with an id above `low_water` and for installations due at `due_low_water` or later."""
    with database.peek() as connection:
        row = connection.execute(
            _look(database.dialect), {"low_water": low_water, "due_low_water": due_low_water}
        ).one()
    return Work(row.event is not None, row.due is not None)


@cache
def _look(dialect: Dialect) -> Executable:
    event = sa.select(outbox.c.id).where(outbox.c.id > sa.bindparam("low_water")).order_by(outbox.c.id).limit(1)
    due = (
        sa.select(installation.c.installation_id)
        .where(*is_free_and_due(dialect))
        .order_by(installation.c.due_at)
        .limit(1)
    )
    return sa.select(event.scalar_subquery().label("event"), due.scalar_subquery().label("due"))


def is_free_and_due(dialect: Dialect) -> tuple[ColumnElement[bool], ...]:
    """Returns the conditions for installations that are due (at `:due_low_water` or later) and under no lease or an expired one."""
    now = dialect.clock()
    return (
        installation.c.due_at <= now,
        installation.c.due_at >= sa.bindparam("due_low_water", type_=Timestamp()),
        sa.or_(installation.c.leased_until.is_(None), installation.c.leased_until <= now),
    )
