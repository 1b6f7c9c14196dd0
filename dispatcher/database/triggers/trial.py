"""Lets a trigger fire on a copy of some rows, before the partner's own table has it."""

from collections.abc import Iterable

from sqlalchemy import Connection

from dispatcher.database.triggers.table import AS_WRITTEN
from dispatcher.outbox.trigger import Script, Watched
from dispatcher.outbox.trigger.watched import quoted

COPY = "vercel_trial"
"""The name of the copy."""
MAX_TRIED_ROWS = 100
_EMPTY_ROW = {
    "postgresql": "INTO {} DEFAULT VALUES",
    "mysql": "IGNORE INTO {} () VALUES ()",
    "mariadb": "IGNORE INTO {} () VALUES ()",
    "sqlite": "INTO {} DEFAULT VALUES",
}


def try_out(connection: Connection, watched: Watched, copy: Watched, made: Script) -> int:
    """Creates `copy`, a table like the watched one, and `made`, its trigger. Inserts some of the rows there, updates and deletes them.

    Returns the number of rows. The caller removes the copy, and rolls back what the trigger has written.
    """
    dialect = connection.dialect.name
    mark = "`" if dialect in {"mysql", "mariadb"} else '"'
    table, source = quoted(copy.table, mark), quoted(watched.table, mark)
    name = f"TEMPORARY TABLE {quoted(copy.bare_table, mark)}" if dialect == "postgresql" else f"TABLE {table}"
    execute(connection, [f"CREATE {name} AS SELECT * FROM {source} LIMIT 0", *made.create])  # noqa: S608 (names that were checked)
    insert = f"INSERT INTO {table} SELECT * FROM {source} LIMIT {MAX_TRIED_ROWS}"  # noqa: S608 (the same)
    rows = connection.exec_driver_sql(insert).rowcount
    if not rows:
        # Its ids are NULL, so the trigger writes nothing, but it is compiled.
        execute(connection, [f"INSERT {_EMPTY_ROW[dialect].format(table)}"])
    columns = connection.exec_driver_sql(f"SELECT * FROM {table} LIMIT 0").keys()  # noqa: S608 (the same)
    first = f"{mark}{next(iter(columns))}{mark}"
    execute(connection, [f"UPDATE {table} SET {first} = {first}", f"DELETE FROM {table}"])  # noqa: S608 (the same)
    return rows


def execute(connection: Connection, statements: Iterable[str]) -> None:
    """Executes each statement as it is written."""
    for statement in statements:
        connection.exec_driver_sql(statement, execution_options=AS_WRITTEN)
