"""The lists of installations: what each view shows, in which order, and page by page."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from operator import itemgetter
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import BindParameter, ColumnElement, Connection, Select, Subquery

from dispatcher.database.transactions import Database
from dispatcher.inspection.graces import Graces
from dispatcher.inspection.installations import Installation, with_deliveries
from dispatcher.outbox.events import INSTALLATION_ID
from dispatcher.outbox.tables import installation
from dispatcher.policy.decision import PauseReason

MAX_COUNTED_INSTALLATIONS = 1_000
"""At most this many installations of each view are counted."""
MAX_SCANNED_ROWS = 100_000
"""Installations of each part of a view that are searched at most for a page: no index has its order, or its conditions."""


class View(StrEnum):
    """The installations that a list shows, and their order."""

    ALL = (
        "all"  # those without a valid token, failing ones, other pauses, the rest by when they are due, idle ones by id
    )
    PAUSED = "paused"  # those that begin to die soonest; last those that an operator paused, which never do
    FAILING = "failing"  # not paused and with pending work, whose last request did not succeed: the most failures in a row first
    BEHIND = "behind"  # not paused and with work that is due: the longest due first


class Part(StrEnum):
    """Installations that an index finds, in the order of one value and, where it is equal, of their ids."""

    REFUSED = "refused"  # paused without a valid token: by when they begin to die
    DISABLED = "disabled"  # paused because the integration is disabled: by when they begin to die
    BY_HAND = "by_hand"  # paused by an operator: by when
    FAILING = "failing"
    BEHIND = "behind"
    WAITING = "waiting"  # with pending work, and neither paused nor failing: by when it is due
    IDLE = "idle"  # without pending work, and not paused: by id


_REASONS: Mapping[Part, Sequence[PauseReason]] = {
    Part.REFUSED: (PauseReason.UNAUTHORIZED, PauseReason.NO_CREDENTIAL),
    Part.DISABLED: (PauseReason.DISABLED,),
    Part.BY_HAND: (PauseReason.OPERATOR,),
}
_SECTIONS: Mapping[View, Sequence[Sequence[Part]]] = {
    View.ALL: ((Part.REFUSED,), (Part.FAILING,), (Part.DISABLED,), (Part.BY_HAND,), (Part.WAITING,), (Part.IDLE,)),
    View.PAUSED: ((Part.REFUSED, Part.DISABLED), (Part.BY_HAND,)),
    View.FAILING: ((Part.FAILING,),),
    View.BEHIND: ((Part.BEHIND,),),
}
"""The sections of each view, one after the other. The parts of a section are merged by their values."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MAX_TIME = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_BOUNDS = {Part.FAILING: (-(2**31) + 1, 0), Part.IDLE: (0, 0)}
"""Of the values; those of the other parts are times."""


@dataclass(frozen=True, slots=True)
class Key:
    """The place of an installation in the order of a view, after which the next page begins."""

    part: Part
    value: int
    """By which the part is sorted: microseconds since 1970; of FAILING, the failures as a negative number."""
    installation_id: str

    @classmethod
    def of(cls, one: Installation, view: View) -> Self:
        """Returns the place of an installation that the view has listed."""
        parts = [part for section in _SECTIONS[view] for part in section]
        part = parts[0] if len(parts) == 1 else _part_of(one)
        return cls(part, _value_of(one, part), one.installation_id)

    @classmethod
    def parse(cls, text: str, view: View) -> Self:
        """Reads the text of a key. Raises ValueError, whose message continues the name of the field, if it is none of this view."""
        try:
            name, value, id_ = text.split(".", 2)
            key = cls(Part(name), int(value), id_)
        except ValueError:
            key = None
        if key is None or not key._is_of(view):
            raise ValueError("is no key of this list: the page before names it")
        return key

    def _is_of(self, view: View) -> bool:
        low, high = _BOUNDS.get(self.part, (0, _MAX_TIME))
        is_listed = any(self.part in section for section in _SECTIONS[view])
        return is_listed and low <= self.value <= high and INSTALLATION_ID.fullmatch(self.installation_id) is not None

    def __str__(self) -> str:
        return f"{self.part}.{self.value}.{self.installation_id}"


