"""claim: leases the installations that have waited longest and reads their due deliveries; pull and renew keep the leases."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Executable, Row, Select

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import delivery, installation
from dispatcher.store.records import READ, Claimed, Delivery, Leased, Pulled
from dispatcher.store.work import is_free_and_due

LONG_AGO = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
LOCKED_COLUMNS = (
    "installation_id",
    "due_at",
    "lease_token",
    "leased_by",
    "pause_reason",
    "paused_until",
    "paused_since",
    "last_delivered_at",
)
"""Columns read when an installation under our lease is locked; the database's time comes with them."""
CLAIMED_COLUMNS = (
    "installation_id",
    "due_at",
    "lease_token",
    "rate_window",
    "failures",
    "faults",
    "suspects",
    "pause_reason",
    "paused_since",
)
"""Columns that a claim reads of an installation; the database's time comes with them."""
MIN_DELIVERIES = 8
"""A claim reads at least this many deliveries per installation, however many installations there are."""


def claim(
    database: Database,
    *,
    installations: int,
    deliveries: int,
    lease: timedelta,
    leased_by: str,
    suspects: int,
    due_low_water: datetime = LONG_AGO,
) -> Claimed:
    """Leases at most `installations` that are due and free, and reads about `deliveries` of their deliveries in total.

    A claim that takes over an expired lease reads none of its deliveries, because one of them may have crashed the previous worker.
    The next `suspects` deliveries of that installation (as many as may have been in flight) are read one at a time: see
    `pull_suspects`.
    """
    token = str(uuid.uuid4())

    def step(connection: Connection) -> Claimed:
        dialect = database.dialect
        wanted = {"due_low_water": due_low_water, "limit": installations}
        given = {"lease_token": token, "leased_by": leased_by, "suspects": suspects}
        lease_due = _lease_at_once if dialect.chains_writes else _lease_in_turn
        rows = lease_due(connection, dialect, wanted, given, lease)
        if not rows:
            return Claimed(connection.execute(sa.select(dialect.clock())).scalar_one())
        under_suspicion = {row.installation_id: row.suspects if row.lease_token is None else suspects for row in rows}
        ids = [installation_id for installation_id, number in under_suspicion.items() if not number]
        due = first_due(connection, dialect, ids, fair_share(deliveries, len(rows)), rows[0].now)
        leased = (_leased(row, token, due, under_suspicion[row.installation_id]) for row in rows)
        return Claimed(rows[0].now, tuple(leased), len(rows) == installations)

    return database.transact(step, durable=False)  # losing this write in a crash is the same as the lease expiring


