"""The printed trigger on a partner's table, on every database."""

import contextlib
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from dispatcher.database.transactions import Database
from dispatcher.outbox.trigger import Watched, trigger_sql
from tests.conftest import not_tested
from tests.contract.databases import on_mysql, on_postgresql, on_servers
from tests.contract.steps import deliver

pytestmark = pytest.mark.varies

COLUMNS = '("id" VARCHAR(40), "inst of" VARCHAR(40), "Name" VARCHAR(40), note VARCHAR(40))'


def execute(database: Database, partner: Engine, sql: str) -> None:
    """Executes the SQL as a person would, in the dialect of the database's own client."""
    match database.dialect.name:
        case "postgresql":
            with partner.begin() as connection:
                connection.exec_driver_sql(sql)
        case "sqlite":
            with contextlib.closing(sqlite3.connect(str(database.engine.url.database))) as connection:
                connection.executescript(sql)
        case _:
            _execute_by_client(database, sql)


def _execute_by_client(database: Database, sql: str) -> None:
    client = shutil.which("mariadb") or shutil.which("mysql")
    if client is None:
        not_tested("the mariadb client is not installed (Debian: apt-get install mariadb-client)")
    url = database.engine.url
    address = ["-h", url.host or "127.0.0.1", "-P", str(url.port or 3306), "-u", url.username or "root"]
    password = [f"-p{url.password}"] if url.password else []
    command = [client, "--no-defaults", *address, *password, str(url.database)]
    subprocess.run(command, input=sql, text=True, check=True, timeout=30)


class Table:
    """A partner's table of resources, the trigger on it, and the outbox."""

    def __init__(self, database: Database, partner: Engine, name: str) -> None:
        self.database = database
        self.partner = partner
        self.name = name
        mark = "`" if database.dialect.name == "mysql" else '"'
        self.quoted = ".".join(f"{mark}{part}{mark}" for part in name.split("."))
        self.mark = mark

    def __call__(self, sql: str) -> None:
        """Executes one statement of the partner's; `@T` stands for the table."""
        with self.partner.begin() as connection:
            connection.exec_driver_sql(sql.replace("@T", self.quoted).replace('"', self.mark))

    def watch(self, *when_changed: str) -> None:
        """Creates or replaces the trigger; the outbox is in the connection's schema."""
        watched = Watched(self.name, "inst of", "id", when_changed)
        execute(self.database, self.partner, trigger_sql(self.database.dialect.name, watched))

    def events(self) -> list[tuple[str, str]]:
        """Returns the installations and resources in the outbox, and empties it."""
        statement = "SELECT installation_id, resource_id FROM vercel_outbox WHERE type = 'resource.updated' ORDER BY id"
        with self.partner.begin() as connection:
            rows = [(row[0], row[1]) for row in connection.exec_driver_sql(statement)]
            connection.exec_driver_sql("DELETE FROM vercel_outbox")
        return rows


@pytest.fixture
def table(database: Database, partner: Engine) -> Iterator[Table]:
    """A table without a trigger, whose names need quoting."""
    made = Table(database, partner, "my-Resources")
    made("DROP TABLE IF EXISTS @T")
    made(f"CREATE TABLE @T {COLUMNS}")
    yield made
    made("DROP TABLE @T")


def test_each_change_writes_its_event(table: Table) -> None:
    table.watch()
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x'), ('db_2', 'icfg_2', 'b', 'x')")
    assert table.events() == [("icfg_1", "db_1"), ("icfg_2", "db_2")]
    table("UPDATE @T SET note = 'y' WHERE id = 'db_1'")
    assert table.events() == [("icfg_1", "db_1")]
    table("DELETE FROM @T WHERE id = 'db_2'")
    assert table.events() == [("icfg_2", "db_2")]


def test_a_change_that_is_rolled_back_writes_nothing(table: Table, partner: Engine) -> None:
    table.watch()
    with partner.connect() as connection:
        connection.exec_driver_sql(f"INSERT INTO {table.quoted} VALUES ('db_1', 'icfg_1', 'a', 'x')")
        connection.rollback()
    assert table.events() == []


def test_rows_without_an_installation_or_a_resource_write_nothing(table: Table) -> None:
    table.watch()
    table("INSERT INTO @T VALUES ('db_1', NULL, 'a', 'x'), (NULL, 'icfg_1', 'a', 'x')")
    table("UPDATE @T SET note = 'y'")
    assert table.events() == []
    table("""UPDATE @T SET "inst of" = 'icfg_2' WHERE id = 'db_1'""")
    assert table.events() == [("icfg_2", "db_1")]
    table("""UPDATE @T SET "inst of" = NULL WHERE id = 'db_1'""")
    assert table.events() == [("icfg_2", "db_1")]
    table("DELETE FROM @T")
    assert table.events() == []


