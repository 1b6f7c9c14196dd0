"""Column types, defaults, indexes and constraints that mean the same on every database."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, Subquery, Table
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.engine.interfaces import Dialect as EngineDialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import DDLCompiler
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.types import TypeDecorator, TypeEngine
from typing_extensions import override

from dispatcher.outbox.events import INSTALLATION_ID_LENGTH

MYSQL = ("mysql", "mariadb")
"""SQLAlchemy has a dialect of its own for URLs that begin with `mariadb`."""
STORAGE: dict[str, Any] = {
    f"{name}_{option}": value
    for name in MYSQL
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}

_TABLE_OPTIONS = dict(postgresql.dialect.construct_arguments or ())[sa.Table]


def storage_parameters(**parameters: int) -> dict[str, Any]:
    """A table's storage parameters on PostgreSQL. They only tune vacuum; SQLAlchemy before 2.1 does not take them, and gets none."""
    return {"postgresql_with": parameters} if "with" in _TABLE_OPTIONS else {}


class Timestamp(TypeDecorator[datetime]):
    """A UTC timestamp with microseconds: `timestamptz`, `DATETIME(6)`, and on SQLite text that sorts by time."""

    impl = sa.DateTime
    cache_ok = True

    @override
    def load_dialect_impl(self, dialect: EngineDialect) -> TypeEngine[Any]:
        match dialect.name:
            case "postgresql":
                return dialect.type_descriptor(postgresql.TIMESTAMP(timezone=True))
            case "mysql" | "mariadb":
                return dialect.type_descriptor(mysql.DATETIME(fsp=6))
            case _:
                return dialect.type_descriptor(sa.DateTime())

    @override
    def process_bind_param(self, value: datetime | None, dialect: EngineDialect) -> datetime | None:
        if value is None or dialect.name == "postgresql":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    @override
    def process_result_value(self, value: datetime | None, dialect: EngineDialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def plain_timestamp() -> TypeEngine[datetime]:
    """The same column without the conversion, made of SQLAlchemy's own types, so that other programs' migrations need none of ours."""
    on_postgresql, on_mysql = postgresql.TIMESTAMP(timezone=True), mysql.DATETIME(fsp=6)
    return sa.DateTime().with_variant(on_postgresql, "postgresql").with_variant(on_mysql, *MYSQL)


def text(length: int) -> TypeEngine[str]:
    """A string that compares byte for byte: MySQL's default collations fold case and accents."""
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), *MYSQL)


