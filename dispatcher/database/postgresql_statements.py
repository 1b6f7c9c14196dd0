"""Statements of PostgreSQL."""

import operator
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache, reduce
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CTE, Column, ColumnElement, Executable, FromClause, Select, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine.interfaces import Dialect as EngineDialect
from sqlalchemy.types import TypeEngine
from typing_extensions import override

from dispatcher.database.statements import Assignments, Statements
from dispatcher.outbox.columns import Timestamp

ENGINE_DIALECT: EngineDialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped


class PostgresqlStatements(Statements):
    # Not clock_timestamp(): it is volatile, so a comparison with it cannot use an index.
    now = "statement_timestamp()"

    @override
    def encode(self, rows: list[dict[str, Any]]) -> dict[str, str]:
        import orjson

        return {"rows": orjson.dumps(rows).decode()}  # times with their time zone

    @override
    def rows(self, *columns: Column[Any]) -> CTE:
        return self.unfolded(*columns).cte("r")  # unfolded once, however often a statement uses it

    @override
    def unfold(self, types: dict[str, TypeEngine[Any]]) -> str:
        columns = ", ".join(f"{name} {type_.compile(ENGINE_DIALECT)}" for name, type_ in types.items())
        return f"SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS r({columns})"  # noqa: S608 (our own columns)

    @override
    def latest(self, *values: ColumnElement[Any]) -> ColumnElement[Any]:
        return sa.func.greatest(*values)

    @override
    def raw_time(self, column: Column[Any]) -> ColumnElement[Any]:
        # As text, because the driver cannot represent 'infinity'.
        return sa.func.to_char(sa.func.timezone("UTC", column), "YYYY-MM-DD HH24:MI:SS.US", type_=sa.String())

    @override
    def begins_with(self, column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
        # Most collations do not sort by characters, and serve no prefix; with "C" the index does.
        return column.startswith(prefix, autoescape=True)

    @override
    def consists_of(self, column: ColumnElement[str], allowed: str, max_length: int) -> ColumnElement[bool]:
        return sa.and_(sa.func.octet_length(column) <= max_length, column.regexp_match(f"^[{allowed}]+$"))

    @override
    def subject_key(self, *parts: ColumnElement[Any]) -> ColumnElement[str]:
        lengths = (sa.func.octet_length(sa.func.convert_to(part, "UTF8")) for part in parts)
        texts: list[ColumnElement[str]] = [
            sa.func.coalesce(sa.cast(length, sa.Text) + ":" + part, "-")
            for length, part in zip(lengths, parts, strict=True)
        ]
        joined = reduce(operator.add, texts)
        return sa.func.encode(sa.func.sha256(sa.func.convert_to(joined, "UTF8")), "hex", type_=sa.String())

    @override
    def written_at(self, column: Column[Any], now: ColumnElement[datetime]) -> ColumnElement[datetime]:
        earliest = sa.literal(datetime.min.replace(tzinfo=UTC), Timestamp())
        return sa.case((column.between(earliest, now), column), else_=now)

    @override
    def upsert(self, table: Table, source: Select[Any], assignments: Assignments) -> Executable:
        insert = postgresql.insert(table).from_select([c.name for c in source.selected_columns], source)
        values = assignments(insert.excluded)
        changes = sa.or_(*(table.c[name].is_distinct_from(value) for name, value in values.items()))
        return insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=values, where=changes)

    @override
    def update(
        self,
        table: Table,
        on: Sequence[Column[Any]],
        columns: Sequence[Column[Any]],
        copies: Sequence[tuple[Column[Any], Column[Any]]] = (),
    ) -> Executable:
        rows = self.rows(*on, *columns)
        same = (key == rows.c[key.name] for key in on)
        values = {column.name: rows.c[column.name] for column in columns}
        found = self.is_among(on[0], rows)
        return sa.update(table).where(found, *same).values(values | {copy.name: original for copy, original in copies})

    @override
    def is_among(self, key: Column[Any], rows: FromClause) -> ColumnElement[bool]:
        # For a join alone it may scan the whole index, with all its dead rows, if the table was empty when it was analyzed.
        return key == sa.any_(sa.func.array(sa.select(rows.c[key.name]).scalar_subquery()))

    @override
    def delete(self, table: Table, on: Sequence[Column[Any]]) -> Executable:
        rows = self.rows(*on)
        same = (key == rows.c[key.name] for key in on)
        return sa.delete(table).where(self.is_among(on[0], rows), *same)

    @override
    @cache  # noqa: B019 (one instance lives as long as the program)
    def first_due(self, delivery: Table, names: Sequence[str], installations: int) -> Executable:
        rows = self.rows(delivery.c.installation_id)
        due = (
            sa.select(*(delivery.c[name] for name in names))
            .where(delivery.c.installation_id == rows.c.installation_id, delivery.c.due_at <= self.clock())
            .order_by(delivery.c.due_at)
            .limit(sa.bindparam("limit", type_=sa.Integer))
            .lateral("d")
        )
        return sa.select(due).select_from(rows.join(due, sa.true()))

    @override
    def first_due_parameters(self, installation_ids: Sequence[str]) -> dict[str, Any]:
        return self.encode([{"installation_id": installation_id} for installation_id in installation_ids])
