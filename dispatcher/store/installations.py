"""Pause, resume and purge: stop, restart or empty one installation, or many of them, for an operator."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Row, Select

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.outbox.columns import is_exactly
from dispatcher.outbox.tables import installation, outbox
from dispatcher.policy.decision import PauseReason
from dispatcher.store.burial import bury_waiting
from dispatcher.store.collection import collect_installation
from dispatcher.store.dead_letters import UNSIGNED, Signature
from dispatcher.store.forgetting import is_quiet
from dispatcher.store.records import CHUNK_ROWS, Progress
from dispatcher.store.settlement import read_first_due

FOREVER = datetime(9999, 12, 31, tzinfo=UTC)
"""The end of an operator's pause, which lasts until `resume`."""
_READ = ("installation_id", "due_at", "leased_until", "pause_reason", "throttled_until", "rate_window")
_PAUSE = ("due_at", "pause_reason", "paused_since", "paused_until", "paused_by", "pause_note")
"""The columns that a pause by an operator writes, and its end."""


def pause(database: Database, installation_id: str, signature: Signature = UNSIGNED) -> bool:
    """Pauses the installation until `resume`; its events are kept. The worker that holds its lease stops at the next settlement.

    Returns False if the installation is unknown and has no event.
    """

    def step(connection: Connection) -> bool:
        row = _lock(connection, database.dialect, installation_id)
        if row is not None and row.pause_reason != PauseReason.OPERATOR:
            _pause(connection, database, [row], signature)
        return row is not None

    return database.transact(step)


def pause_all(database: Database, signature: Signature, progress: Progress, chunk: int = CHUNK_ROWS) -> int:
    """Pauses every installation that is known now, except those that an operator has paused before; returns their number.

    Rows that another session keeps locked are skipped.
    """
    return _in_chunks(database, is_pausable(), partial(_pause, signature=signature), progress, chunk)


def is_pausable() -> ColumnElement[bool]:
    """Returns the SQL condition for installations that no operator has paused."""
    return sa.func.coalesce(installation.c.pause_reason, "") != PauseReason.OPERATOR


def _pause(connection: Connection, database: Database, rows: Sequence[Row[Any]], signature: Signature) -> None:
    paused = [
        {
            "installation_id": row.installation_id,
            "due_at": None if row.due_at is None else FOREVER,
            "pause_reason": PauseReason.OPERATOR,
            "paused_since": row.now,
            "paused_until": FOREVER,
            "paused_by": signature.by,
            "pause_note": signature.note,
        }
        for row in rows
    ]
    _write(connection, database, _PAUSE, paused)


def resume(database: Database, installation_id: str) -> bool:
    """Ends the installation's pause, whatever its reason: its deliveries are sent again as soon as they are due.

    Returns False if the installation is unknown and has no event.
    """

    def step(connection: Connection) -> bool:
        row = _lock(connection, database.dialect, installation_id)
        if row is not None and row.pause_reason is not None:
            _resume(connection, database, [row])
        return row is not None

    return database.transact(step)


def resume_all(database: Database, reason: PauseReason | None, progress: Progress, chunk: int = CHUNK_ROWS) -> int:
    """Ends all pauses, or those with this reason; returns their number. Rows that another session keeps locked are skipped."""
    return _in_chunks(database, is_paused(reason), _resume, progress, chunk)


def is_paused(reason: PauseReason | None = None) -> ColumnElement[bool]:
    """Returns the SQL condition for installations that are paused, for this reason if one is given."""
    column = installation.c.pause_reason
    return column.is_not(None) if reason is None else column == reason


def _resume(connection: Connection, database: Database, rows: Sequence[Row[Any]]) -> None:
    first_due = read_first_due(connection, database.dialect, [row.installation_id for row in rows])
    resumed = [
        {
            "installation_id": row.installation_id,
            "due_at": _next_look(row, first_due[row.installation_id]),
            "failures": 0,
        }
        for row in rows
    ]
    _write(connection, database, (*_PAUSE, "failures"), resumed)


def _next_look(row: Row[Any], first_due: datetime | None) -> datetime | None:
    return None if first_due is None else max(first_due, row.now, row.throttled_until or row.now)


def _write(connection: Connection, database: Database, names: Sequence[str], rows: list[dict[str, Any]]) -> None:
    """Writes these columns of the rows, as far as the database has them; a column that a row does not name becomes NULL."""
    columns = [column for name in names if database.has(column := installation.c[name])]
    update = database.dialect.update(installation, [installation.c.installation_id], columns)
    connection.execute(update, database.dialect.encode(rows))


