"""The newest requests of all installations, as the log of attempts has them."""

from collections import deque
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Subquery, Table

from dispatcher.database.transactions import Database
from dispatcher.outbox.columns import belongs_to
from dispatcher.outbox.tables import attempt
from dispatcher.policy.outcome import OutcomeKind
from dispatcher.store.attempt_log import Attempt

MAX_SCANNED_ROWS = 100_000
"""Attempts that are searched at most, where no index helps."""
LATE_IDS = 10_000
"""An id this far below the newest may still be committed: ids are drawn before the commit."""


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Selects the requests that meet every given condition."""

    installation_id: str | None = None
    resource_id: str | None = None
    failed: bool = False
    """Only those that Vercel did not accept."""

    def of(self, table: Table | Subquery) -> list[ColumnElement[bool]]:
        """Returns the conditions in SQL, for the table or a part of it."""
        conditions = belongs_to(table, self.installation_id, self.resource_id)
        if self.failed:
            conditions.append(table.c.outcome != OutcomeKind.DELIVERED)
        return conditions


def newest_requests(
    database: Database, wanted: RequestFilter, limit: int, scan_limit: int = MAX_SCANNED_ROWS
) -> list[Attempt]:
    """Returns the newest `limit` requests, oldest first. Without an id in the filter, only the newest `scan_limit` are searched."""
    with database.read() as connection:
        return _newest(connection, wanted, limit, scan_limit)


def _newest(connection: Connection, wanted: RequestFilter, limit: int, scan_limit: int) -> list[Attempt]:
    searched: Table | Subquery = attempt
    if wanted.installation_id is None and wanted.resource_id is None:
        searched = sa.select(attempt).order_by(attempt.c.id.desc()).limit(scan_limit).subquery()
    newest = sa.select(searched).where(*wanted.of(searched)).order_by(searched.c.id.desc()).limit(limit)
    return [Attempt.of(row) for row in reversed(connection.execute(newest).all())]


class RequestTail:
    """Follows the log: each reading returns the requests that none before has returned."""

    def __init__(self, database: Database, wanted: RequestFilter) -> None:
        self._database = database
        self._wanted = wanted
        self._newest_id = 0
        self._returned: deque[int] = deque(maxlen=2 * LATE_IDS)

    def begin(self, limit: int) -> list[Attempt]:
        """Returns the newest `limit` requests, oldest first; the next reading continues from there."""
        with self._database.read() as connection:
            self._newest_id = _newest_id(connection)
            shown = _newest(connection, self._wanted, limit, MAX_SCANNED_ROWS)
            earlier = sa.select(attempt.c.id).where(attempt.c.id > self._newest_id - LATE_IDS)
            self._returned.extend(connection.execute(earlier.where(attempt.c.id <= self._newest_id)).scalars())
        self._returned.extend(one.id for one in shown if one.id > self._newest_id)
        return shown

    def read(self) -> list[Attempt]:
        """Returns the requests that were logged since, oldest first."""
        recent = sa.select(attempt).where(attempt.c.id > self._newest_id - LATE_IDS, *self._wanted.of(attempt))
        with self._database.read() as connection:
            self._newest_id = _newest_id(connection)
            rows = [Attempt.of(row) for row in connection.execute(recent.order_by(attempt.c.id))]
        seen = set(self._returned)
        new = [one for one in rows if one.id not in seen]
        self._returned.extend(one.id for one in new)
        return new


def _newest_id(connection: Connection) -> int:
    return connection.execute(sa.select(sa.func.max(attempt.c.id))).scalar() or 0
