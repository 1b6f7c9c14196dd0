"""Installations as operators see them: the list, and the pending work of one."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BindParameter, ColumnElement, Connection, Row, Select, Subquery

from dispatcher.database.transactions import Database
from dispatcher.inspection.graces import Graces
from dispatcher.outbox.columns import is_exactly
from dispatcher.outbox.tables import delivery, installation, outbox
from dispatcher.policy.decision import PauseReason
from dispatcher.store.installations import is_pausable, is_paused

MAX_COUNTED_DELIVERIES = 1_000
"""At most this many deliveries of each installation in a list are counted."""
MAX_COUNTED_INSTALLATIONS = 1_000
"""At most this many installations of each view are counted."""
MAX_SCANNED_ROWS = 100_000
"""Installations that are sorted at most for a list: no index has its order."""


@dataclass(frozen=True, slots=True)
class Installation:
    """A row of `vercel_installation`, the number of its deliveries, and the database's clock."""

    installation_id: str
    due_at: datetime | None
    leased_until: datetime | None
    leased_by: str | None
    paused_until: datetime | None
    pause_reason: str | None
    paused_since: datetime | None
    throttled_until: datetime | None
    failures: int
    last_delivered_at: datetime | None
    deliveries: int
    """A lower bound unless `deliveries_complete`."""
    now: datetime
    dies_at: datetime | None = None
    """When failures begin to turn its deliveries into dead letters; None if it is not paused, or if that pause never ends by itself."""
    deliveries_complete: bool = True
    """Whether all its deliveries were counted."""
    paused_by: str | None = None
    """The operator who paused it."""
    pause_note: str | None = None
    """The operator's reason."""

    @property
    def state(self) -> str:
        """What the installation is doing, in one word."""
        if self.pause_reason is not None:
            return "paused"
        if self.leased_until is not None and self.leased_until > self.now:
            return "sending"
        if not self.deliveries:
            return "idle"
        if self.throttled_until is not None and self.throttled_until > self.now:
            return "throttled"
        return "due" if self.due_at is not None and self.due_at <= self.now else "waiting"


@dataclass(frozen=True, slots=True)
class Waiting:
    """The pending work of an installation: its events in the outbox, and its deliveries."""

    events: int
    deliveries: int


@dataclass(frozen=True, slots=True)
class Due:
    """The pending work of an installation by when it is due."""

    events: int
    """Not collected yet."""
    now: int
    """Deliveries that are due."""
    later: int
    """Deliveries that are not due yet, because of a backoff or a settle delay."""
    first_later: datetime | None
    """When the first of those is due."""


class View(StrEnum):
    """The installations that a list shows, and their order."""

    ALL = "all"  # those without a valid token, failing ones, other pauses, then those that are longest due
    PAUSED = "paused"  # those that begin to die soonest; last those that an operator paused, which never do
    FAILING = "failing"  # not paused and with pending work, whose last request did not succeed: the most failures in a row first
    BEHIND = "behind"  # not paused and with work that is due: the longest due first


def list_installations(
    database: Database,
    graces: Graces,
    limit: int,
    view: View = View.ALL,
    prefix: str = "",
    reason: PauseReason | None = None,
) -> list[Installation]:
    """Returns the first `limit` installations of the view whose ids begin with `prefix`, of PAUSED those that are paused for `reason`.

    There are no pages, because the order changes all the time: a longer prefix finds the others. Of ALL, only the first
    `MAX_SCANNED_ROWS` ids are sorted, of FAILING and BEHIND the installations that have been due longest, of PAUSED some of each reason.
    On PostgreSQL, only a database with the collation "C" finds a prefix through an index.
    """
    with database.read() as connection:
        found = [
            _installation(row, graces)
            for search in _searches(database, view, prefix, reason)
            for row in connection.execute(search.first(database, limit))
        ]
    if view is View.PAUSED:
        found.sort(
            key=lambda one: (one.dies_at is None, one.dies_at or one.paused_since or one.now, one.installation_id)
        )
    return found[:limit]