def _in_chunks(
    database: Database,
    wanted: ColumnElement[bool],
    change: Callable[[Connection, Database, Sequence[Row[Any]]], None],
    progress: Progress,
    chunk: int,
) -> int:
    done, after = 0, ""

    def step(connection: Connection, skip_locked: bool) -> Sequence[Row[Any]]:
        key = installation.c.installation_id
        first = _with_now(database.dialect).where(wanted, key > after).order_by(key).limit(chunk)
        rows = connection.execute(first.with_for_update(skip_locked=skip_locked)).all()
        if rows:
            change(connection, database, rows)
        return rows

    while rows := database.transact_around_locks(step):
        done, after = done + len(rows), rows[-1].installation_id
        progress(done)
    return done


def _lock(connection: Connection, dialect: Dialect, installation_id: str) -> Row[Any] | None:
    """Locks and returns the installation's row; inserts it first if the installation only has events that are not collected yet."""
    row = connection.execute(_locked(dialect, installation_id)).one_or_none()
    if row is None and _has_events(connection, installation_id):
        rows = dialect.rows(installation.c.installation_id)
        # An upsert, because a collector may be inserting the same row.
        insert = dialect.upsert(installation, sa.select(rows), lambda _: {"due_at": installation.c.due_at})
        connection.execute(insert, dialect.encode([{"installation_id": installation_id}]))
        row = connection.execute(_locked(dialect, installation_id)).one()
    return row


def _locked(dialect: Dialect, installation_id: str) -> Select[Any]:
    return _with_now(dialect).where(is_exactly(installation.c.installation_id, installation_id)).with_for_update()


def _with_now(dialect: Dialect) -> Select[Any]:
    return sa.select(*(installation.c[name] for name in _READ), dialect.clock().label("now"))


def _has_events(connection: Connection, installation_id: str) -> bool:
    first = sa.select(outbox.c.id).where(is_exactly(outbox.c.installation_id, installation_id)).limit(1)
    return connection.execute(first).first() is not None


def purge(
    database: Database,
    installation_id: str,
    progress: Progress,
    chunk: int = CHUNK_ROWS,
    *,
    signature: Signature = UNSIGNED,
    rate_window: timedelta = timedelta(minutes=1),
) -> int:
    """Buries all waiting events and deliveries of the installation as `purged` and resolved; returns the number of dead letters created.

    Then the installation is forgotten, unless an operator has paused it, a dispatcher holds its lease, or its last request is not older
    than `rate_window` and so still counts. If its row stays, a pause that no operator ordered ends, because there is nothing left to
    probe with. Requests in flight finish as usual but do not supersede the new dead letters, which may hold changes committed after those
    requests began. `progress` gets the number buried so far.
    """
    while collect_installation(database, installation_id, chunk).full:
        pass
    step = partial(_bury, dialect=database.dialect, installation_id=installation_id, chunk=chunk, signature=signature)
    buried = 0
    while done := database.transact(step):
        buried += done
        progress(buried)
    database.transact(partial(_empty, database=database, installation_id=installation_id, window=rate_window))
    return buried


def _bury(connection: Connection, dialect: Dialect, installation_id: str, chunk: int, signature: Signature) -> int:
    """Buries the next chunk."""
    row = connection.execute(_locked(dialect, installation_id)).one_or_none()
    if row is None:
        return 0
    return bury_waiting(connection, dialect, installation_id, chunk, row.now, signature)


def _empty(connection: Connection, database: Database, installation_id: str, window: timedelta) -> None:
    """Forgets the installation or makes it idle, unless a delivery has come in the meantime."""
    dialect = database.dialect
    row = connection.execute(_locked(dialect, installation_id)).one_or_none()
    if row is None or read_first_due(connection, dialect, [installation_id])[installation_id] is not None:
        return
    is_paused_by_hand = row.pause_reason == PauseReason.OPERATOR
    if not is_paused_by_hand and is_quiet(row, row.now - window):
        connection.execute(sa.delete(installation).where(installation.c.installation_id == row.installation_id))
        return
    idle = {"installation_id": row.installation_id, "due_at": None}
    if is_paused_by_hand:
        _write(connection, database, ["due_at"], [idle])
    else:
        _write(connection, database, (*_PAUSE, "failures"), [{**idle, "failures": 0}])
