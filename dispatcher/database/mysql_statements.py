"""Statements of MariaDB and MySQL.

STRAIGHT_JOIN starts every join at `r`, and FORCE INDEX continues by the key. On a small table the planner prefers a full scan, which
locks, and waits for, rows the statement does not need: one that a partner has not committed yet, or one that somebody keeps locked.
SQLAlchemy Core has neither, hence the raw text here.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, ColumnElement, CursorResult, Executable, Select, Table
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine
from typing_extensions import override

from dispatcher.database.statements import Assignments, Statements
from dispatcher.outbox.columns import Timestamp

CHARSET = "utf8mb4"
"""The character set that holds every character."""


class MysqlStatements(Statements):
    now = "utc_timestamp(6)"

    @override
    def encode(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        # As bytes, which the driver writes in hex: it escapes text character by character, and JSON is full of quotes.
        return {"rows": super().encode(rows)["rows"].encode()}

    @override
    def unfold(self, types: dict[str, TypeEngine[Any]]) -> str:
        columns = ", ".join(f"{name} {type_.compile(mysql.dialect())} PATH '$.{name}'" for name, type_ in types.items())
        rows = f"CONVERT(:rows USING {CHARSET})"
        return f"SELECT r.* FROM JSON_TABLE({rows}, '$[*]' COLUMNS ({columns})) AS r"  # noqa: S608 (our own columns)

    @override
    def latest(self, *values: ColumnElement[Any]) -> ColumnElement[Any]:
        return sa.func.greatest(*values)

    @override
    def raw(self, column: ColumnElement[Any], max_characters: int) -> ColumnElement[Any]:
        # MariaDB accepts a lone surrogate as text; reading it as text makes the driver raise for the whole batch.
        return sa.func.left(sa.cast(_utf8(column), sa.LargeBinary), 4 * max_characters + 4, type_=sa.LargeBinary())

    @override
    def raw_time(self, column: Column[Any]) -> ColumnElement[Any]:
        # As text, because the driver cannot represent a zero date.
        return sa.cast(column, sa.CHAR(32))

    @override
    def consists_of(self, column: ColumnElement[str], allowed: str, max_length: int) -> ColumnElement[bool]:
        text = _utf8(column)
        return sa.and_(
            sa.func.octet_length(text).between(1, max_length),
            sa.func.octet_length(text) == sa.func.char_length(text),
            # With a collation that folds case, the class would contain others too.
            sa.not_(text.collate(f"{CHARSET}_bin").regexp_match(f"[^{allowed}]")),
        )

    @override
    def subject_key(self, *parts: ColumnElement[Any]) -> ColumnElement[str]:
        utf8 = [_utf8(part) for part in parts]
        texts = [sa.func.coalesce(sa.func.concat(sa.func.octet_length(part), ":", part), "-") for part in utf8]
        return sa.func.sha2(_utf8(sa.func.concat(*texts)), 256, type_=sa.String())

    @override
    def written_at(self, column: Column[Any], now: ColumnElement[datetime]) -> ColumnElement[datetime]:
        # A column can also hold 0000-00-00 and 2026-00-00, and in some modes 2026-02-30.
        last_day = sa.func.last_day(sa.func.date_format(column, "%Y-%m-01"))
        is_date = (
            sa.func.year(column) > 0,
            sa.func.month(column) > 0,
            sa.func.dayofmonth(column).between(1, sa.func.dayofmonth(last_day)),
        )
        return sa.case((sa.and_(column <= now, *is_date), column), else_=now)

    @override
    def upsert(self, table: Table, source: Select[Any], assignments: Assignments) -> Executable:
        insert = mysql.insert(table).from_select([c.name for c in source.selected_columns], source)
        return insert.on_duplicate_key_update(assignments(insert.inserted))

    @override
    def update(
        self,
        table: Table,
        on: Sequence[Column[Any]],
        columns: Sequence[Column[Any]],
        copies: Sequence[tuple[Column[Any], Column[Any]]] = (),
    ) -> Executable:
        sets = [f"t.{column.name} = r.{column.name}" for column in columns]
        sets += [f"t.{copy.name} = t.{original.name}" for copy, original in copies]
        return sa.text(f"UPDATE {self._joined(table, on, columns)} SET {', '.join(sets)}")  # noqa: S608 (names of our own tables)

    @override
    def delete(self, table: Table, on: Sequence[Column[Any]]) -> Executable:
        return sa.text(f"DELETE t FROM {self._joined(table, on)}")

    def _joined(self, table: Table, on: Sequence[Column[Any]], others: Sequence[Column[Any]] = ()) -> str:
        unfolded = self.unfold({column.name: column.type for column in (*on, *others)})
        same = " AND ".join(f"t.{column.name} = r.{column.name}" for column in on)
        return f"({unfolded}) AS r STRAIGHT_JOIN {table.name} AS t FORCE INDEX (PRIMARY) ON {same}"

    @override
    def first_due(self, delivery: Table, names: Sequence[str], installations: int) -> Executable:
        return self._first_due(delivery, names, _padded(installations))

    @cache  # noqa: B019 (one instance lives as long as the program)
    def _first_due(self, delivery: Table, names: Sequence[str], installations: int) -> Executable:
        # MariaDB has neither LATERAL nor LIMIT within IN: one bounded index range for each installation instead.
        each = (self._first_due_of(delivery, names, f"installation_{n}") for n in range(installations))
        return sa.union_all(*each)

    def _first_due_of(self, delivery: Table, names: Sequence[str], parameter: str) -> Select[Any]:
        # One value for each row: for the driver, a column of a row is as expensive as a row of JSON for orjson.
        return (
            sa.select(sa.func.json_array(*(delivery.c[name] for name in names), type_=sa.String()))
            .where(
                delivery.c.installation_id == sa.bindparam(parameter, type_=delivery.c.installation_id.type),
                delivery.c.due_at <= self.clock(),
            )
            .order_by(delivery.c.due_at)
            .limit(sa.bindparam("limit", type_=sa.Integer))
        )

    @override
    def first_due_parameters(self, installation_ids: Sequence[str]) -> dict[str, Any]:
        padding = [""] * (_padded(len(installation_ids)) - len(installation_ids))  # matches no installation
        return {f"installation_{n}": id_ for n, id_ in enumerate([*installation_ids, *padding])}

    @override
    def first_due_rows(
        self, result: CursorResult[Any], delivery: Table, names: Sequence[str]
    ) -> Iterator[Sequence[Any]]:
        import orjson

        times = [place for place, name in enumerate(names) if isinstance(delivery.c[name].type, Timestamp)]
        for text in result.scalars():
            row = orjson.loads(text)
            for place in times:
                row[place] = datetime.fromisoformat(row[place]).replace(tzinfo=UTC)
            yield row


def _utf8(text: ColumnElement[str]) -> ColumnElement[str]:
    return sa.func.convert(text.op("USING")(sa.literal_column(CHARSET)), type_=sa.String())


def _padded(installations: int) -> int:
    """Returns the next power of two, so that only a few statements of different lengths are built and cached."""
    return 1 << max(0, installations - 1).bit_length()