def count_views(database: Database, prefix: str = "") -> dict[View, int]:
    """Counts the installations of each view but ALL whose ids begin with `prefix`, up to `MAX_COUNTED_INSTALLATIONS` of each."""
    with database.read() as connection:
        counts = {
            view: sum(
                int(connection.execute(search.count()).scalar_one()) for search in _searches(database, view, prefix)
            )
            for view in View
            if view is not View.ALL
        }
    return {view: min(count, MAX_COUNTED_INSTALLATIONS) for view, count in counts.items()}


@dataclass(frozen=True, slots=True)
class _Search:
    """A part of a view."""

    scanned: Subquery
    """The installations among which it is searched, found through an index."""
    conditions: list[ColumnElement[bool]]
    order: Callable[[Any], tuple[ColumnElement[Any], ...]]

    def first(self, database: Database, limit: int) -> Select[Any]:
        """Selects the first `limit` of it. Their deliveries are counted last, and only theirs."""
        id_ = self.scanned.c.installation_id
        ordered = sa.select(id_).where(*self.conditions).order_by(*self.order(self.scanned.c))
        page = ordered.limit(_literal(limit)).subquery("page")
        joined = installation.join(page, page.c.installation_id == installation.c.installation_id)
        return _with_deliveries(database).select_from(joined).order_by(*self.order(installation.c))

    def count(self) -> Select[Any]:
        """Counts it, up to `MAX_COUNTED_INSTALLATIONS`."""
        ids = sa.select(self.scanned.c.installation_id).where(*self.conditions)
        counted = ids.limit(_literal(MAX_COUNTED_INSTALLATIONS)).subquery("counted")
        return sa.select(sa.func.count()).select_from(counted)


def _searches(database: Database, view: View, prefix: str, reason: PauseReason | None = None) -> list[_Search]:
    columns = installation.c

    def begins(table: Any) -> list[ColumnElement[bool]]:
        return [database.dialect.begins_with(table.installation_id, prefix)] if prefix else []

    match view:
        case View.ALL:
            return [_Search(_scan(*begins(columns), order=columns.installation_id), [], _by_trouble)]
        case View.PAUSED:
            # Within each of these, the order is that of the pauses.
            wanted = _REASONS_BY_GRACE if reason is None else ((reason.value,),)
            scans = [_scan(columns.pause_reason.in_(map(_literal, reasons))) for reasons in wanted]
            return [_Search(scan, begins(scan.c), lambda c: (c.paused_since, c.installation_id)) for scan in scans]
        case View.FAILING:
            scan = _scan(columns.due_at.is_not(None), order=columns.due_at)
            failing = [scan.c.pause_reason.is_(None), scan.c.failures > 0, *begins(scan.c)]
            return [_Search(scan, failing, lambda c: (c.failures.desc(), c.due_at, c.installation_id))]
        case View.BEHIND:
            scan = _scan(columns.due_at <= database.dialect.clock(), order=columns.due_at)
            behind = [scan.c.pause_reason.is_(None), *begins(scan.c)]
            return [_Search(scan, behind, lambda c: (c.due_at, c.installation_id))]


_REASONS_BY_GRACE = (
    (PauseReason.UNAUTHORIZED.value, PauseReason.NO_CREDENTIAL.value),
    (PauseReason.DISABLED.value,),
    (PauseReason.OPERATOR.value,),
)
_ORDERED_BY = ("installation_id", "due_at", "pause_reason", "paused_since", "failures")


def _scan(*conditions: ColumnElement[bool], order: ColumnElement[Any] | None = None) -> Subquery:
    rows = sa.select(*(installation.c[name] for name in _ORDERED_BY)).where(*conditions)
    return rows.order_by(*(() if order is None else (order,))).limit(_literal(MAX_SCANNED_ROWS)).subquery("scanned")


