"""The aftermath of a replay: which of the replayed changes were delivered, which still wait, and which have died again.

A committed change waits in the outbox or as a delivery until it is delivered or becomes a dead letter. So one that neither waits nor is a
dead letter was delivered, also where the log of attempts does not show it: `ATTEMPT_LOG=failures`, or a replay from long ago.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Row, Select, Subquery, Table

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.outbox.columns import is_exactly
from dispatcher.outbox.tables import dead_letter, delivery
from dispatcher.policy.decision import Resolution
from dispatcher.store import LOWEST_ID
from dispatcher.store.batch import read_batch
from dispatcher.store.dead_letters import Filter, is_unresolved

MAX_FOLLOWED_ROWS = 10_000
"""Replayed dead letters that are followed at most."""
MAX_SCANNED_ROWS = 100_000
"""Rows of each kind that are read at most where no index helps: resolved dead letters, and events in the outbox."""
MAX_LISTED_IDS = 100


@dataclass(frozen=True, slots=True)
class Replays:
    """Selects the replayed dead letters that meet every given condition."""

    wanted: Filter = field(default_factory=Filter)
    since: datetime | None = None
    """Replayed at this time or later."""
    by: str | None = None
    """Replayed by this person."""
    until: datetime | None = None
    """Replayed before this time."""

    def of(self, table: Table | Subquery) -> list[ColumnElement[bool]]:
        """Returns the conditions in SQL, for the table or a part of it."""
        conditions = [table.c.resolution == Resolution.REPLAYED, *self.resolved(table)]
        if self.by is not None:
            conditions.append(is_exactly(table.c.resolved_by, self.by))
        return [*conditions, *self.wanted.of(table)]

    def resolved(self, table: Table | Subquery) -> list[ColumnElement[bool]]:
        """Returns the conditions of the times alone, for which there is an index."""
        resolved_at = table.c.resolved_at
        since = [] if self.since is None else [resolved_at >= self.since]
        until = [] if self.until is None else [resolved_at < self.until]
        return [resolved_at.is_not(None), *since, *until]  # not NULL: the condition of the index


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What became of replayed dead letters. A subject counts once, by its newest replay."""

    dead_letters: int
    """The replayed dead letters that were followed."""
    subjects: int
    """Their resources and installations: the sum of the next three."""
    delivered: int
    waiting: int
    """In the outbox or as a delivery."""
    died_again: int
    """Became a dead letter that is unresolved, or was discarded."""
    dead_letter_ids: list[int]
    """The first `MAX_LISTED_IDS` of these new dead letters."""
    complete: bool
    """Whether everything was read. If not, there are other replays, or some that count as delivered still wait in the outbox."""


def aftermath(
    database: Database, replays: Replays, limit: int = MAX_FOLLOWED_ROWS, scan_limit: int = MAX_SCANNED_ROWS
) -> Aftermath:
    """Follows the newest `limit` replayed dead letters. If the filter names no id, only the newest `scan_limit` resolved ones are
    searched; so is the outbox.
    """
    with database.read() as connection:
        replayed, all_replays = _replayed(connection, replays, limit, scan_limit)
        newest = {row.subject_key: row for row in reversed(replayed)}
        rows = list(newest.values())
        # In this order, in which a change moves, none is missed.
        waiting, all_events = _in_outbox(connection, database, rows, scan_limit)
        waiting |= set(_with_delivery(connection, database.dialect, rows))
        dead: dict[str, int] = {}
        for letter in _later_letters(connection, database.dialect, rows):
            if letter.died_at >= newest[letter.subject_key].resolved_at:
                dead[letter.subject_key] = max(letter.id, dead.get(letter.subject_key, 0))
    waiting -= dead.keys()
    return Aftermath(
        dead_letters=len(replayed),
        subjects=len(rows),
        delivered=len(rows) - len(waiting) - len(dead),
        waiting=len(waiting),
        died_again=len(dead),
        dead_letter_ids=sorted(dead.values())[:MAX_LISTED_IDS],
        complete=all_replays and all_events,
    )


def _replayed(connection: Connection, replays: Replays, limit: int, scan_limit: int) -> tuple[Sequence[Row[Any]], bool]:
    """Returns the dead letters, the newest replay first, and whether these are all of them."""
    newest_first = (dead_letter.c.resolved_at.desc(), dead_letter.c.id.desc())
    searched: Table | Subquery = dead_letter
    beyond = None
    wanted = replays.wanted
    if not wanted.ids and wanted.installation_id is None and wanted.resource_id is None:
        resolved = sa.select(dead_letter).where(*replays.resolved(dead_letter)).order_by(*newest_first)
        searched = resolved.limit(scan_limit).subquery()
        beyond = connection.execute(resolved.with_only_columns(dead_letter.c.id).offset(scan_limit).limit(1)).scalar()
    names = ("id", "subject_key", "installation_id", "resource_id", "resolved_at")
    columns = searched.c
    found = sa.select(*(columns[name] for name in names)).where(*replays.of(searched))
    rows = connection.execute(found.order_by(columns.resolved_at.desc(), columns.id.desc()).limit(limit + 1)).all()
    return rows[:limit], beyond is None and len(rows) <= limit


def _in_outbox(
    connection: Connection, database: Database, replayed: Sequence[Row[Any]], scan_limit: int
) -> tuple[set[str], bool]:
    """Returns the keys of the subjects with an event in the outbox, and whether all of the outbox was read."""
    now = connection.execute(sa.select(database.dialect.clock())).scalar_one()
    batch = read_batch(connection, database.dialect, now, LOWEST_ID, scan_limit)
    if batch is None:
        return set(), True
    subjects = batch.subjects
    keys = {row.subject_key for row in replayed if f"{row.installation_id} {row.resource_id or ''}" in subjects}
    return keys, batch.rows < scan_limit


def _with_delivery(connection: Connection, dialect: Dialect, replayed: Sequence[Row[Any]]) -> Iterator[str]:
    rows = dialect.rows(delivery.c.subject_key)
    joined = rows.join(delivery, delivery.c.subject_key == rows.c.subject_key)
    waiting = sa.select(delivery.c.subject_key).select_from(joined).prefix_with("STRAIGHT_JOIN", dialect="mysql")
    keys = [{"subject_key": row.subject_key} for row in replayed]
    yield from connection.execute(waiting, dialect.encode(keys)).scalars()


def _later_letters(connection: Connection, dialect: Dialect, replayed: Sequence[Row[Any]]) -> Iterator[Row[Any]]:
    """Yields the newer dead letters of the same subjects that have not been superseded or replayed."""
    for name, of_resource in (("resource_id", True), ("installation_id", False)):  # the indexed columns
        columns = dead_letter.c
        rows = dialect.rows(columns.subject_key, columns.id, columns[name])
        same = (columns[name] == rows.c[name], columns.id > rows.c.id, columns.subject_key == rows.c.subject_key)
        later: Select[Any] = (
            sa.select(columns.subject_key, columns.id, columns.died_at)
            .select_from(rows.join(dead_letter, sa.and_(*same)))
            .where(sa.or_(is_unresolved(), columns.resolution == Resolution.DISCARDED))
            .prefix_with("STRAIGHT_JOIN", dialect="mysql")
        )
        given = [
            {"subject_key": row.subject_key, "id": row.id, name: getattr(row, name)}
            for row in replayed
            if (row.resource_id is not None) == of_resource
        ]
        if given:
            yield from connection.execute(later, dialect.encode(given))
