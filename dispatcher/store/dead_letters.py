"""Replay and discard: resolve dead letters for an operator, in short transactions of one chunk each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Executable, Row, Select, Subquery, Table

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.outbox.columns import belongs_to, is_exactly
from dispatcher.outbox.tables import dead_letter, delivery, outbox
from dispatcher.policy.decision import DeadLetterReason, Resolution
from dispatcher.store.records import CHUNK_ROWS, Progress


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects the dead letters that meet every given condition."""

    ids: Sequence[int] = ()
    installation_id: str | None = None
    resource_id: str | None = None
    reason: DeadLetterReason | None = None
    since: datetime | None = None
    """Died at this time or later."""
    status: int | None = None
    """The HTTP status of the last answer, or `NO_STATUS`."""
    error_prefix: str | None = None
    """The last error begins with exactly this text, or is `NO_ERROR`."""
    before: int | None = None
    """Has a lower id than this: the key of the next page."""

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions in SQL."""
        return self.of(dead_letter)

    def of(self, table: Table | Subquery) -> list[ColumnElement[bool]]:
        """Returns the conditions in SQL, for the table or a part of it."""
        columns = table.c
        conditions = belongs_to(table, self.installation_id, self.resource_id)
        if self.ids:
            conditions.append(columns.id.in_(self.ids))
        if self.reason is not None:
            conditions.append(columns.reason == self.reason)
        if self.since is not None:
            conditions.append(columns.died_at >= self.since)
        if self.status is not None:
            conditions.append(sa.func.coalesce(columns.last_status, NO_STATUS) == self.status)
        if self.error_prefix is not None:
            conditions.append(_begins_with(columns.last_error, self.error_prefix))
        if self.before is not None:
            conditions.append(columns.id < self.before)
        return conditions


NO_STATUS = 0
"""Stands for the status of a dead letter whose last attempt got no answer."""
NO_ERROR = ""
"""Stands for the error of a dead letter that has none."""


def _begins_with(column: ColumnElement[Any], prefix: str) -> ColumnElement[bool]:
    """Byte for byte. LIKE ignores the case of ASCII letters on SQLite."""
    if prefix == NO_ERROR:
        return sa.or_(column.is_(None), is_exactly(column, NO_ERROR))
    return is_exactly(sa.func.substr(column, 1, len(prefix), type_=sa.String()), prefix)


RESOLVED = ("resolved_at", "resolution", "resolved_by", "note")
"""The columns that are NULL until a dead letter is resolved."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Who does something, and why."""

    by: str | None = None
    note: str | None = None

    def resolve(self, resolution: Resolution, now: datetime) -> dict[str, object]:
        """Returns the values of the `RESOLVED` columns of a dead letter that is resolved now."""
        return dict(zip(RESOLVED, (now, resolution, self.by, self.note), strict=True))


UNSIGNED = Signature()


def is_unresolved() -> ColumnElement[bool]:
    """Returns the SQL condition for unresolved dead letters."""
    return dead_letter.c.resolved_at.is_(None)


def is_replayable(wanted: Filter) -> ColumnElement[bool]:
    """Returns the SQL condition for the dead letters that a replay of these takes: unresolved ones and, if purged ones are asked for by
    their reason, discarded ones too, because a purge resolves them at once.
    """
    if wanted.reason is not DeadLetterReason.PURGED:
        return is_unresolved()
    return sa.or_(is_unresolved(), dead_letter.c.resolution == Resolution.DISCARDED)


def replay(
    database: Database, wanted: Filter, until: int, signature: Signature, progress: Progress, chunk: int = CHUNK_ROWS
) -> int:
    """Publishes the subjects of the dead letters up to the id `until` again and resolves these; returns their number.

    Malformed ones stay. Concurrent replays publish each dead letter only once. `progress` gets the number done so far.
    """
    step = partial(_replay, wanted=wanted, until=until, signature=signature, chunk=chunk)
    return _in_chunks(database, step, progress)


def discard(
    database: Database, wanted: Filter, until: int, signature: Signature, progress: Progress, chunk: int = CHUNK_ROWS
) -> int:
    """Resolves the dead letters, malformed ones included, without sending anything. Otherwise works like `replay`."""
    step = partial(_discard, wanted=wanted, until=until, signature=signature, chunk=chunk)
    return _in_chunks(database, step, progress)


def _in_chunks(database: Database, step: Callable[..., list[int]], progress: Progress) -> int:
    done, after = 0, 0
    while ids := database.transact(partial(step, dialect=database.dialect, after=after)):
        done, after = done + len(ids), ids[-1]
        progress(done)
    return done


def _replay(
    connection: Connection, dialect: Dialect, wanted: Filter, after: int, until: int, signature: Signature, chunk: int
) -> list[int]:
    events_known = dead_letter.c.subject_key.is_not(None)
    rows = connection.execute(_lock(wanted, is_replayable(wanted), after, until, chunk).where(events_known)).all()
    events = _events(connection, rows)
    ids = _resolve(connection, dialect, rows, Resolution.REPLAYED, signature)
    if rows:
        connection.execute(_publish(dialect), dialect.encode(events))
    return ids


