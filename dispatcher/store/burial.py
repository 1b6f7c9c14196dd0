"""bury: a delivery becomes a dead letter, unless more events were collected since its request started."""

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
    """A delivery that is given up: why, after how many attempts, and the last answer."""

    delivery: Delivery
    reason: DeadLetterReason
    attempts: int
    status: int | None
    error: str | None


def bury(connection: Connection, dialect: Dialect, burials: Sequence[Burial], now: datetime) -> int:
    """Moves them to the dead letters, in the caller's transaction, which holds their installations. Returns how many it moved:
    one with more events than its request knew of stays, for those have not been announced yet.
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
    told = ("died_at", "reason", "attempts", "last_status", "last_error")
    rows = dialect.rows(*(delivery.c[name] for name in VERSION), *(dead_letter.c[name] for name in told))
    same = sa.and_(*(delivery.c[name] == rows.c[name] for name in VERSION))
    values = sa.select(*(rows.c[name] for name in told), *(delivery.c[name] for name in ANNOUNCED))
    return sa.insert(dead_letter).from_select([*told, *ANNOUNCED], values.select_from(rows.join(delivery, same)))


@cache
def _delete(dialect: Dialect) -> Executable:
    return dialect.delete(delivery, [delivery.c[name] for name in VERSION])