def _part_of(one: Installation) -> Part:
    for part, reasons in _REASONS.items():
        if one.pause_reason in reasons:
            return part
    if one.due_at is None:
        return Part.IDLE
    return Part.FAILING if one.failures else Part.WAITING


def _value_of(one: Installation, part: Part) -> int:
    match part:
        case Part.FAILING:
            return -one.failures
        case Part.BEHIND | Part.WAITING:
            time = one.due_at
        case _:
            time = one.dies_at or one.paused_since
    return 0 if time is None else (time - _EPOCH) // _MICROSECOND


def list_installations(
    database: Database,
    graces: Graces,
    limit: int,
    view: View = View.ALL,
    prefix: str = "",
    reason: PauseReason | None = None,
    after: Key | None = None,
) -> list[Installation]:
    """Returns at most `limit` installations of the view: whose ids begin with `prefix`, which are paused for `reason`, and which follow
    `after` in its order.

    What changes its place between two pages may be missed, or listed twice. For each page at most `MAX_SCANNED_ROWS` of each part are
    searched: those that have been due longest, the next ones by id, and of those paused for a reason some.
    On PostgreSQL, only a database with the collation "C" finds a prefix through an index.
    """
    found: list[Installation] = []
    with database.read() as connection:
        for parts in _SECTIONS[view]:
            if after is not None and after.part not in parts:
                continue
            searches = [
                _search(database, part, prefix, reason, _begin(part, parts, graces, after))
                for part in parts
                if reason is None or reason in _REASONS.get(part, ())
            ]
            rows = [_read(connection, database, graces, search, limit - len(found)) for search in searches]
            # Stable: where values are equal, the parts stay in their order.
            found += [one for _, one in heapq.merge(*rows, key=itemgetter(0))][: limit - len(found)]
            after = None
            if len(found) == limit:
                break
    return found


def count_views(database: Database, prefix: str = "") -> dict[View, int]:
    """Counts the installations of each view but ALL whose ids begin with `prefix`, up to `MAX_COUNTED_INSTALLATIONS` of each."""
    with database.read() as connection:
        counts = {
            view: sum(
                int(connection.execute(_search(database, part, prefix).count()).scalar_one())
                for section in _SECTIONS[view]
                for part in section
            )
            for view in View
            if view is not View.ALL
        }
    return {view: min(count, MAX_COUNTED_INSTALLATIONS) for view, count in counts.items()}


@dataclass(frozen=True, slots=True)
class _Begin:
    """Where a page begins in a part."""

    value: datetime | int
    id_: str | None
    """Of those with this value, the ones with higher ids."""
    with_equal: bool = False
    """Whether all of those with this value are on the page."""

    def of(self, value: ColumnElement[Any], id_: ColumnElement[str]) -> ColumnElement[bool]:
        """Returns the condition in SQL."""
        if self.id_ is None:
            return value >= self.value if self.with_equal else value > self.value
        return sa.or_(value > self.value, sa.and_(value == self.value, id_ > self.id_))


def _begin(part: Part, parts: Sequence[Part], graces: Graces, after: Key | None) -> _Begin | None:
    if after is None:
        return None
    value: datetime | int = after.value
    if part not in {Part.FAILING, Part.IDLE}:
        grace_ends = graces.end(_REASONS[part][0], _EPOCH) if part in _REASONS else None
        value = _EPOCH + after.value * _MICROSECOND - ((grace_ends or _EPOCH) - _EPOCH)
    if part is after.part:
        return _Begin(value, after.installation_id)
    return _Begin(value, None, with_equal=parts.index(part) > parts.index(after.part))


