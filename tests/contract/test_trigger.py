"""The printed trigger on a partner's table, on every database."""

import sqlite3
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from dispatcher.database.transactions import Database
from dispatcher.outbox.trigger import Column, Expression
from tests.contract.databases import on_mysql, on_postgresql, on_servers
from tests.contract.steps import deliver
from tests.contract.watched_table import COLUMNS, Table, made

pytestmark = pytest.mark.varies


@pytest.fixture
def table(database: Database, partner: Engine) -> Iterator[Table]:
    """A table without a trigger, whose names need quoting."""
    with made(Table(database, partner)) as table:
        yield table


def test_each_change_writes_its_event(table: Table) -> None:
    table.watch(table.watched())
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x'), ('db_2', 'icfg_2', 'b', 'x')")
    assert table.events() == [("icfg_1", "db_1"), ("icfg_2", "db_2")]
    table("UPDATE @T SET note = 'y' WHERE id = 'db_1'")
    assert table.events() == [("icfg_1", "db_1")]
    table("DELETE FROM @T WHERE id = 'db_2'")
    assert table.events() == [("icfg_2", "db_2")]


def test_a_change_that_is_rolled_back_writes_nothing(table: Table, partner: Engine) -> None:
    table.watch(table.watched())
    with partner.connect() as connection:
        connection.exec_driver_sql(f"INSERT INTO {table.quoted} VALUES ('db_1', 'icfg_1', 'a', 'x')")
        connection.rollback()
    assert table.events() == []


def test_rows_without_an_installation_or_a_resource_write_nothing(table: Table) -> None:
    table.watch(table.watched())
    table(
        "INSERT INTO @T VALUES ('db_1', NULL, 'a', 'x'), (NULL, 'icfg_1', 'a', 'x'), ('db_3', '', '', ''), ('', 'icfg_3', '', '')"
    )
    table("UPDATE @T SET note = 'y'")
    assert table.events() == []
    table("""UPDATE @T SET "inst of" = 'icfg_2' WHERE id = 'db_1'""")
    assert table.events() == [("icfg_2", "db_1")]
    table("""UPDATE @T SET "inst of" = NULL WHERE id = 'db_1'""")
    assert table.events() == [("icfg_2", "db_1")]
    table("DELETE FROM @T")
    assert table.events() == []


def test_a_resource_that_changes_its_installation_or_id_writes_for_both(table: Table) -> None:
    table.watch(table.watched("Name"))
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
    table.events()
    table("""UPDATE @T SET "inst of" = 'icfg_2'""")
    assert table.events() == [("icfg_1", "db_1"), ("icfg_2", "db_1")]
    table("UPDATE @T SET id = 'DB_1'")
    assert table.events() == [("icfg_2", "db_1"), ("icfg_2", "DB_1")]


def test_only_columns_that_matter_write(table: Table) -> None:
    table.watch(table.watched("Name"))
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
    table.watch(table.watched("Name"))
    table.watch(table.watched())
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
    table("UPDATE @T SET note = 'y'")
    assert table.events() == [("icfg_1", "db_1")] * 2


def test_its_events_are_delivered(table: Table) -> None:
    table.watch(table.watched())
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
    assert deliver(table.database) == ["db_1"]


@on_servers
def test_an_outbox_whose_schema_is_named(table: Table) -> None:
    home = table.database.schema or {"postgresql": "public"}.get(
        table.database.dialect.name, str(table.database.engine.url.database)
    )
    table.watch(table.watched(outbox_schema=home))
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
    assert table.events() == [("icfg_1", "db_1")]


@on_postgresql
def test_a_table_in_another_schema(database: Database, partner: Engine) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA IF EXISTS shop CASCADE; CREATE SCHEMA shop")
    table = Table(database, partner, "shop.resources")
    table(f"CREATE TABLE @T {COLUMNS}")
    try:
        table.watch(table.watched("Name"))
        table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
        assert table.events() == [("icfg_1", "db_1")]
    finally:
        with database.engine.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA shop CASCADE")


