"""The causes of the unresolved dead letters: those with the same reason, status and beginning of the error."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Row

from dispatcher.database.transactions import Database
from dispatcher.inspection.backlog import MAX_COUNTED_ROWS
from dispatcher.inspection.error_prefix import MAX_PREFIX_LENGTH, error_prefix
from dispatcher.outbox.tables import dead_letter
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.store.dead_letters import NO_ERROR, NO_STATUS, Filter, is_unresolved

MAX_CAUSES = 50
_Key = tuple[str, int, str]
"""The reason, the status and the prefix of the error."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Unresolved dead letters with the same cause."""

    reason: str
    status: int | None
    """The HTTP status of the last answer; None without one."""
    error_prefix: str | None
    """The beginning that their errors have in common; None without an error."""
    number: int
    installations: int
    first_died_at: datetime
    last_died_at: datetime
    example_id: int
    """The oldest of them."""
    example: str | None
    """Its error, up to `MAX_PREFIX_LENGTH`."""

    def within(self, wanted: Filter) -> Filter:
        """Returns the filter that selects exactly these, among those that `wanted` selects."""
        status, error_prefix = self.status or NO_STATUS, self.error_prefix or NO_ERROR
        return replace(wanted, reason=DeadLetterReason(self.reason), status=status, error_prefix=error_prefix)


@dataclass(frozen=True, slots=True)
class Causes:
    """The causes of the unresolved dead letters that a filter selects."""

    largest: list[Cause]
    total: int
    """The number of causes."""
    dead_letters: int
    """The number of dead letters that have these causes."""
    complete: bool
    """Whether every dead letter was read; if not, the figures are lower bounds."""


def causes(database: Database, wanted: Filter, limit: int = MAX_CAUSES, max_rows: int = MAX_COUNTED_ROWS) -> Causes:
    """Groups the unresolved dead letters by their cause; returns the `limit` largest ones. Reads at most `max_rows`.

    The prefix of an error ends before the first number or id in it. Of two prefixes of which one continues the other, the shorter one
    stands for both, so that each dead letter belongs to the one cause whose filter selects it.
    """
    columns = dead_letter.c
    at_least = len(wanted.error_prefix or NO_ERROR)
    error = sa.func.substr(columns.last_error, 1, max(MAX_PREFIX_LENGTH, at_least), type_=sa.String())
    read = sa.select(
        columns.id,
        columns.died_at,
        columns.reason,
        sa.func.coalesce(columns.last_status, NO_STATUS).label("status"),
        error.label("error"),
        columns.installation_id,
        columns.resource_id,
        columns.product_id,
        columns.billing_plan_id,
    )
    # A literal: with a parameter, PostgreSQL could take the limit for so low that reading the table up to it is cheaper than an index.
    first = read.where(is_unresolved(), *wanted.conditions).limit(sa.literal_column(str(max_rows + 1)))
    with database.read() as connection:
        rows = connection.execute(first).all()
    found = sorted(_grouped(rows[:max_rows], at_least), key=lambda cause: (-cause.number, cause.example_id))
    return Causes(found[:limit], len(found), min(len(rows), max_rows), len(rows) <= max_rows)


def _grouped(rows: Iterable[Row[Any]], at_least: int) -> Iterator[Cause]:
    of_prefix = defaultdict(list)
    for row in rows:
        of_prefix[row.reason, row.status, _prefix(row, at_least)].append(row)
    groups: dict[_Key, list[Row[Any]]] = {}
    shorter: _Key | None = None
    for key in sorted(of_prefix):  # those that continue a prefix follow it
        if shorter is None or not _continues(key, shorter):
            shorter = key
        groups.setdefault(shorter, []).extend(of_prefix[key])
    return (_cause(key, group) for key, group in groups.items())


def _prefix(row: Row[Any], at_least: int) -> str:
    ids = (row.installation_id, row.resource_id, row.product_id, row.billing_plan_id)
    return error_prefix(row.error or NO_ERROR, ids, at_least)


def _continues(longer: _Key, shorter: _Key) -> bool:
    return longer[:2] == shorter[:2] and shorter[2] != NO_ERROR and longer[2].startswith(shorter[2])


def _cause(key: _Key, group: Sequence[Row[Any]]) -> Cause:
    reason, status, prefix = key
    oldest = min(group, key=lambda row: row.id)
    died = [row.died_at for row in group]
    return Cause(
        reason,
        status or None,
        prefix or None,
        number=len(group),
        installations=len({row.installation_id for row in group}),
        first_died_at=min(died),
        last_died_at=max(died),
        example_id=oldest.id,
        example=oldest.error,
    )