@cache
def _publish(dialect: Dialect) -> Executable:
    rows = dialect.rows(*(outbox.c[name] for name in _EVENT))
    return sa.insert(outbox).from_select(_EVENT, sa.select(rows))


_CARRIED = ("product_id", "billing_plan_id")
_EVENT = ("installation_id", "type", "resource_id", *_CARRIED)


def _discard(
    connection: Connection, dialect: Dialect, wanted: Filter, after: int, until: int, signature: Signature, chunk: int
) -> list[int]:
    rows = connection.execute(_lock(wanted, is_unresolved(), after, until, chunk)).all()
    return _resolve(connection, dialect, rows, Resolution.DISCARDED, signature)


def discard_before(
    connection: Connection, dialect: Dialect, installation_id: str, event_id: int, signature: Signature, limit: int
) -> int:
    """Resolves at most `limit` dead letters of the installation whose events all have ids below `event_id`, in the caller's transaction.

    Returns their number. Skips those that an operator is resolving at this moment.
    """
    columns = dead_letter.c
    of_it = is_exactly(columns.installation_id, installation_id)
    before = (is_unresolved(), of_it, columns.last_event_id < event_id)
    chunk = sa.select(columns.id).where(*before).order_by(columns.id).limit(limit)
    rows = connection.execute(chunk.with_for_update(skip_locked=True)).all()
    return len(_resolve(connection, dialect, rows, Resolution.DISCARDED, signature))


def _lock(wanted: Filter, state: ColumnElement[bool], after: int, until: int, chunk: int) -> Select[Any]:
    """Locks the next chunk. A concurrent replay that was waiting for one of these rows finds it resolved and skips it."""
    key = dead_letter.c.id
    matching = (state, key > after, key <= until, *wanted.conditions)
    return sa.select(dead_letter).where(*matching).order_by(key).limit(chunk).with_for_update()


def _events(connection: Connection, rows: Sequence[Row[Any]]) -> list[dict[str, str | None]]:
    """Returns the outbox rows to write, without values that a newer event has overtaken: an old value must not arrive last."""
    overtaken = {name: _overtaken(connection, rows, name) for name in _CARRIED}
    return [
        {name: None if row.id in overtaken.get(name, ()) else getattr(row, name) for name in _EVENT} for row in rows
    ]


def _overtaken(connection: Connection, rows: Sequence[Row[Any]], name: str) -> set[int]:
    """Returns the ids of the dead letters whose value in this column is superseded by a newer one that is waiting or dead too."""
    carrying = [row for row in rows if getattr(row, name) is not None]
    if not carrying:
        return set()
    waiting = _waiting(connection, carrying, name)
    columns, keys = dead_letter.c, {row.subject_key for row in carrying}
    dead = sa.or_(is_unresolved(), columns.id.in_([row.id for row in carrying]))
    last = (
        sa.select(columns.subject_key, sa.func.max(columns.last_event_id))
        .where(columns.subject_key.in_(keys), dead, columns[name].is_not(None))
        .group_by(columns.subject_key)
    )
    newest: dict[str, int] = dict(connection.execute(last).all())
    return {
        row.id
        for row in carrying
        if (row.installation_id, row.resource_id) in waiting or row.last_event_id < newest[row.subject_key]
    }


def _waiting(connection: Connection, rows: Sequence[Row[Any]], name: str) -> set[tuple[str, str | None]]:
    """Returns those (installation, resource) pairs of the rows for which an event with a value in this column is waiting."""
    ids, resources = {row.installation_id for row in rows}, {row.resource_id for row in rows} - {None}
    waiting: set[tuple[str, str | None]] = set()
    for table in (outbox, delivery):  # in this order an event that is collected in between is not missed
        columns = table.c
        same_resource = sa.or_(columns.resource_id.is_(None), columns.resource_id.in_(resources))
        carrying = (columns.installation_id.in_(ids), same_resource, columns[name].is_not(None))
        waiting |= {
            (row[0], row[1])
            for row in connection.execute(sa.select(columns.installation_id, columns.resource_id).where(*carrying))
        }
    return waiting


def _resolve(
    connection: Connection, dialect: Dialect, rows: Sequence[Row[Any]], resolution: Resolution, signature: Signature
) -> list[int]:
    if not rows:
        return []
    now = connection.execute(sa.select(dialect.clock())).scalar_one()
    columns = dead_letter.c
    fields = signature.resolve(resolution, now)
    update = dialect.update(dead_letter, [columns.id], [columns[name] for name in RESOLVED])
    connection.execute(update, dialect.encode([{"id": row.id, **fields} for row in rows]))
    return [row.id for row in rows]