@on_postgresql
def test_no_session_can_lead_an_event_astray(table: Table) -> None:
    table.watch(table.watched())
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
    qualified.watch(qualified.watched())
    qualified("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
    assert table.events() == [("icfg_1", "db_1")]


@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
def test_a_table_of_the_main_file(table: Table) -> None:
    qualified = Table(table.database, table.partner, f"main.{table.name}")
    qualified.watch(qualified.watched("Name"))
    qualified("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
    assert table.events() == [("icfg_1", "db_1")]


@on_postgresql
def test_columns_of_types_without_equality(database: Database, partner: Engine) -> None:
    columns = '(id uuid, "inst of" varchar(40), settings json)'
    with made(Table(database, partner), columns) as table:
        table.watch(table.watched("settings"))
        id_ = "c0ffee00-0000-4000-8000-000000000000"
        table(f"INSERT INTO @T VALUES ('{id_}', 'icfg_1', '{{}}')")
        table("""UPDATE @T SET settings = '[1]'""")
        table("""UPDATE @T SET settings = '[1]'""")
        assert table.events() == [("icfg_1", id_)] * 2


def test_numbers_as_ids(database: Database, partner: Engine) -> None:
    with made(Table(database, partner), '(id INTEGER, "inst of" varchar(40), "Name" varchar(40))') as table:
        table.watch(table.watched("Name"))
        table("INSERT INTO @T VALUES (0, 'icfg_1', 'a'), (7, 'icfg_1', 'b'), (NULL, 'icfg_1', 'c')")
        table("UPDATE @T SET id = 8 WHERE id = 7")
        assert table.events() == [("icfg_1", one) for one in ("0", "7", "7", "8")]


def test_the_product_is_named(table: Table) -> None:
    table.watch(table.watched("Name", product=Column("note")))
    table(
        "INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'pg'), ('db_2', 'icfg_1', 'b', ''), ('db_3', 'icfg_1', 'c', NULL)"
    )
    assert [one[1:3] for one in table.whole_events()] == [("db_1", "pg"), ("db_2", None), ("db_3", None)]
    table("UPDATE @T SET note = 'redis' WHERE id = 'db_1'")
    table("DELETE FROM @T WHERE id = 'db_1'")
    assert [one[1:3] for one in table.whole_events()] == [("db_1", "redis"), ("db_1", "redis")]


def test_rows_that_are_installations(table: Table) -> None:
    table.watch(table.watched("Name", resource=None))
    table("INSERT INTO @T VALUES ('1', 'icfg_1', 'a', 'x'), ('2', NULL, 'a', 'x'), ('3', '', 'a', 'x')")
    table("UPDATE @T SET note = 'y'", """UPDATE @T SET "Name" = 'b' WHERE id = '1'""")
    table("""UPDATE @T SET "inst of" = 'icfg_2' WHERE id = '1'""", "DELETE FROM @T")
    expected = ["icfg_1", "icfg_1", "icfg_1", "icfg_2", "icfg_2"]
    assert table.whole_events() == [(one, None, None, "installation.updated") for one in expected]


def test_both_triggers_on_one_table(table: Table) -> None:
    table.watch(table.watched())
    table.watch(table.watched(resource=None))
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
    assert sorted(one[3] for one in table.whole_events()) == ["installation.updated", "resource.updated"]


SUB_SELECT = Expression("SELECT a.installation FROM vercel_accounts a WHERE a.id = new.note")


@pytest.fixture
def accounts(table: Table) -> Iterator[Table]:
    """The same table; its column `note` leads to an account, which has the installation's id."""
    table(
        "DROP TABLE IF EXISTS vercel_accounts",
        "CREATE TABLE vercel_accounts (id VARCHAR(40), installation VARCHAR(40))",
    )
    table("INSERT INTO vercel_accounts VALUES ('a1', 'icfg_1'), ('a2', 'icfg_2'), ('a3', NULL), ('a4', '')")
    yield table
    table("DROP TABLE vercel_accounts")


def test_the_installation_is_in_another_table(accounts: Table) -> None:
    accounts.watch(accounts.watched("Name", installation=SUB_SELECT))
    rows = ", ".join(f"('db_{n}', NULL, 'a', 'a{n}')" for n in range(1, 6))
    accounts(f"INSERT INTO @T VALUES {rows}")
    assert accounts.events() == [("icfg_1", "db_1"), ("icfg_2", "db_2")]
    accounts("""UPDATE @T SET "inst of" = 'x'""")
    assert accounts.events() == []
    accounts("UPDATE @T SET note = 'a2' WHERE id = 'db_1'", "DELETE FROM @T WHERE id = 'db_2'")
    assert accounts.events() == [("icfg_1", "db_1"), ("icfg_2", "db_1"), ("icfg_2", "db_2")]


BYTES = {
    "postgresql": ("bytea", "decode('00ff', 'hex')", "encode(NEW.id, 'hex')"),
    "mysql": ("binary(2)", "unhex('00ff')", "lower(hex(NEW.id))"),
    "sqlite": ("blob", "x'00ff'", "lower(hex(NEW.id))"),
}


def test_keys_that_are_bytes(database: Database, partner: Engine) -> None:
    type_, value, expression = BYTES[database.dialect.name]
    with made(Table(database, partner), f'(id {type_}, "inst of" varchar(40))') as table:
        table.watch(table.watched(resource=Expression(expression)))
        table(f"INSERT INTO @T VALUES ({value}, 'icfg_1')", "DELETE FROM @T")
        assert table.events() == [("icfg_1", "00ff")] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"installation": Column("inst")},
        {"resource": Expression("NEW.identity")},
        {"installation": Expression("SELECT a.nothing FROM vercel_accounts a WHERE a.id = NEW.note")},
        {"product": Column("plan")},
    ],
    ids=str,
)
def test_a_script_with_a_misspelt_name_changes_nothing(accounts: Table, wrong: dict[str, Any]) -> None:
    accounts.watch(accounts.watched())
    with pytest.raises((DBAPIError, sqlite3.Error, subprocess.CalledProcessError)):
        accounts.watch(accounts.watched(**wrong))
    accounts("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
    assert accounts.events() == [("icfg_1", "db_1")]


@on_mysql
def test_the_script_for_mysql_runs_on_mariadb_too(table: Table) -> None:
    table.watch(table.watched("Name"))
    table.watch(table.watched(), "mysql")
    table.watch(table.watched(), "mysql")
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')", "UPDATE @T SET note = 'y'", "DELETE FROM @T")
    assert table.events() == [("icfg_1", "db_1")] * 3
