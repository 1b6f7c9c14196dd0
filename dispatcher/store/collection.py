"""collect: merges committed events into one delivery per subject and makes their installations due, in one transaction."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from itertools import count
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Executable, Select

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.outbox.columns import Timestamp, is_exactly
from dispatcher.outbox.events import INSTALLATION_REMOVED
from dispatcher.outbox.tables import collector, dead_letter, delivery, installation, outbox
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.store.batch import Batch, read_batch
from dispatcher.store.new_deliveries import new_deliveries
from dispatcher.store.outbox_rows import Malformed
from dispatcher.store.records import Collected

LOWEST_ID = 1 - 2**63  # -2**63 cannot be written as a literal in SQL, only as the negation of one that is too large
MAX_CLOCK_SKEW = timedelta(minutes=1)
"""How far in the future the time of a past event may lie, for example because another node wrote it. A time further ahead was written
before the database's clock was set back."""
MAX_SETTLE_DELAYS = 10
"""A busy subject is announced after at most this many settle delays, and again when its last event is visible."""


def collect(
    database: Database, limit: int, low_water: int = LOWEST_ID, settle_delay: timedelta = timedelta()
) -> Collected:
    """Moves at most `limit` committed events with an id above `low_water`. Moves none while another dispatcher is collecting.

    Events of installations whose row stays locked by another session are left in the outbox, and so are removals.
    """
    tries = count()

    def step(connection: Connection, skip_locked: bool) -> Collected:
        contended = next(tries) > 0
        collected = _collect(connection, database.dialect, limit, low_water, settle_delay, skip_locked=skip_locked)
        return replace(collected, contended=contended)

    # Not durable: if a crash loses this transaction, the events are still in the outbox.
    return database.transact_around_locks(step, durable=False)


def collect_installation(database: Database, installation_id: str, limit: int) -> Collected:
    """Moves at most `limit` committed events of one installation. Waits until no other dispatcher is collecting."""
    return database.transact(lambda connection: collect_before(connection, database.dialect, installation_id, limit))


def collect_before(
    connection: Connection, dialect: Dialect, installation_id: str, limit: int, before: int | None = None
) -> Collected:
    """Does the same in the caller's transaction, if `before` is given only for events with a lower id. Removals stay in the outbox."""
    connection.execute(sa.select(collector).with_for_update())
    columns = outbox.c
    wanted = [is_exactly(columns.installation_id, installation_id), columns.type != INSTALLATION_REMOVED]
    if before is not None:
        wanted.append(columns.id < before)
    return _collect(connection, dialect, limit, LOWEST_ID, timedelta(), *wanted)


def _collect(
    connection: Connection,
    dialect: Dialect,
    limit: int,
    low_water: int,
    settle_delay: timedelta,
    *wanted: ColumnElement[bool],
    skip_locked: bool = False,
) -> Collected:
    now = _exclude_others(connection, dialect)
    if now is None:
        return Collected(skipped=True)
    read = read_batch(connection, dialect, now, low_water, limit, *wanted)
    if read is None:
        return Collected()
    batch = _without_locked(connection, dialect, read) if skip_locked else read
    installation_ids = batch.installation_ids
    if batch.changes:
        _mark_due(connection, dialect, installation_ids, now, settle_delay)
        _add_to_deliveries(connection, dialect, batch.changes, now, settle_delay)
    _bury(connection, batch.malformed, now)
    moved = [*batch.changes, *(row.event_id for row in batch.malformed)]
    connection.execute(_delete(dialect), dialect.encode([{"id": id_} for id_ in moved]))
    return Collected(
        len(moved),
        batch.subjects,
        installation_ids,
        tuple(batch.malformed),
        batch.last_event_id,
        left=batch.rows - len(moved),
        removals=tuple(batch.removals),
        full=batch.rows == limit,
    )


def _exclude_others(connection: Connection, dialect: Dialect) -> datetime | None:
    """Locks the collector's row and returns the database's time; None if another dispatcher has it locked."""
    now: datetime | None = connection.execute(_lock_collector(dialect)).scalar()
    if now is None and connection.execute(sa.select(collector)).first() is None:
        connection.execute(sa.insert(collector).values(id=1))  # the partner's own migrations created an empty table
        now = connection.execute(sa.select(dialect.clock())).scalar_one()
    return now


@cache
def _lock_collector(dialect: Dialect) -> Executable:
    return sa.select(dialect.clock()).select_from(collector).with_for_update(skip_locked=True)


def _without_locked(connection: Connection, dialect: Dialect, batch: Batch) -> Batch:
    """Locks the events' installations without waiting. Returns the events whose installation was locked here or is new."""
    ids = sorted(batch.installation_ids | {one.installation_id for one in batch.removals})
    keys = dialect.encode([{"installation_id": id_} for id_ in ids])
    locked = set(connection.execute(known(dialect).with_for_update(of=installation, skip_locked=True), keys).scalars())
    others = set(connection.execute(known(dialect), keys).scalars()) - locked if len(locked) < len(ids) else set()
    return batch.without(others)


