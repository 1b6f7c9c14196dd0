"""The definitions of tables as the database reports them: everything but the data, in a comparable form."""

import re
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import Connection

from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import metadata

Definitions = dict[str, list[str]]

# Columns with their types, defaults and identities; constraints; indexes; storage options.
_POSTGRESQL = """
SELECT format('%s %s%s default %s identity %s', a.attname, format_type(a.atttypid, a.atttypmod),
              CASE WHEN a.attnotnull THEN ' NOT NULL' END, pg_get_expr(d.adbin, d.adrelid), a.attidentity)
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = CAST(:name AS regclass) AND a.attnum > 0
UNION ALL
SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = CAST(:name AS regclass) AND contype <> 'n'
UNION ALL
SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = CAST(:name AS regclass)
UNION ALL
SELECT unnest(reloptions) FROM pg_class WHERE oid = CAST(:name AS regclass)
"""
_SQLITE = "SELECT sql FROM sqlite_master WHERE tbl_name = :name AND sql IS NOT NULL"


def definitions(database: Database) -> Definitions:
    """Returns the definition of each of our tables that exists."""
    with database.read() as connection:
        names = set(sa.inspect(connection).get_table_names(database.schema)) & metadata.tables.keys()
        return {name: sorted(_OF[database.dialect.name](connection, database, name)) for name in names}


def _on_postgresql(connection: Connection, database: Database, name: str) -> list[str]:
    qualified = f"{database.schema}.{name}" if database.schema else name
    return [str(line) for line in connection.execute(sa.text(_POSTGRESQL), {"name": qualified}).scalars()]


def _on_mysql(connection: Connection, _database: Database, name: str) -> list[str]:
    created = connection.exec_driver_sql(f"SHOW CREATE TABLE {name}").one()[1]
    return [line.rstrip(",") for line in re.sub(r" AUTO_INCREMENT=\d+", "", created).splitlines()]


def _on_sqlite(connection: Connection, _database: Database, name: str) -> list[str]:
    created = connection.execute(sa.text(_SQLITE), {"name": name}).scalars()
    # One line for each constraint, sorted: their order is irrelevant.
    lines = [re.sub(r"\s+", " ", sql).replace(" ,", ",").removesuffix(")") for sql in created]
    return [part.strip() for line in lines for part in re.split(r", (?=CONSTRAINT |PRIMARY KEY )", line)]


_OF: dict[str, Callable[[Connection, Database, str], list[str]]] = {
    "postgresql": _on_postgresql,
    "mysql": _on_mysql,
    "sqlite": _on_sqlite,
}


def run_script(database: Database, script: str) -> None:
    """Runs the script as `psql`, `mariadb` or `sqlite3` would."""
    opened = database.engine.raw_connection()
    try:
        if database.dialect.name == "sqlite":
            opened.cursor().executescript(script)
            return
        lines = "\n".join(line for line in script.splitlines() if not line.startswith("--"))
        for statement in filter(None, (one.strip("; \n") for one in lines.split(";\n"))):
            opened.cursor().execute(statement)
        opened.commit()
    finally:
        opened.close()