def fair_share(deliveries: int, installations: int) -> int:
    """Returns how many deliveries to read per installation when `deliveries` are wanted in total."""
    return max(MIN_DELIVERIES, deliveries // max(1, installations))


def pull(database: Database, leases: dict[str, str], limit: int, lease: timedelta) -> Pulled:
    """Renews the leases (installation → token) and reads at most `limit` due deliveries of each installation.

    An installation that is missing from the result is no longer under our lease.
    """

    def step(connection: Connection, skip_locked: bool) -> Pulled:
        ours, locked = renew_ours(connection, database.dialect, leases, lease, skip_locked=skip_locked)
        if not ours:
            return Pulled({}, locked)
        ids = [row.installation_id for row in ours]
        due = first_due(connection, database.dialect, ids, limit, ours[0].now)
        return Pulled({installation_id: due.get(installation_id, []) for installation_id in ids}, locked)

    return database.transact_around_locks(step, durable=False)  # losing it in a crash is the same as the lease expiring


def renew(database: Database, leases: dict[str, str], lease: timedelta) -> Pulled:
    """Renews the leases (installation → token) and reads no deliveries."""

    def step(connection: Connection, skip_locked: bool) -> Pulled:
        ours, locked = renew_ours(connection, database.dialect, leases, lease, skip_locked=skip_locked)
        return Pulled({row.installation_id: [] for row in ours}, locked)

    return database.transact_around_locks(step, durable=False)  # losing it in a crash is the same as the lease expiring


def renew_ours(
    connection: Connection, dialect: Dialect, leases: dict[str, str], lease: timedelta, *, skip_locked: bool
) -> tuple[Sequence[Row[Any]], frozenset[str]]:
    """Renews the leases that are still ours, in the caller's transaction. Returns the same values as `lock_ours`."""
    ours, locked = lock_ours(connection, dialect, leases, skip_locked=skip_locked)
    if ours:
        renewed = [{"installation_id": row.installation_id, "leased_until": row.now + lease} for row in ours]
        dialect.defer(connection, _renew(dialect), dialect.encode(renewed))
    return ours, locked


@cache
def _lock(dialect: Dialect) -> Select[Any]:
    return (
        sa.select(*(installation.c[name] for name in CLAIMED_COLUMNS), dialect.clock().label("now"))
        .where(*is_free_and_due(dialect))
        .order_by(installation.c.due_at)
        .limit(sa.bindparam("limit"))
        .with_for_update(skip_locked=True)
    )


def lock_ours(
    connection: Connection, dialect: Dialect, leases: Mapping[str, str], *, skip_locked: bool
) -> tuple[Sequence[Row[Any]], frozenset[str]]:
    """Locks, in key order, the installations that are still under these leases (installation → token), and returns their rows.

    With `skip_locked` it does not wait for locked rows; the second value then holds the installations that are still under our lease
    but locked by another session.
    """
    tokens = [{"installation_id": id_, "lease_token": token} for id_, token in sorted(leases.items())]
    keys = dialect.encode(tokens)  # MySQL locks in the order of these keys, regardless of ORDER BY
    ours = connection.execute(_locking(_ours(dialect), skip_locked), keys).all()
    if not skip_locked or len(ours) == len(tokens):
        return ours, frozenset()
    still_ours = {row.installation_id for row in connection.execute(_ours(dialect), keys)}
    return ours, frozenset(still_ours - {row.installation_id for row in ours})


@cache
def _locking(statement: Select[Any], skip_locked: bool) -> Executable:
    return statement.with_for_update(of=installation, skip_locked=skip_locked)


@cache
def _ours(dialect: Dialect) -> Select[Any]:
    rows = dialect.rows(installation.c.installation_id, installation.c.lease_token)
    ours = sa.and_(
        installation.c.installation_id == rows.c.installation_id, installation.c.lease_token == rows.c.lease_token
    )
    return (
        sa.select(*(installation.c[name] for name in LOCKED_COLUMNS), dialect.clock().label("now"))
        .select_from(rows.join(installation, ours))
        .order_by(installation.c.installation_id)
        .prefix_with("STRAIGHT_JOIN", dialect="mysql")
        .with_hint(installation, "FORCE INDEX (PRIMARY)", "mysql")
    )


def _lease_at_once(
    connection: Connection, dialect: Dialect, wanted: dict[str, Any], given: dict[str, Any], lease: timedelta
) -> Sequence[Row[Any]]:
    rows = connection.execute(_lease(dialect), {**wanted, **given, "lease": lease}).all()
    return sorted(rows, key=lambda row: row.due_at)  # an UPDATE returns them in any order


@cache
def _lease(dialect: Dialect) -> Executable:
    """Returns one statement that locks the installations, leases them, and returns their rows as they were before."""
    due = _lock(dialect).cte("due")
    suspects = sa.case((due.c.lease_token.is_(None), due.c.suspects), else_=sa.bindparam("suspects", type_=sa.Integer))
    leased_until = dialect.clock() + sa.bindparam("lease", type_=sa.Interval)
    given: dict[str, Any] = {name: sa.bindparam(name) for name in ("lease_token", "leased_by")}
    return (
        sa.update(installation)
        .where(installation.c.installation_id == due.c.installation_id)
        .values(**given, leased_until=leased_until, suspects=suspects)
        .returning(*due.c)
    )


def _lease_in_turn(
    connection: Connection, dialect: Dialect, wanted: dict[str, Any], given: dict[str, Any], lease: timedelta
) -> Sequence[Row[Any]]:
    rows = connection.execute(_lock(dialect), wanted).all()
    leased = [
        {
            **given,
            "installation_id": row.installation_id,
            "leased_until": row.now + lease,
            "suspects": row.suspects if row.lease_token is None else given["suspects"],
        }
        for row in rows
    ]
    if leased:
        connection.execute(_write_lease(dialect), dialect.encode(leased))
    return rows


@cache
def _write_lease(dialect: Dialect) -> Executable:
    names = ("lease_token", "leased_until", "leased_by", "suspects")
    return dialect.update(installation, [installation.c.installation_id], [installation.c[name] for name in names])


@cache
def _renew(dialect: Dialect) -> Executable:
    return dialect.update(installation, [installation.c.installation_id], [installation.c.leased_until])


def first_due(
    connection: Connection, dialect: Dialect, ids: Sequence[str], limit: int, now: datetime
) -> dict[str, list[Delivery]]:
    """Returns the deliveries of these installations that have been due longest, at most `limit` per installation."""
    due: dict[str, list[Delivery]] = {}
    if ids:
        statement = dialect.first_due(delivery, READ, len(ids))
        result = connection.execute(statement, {**dialect.first_due_parameters(ids), "limit": limit})
        for row in dialect.first_due_rows(result, delivery, READ):
            one = Delivery.of(row, now)
            due.setdefault(one.subject.installation_id, []).append(one)
    return due


def _leased(row: Row[Any], token: str, due: dict[str, list[Delivery]], suspects: int) -> Leased:
    return Leased(
        row.installation_id,
        token,
        tuple(due.get(row.installation_id, ())),
        row.rate_window,
        row.failures,
        row.faults,
        suspects,
        row.pause_reason,
        None if row.paused_since is None else row.now - row.paused_since,
    )