@cache
def known(dialect: Dialect) -> Select[Any]:
    """Selects those of the installations in `:rows` that have a row, in key order."""
    rows = dialect.rows(installation.c.installation_id)
    return (
        sa.select(installation.c.installation_id)
        .select_from(rows.join(installation, installation.c.installation_id == rows.c.installation_id))
        .order_by(installation.c.installation_id)
        .prefix_with("STRAIGHT_JOIN", dialect="mysql")
        .with_hint(installation, "FORCE INDEX (PRIMARY)", "mysql")
    )


def _mark_due(
    connection: Connection, dialect: Dialect, installation_ids: Iterable[str], now: datetime, settle_delay: timedelta
) -> None:
    """Makes the installations due. This must come before the deliveries are written: a settlement that gives back a lease waits for
    this lock, and then sees the deliveries.
    """
    rows = [{"installation_id": id_, "due_at": now + settle_delay} for id_ in sorted(installation_ids)]
    dialect.defer(connection, _upsert_installations(dialect), {**dialect.encode(rows), "latest": now + MAX_CLOCK_SKEW})


@cache
def _upsert_installations(dialect: Dialect) -> Executable:
    rows = dialect.rows(installation.c.installation_id, installation.c.due_at)
    old = installation.c

    def mark(new: Any) -> dict[str, ColumnElement[Any]]:
        clock_was_set_back = old.last_delivered_at > sa.bindparam("latest", type_=Timestamp())
        # Not before the pause ends or the rate window has a free slot, or each event would wake a claim that can do nothing.
        allowed = dialect.latest(
            new.due_at,
            sa.func.coalesce(old.paused_until, new.due_at),
            sa.case((clock_was_set_back, new.due_at), else_=sa.func.coalesce(old.throttled_until, new.due_at)),
        )
        marked = {"due_at": sa.case((old.due_at <= allowed, old.due_at), else_=allowed)}
        return marked | ({"collections": old.collections + 1} if dialect.writes_what_it_locks else {})

    return dialect.upsert(installation, sa.select(rows).order_by(rows.c.installation_id), mark)


def draw_version() -> str:
    """Returns the version for the rows that one collection touches. It is random because after a failover counts and ids repeat."""
    return str(uuid.uuid4())


def _add_to_deliveries(
    connection: Connection, dialect: Dialect, event_ids: Iterable[int], now: datetime, settle_delay: timedelta
) -> None:
    rows = [{"id": id_} for id_ in event_ids]
    values = {
        "version": draw_version(),
        "due_at": now + settle_delay,
        "now": now,
        "settled_before": now - MAX_SETTLE_DELAYS * settle_delay,
    }
    dialect.defer(connection, _upsert_deliveries(dialect), {**dialect.encode(rows), **values})


@cache
def _upsert_deliveries(dialect: Dialect) -> Executable:
    old = delivery.c

    def joined(new: Any) -> dict[str, ColumnElement[Any]]:
        keeps_its_time = sa.or_(
            old.attempts > 0, old.first_created_at <= sa.bindparam("settled_before", type_=Timestamp())
        )
        return {
            "version": new.version,
            "visible_at": new.visible_at,
            "events": old.events + new.events,
            "last_event_id": sa.case(
                (new.last_event_id > old.last_event_id, new.last_event_id), else_=old.last_event_id
            ),
            "product_id": sa.func.coalesce(new.product_id, old.product_id),
            "billing_plan_id": sa.func.coalesce(new.billing_plan_id, old.billing_plan_id),
            "traceparent": sa.func.coalesce(new.traceparent, old.traceparent),
            # Backoff belongs to the subject, so a new event does not end it. Without backoff the settle delay restarts, up to its limit.
            "due_at": sa.case((keeps_its_time, old.due_at), else_=new.due_at),
        }

    return dialect.upsert(delivery, new_deliveries(dialect), joined)


def _bury(connection: Connection, malformed: Sequence[Malformed], now: datetime) -> None:
    if malformed:
        connection.execute(
            sa.insert(dead_letter),
            [
                {
                    **row.values,
                    "died_at": now,
                    "reason": DeadLetterReason.MALFORMED,
                    "events": 1,
                    "first_event_id": row.event_id,
                    "last_event_id": row.event_id,
                    "first_created_at": row.created_at,
                    "attempts": 0,
                    "last_error": row.why,
                }
                for row in malformed
            ],
        )


@cache
def _delete(dialect: Dialect) -> Executable:
    return dialect.delete(outbox, [outbox.c.id])
