"""claim: the installations that have waited longest come under our lease, and with them their deliveries that are due."""

import uuid
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Executable, Row, Select

from dispatcher.database import Database
from dispatcher.dialects import Dialect
from dispatcher.policy import DeadLetterReason
from dispatcher.store.burial import Burial, bury
from dispatcher.store.look import is_free_and_due
from dispatcher.store.records import READ, Claimed, Delivery, Leased, Pulled
from dispatcher.tables import delivery, installation

LONG_AGO = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
LOCKED = (
    "installation_id",
    "due_at",
    "lease_token",
    "leased_by",
    "pause_reason",
    "paused_until",
    "paused_since",
    "last_delivered_at",
)
"""What is read of an installation that is ours, besides the time."""
FEWEST = 8
"""Deliveries of each installation that a claim reads at least, however many installations there are."""


def claim(
    database: Database,
    *,
    installations: int,
    deliveries: int,
    lease: timedelta,
    leased_by: str,
    max_attempts: int,
    due_floor: datetime = LONG_AGO,
) -> Claimed:
    """Leases up to `installations` that are due and free, with about `deliveries` of their deliveries altogether.

    A lease that has expired is taken over. That counts an attempt for what was due under it, because it may be what ended its
    worker; at `max_attempts` it becomes a dead letter.
    """
    token = str(uuid.uuid4())

    def step(connection: Connection) -> Claimed:
        dialect = database.dialect
        rows = connection.execute(_lock(dialect), {"due_floor": due_floor, "limit": installations}).all()
        if not rows:
            return Claimed(connection.execute(sa.select(dialect.clock())).scalar_one())
        _lease(connection, dialect, rows, token, lease, leased_by)
        most = fair_share(deliveries, len(rows))
        found = _due(connection, dialect, [row.installation_id for row in rows], most)
        expired = {row.installation_id for row in rows if row.lease_token is not None}
        buried = _count_crash(connection, dialect, found, expired, rows[0].now, max_attempts)
        return Claimed(
            rows[0].now, tuple(_leased(row, token, found) for row in rows), len(rows) == installations, buried
        )

    return database.transact(step, durable=False)  # undone, it is as if the lease had expired


