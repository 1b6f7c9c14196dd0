"""remove: forgets an installation that the application has reported as removed, and purges what waits for it.

Ids decide what came first: an event with a lower id than the removal is purged, one with a higher id is delivered as usual. An event of a
concurrent transaction that commits only after the removal is done is delivered as usual too: losing it would be worse.
"""

from functools import partial

import sqlalchemy as sa
from sqlalchemy import Connection

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.outbox.columns import is_exactly
from dispatcher.outbox.events import INSTALLATION_REMOVED
from dispatcher.outbox.tables import collector, delivery, installation, outbox
from dispatcher.store.burial import bury_waiting
from dispatcher.store.collection import collect_before
from dispatcher.store.dead_letters import Signature, discard_before
from dispatcher.store.outbox_rows import Removal
from dispatcher.store.records import CHUNK_ROWS, Removed

SIGNATURE = Signature(INSTALLATION_REMOVED)


def remove(database: Database, removal: Removal, chunk: int = CHUNK_ROWS) -> Removed:
    """Takes one step of the removal, which purges at most `chunk` rows of each kind.

    The last step deletes the installation's row, unless a newer event waits for it, and the removal's own event. A worker that holds the
    lease loses it. Steps may be repeated, also by several dispatchers at the same time.
    """
    # Not durable: if a crash loses this transaction, the removal is still in the outbox.
    return database.transact_around_locks(
        partial(_remove, dialect=database.dialect, removal=removal, chunk=chunk), durable=False
    )


def _remove(connection: Connection, skip_locked: bool, *, dialect: Dialect, removal: Removal, chunk: int) -> Removed:
    connection.execute(sa.select(collector).with_for_update())
    if not _is_in_outbox(connection, removal):
        return Removed(done=True)
    if not _lock(connection, removal.installation_id, skip_locked=skip_locked):
        return Removed(locked=True)
    id_, before = removal.installation_id, removal.event_id
    collected = collect_before(connection, dialect, id_, chunk, before)
    now = connection.execute(sa.select(dialect.clock())).scalar_one()
    purged = bury_waiting(connection, dialect, id_, chunk, now, SIGNATURE, before)
    resolved = discard_before(connection, dialect, id_, before, SIGNATURE, chunk)
    if collected.full or chunk in (purged, resolved):
        return Removed(collected.events, purged, resolved)
    forgotten = not _has_deliveries(connection, id_)
    if forgotten:
        connection.execute(sa.delete(installation).where(is_exactly(installation.c.installation_id, id_)))
    connection.execute(sa.delete(outbox).where(outbox.c.id == removal.event_id))
    return Removed(collected.events + 1, purged, resolved, done=True, forgotten=forgotten)


def _is_in_outbox(connection: Connection, removal: Removal) -> bool:
    """Whether the removal is still to be done: another dispatcher may have been quicker."""
    columns = outbox.c
    same = (
        columns.id == removal.event_id,
        columns.type == INSTALLATION_REMOVED,
        is_exactly(columns.installation_id, removal.installation_id),
    )
    return connection.execute(sa.select(columns.id).where(*same)).first() is not None


def _lock(connection: Connection, installation_id: str, *, skip_locked: bool) -> bool:
    """Locks the installation's row, if it has one. Returns whether that succeeded: with `skip_locked` it does not wait."""
    row = sa.select(installation.c.installation_id).where(is_exactly(installation.c.installation_id, installation_id))
    locked = connection.execute(row.with_for_update(skip_locked=skip_locked)).first()
    return locked is not None or not skip_locked or connection.execute(row).first() is None


def _has_deliveries(connection: Connection, installation_id: str) -> bool:
    any_ = sa.select(delivery.c.subject_key).where(delivery.c.installation_id == installation_id).limit(1)
    return connection.execute(any_).first() is not None
