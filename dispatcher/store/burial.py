"""bury: turns a delivery into a dead letter, unless more events were collected since its request started."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

import sqlalchemy as sa
from sqlalchemy import Connection, Executable

from dispatcher.database.dialect import Dialect
from dispatcher.outbox.tables import dead_letter, delivery
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.store.records import ANNOUNCED, VERSION, Delivery


@dataclass(frozen=True, slots=True)
class Burial:
    """A delivery to give up."""

    delivery: Delivery
    reason: DeadLetterReason
    attempts: int
    status: int | None
    """HTTP status of the last answer."""
    error: str | None
    """Error of the last attempt."""


def bury(connection: Connection, dialect: Dialect, burials: Sequence[Burial], now: datetime) -> int:
    """Moves the deliveries to the dead letters, in the caller's transaction, which has locked their installations.

    Returns the number moved. A delivery with more events than its request covered stays: those have not been announced yet.
    """
    if not burials:
        return 0
    rows = [
        {
            **burial.delivery.guard,
            "died_at": now,
            "reason": burial.reason,
            "attempts": burial.attempts,
            "last_status": burial.status,
            "last_error": burial.error,
        }
        for burial in burials
    ]
    connection.execute(_insert(dialect), dialect.encode(rows))
    return connection.execute(_delete(dialect), dialect.encode(rows)).rowcount


@cache
def _insert(dialect: Dialect) -> Executable:
    given = ("died_at", "reason", "attempts", "last_status", "last_error")
    rows = dialect.rows(*(delivery.c[name] for name in VERSION), *(dead_letter.c[name] for name in given))
    same = sa.and_(*(delivery.c[name] == rows.c[name] for name in VERSION))
    values = sa.select(*(rows.c[name] for name in given), *(delivery.c[name] for name in ANNOUNCED))
    return sa.insert(dead_letter).from_select([*given, *ANNOUNCED], values.select_from(rows.join(delivery, same)))


@cache
def _delete(dialect: Dialect) -> Executable:
    return dialect.delete(delivery, [delivery.c[name] for name in VERSION])