def test_a_resource_that_changes_its_installation_or_id_writes_for_both(table: Table) -> None:
    table.watch("Name")
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
    table.events()
    table("""UPDATE @T SET "inst of" = 'icfg_2'""")
    assert table.events() == [("icfg_1", "db_1"), ("icfg_2", "db_1")]
    table("UPDATE @T SET id = 'DB_1'")
    assert table.events() == [("icfg_2", "db_1"), ("icfg_2", "DB_1")]


def test_only_columns_that_matter_write(table: Table) -> None:
    table.watch("Name")
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
    table.events()
    table("UPDATE @T SET note = 'y'")
    assert table.events() == []
    for value in ("'b'", "'B'", "'B '", "NULL", "'c'"):
        table(f"""UPDATE @T SET "Name" = {value}""")
        assert table.events() == [("icfg_1", "db_1")], value
        table(f"""UPDATE @T SET "Name" = {value}""")
        assert table.events() == [], value


def test_a_new_trigger_replaces_the_old_one(table: Table) -> None:
    table.watch("Name")
    table.watch()
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
    table("UPDATE @T SET note = 'y'")
    assert table.events() == [("icfg_1", "db_1")] * 2


def test_its_events_are_delivered(table: Table) -> None:
    table.watch()
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
    assert deliver(table.database) == ["db_1"]


@on_servers
def test_an_outbox_whose_schema_is_named(table: Table) -> None:
    home = table.database.schema or {"postgresql": "public"}.get(
        table.database.dialect.name, str(table.database.engine.url.database)
    )
    watched = Watched(table.name, "inst of", "id", (), home)
    execute(table.database, table.partner, trigger_sql(table.database.dialect.name, watched))
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
    assert table.events() == [("icfg_1", "db_1")]


@on_postgresql
def test_a_table_in_another_schema(database: Database, partner: Engine) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA IF EXISTS shop CASCADE; CREATE SCHEMA shop")
    table = Table(database, partner, "shop.resources")
    table(f"CREATE TABLE @T {COLUMNS}")
    try:
        table.watch("Name")
        table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
        assert table.events() == [("icfg_1", "db_1")]
    finally:
        with database.engine.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA shop CASCADE")


@on_postgresql
def test_no_session_can_lead_an_event_astray(table: Table) -> None:
    table.watch()
    with table.partner.begin() as connection:
        connection.exec_driver_sql("CREATE TEMPORARY TABLE vercel_outbox AS SELECT * FROM vercel_outbox WHERE false")
        connection.exec_driver_sql(f"INSERT INTO {table.quoted} VALUES ('db_1', 'icfg_1', 'a', 'x')")
        connection.exec_driver_sql("DROP TABLE pg_temp.vercel_outbox")
    with table.partner.begin() as connection:
        home = table.database.schema or "public"
        connection.exec_driver_sql("SET LOCAL search_path = pg_catalog")
        connection.exec_driver_sql(f"INSERT INTO {home}.{table.quoted} VALUES ('db_2', 'icfg_1', 'a', 'x')")
    assert table.events() == [("icfg_1", "db_1"), ("icfg_1", "db_2")]


@on_mysql
def test_a_table_with_its_database(table: Table) -> None:
    qualified = Table(table.database, table.partner, f"{table.database.engine.url.database}.{table.name}")
    qualified.watch()
    qualified("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
    assert table.events() == [("icfg_1", "db_1")]


@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
def test_a_table_of_the_main_file(table: Table) -> None:
    qualified = Table(table.database, table.partner, f"main.{table.name}")
    qualified.watch("Name")
    qualified("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
    assert table.events() == [("icfg_1", "db_1")]


@on_postgresql
def test_columns_of_types_without_equality(database: Database, partner: Engine) -> None:
    table = Table(database, partner, "resources")
    table('CREATE TABLE @T (id uuid, "inst of" varchar(40), settings json)')
    try:
        table.watch("settings")
        id_ = "c0ffee00-0000-4000-8000-000000000000"
        table(f"INSERT INTO @T VALUES ('{id_}', 'icfg_1', '{{}}')")
        table("""UPDATE @T SET settings = '[1]'""")
        table("""UPDATE @T SET settings = '[1]'""")
        assert table.events() == [("icfg_1", id_)] * 2
    finally:
        table("DROP TABLE @T")
