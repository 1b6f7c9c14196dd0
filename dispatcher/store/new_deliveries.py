"""The deliveries that a batch of outbox rows makes, one for each subject. The rows stay in the database, which groups and hashes them."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Select, Subquery

from dispatcher.database.dialect import Dialect
from dispatcher.outbox.columns import Timestamp
from dispatcher.outbox.events import INSTALLATION_ID_LENGTH, PARTNER_ID_LENGTH, Subject
from dispatcher.outbox.tables import outbox
from dispatcher.store.batch import TYPE_LENGTH

_TRACEPARENT_DIGITS = (2, 32, 16, 2)
"""The lengths of the parts of a trace context."""


def new_deliveries(dialect: Dialect) -> Select[Any]:
    """Selects a delivery for each subject of the outbox rows in `:rows`, in key order. None of these rows is malformed.

    Further parameters: `version`, `due_at` and `now`.
    """
    grouped = _grouped(dialect)
    subject = [grouped.c[name] for name in Subject._fields]
    due_at = sa.bindparam("due_at", type_=Timestamp())

    def newest(column: ColumnElement[str]) -> ColumnElement[str]:
        event = outbox.alias(f"with_{column.name}")
        value = sa.select(_text(event.c[column.name])).where(event.c.id == grouped.c[column.name])
        return value.scalar_subquery().label(column.name)

    columns: list[ColumnElement[Any]] = [
        dialect.subject_key(*subject).label("subject_key"),
        sa.bindparam("version", type_=sa.String()).label("version"),
        *subject,
        *(newest(column) for column in (outbox.c.product_id, outbox.c.billing_plan_id, outbox.c.traceparent)),
        grouped.c.events,
        grouped.c.first_event_id,
        grouped.c.last_event_id,
        grouped.c.first_created_at,
        due_at.label("due_at"),
        due_at.label("visible_at"),
    ]
    return sa.select(*columns).order_by("subject_key")


def _grouped(dialect: Dialect) -> Subquery:
    """Groups the outbox rows in `:rows` by subject. The newest event with a product, a plan or a valid trace context determines these:
    selects the ids of these events.
    """
    rows, event = dialect.rows(outbox.c.id), outbox.alias("event")
    columns = event.c
    written_at = dialect.written_at(columns.created_at, sa.bindparam("now", type_=Timestamp()))

    def newest(column: ColumnElement[str], condition: ColumnElement[bool]) -> ColumnElement[int]:
        return sa.func.max(sa.case((condition, columns.id))).label(column.name)

    return (
        sa.select(
            # All of a subject are the same.
            *(sa.func.min(_text(columns[name])).label(name) for name in Subject._fields),
            sa.func.min(written_at).label("first_created_at"),
            sa.func.count().label("events"),
            sa.func.min(columns.id).label("first_event_id"),
            sa.func.max(columns.id).label("last_event_id"),
            newest(columns.product_id, _is_given(columns.product_id)),
            newest(columns.billing_plan_id, _is_given(columns.billing_plan_id)),
            newest(columns.traceparent, _is_traceparent(dialect, sa.cast(columns.traceparent, sa.Text))),
        )
        .select_from(rows.join(event, columns.id == rows.c.id))
        .where(dialect.is_among(columns.id, rows))
        # Byte for byte, whatever the collations of the columns.
        .group_by(
            dialect.raw(columns.installation_id, INSTALLATION_ID_LENGTH),
            dialect.raw(columns.type, TYPE_LENGTH),
            dialect.raw(columns.resource_id, PARTNER_ID_LENGTH),
        )
        .prefix_with("STRAIGHT_JOIN", dialect="mysql")
        .with_hint(event, "FORCE INDEX (PRIMARY)", "mysql")
        .subquery("grouped")
    )


def _is_given(column: ColumnElement[str]) -> ColumnElement[bool]:
    # Not `<> ''`, to which MySQL regards a space as equal. SQLite's `raw` reads an empty text as NULL.
    return sa.func.length(column) > 0


def _text(column: ColumnElement[str]) -> ColumnElement[str]:
    """Returns the column as text; one of SQLite can also hold bytes."""
    return sa.case((_is_given(column), sa.cast(column, sa.Text)))


def _is_traceparent(dialect: Dialect, text: ColumnElement[str]) -> ColumnElement[bool]:
    """See `is_traceparent`. One regular expression with its repetitions would take PostgreSQL eight times as long."""
    digits = sa.func.replace(text, "-", "", type_=sa.String())
    count = sum(_TRACEPARENT_DIGITS)
    has_its_form = text.like("-".join("_" * length for length in _TRACEPARENT_DIGITS))
    return sa.and_(has_its_form, sa.func.length(digits) == count, dialect.consists_of(digits, "0-9a-f", count))
