"""The newest requests of all installations, as the log of attempts has them."""

from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Select, Subquery, Table

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
    outcome: OutcomeKind | None = None
    status: int | None = None
    """The HTTP status of the answer."""
    since: datetime | None = None
    """Made at this time or later."""
    until: datetime | None = None
    """Made before this time."""

    @property
    def has_id(self) -> bool:
        """Whether an index has exactly these requests."""
        return self.installation_id is not None or self.resource_id is not None

    def searched(self, table: Table | Subquery) -> list[ColumnElement[bool]]:
        """Returns the conditions in SQL that an index can serve."""
        conditions = belongs_to(table, self.installation_id, self.resource_id)
        if self.since is not None:
            conditions.append(table.c.at >= self.since)
        if self.until is not None:
            conditions.append(table.c.at < self.until)
        return conditions

    def of(self, table: Table | Subquery) -> list[ColumnElement[bool]]:
        """Returns all conditions in SQL, for the table or a part of it."""
        conditions = self.searched(table)
        if self.failed:
            conditions.append(table.c.outcome != OutcomeKind.DELIVERED)
        if self.outcome is not None:
            conditions.append(table.c.outcome == self.outcome)
        if self.status is not None:
            conditions.append(table.c.status == self.status)
        return conditions

    def order(self, table: Table | Subquery) -> ColumnElement[Any]:
        """Returns the order in SQL in which an index has them, newest first."""
        by_id = self.has_id or (self.since is None and self.until is None)
        return (table.c.id if by_id else table.c.at).desc()


@dataclass(frozen=True, slots=True)
class Scope:
    """The part of the log that was searched: the newest requests with the ids and within the times of the filter."""

    requests: int
    first: datetime | None
    last: datetime | None
    complete: bool
    """Whether these are all such requests."""


@dataclass(frozen=True, slots=True)
class Found:
    """The newest requests that match, oldest first."""

    requests: list[Attempt]
    scope: Scope | None
    """None if the log was searched for an installation or a resource, and therefore completely."""


def newest_requests(database: Database, wanted: RequestFilter, limit: int, scan_limit: int = MAX_SCANNED_ROWS) -> Found:
    """Returns the newest `limit` requests. Without an id in the filter, only the newest `scan_limit` within its times are searched."""
    with database.read() as connection:
        scope = None if wanted.has_id else _scope(connection, wanted, scan_limit)
        return Found(_newest(connection, wanted, limit, scan_limit), scope)


def read_searched(database: Database, wanted: RequestFilter, scan_limit: int) -> tuple[list[Attempt], Scope]:
    """Returns the requests that match, oldest first, of the newest `scan_limit` with the ids and within the times of the filter."""
    searched = _search(wanted, scan_limit, attempt).subquery()
    matching = sa.select(searched).where(*wanted.of(searched)).order_by(*_newest_first(wanted, searched))
    with database.read() as connection:
        found = [Attempt.of(row) for row in reversed(connection.execute(matching).all())]
        return found, _scope(connection, wanted, scan_limit)


def _newest(connection: Connection, wanted: RequestFilter, limit: int, scan_limit: int) -> list[Attempt]:
    found = sa.select(attempt).where(*wanted.of(attempt)).limit(limit)
    if not wanted.has_id:
        # Only what decides: MariaDB writes all rows of a subquery to a table of its own.
        deciding = (attempt.c[name] for name in ("id", "at", "outcome", "status"))
        searched = _search(wanted, scan_limit, *deciding).subquery("searched")
        ids = sa.select(searched.c.id).where(*wanted.of(searched)).order_by(*_newest_first(wanted, searched))
        page = ids.limit(limit).subquery("page")
        found = sa.select(attempt).select_from(page.join(attempt, attempt.c.id == page.c.id))
    rows = connection.execute(found.order_by(*_newest_first(wanted, attempt))).all()
    return [Attempt.of(row) for row in reversed(rows)]


def _newest_first(wanted: RequestFilter, table: Table | Subquery) -> tuple[ColumnElement[Any], ...]:
    return wanted.order(table), table.c.id.desc()


def _search(wanted: RequestFilter, scan_limit: int, *columns: Table | ColumnElement[Any]) -> Select[Any]:
    rows = sa.select(*columns).select_from(attempt).where(*wanted.searched(attempt))
    return rows.order_by(wanted.order(attempt)).limit(scan_limit)


def _scope(connection: Connection, wanted: RequestFilter, scan_limit: int) -> Scope:
    at = _search(wanted, scan_limit, attempt.c.at).subquery().c.at
    requests, first, last = connection.execute(sa.select(sa.func.count(), sa.func.min(at), sa.func.max(at))).one()
    return Scope(requests, first, last, requests < scan_limit)


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