def long_text() -> TypeEngine[str]:
    """A string without a practical limit."""
    return sa.Text().with_variant(mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin"), *MYSQL)


def counter() -> TypeEngine[int]:
    """An integer that only grows."""
    return sa.BigInteger()


def identity() -> TypeEngine[int]:
    """A key that the database generates; SQLite generates it for INTEGER only."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def is_exactly(column: ColumnElement[str], value: str) -> ColumnElement[bool]:
    """Equal byte for byte. MySQL's and MariaDB's `=` ignores trailing spaces; it is there for the index."""
    end = sa.literal("|")
    return sa.and_(column == value, column.concat(end) == sa.literal(value).concat(end))


def belongs_to(
    table: Table | Subquery, installation_id: str | None, resource_id: str | None
) -> list[ColumnElement[bool]]:
    """Returns the conditions for rows of this installation and this resource; None stands for any."""
    ids = (("installation_id", installation_id), ("resource_id", resource_id))
    return [is_exactly(table.c[name], value) for name, value in ids if value is not None]


class now_default(ColumnElement[datetime]):  # noqa: N801 (reads as the SQL function it stands for)
    """The database's clock as the default of a column."""

    inherit_cache = True


@compiles(now_default, "postgresql")
def _now_on_postgresql(_element: now_default, _compiler: DDLCompiler, **_options: Any) -> str:
    return "clock_timestamp()"


@compiles(now_default, *MYSQL)
def _now_on_mysql(_element: now_default, _compiler: DDLCompiler, **_options: Any) -> str:
    return "(utc_timestamp(6))"


@compiles(now_default, "sqlite")
def _now_on_sqlite(_element: now_default, _compiler: DDLCompiler, **_options: Any) -> str:
    return "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))"


def partial(condition: str) -> dict[str, Any]:
    """Options of an index of only the rows that meet the condition; MySQL has no partial indexes and indexes every row."""
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


class condition(ColumnElement[bool]):  # noqa: N801 (reads as the SQL that it stands for)
    """The condition of a CHECK, in each database's own SQL. It is one constraint, so Alembic's autogenerate copies one."""

    inherit_cache = False

    def __init__(self, default: str, **others: str) -> None:
        self.default = default
        self.others = others


@compiles(condition)
def _condition(element: condition, compiler: DDLCompiler, **_options: Any) -> str:
    name = "mysql" if compiler.dialect.name in MYSQL else compiler.dialect.name
    return element.others.get(name, element.default)


def matches_installation_id(column: str, name: str) -> CheckConstraint:
    """1 to 128 characters of `[A-Za-z0-9_-]`."""
    length_limits = f"BETWEEN 1 AND {INSTALLATION_ID_LENGTH}"
    allowed = condition(
        f"{column} ~ '^[A-Za-z0-9_-]+$'",  # varchar limits the length; {1,128} would take many times as long
        # MySQL's `$` also matches before a line break at the end.
        mysql=f"{column} NOT REGEXP '[^A-Za-z0-9_-]' AND char_length({column}) {length_limits}",
        sqlite=f"{_is_whole(column)} AND {column} NOT GLOB '*[^A-Za-z0-9_-]*' AND length({column}) {length_limits}",
    )
    return CheckConstraint(allowed, name)


def is_one_of(column: str, values: Sequence[str], name: str) -> CheckConstraint:
    """One of these values, which contain no space."""
    listed = f"{column} IN ({', '.join(repr(value) for value in values)})"
    # MySQL ignores trailing spaces.
    return CheckConstraint(condition(listed, mysql=f"{listed} AND {column} NOT REGEXP ' '"), name)


def matches_partner_id(column: str, max_length: int, name: str) -> CheckConstraint:
    """NULL, or 1 to `max_length` characters without control characters: U+0000 to U+001F and U+007F to U+009F."""
    # Most ids are ASCII, and that test takes a third of the time of the other. PostgreSQL cannot store U+0000. In the encodings listed,
    # the codes from U+0080 on are letters or parts of letters.
    postgresql = (
        rf"{column} ~ '^[ -~]+$' OR {column} ~ '^[^\x01-\x1f\x7f]+$'"
        rf" AND ({column} !~ '[\x80-\x9f]' OR getdatabaseencoding() ~ '^(WIN|KOI|SQL)')"
    )
    # The range of all allowed characters beyond ASCII. It needs no backslash, whose meaning depends on MySQL's sql_mode.
    first, last = "char(0xC2A0 USING utf8mb4)", "char(0xF48FBFBF USING utf8mb4)"
    allowed = condition(
        postgresql,  # varchar limits the length; every further function call would cost the writer time
        mysql=f"char_length({column}) BETWEEN 1 AND {max_length}"
        f" AND {column} NOT REGEXP concat('[^ -~', {first}, '-', {last}, ']')",
        sqlite=f"{column} IS NULL OR {_is_whole(column)} AND length({column}) BETWEEN 1 AND {max_length}"
        f" AND {column} NOT GLOB '*[^ -~' || char(160) || '-' || char(1114111) || ']*'",
    )
    return CheckConstraint(allowed, name)


def _is_whole(column: str) -> str:
    """A column of SQLite can also hold bytes, and SQLite's functions read a text only up to its first U+0000."""
    return f"typeof({column}) = 'text' AND instr({column}, char(0)) = 0"