@dataclass(frozen=True, slots=True)
class _Search:
    """The search for installations of a part."""

    part: Part
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
        return with_deliveries(database).select_from(joined).order_by(*self.order(installation.c))

    def count(self) -> Select[Any]:
        """Counts it, up to `MAX_COUNTED_INSTALLATIONS`."""
        ids = sa.select(self.scanned.c.installation_id).where(*self.conditions)
        counted = ids.limit(_literal(MAX_COUNTED_INSTALLATIONS)).subquery("counted")
        return sa.select(sa.func.count()).select_from(counted)


def _read(
    connection: Connection, database: Database, graces: Graces, search: _Search, limit: int
) -> list[tuple[int, Installation]]:
    """Returns the first `limit` of the search, each with its value."""
    rows = connection.execute(search.first(database, limit))
    found = (Installation.of(row, graces) for row in rows)
    return [(_value_of(one, search.part), one) for one in found]


def _search(
    database: Database, part: Part, prefix: str, reason: PauseReason | None = None, begin: _Begin | None = None
) -> _Search:
    columns = installation.c

    def begins(table: Any) -> list[ColumnElement[bool]]:
        return [database.dialect.begins_with(table.installation_id, prefix)] if prefix else []

    def follows(value: ColumnElement[Any], id_: ColumnElement[str]) -> list[ColumnElement[bool]]:
        return [] if begin is None else [begin.of(value, id_)]

    def from_(due_at: ColumnElement[Any]) -> list[ColumnElement[bool]]:
        return [] if begin is None else [due_at >= begin.value]

    match part:
        case Part.FAILING:
            scan = _scan(columns.due_at.is_not(None), order=columns.due_at)
            failing = [scan.c.pause_reason.is_(None), scan.c.failures > 0, *begins(scan.c)]
            failing += follows(-scan.c.failures, scan.c.installation_id)
            return _Search(part, scan, failing, lambda c: (-c.failures, c.installation_id))
        case Part.BEHIND | Part.WAITING:
            of_part = columns.due_at <= database.dialect.clock() if part is Part.BEHIND else columns.due_at.is_not(None)
            scan = _scan(of_part, *from_(columns.due_at), order=columns.due_at)
            due = [scan.c.pause_reason.is_(None), *begins(scan.c), *follows(scan.c.due_at, scan.c.installation_id)]
            due += [scan.c.failures == 0] if part is Part.WAITING else []
            return _Search(part, scan, due, lambda c: (c.due_at, c.installation_id))
        case Part.IDLE:
            higher = [] if begin is None else [columns.installation_id > begin.id_]
            scan = _scan(*begins(columns), *higher, order=columns.installation_id)
            return _Search(
                part, scan, [scan.c.pause_reason.is_(None), scan.c.due_at.is_(None)], lambda c: (c.installation_id,)
            )
        case _:
            reasons = [one.value for one in _REASONS[part] if reason in (None, one)]
            # In the order of the index: PostgreSQL would rather read the table, where those that are not paused may come first.
            scan = _scan(columns.pause_reason.in_(map(_literal, reasons)), order=columns.pause_reason)
            paused = [*begins(scan.c), *follows(scan.c.paused_since, scan.c.installation_id)]
            return _Search(part, scan, paused, lambda c: (c.paused_since, c.installation_id))


_SEARCHED = ("installation_id", "due_at", "pause_reason", "paused_since", "failures")


def _scan(*conditions: ColumnElement[bool], order: ColumnElement[Any]) -> Subquery:
    rows = sa.select(*(installation.c[name] for name in _SEARCHED)).where(*conditions)
    return rows.order_by(order).limit(_literal(MAX_SCANNED_ROWS)).subquery("scanned")


def _literal(value: int | str) -> BindParameter[Any]:
    """Returns the value as a part of the statement: a plan for any value could read the whole table."""
    return sa.literal(value, literal_execute=True)
