"""The batch of outbox rows that one collection moves.

The database recognizes almost all well-formed rows by a rule that is stricter than ours. Only the others are decoded here; most of those
are well-formed too, for example with ids beyond ASCII.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Select

from dispatcher.database.dialect import Dialect
from dispatcher.outbox.events import (
    INSTALLATION_ID_LENGTH,
    INSTALLATION_UPDATED,
    PARTNER_ID_LENGTH,
    RESOURCE_UPDATED,
    TRACEPARENT_LENGTH,
)
from dispatcher.outbox.tables import outbox
from dispatcher.store.outbox_rows import Malformed, Removal, find_removals, find_subjects

TYPE_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Batch:
    """What the rows of a batch announce."""

    rows: int
    last_event_id: int
    changes: dict[int, str]
    """The event ids of the changes, and the subject of each: its installation, a space and its resource, if it has one."""
    malformed: list[Malformed]
    removals: list[Removal]

    @property
    def subjects(self) -> frozenset[str]:
        return frozenset(self.changes.values())

    @property
    def installation_ids(self) -> frozenset[str]:
        """The installations of the changes."""
        return frozenset(map(_installation_id, self.subjects))

    def without(self, installation_ids: Collection[str]) -> "Batch":
        """Returns the same batch without the events of these installations; it still counts their rows as read."""
        return Batch(
            self.rows,
            self.last_event_id,
            {
                id_: subject
                for id_, subject in self.changes.items()
                if _installation_id(subject) not in installation_ids
            },
            [one for one in self.malformed if one.values["installation_id"] not in installation_ids],
            [one for one in self.removals if one.installation_id not in installation_ids],
        )


def read_batch(
    connection: Connection, dialect: Dialect, now: datetime, low_water: int, limit: int, *wanted: ColumnElement[bool]
) -> Batch | None:
    """Reads the first `limit` rows above `low_water` that meet the conditions; None if there are none."""
    # A changed copy of a statement costs SQLAlchemy more than all rows of a small batch.
    statement = _recognized(dialect).where(*wanted) if wanted else _recognized(dialect)
    rows = connection.execute(statement, {"low_water": low_water, "limit": limit}).all()
    if not rows:
        return None
    changes = {id_: subject for id_, subject in rows if subject is not None}
    others = [{"id": id_} for id_, subject in rows if subject is None]
    if not others:
        return Batch(len(rows), rows[-1].id, changes, [], [])
    raw = connection.execute(_raw_rows(dialect), dialect.encode(others)).all()
    decoded, malformed = find_subjects(raw, now)
    changes |= {id_: f"{one.installation_id} {one.resource_id or ''}" for id_, one in decoded.items()}
    return Batch(len(rows), rows[-1].id, changes, malformed, find_removals(raw, now))


def _installation_id(subject: str) -> str:
    return subject.partition(" ")[0]


@cache
def committed(dialect: Dialect) -> Select[Any]:
    """Selects the first `:limit` outbox rows above `:low_water`, in a form in which no malformed value can make the statement fail."""
    return _first(sa.select(*_raw_columns(dialect)))


@cache
def _recognized(dialect: Dialect) -> Select[Any]:
    """Selects the ids of the same rows, each with its subject as in `Batch.changes`; NULL if the row is not recognized."""
    columns = outbox.c
    subject = columns.installation_id + " " + sa.func.coalesce(columns.resource_id, "")
    return _first(sa.select(columns.id, sa.case((_is_plain(dialect), subject)).label("subject")))


@cache
def _raw_rows(dialect: Dialect) -> Select[Any]:
    """Selects the outbox rows whose ids are in `:rows` like `committed`."""
    rows = dialect.rows(outbox.c.id)
    return (
        sa.select(*_raw_columns(dialect))
        .select_from(rows.join(outbox, outbox.c.id == rows.c.id))
        .where(dialect.is_among(outbox.c.id, rows))
        .order_by(outbox.c.id)
        .prefix_with("STRAIGHT_JOIN", dialect="mysql")
        .with_hint(outbox, "FORCE INDEX (PRIMARY)", "mysql")
    )


def _first(select: Select[Any]) -> Select[Any]:
    above = outbox.c.id > sa.bindparam("low_water")
    return select.where(above).order_by(outbox.c.id).limit(sa.bindparam("limit"))


def _raw_columns(dialect: Dialect) -> list[ColumnElement[Any]]:
    columns = outbox.c
    return [
        columns.id,
        dialect.raw(columns.installation_id, INSTALLATION_ID_LENGTH).label("installation_id"),
        dialect.raw(columns.type, TYPE_LENGTH).label("type"),
        dialect.raw(columns.resource_id, PARTNER_ID_LENGTH).label("resource_id"),
        dialect.raw(columns.product_id, PARTNER_ID_LENGTH).label("product_id"),
        dialect.raw(columns.billing_plan_id, PARTNER_ID_LENGTH).label("billing_plan_id"),
        dialect.raw_time(columns.created_at).label("created_at"),
        dialect.raw(columns.traceparent, TRACEPARENT_LENGTH).label("traceparent"),
    ]


def _is_plain(dialect: Dialect) -> ColumnElement[bool]:
    """Whether a row is well-formed, and its ids consist of printable ASCII characters. NULL also means no."""

    def is_type(value: str) -> ColumnElement[bool]:
        # Byte for byte: `=` alone may fold case, or ignore trailing spaces.
        return dialect.raw(outbox.c.type, TYPE_LENGTH) == dialect.raw(sa.literal(value), TYPE_LENGTH)

    def is_id(column: ColumnElement[str]) -> ColumnElement[bool]:
        return dialect.consists_of(column, " -~", PARTNER_ID_LENGTH)

    columns = outbox.c
    installation_id, product_id, billing_plan_id = columns.installation_id, columns.product_id, columns.billing_plan_id
    of_resource = sa.and_(
        is_type(RESOURCE_UPDATED),
        is_id(columns.resource_id),
        sa.or_(product_id.is_(None), is_id(product_id)),
        billing_plan_id.is_(None),
    )
    of_installation = sa.and_(
        is_type(INSTALLATION_UPDATED),
        columns.resource_id.is_(None),
        product_id.is_(None),
        sa.or_(billing_plan_id.is_(None), is_id(billing_plan_id)),
    )
    return sa.and_(
        dialect.consists_of(installation_id, "A-Za-z0-9_-", INSTALLATION_ID_LENGTH),
        sa.or_(of_resource, of_installation),
    )
