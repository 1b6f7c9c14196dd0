"""The watched table in the database: whether it has the columns that a trigger names."""

import difflib
from collections.abc import Collection
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from dispatcher.database.dialect import Dialect
from dispatcher.database.errors import first_line, is_unreachable
from dispatcher.outbox.trigger import Column, Watched, script
from dispatcher.outbox.trigger.watched import quoted

_HEX = {
    "postgresql": "encode(NEW.{}, 'hex')",
    "mysql": "lower(hex(NEW.{}))",
    "sqlite": "lower(hex(NEW.{}))",
}
_MAX_LISTED_COLUMNS = 20
AS_WRITTEN = {"no_parameters": True}
"""Options of a statement with a person's SQL in it, where drivers must not look for placeholders."""


class UnusableTrigger(Exception):
    """The database cannot have this trigger. The message is one line that says why and what to do."""


class UnfitTrigger(UnusableTrigger):
    """The trigger names something that the database does not have."""


def locate(connection: Connection, dialect: Dialect, watched: Watched) -> Watched:
    """Returns it with the schema in which PostgreSQL finds the table.

    Raises UnfitTrigger if the table lacks a column, if an id is read from a column of bytes, or if an expression does not fit.
    """
    located = _with_schema(connection, watched) if dialect.name == "postgresql" else watched
    inspector = sa.inspect(connection)
    if not inspector.has_table(located.bare_table, located.schema):
        raise UnfitTrigger(
            f"there is no table {watched.table}{_hint(located.bare_table, inspector.get_table_names(located.schema))}"
        )
    types = {column["name"]: column["type"] for column in inspector.get_columns(located.bare_table, located.schema)}
    _check_columns(dialect.name, located, types)
    try:
        connection.exec_driver_sql(script(dialect.name, located).test, execution_options=AS_WRITTEN)
    except DBAPIError as error:
        if is_unreachable(error) or dialect.is_denied(error):
            raise
        raise UnfitTrigger(f"the database does not accept this trigger: {first_line(error)}") from None
    return located


def _with_schema(connection: Connection, watched: Watched) -> Watched:
    query = sa.text(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid = pg_catalog.to_regclass(:name)"
    )
    found = connection.execute(query, {"name": quoted(watched.table, '"')}).first()
    return watched if found is None else replace(watched, table=f"{found.nspname}.{found.relname}")


def _check_columns(dialect: str, watched: Watched, types: dict[str, TypeEngine[object]]) -> None:
    # Only PostgreSQL distinguishes `Id` and `id`.
    fold = str if dialect == "postgresql" else str.lower
    known = {fold(name): type_ for name, type_ in types.items()}
    for name in watched.columns:
        if fold(name) not in known:
            listed = ", ".join([*types][:_MAX_LISTED_COLUMNS])
            raise UnfitTrigger(f"{watched.table} has no column {name}{_hint(name, types)} (its columns are {listed})")
    for column, source in watched.sources.items():
        if isinstance(source, Column) and _holds_bytes(known[fold(source.name)]):
            option, example = column.removesuffix("_id"), _HEX[dialect].format(source.name)
            raise UnfitTrigger(
                f'the column {source.name} holds bytes, and an id is text: use --{option}-expression, for example "{example}"'
            )


def _holds_bytes(type_: TypeEngine[object]) -> bool:
    try:
        return type_.python_type is bytes
    except NotImplementedError:  # SQLAlchemy does not know the type
        return False


def _hint(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f": did you mean {near[0]}?" if near else ""
