"""bury: turns a delivery into a dead letter, unless more events were collected since its request started. bury_waiting: purges."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

import sqlalchemy as sa
from sqlalchemy import Connection, Executable

from dispatcher.database.dialect import Dialect
from dispatcher.outbox.tables import dead_letter, delivery
from dispatcher.policy.decision import DeadLetterReason, Resolution
from dispatcher.store.dead_letters import RESOLVED, Signature
from dispatcher.store.records import ANNOUNCED, READ, VERSION, Delivery


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


def bury(
    connection: Connection,
    dialect: Dialect,
    burials: Sequence[Burial],
    now: datetime,
    discarded: Signature | None = None,
) -> int:
    """Moves the deliveries to the dead letters, in the caller's transaction, which has locked their installations.

    Returns the number moved. A delivery with more events than its request covered stays: those have not been announced yet. With a
    signature the dead letters are `discarded` by it at once, so that they wait for no person.
    """
    if not burials:
        return 0
    resolved = {} if discarded is None else discarded.resolve(Resolution.DISCARDED, now)
    rows = [
        {
            **resolved,
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


def bury_waiting(
    connection: Connection,
    dialect: Dialect,
    installation_id: str,
    limit: int,
    now: datetime,
    signature: Signature,
    before: int | None = None,
) -> int:
    """Moves at most `limit` deliveries of the installation to the dead letters, as `purged` and resolved, in the caller's transaction,
    which has locked the installation. Returns the number moved.

    `before` spares a delivery with an event of this id or a higher one.
    """
    wanted = [delivery.c.installation_id == installation_id]
    if before is not None:
        wanted.append(delivery.c.last_event_id < before)
    columns = (delivery.c[name] for name in (*READ, "last_status", "last_error"))
    waiting = connection.execute(sa.select(*columns).where(*wanted).order_by(delivery.c.due_at).limit(limit)).all()
    burials = [
        Burial(
            Delivery.of(one[: len(READ)], now), DeadLetterReason.PURGED, one.attempts, one.last_status, one.last_error
        )
        for one in waiting
    ]
    return bury(connection, dialect, burials, now, signature)


@cache
def _insert(dialect: Dialect) -> Executable:
    given = ("died_at", "reason", "attempts", "last_status", "last_error", *RESOLVED)
    rows = dialect.rows(*(delivery.c[name] for name in VERSION), *(dead_letter.c[name] for name in given))
    found = dialect.is_among(delivery.c.subject_key, rows)
    same = sa.and_(found, *(delivery.c[name] == rows.c[name] for name in VERSION))
    values = sa.select(*(rows.c[name] for name in given), *(delivery.c[name] for name in ANNOUNCED))
    return sa.insert(dead_letter).from_select([*given, *ANNOUNCED], values.select_from(rows.join(delivery, same)))


@cache
def _delete(dialect: Dialect) -> Executable:
    return dialect.delete(delivery, [delivery.c[name] for name in VERSION])
