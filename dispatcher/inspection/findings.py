"""Everything that the database knows about a resource or an installation."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Row, Subquery, Table

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.inspection.dead_letters import DeadLetter
from dispatcher.inspection.graces import Graces
from dispatcher.inspection.installations import Installation, find_installations
from dispatcher.outbox.columns import belongs_to
from dispatcher.outbox.events import RESOURCE_UPDATED, Subject
from dispatcher.outbox.tables import attempt, dead_letter, delivery, outbox
from dispatcher.store import LOWEST_ID
from dispatcher.store.attempt_log import Attempt, latest_attempts
from dispatcher.store.batch import committed
from dispatcher.store.outbox_rows import Changes, Malformed, Removal, find_removals, group

MAX_SCANNED_ROWS = 100_000
"""Rows of the outbox and, without an installation, deliveries that are scanned at most: no index covers a resource there."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The subject of the explanation: a resource, an installation, or a resource of an installation."""

    installation_id: str | None = None
    resource_id: str | None = None
    scan_limit: int = MAX_SCANNED_ROWS
    """Rows read of a table that has no index for the scope."""

    def of(self, table: Table | Subquery) -> list[ColumnElement[bool]]:
        """Returns the conditions that select its rows of the table."""
        return belongs_to(table, self.installation_id, self.resource_id)


@dataclass(frozen=True, slots=True)
class Found:
    """Everything that the database knows about a scope."""

    now: datetime
    changes: list[Changes]
    malformed: list[Malformed]
    removals: list[Removal]
    deliveries: Sequence[Row[Any]]
    attempts: list[Attempt]
    dead_letters: list[DeadLetter]
    installation_ids: list[str]
    """Of everything above."""
    installations: dict[str, Installation]
    """Of these, those for which anything has been collected."""
    complete: bool

    @property
    def anything(self) -> bool:
        """Whether the database knows anything about the scope."""
        return any(
            (
                self.changes,
                self.malformed,
                self.removals,
                self.deliveries,
                self.attempts,
                self.dead_letters,
                self.installations,
            )
        )


def find(connection: Connection, database: Database, scope: Scope, graces: Graces, limit: int) -> Found:
    """Reads the tables in the order in which an event passes through them, so that one that moves on meanwhile is not missed."""
    now: datetime = connection.execute(sa.select(database.dialect.clock())).scalar_one()
    events, all_events = _events(connection, database.dialect, scope, limit)
    changes, malformed = group(events, now)
    removals = find_removals(events, now)
    deliveries, all_deliveries = _deliveries(connection, scope, limit)
    attempts = latest_attempts(connection, limit, *scope.of(attempt))
    newest = sa.select(dead_letter).where(*scope.of(dead_letter)).order_by(dead_letter.c.id.desc()).limit(limit)
    letters = [DeadLetter.of(row) for row in connection.execute(newest)]
    subjects: list[Any] = [*(change.subject for change in changes), *deliveries, *attempts, *letters]
    named = [*(one.installation_id for one in subjects), *(row.values["installation_id"] for row in malformed)]
    ids: set[str] = {id_ for id_ in named if id_ is not None}
    if scope.installation_id is not None and scope.resource_id is None:
        ids.add(scope.installation_id)
    installations = find_installations(connection, database, graces, ids)
    complete = all_events and all_deliveries and max(len(attempts), len(letters)) < limit
    return Found(now, changes, malformed, removals, deliveries, attempts, letters, sorted(ids), installations, complete)


def _events(connection: Connection, dialect: Dialect, scope: Scope, limit: int) -> tuple[Sequence[Row[Any]], bool]:
    """Returns the events that are not collected yet, and whether these are all of them."""
    beyond = connection.execute(sa.select(outbox.c.id).order_by(outbox.c.id).offset(scope.scan_limit).limit(1)).scalar()
    wanted = scope.of(outbox) if beyond is None else [outbox.c.id < beyond, *scope.of(outbox)]
    rows = connection.execute(committed(dialect).where(*wanted), {"low_water": LOWEST_ID, "limit": limit}).all()
    return rows, beyond is None and len(rows) < limit


def _deliveries(connection: Connection, scope: Scope, limit: int) -> tuple[Sequence[Row[Any]], bool]:
    """Returns the deliveries, those due first, and whether these are all of them."""
    beyond = None
    wanted = sa.select(delivery).limit(limit)
    if scope.installation_id is not None and scope.resource_id is not None:
        subject = Subject(scope.installation_id, RESOURCE_UPDATED, scope.resource_id)
        wanted = wanted.where(delivery.c.subject_key == subject.key)
    elif scope.installation_id is not None:
        wanted = wanted.where(*scope.of(delivery))
    else:
        key = delivery.c.subject_key
        # Only what decides: MariaDB writes all rows of a subquery to a table of its own.
        deciding = sa.select(key, delivery.c.resource_id, delivery.c.due_at)
        scanned = deciding.order_by(key).limit(scope.scan_limit).subquery("scanned")
        found = sa.select(scanned.c.subject_key).where(*scope.of(scanned)).order_by(scanned.c.due_at)
        first = found.limit(limit).subquery("first")
        wanted = sa.select(delivery).select_from(first.join(delivery, key == first.c.subject_key))
        beyond = connection.execute(sa.select(key).order_by(key).offset(scope.scan_limit).limit(1)).scalar()
    rows = connection.execute(wanted.order_by(delivery.c.due_at)).all()
    return rows, beyond is None and len(rows) < limit