def fair_share(deliveries: int, installations: int) -> int:
    """How many deliveries of each installation are read, when so many are wanted altogether."""
    return max(FEWEST, deliveries // max(1, installations))


def pull(database: Database, leases: dict[str, str], most: int, lease: timedelta) -> Pulled:
    """Renews the leases (installation → token) and reads up to `most` due deliveries of each.

    An installation that the answer does not name is no longer ours.
    """

    def step(connection: Connection, skip_locked: bool) -> Pulled:
        dialect = database.dialect
        tokens = [{"installation_id": i, "lease_token": token} for i, token in sorted(leases.items())]
        ours, locked = lock_ours(connection, dialect, tokens, skip_locked=skip_locked)
        if not ours:
            return Pulled({}, locked)
        renewed = [{"installation_id": row.installation_id, "leased_until": row.now + lease} for row in ours]
        connection.execute(_renew(dialect), dialect.encode(renewed))
        found = _due(connection, dialect, [row.installation_id for row in ours], most)
        return Pulled({row.installation_id: found.get(row.installation_id, []) for row in ours}, locked)

    return database.transact_around_locks(step, durable=False)  # undone, it is as if the lease had expired


@cache
def _lock(dialect: Dialect) -> Executable:
    names = ("installation_id", "lease_token", "rate_window", "failures", "faults", "pause_reason", "paused_since")
    return (
        sa.select(*(installation.c[name] for name in names), dialect.clock().label("now"))
        .where(*is_free_and_due(dialect))
        .order_by(installation.c.due_at)
        .limit(sa.bindparam("limit"))
        .with_for_update(skip_locked=True)
    )


def lock_ours(
    connection: Connection, dialect: Dialect, tokens: list[dict[str, Any]], *, skip_locked: bool
) -> tuple[Sequence[Row[Any]], frozenset[str]]:
    """Locks, in key order, the installations whose lease is still the one that is named, and returns their rows.

    `skip_locked`: without waiting for another's lock; the installations that are ours all the same are returned too.
    """
    asked = dialect.encode(tokens)
    ours = connection.execute(_ours(dialect).with_for_update(of=installation, skip_locked=skip_locked), asked).all()
    if not skip_locked or len(ours) == len(tokens):
        return ours, frozenset()
    found = {row.installation_id for row in connection.execute(_ours(dialect), asked)}
    return ours, frozenset(found - {row.installation_id for row in ours})


@cache
def _ours(dialect: Dialect) -> Select[Any]:
    rows = dialect.rows(installation.c.installation_id, installation.c.lease_token)
    ours = sa.and_(
        installation.c.installation_id == rows.c.installation_id, installation.c.lease_token == rows.c.lease_token
    )
    return (
        sa.select(*(installation.c[name] for name in LOCKED), dialect.clock().label("now"))
        .select_from(rows.join(installation, ours))
        .order_by(installation.c.installation_id)
        .prefix_with("STRAIGHT_JOIN", dialect="mysql")
        .with_hint(installation, "FORCE INDEX (PRIMARY)", "mysql")
    )


def _lease(
    connection: Connection, dialect: Dialect, rows: Sequence[Row[Any]], token: str, lease: timedelta, leased_by: str
) -> None:
    leased = [
        {
            "installation_id": row.installation_id,
            "lease_token": token,
            "leased_until": row.now + lease,
            "leased_by": leased_by,
        }
        for row in rows
    ]
    connection.execute(_write_lease(dialect), dialect.encode(leased))


@cache
def _write_lease(dialect: Dialect) -> Executable:
    columns = installation.c
    return dialect.update(
        installation, [columns.installation_id], [columns.lease_token, columns.leased_until, columns.leased_by]
    )


@cache
def _renew(dialect: Dialect) -> Executable:
    return dialect.update(installation, [installation.c.installation_id], [installation.c.leased_until])


def _due(connection: Connection, dialect: Dialect, ids: Sequence[str], most: int) -> dict[str, list[Delivery]]:
    found: dict[str, list[Delivery]] = {}
    statement = dialect.first_due(delivery, READ, len(ids))
    for row in connection.execute(statement, {**dialect.first_due_parameters(ids), "most": most}).all():
        found.setdefault(row.installation_id, []).append(Delivery.of(row))
    return found


def _leased(row: Row[Any], token: str, found: dict[str, list[Delivery]]) -> Leased:
    paused_for = None if row.paused_since is None else row.now - row.paused_since
    deliveries = tuple(found.get(row.installation_id, ()))
    return Leased(
        row.installation_id, token, deliveries, row.rate_window, row.failures, row.faults, row.pause_reason, paused_for
    )


def _count_crash(
    connection: Connection,
    dialect: Dialect,
    found: dict[str, list[Delivery]],
    expired: Collection[str],
    now: datetime,
    max_attempts: int,
) -> int:
    """Counts an attempt for the first deliveries of the expired leases, and takes those out that have used up all."""
    suspects = [one for installation_id in expired for one in found.get(installation_id, ())]
    if not suspects:
        return 0
    counted = [{"subject_key": one.subject_key, "attempts": one.attempts + 1} for one in suspects]
    connection.execute(_write_attempts(dialect), dialect.encode(counted))
    dead = [one for one in suspects if one.attempts + 1 >= max_attempts]
    error = "the dispatcher stopped without an answer each time this was due: see its logs at those times"
    bury(
        connection,
        dialect,
        [Burial(one, DeadLetterReason.EXHAUSTED, one.attempts + 1, None, error) for one in dead],
        now,
    )
    gone = {one.subject_key for one in dead}
    for installation_id in expired:
        kept = [one for one in found.get(installation_id, ()) if one.subject_key not in gone]
        found[installation_id] = [one._replace(attempts=one.attempts + 1) for one in kept]
    return len(dead)


@cache
def _write_attempts(dialect: Dialect) -> Executable:
    return dialect.update(delivery, [delivery.c.subject_key], [delivery.c.attempts])
