"""The SQL in which PostgreSQL, MySQL/MariaDB and SQLite differ.

Statements are set-based: a batch is one JSON parameter (`:rows`), which the database unfolds into a table `r`. A batch of any size
therefore costs one round trip, and the text of the statement never changes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, ColumnElement, CursorResult, Executable, FromClause, Select, Table, TextualSelect
from sqlalchemy.types import TypeEngine

from dispatcher.outbox.columns import Timestamp

Assignments = Callable[[Any], dict[str, ColumnElement[Any]]]


class Statements(ABC):
    """The statements of one family of databases, and their parts."""

    now: str
    """SQL for the database's clock. Constant within a statement, so that comparisons with it can use an index."""

    def clock(self) -> ColumnElement[datetime]:
        """Returns the database's clock as an expression."""
        return sa.literal_column(self.now, Timestamp())

    def instant(self, value: datetime) -> str:
        """Returns a time as it is written in the JSON of `:rows`."""
        # Not strftime: it writes the year 44 as `44`, which databases read as 2044 or refuse.
        return value.astimezone(UTC).isoformat(" ", "microseconds")[: -len("+00:00")]

    def encode(self, rows: list[dict[str, Any]]) -> dict[str, str]:
        """Returns these rows as the parameter `:rows`."""
        import orjson

        return {"rows": orjson.dumps(rows, self.instant, orjson.OPT_PASSTHROUGH_DATETIME).decode()}

    def rows(self, *columns: Column[Any]) -> FromClause:
        """Returns `:rows` as a table `r` with the names and types of these columns."""
        return self.unfolded(*columns).subquery("r")

    def unfolded(self, *columns: Column[Any]) -> TextualSelect:
        """Returns a SELECT of the same."""
        types = {column.name: column.type for column in columns}
        return sa.text(self.unfold(types)).columns(**types)

    @abstractmethod
    def unfold(self, types: dict[str, TypeEngine[Any]]) -> str:
        """Returns a SELECT that turns the JSON of `:rows`, an array of objects, into a table."""

    @abstractmethod
    def latest(self, *values: ColumnElement[Any]) -> ColumnElement[Any]:
        """Returns the latest of several times, none of which is NULL."""

    def raw(self, column: ColumnElement[Any], max_characters: int) -> ColumnElement[Any]:
        """Returns a column that partners write, read so that no value fails the batch, cut to little more than `max_characters`."""
        return column

    @abstractmethod
    def raw_time(self, column: Column[Any]) -> ColumnElement[Any]:
        """Returns a time that partners write, as text in UTC, or NULL."""

    def begins_with(self, column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
        """Whether a text begins with the prefix, through an index where the order of the column's texts allows it."""
        return column.between(prefix, prefix + "\U0010ffff")

    @abstractmethod
    def consists_of(self, column: ColumnElement[str], allowed: str, max_length: int) -> ColumnElement[bool]:
        """Whether a text has 1 to `max_length` characters, all of them allowed: a class of ASCII characters such as `A-Za-z0-9_-`."""

    @abstractmethod
    def subject_key(self, *parts: ColumnElement[Any]) -> ColumnElement[str]:
        """Returns the key of the subject with these parts, none of which is malformed; see `Subject.key`."""

    @abstractmethod
    def written_at(self, column: Column[Any], now: ColumnElement[datetime]) -> ColumnElement[datetime]:
        """Returns a time that partners write, or `now` if it is in the future or none that the driver can represent."""

    @abstractmethod
    def upsert(self, table: Table, source: Select[Any], assignments: Assignments) -> Executable:
        """Returns an INSERT … SELECT. An existing row gets the assignments, which receive the new row as their argument.

        A row the assignments leave unchanged is still locked, but no new row version is written.
        """

    @abstractmethod
    def update(
        self,
        table: Table,
        on: Sequence[Column[Any]],
        columns: Sequence[Column[Any]],
        copies: Sequence[tuple[Column[Any], Column[Any]]] = (),
    ) -> Executable:
        """Returns an UPDATE of `columns` from `:rows`, joined by `on`. Each pair in `copies` sets its first column to its second."""

    def is_among(self, _key: Column[Any], _rows: FromClause) -> ColumnElement[bool]:
        """Returns a condition beside that of a join: the key is that of one of the rows, by which the database is to find them."""
        return sa.true()

    @abstractmethod
    def delete(self, table: Table, on: Sequence[Column[Any]]) -> Executable:
        """Returns a DELETE of the rows whose `on` columns match a row of `:rows`."""

    @abstractmethod
    def first_due(self, delivery: Table, names: Sequence[str], installations: int) -> Executable:
        """Returns a SELECT of the `:limit` deliveries that have been due longest, for each of this many installations."""

    @abstractmethod
    def first_due_parameters(self, installation_ids: Sequence[str]) -> dict[str, Any]:
        """Returns the parameters of `first_due` for these installations."""

    def first_due_rows(
        self, result: CursorResult[Any], delivery: Table, names: Sequence[str]
    ) -> Iterable[Sequence[Any]]:
        """Returns the rows of the result of `first_due`."""
        return result
