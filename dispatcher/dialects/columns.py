"""Column types, defaults, indexes and constraints that mean the same on every database."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CheckConstraint
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.engine.interfaces import Dialect as EngineDialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import DDLCompiler
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.types import TypeDecorator, TypeEngine
from typing_extensions import override

STORAGE: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


class Timestamp(TypeDecorator[datetime]):
    """A UTC instant with microseconds: `timestamptz`, `DATETIME(6)`, and on SQLite text that sorts by time."""

    impl = sa.DateTime
    cache_ok = True

    @override
    def load_dialect_impl(self, dialect: EngineDialect) -> TypeEngine[Any]:
        match dialect.name:
            case "postgresql":
                return dialect.type_descriptor(postgresql.TIMESTAMP(timezone=True))
            case "mysql":
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


def text(length: int) -> TypeEngine[str]:
    """A string that compares byte for byte: MySQL's default collations fold case and accents."""
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql")


def long_text() -> TypeEngine[str]:
    """A string without a practical limit."""
    return sa.Text().with_variant(mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql")


def counter() -> TypeEngine[int]:
    """A number that only grows."""
    return sa.BigInteger()


def identity() -> TypeEngine[int]:
    """A key that the database hands out; SQLite does so for INTEGER only."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


class now_default(ColumnElement[datetime]):  # noqa: N801 (reads as the SQL function it stands for)
    """The database's clock as a column's default."""

    inherit_cache = True


@compiles(now_default, "postgresql")
def _now_on_postgresql(_element: now_default, _compiler: DDLCompiler, **_options: Any) -> str:
    return "clock_timestamp()"


@compiles(now_default, "mysql")
def _now_on_mysql(_element: now_default, _compiler: DDLCompiler, **_options: Any) -> str:
    return "(utc_timestamp(6))"


@compiles(now_default, "sqlite")
def _now_on_sqlite(_element: now_default, _compiler: DDLCompiler, **_options: Any) -> str:
    return "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))"


def partial(condition: str) -> dict[str, Any]:
    """Index only the rows that meet the condition; MySQL has no such index and takes them all."""
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


def matches_installation_id(column: str, name: str) -> list[CheckConstraint]:
    """1 to 128 of `[A-Za-z0-9_-]`."""
    return _checks(
        name,
        f"{column} ~ '^[A-Za-z0-9_-]{{1,128}}$'",
        # MySQL's `$` also matches before a line break at the end.
        mysql=f"{column} REGEXP '^[A-Za-z0-9_-]{{1,128}}$' AND {column} NOT LIKE '%\\n'",
        sqlite=f"{column} NOT GLOB '*[^A-Za-z0-9_-]*' AND length({column}) BETWEEN 1 AND 128",
    )


def characters_between(column: str, least: int, most: int, name: str) -> list[CheckConstraint]:
    """NULL, or a length in characters within the limits."""
    return _checks(
        name,
        f"char_length({column}) BETWEEN {least} AND {most}",
        sqlite=f"length({column}) BETWEEN {least} AND {most}",
    )


def _checks(name: str, default: str, **others: str) -> list[CheckConstraint]:
    conditions = {"postgresql": default, "mysql": default, "sqlite": default} | others
    return [CheckConstraint(condition, name).ddl_if(dialect=dialect) for dialect, condition in conditions.items()]
