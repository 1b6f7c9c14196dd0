"""A partner's table of resources, and the triggers on it."""

import contextlib
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine

from dispatcher.database.transactions import Database
from dispatcher.outbox.trigger import Column, Source, Watched, script
from tests.conftest import not_tested

COLUMNS = '("id" VARCHAR(40), "inst of" VARCHAR(40), "Name" VARCHAR(40), note VARCHAR(40))'
DIALECTS = {"postgresql": "postgresql", "sqlite": "sqlite", "mysql": "mariadb"}
"""The dialect of the scripts for each test database."""


def run_script(database: Database, partner: Engine, sql: str) -> None:
    """Executes the SQL as a person would, in the dialect of the database's own client."""
    match database.dialect.name:
        case "postgresql":
            with partner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql(sql, execution_options={"no_parameters": True})
        case "sqlite":
            with contextlib.closing(sqlite3.connect(str(database.engine.url.database))) as connection:
                connection.executescript(sql)
        case _:
            _run_by_client(database, sql)


def _run_by_client(database: Database, sql: str) -> None:
    client = shutil.which("mariadb") or shutil.which("mysql")
    if client is None:
        not_tested("the mariadb client is not installed (Debian: apt-get install mariadb-client)")
    url = database.engine.url
    address = ["-h", url.host or "127.0.0.1", "-P", str(url.port or 3306), "-u", url.username or "root"]
    password = [f"-p{url.password}"] if url.password else []
    command = [client, "--no-defaults", *address, *password, str(url.database)]
    subprocess.run(command, input=sql, text=True, check=True, capture_output=True, timeout=30)


class Table:
    """A partner's table of resources, the trigger on it, and the outbox."""

    def __init__(self, database: Database, partner: Engine, name: str = "my-Resources") -> None:
        self.database = database
        self.partner = partner
        self.name = name
        self.mark = "`" if database.dialect.name == "mysql" else '"'
        self.quoted = ".".join(f"{self.mark}{part}{self.mark}" for part in name.split("."))

    def __call__(self, *statements: str) -> None:
        """Executes the partner's statements in one transaction; `@T` stands for the table."""
        with self.partner.begin() as connection:
            for sql in statements:
                connection.exec_driver_sql(sql.replace("@T", self.quoted).replace('"', self.mark))

    def watched(
        self,
        *when_changed: str,
        installation: Source = Column("inst of"),  # noqa: B008 (it cannot change)
        resource: Source | None = Column("id"),  # noqa: B008 (the same)
        product: Source | None = None,
        outbox_schema: str | None = None,
    ) -> Watched:
        """What the trigger watches."""
        return Watched(self.name, installation, resource, product, when_changed, outbox_schema)

    def watch(self, watched: Watched, dialect: str | None = None) -> None:
        """Runs the script, which creates or replaces the trigger."""
        printed = str(script(dialect or DIALECTS[self.database.dialect.name], watched))
        run_script(self.database, self.partner, printed)

    def events(self) -> list[tuple[str, str]]:
        """Returns the installations and resources in the outbox, and empties it."""
        return [(one[0], one[1]) for one in self.whole_events()]

    def whole_events(self) -> list[tuple[Any, ...]]:
        """Returns the installations, resources, products and types in the outbox, and empties it."""
        statement = "SELECT installation_id, resource_id, product_id, type FROM vercel_outbox ORDER BY id"
        with self.partner.begin() as connection:
            rows = [tuple(row) for row in connection.exec_driver_sql(statement)]
            connection.exec_driver_sql("DELETE FROM vercel_outbox")
        return rows

    def remove(self) -> None:
        """Removes the table and everything that `dispatcher trigger` has created for it."""
        bare = self.name.rpartition(".")[2]
        with self.partner.begin() as connection:
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {self.quoted}")
            for name in (f"vercel_outbox_{bare}", f"vercel_outbox_installation_of_{bare}"):
                quoted = f"{self.mark}{name}{self.mark}"
                is_postgresql = self.database.dialect.name == "postgresql"
                connection.exec_driver_sql(
                    f"DROP {f'FUNCTION IF EXISTS {quoted}()' if is_postgresql else f'VIEW IF EXISTS {quoted}'}"
                )


@contextmanager
def made(table: Table, columns: str = COLUMNS) -> Iterator[Table]:
    """The table, for the duration of the block."""
    table.remove()
    table(f"CREATE TABLE @T {columns}")
    try:
        yield table
    finally:
        table.remove()