def _literal(value: int | str) -> BindParameter[Any]:
    """Returns the value as a part of the statement: a plan for any value could read the whole table."""
    return sa.literal(value, literal_execute=True)


def _by_trouble(columns: Any) -> tuple[ColumnElement[Any], ...]:
    trouble = sa.case(
        (columns.pause_reason.in_([PauseReason.UNAUTHORIZED, PauseReason.NO_CREDENTIAL]), 0),
        (sa.and_(columns.pause_reason.is_(None), columns.failures > 0), 1),
        (columns.pause_reason.is_not(None), 2),
        (columns.due_at.is_not(None), 3),
        else_=4,
    )
    return trouble, columns.failures.desc(), columns.due_at, columns.installation_id


def find_installations(
    connection: Connection, database: Database, graces: Graces, ids: Collection[str]
) -> dict[str, Installation]:
    """Returns, by id, those for which anything has been collected. Runs in the caller's transaction."""
    rows = connection.execute(_with_deliveries(database).where(installation.c.installation_id.in_(ids)))
    return {row.installation_id: _installation(row, graces) for row in rows}


def _with_deliveries(database: Database) -> Select[Any]:
    is_of_it = delivery.c.installation_id == installation.c.installation_id
    counted = sa.select(sa.func.count()).where(is_of_it).correlate(installation).scalar_subquery()
    # Not a count of limited rows: in MariaDB, a subquery of a subquery cannot refer to the installation.
    last = sa.select(delivery.c.due_at).where(is_of_it).order_by(delivery.c.due_at).correlate(installation)
    beyond = last.offset(MAX_COUNTED_DELIVERIES - 1).limit(1).scalar_subquery()
    deliveries = sa.case((beyond.is_not(None), MAX_COUNTED_DELIVERIES), else_=counted).label("deliveries")
    return sa.select(*database.columns(installation), deliveries, database.dialect.clock().label("now"))


def _installation(row: Row[Any], graces: Graces) -> Installation:
    values = {name: getattr(row, name) for name in Installation.__slots__ if name in row._fields}
    if row.pause_reason != PauseReason.OPERATOR:  # a resume by an older program leaves these
        values |= {"paused_by": None, "pause_note": None}
    dies_at = graces.end(row.pause_reason, row.paused_since)
    return Installation(**values, dies_at=dies_at, deliveries_complete=row.deliveries < MAX_COUNTED_DELIVERIES)


def count_waiting(database: Database, installation_id: str) -> Waiting | None:
    """Returns what a purge would bury; None if the installation is unknown."""
    with database.read() as connection:
        events, deliveries, known = (
            _count(connection, is_exactly(table.c.installation_id, installation_id))
            for table in (outbox, delivery, installation)
        )
    return Waiting(events, deliveries) if events or deliveries or known else None


def count_due(database: Database, installation_id: str) -> Due:
    """Counts the installation's events and deliveries."""
    due_at = delivery.c.due_at
    with database.read() as connection:
        is_later = due_at > connection.execute(sa.select(database.dialect.clock())).scalar_one()
        figures = (sa.func.count(), sa.func.count(sa.case((is_later, 1))), sa.func.min(sa.case((is_later, due_at))))
        of_it = is_exactly(delivery.c.installation_id, installation_id)
        events = _count(connection, is_exactly(outbox.c.installation_id, installation_id))
        all_, later, first = connection.execute(sa.select(*figures).where(of_it)).one()
    return Due(events, all_ - later, later, first)


def count_pausable(database: Database) -> int:
    """Counts the installations that no operator has paused."""
    with database.read() as connection:
        return _count(connection, is_pausable())


def count_paused(database: Database, reason: PauseReason | None = None) -> int:
    """Counts the paused installations, or those paused for this reason."""
    with database.read() as connection:
        return _count(connection, is_paused(reason))


def _count(connection: Connection, condition: ColumnElement[bool]) -> int:
    return int(connection.execute(sa.select(sa.func.count()).where(condition)).scalar_one())
