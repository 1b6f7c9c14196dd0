"""The outcomes of the requests of each minute."""

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import attempt
from dispatcher.policy.outcome import OutcomeKind

MAX_ROWS_PER_MINUTE = 2_000
"""Requests of a minute that are counted at most."""
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Minute:
    """The requests of one minute by the log of attempts, which lacks the delivered ones if it has only failures."""

    at: datetime
    """Its beginning."""
    delivered: int
    failed: int
    throttled: int
    """Answered with 429."""
    capped: bool
    """Whether there may be more: the figures are those of its first requests."""


def outcomes_by_minute(
    database: Database, minutes: int = 60, cap: int = MAX_ROWS_PER_MINUTE, known: Container[datetime] = ()
) -> list[Minute]:
    """Counts the requests of the last `minutes` minutes, oldest first; the last minute is still running.

    Each is read by itself, at most `cap` rows through the index on the time. A minute that is over hardly changes any more, so a caller
    that reads often can keep it: the minutes that begin at the `known` times are left out.
    """
    with database.read() as connection:
        now: datetime = connection.execute(sa.select(database.dialect.clock())).scalar_one()
        current = now.replace(second=0, microsecond=0)
        times = (current - ago * _MINUTE for ago in reversed(range(minutes)))
        return [_read(connection, at, cap) for at in times if at not in known]


def _read(connection: Connection, at: datetime, cap: int) -> Minute:
    within = (attempt.c.at >= at, attempt.c.at < at + _MINUTE)
    first = sa.select(attempt.c.outcome).where(*within).order_by(attempt.c.at).limit(cap).subquery()
    counted = sa.select(first.c.outcome, sa.func.count().label("number")).group_by(first.c.outcome)
    counts = Counter({row.outcome: row.number for row in connection.execute(counted)})
    delivered, throttled = counts[OutcomeKind.DELIVERED], counts[OutcomeKind.THROTTLED]
    return Minute(at, delivered, counts.total() - delivered - throttled, throttled, counts.total() >= cap)
