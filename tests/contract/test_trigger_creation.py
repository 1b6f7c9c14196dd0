"""`dispatcher trigger --apply`: what it tries first, what it refuses, and that a swap loses no change; on every database."""

import itertools
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher.database.mysql import Mysql
from dispatcher.database.postgresql import Postgresql
from dispatcher.database.transactions import Database, open_database
from dispatcher.database.triggers import UnfitTrigger, UnusableTrigger, create
from dispatcher.outbox.trigger import Column, Expression, Watched, script
from tests.contract.databases import VARIANTS, on_mysql, on_servers
from tests.contract.watched_table import DIALECTS, Table, made

pytestmark = pytest.mark.varies
DEADLINE_SECONDS = 30


@pytest.fixture
def table(database: Database, partner: Engine) -> Iterator[Table]:
    """A table without a trigger, whose names need quoting."""
    with made(Table(database, partner)) as table:
        yield table


def apply(table: Table, watched: Watched) -> int | None:
    """Creates the trigger in the schema of the table, as the command does, and returns the number of rows that it was tried on."""
    place = replace(watched, outbox_schema=table.database.schema, table=in_schema(table))
    return create(table.database, place).tried_rows


def in_schema(table: Table) -> str:
    schema = table.database.schema
    return f"{schema}.{table.name}" if schema and "." not in table.name else table.name


def leftovers(database: Database) -> set[str]:
    """Returns the tables in the database that a trial has left behind."""
    return {name for name in sa.inspect(database.engine).get_table_names(database.schema) if "trial" in name}


def test_a_new_trigger_is_tried_on_copies_of_rows(table: Table) -> None:
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x'), ('db_2', NULL, 'a', 'x')")
    assert apply(table, table.watched("Name")) == 2
    assert table.events() == []
    assert leftovers(table.database) == set()
    table("UPDATE @T SET note = 'y'", """UPDATE @T SET "Name" = 'b'""", "DELETE FROM @T")
    assert table.events() == [("icfg_1", "db_1")] * 2


def test_a_trigger_on_an_empty_table(table: Table) -> None:
    assert apply(table, table.watched()) == 0
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
    assert table.events() == [("icfg_1", "db_1")]


@on_servers
def test_a_table_with_keys_and_columns_that_must_not_be_null(database: Database, partner: Engine) -> None:
    parent = Table(database, partner, "vercel_parents")
    columns = """(id varchar(40) PRIMARY KEY, "inst of" varchar(40) NOT NULL UNIQUE, parent varchar(40) NOT NULL
        REFERENCES vercel_parents (id), CHECK (id <> 'bad'))"""
    with made(parent, "(id varchar(40) PRIMARY KEY)"), made(Table(database, partner), columns) as table:
        assert apply(table, table.watched()) == 0
        parent("INSERT INTO @T VALUES ('p')")
        table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'p')")
        assert apply(table, table.watched("parent")) == 1
        assert table.events() == [("icfg_1", "db_1")]


def test_the_same_trigger_is_left_alone(table: Table) -> None:
    assert apply(table, table.watched("Name")) == 0
    assert apply(table, table.watched("Name")) is None
    assert apply(table, table.watched()) == 0
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')", "UPDATE @T SET note = 'y'")
    assert table.events() == [("icfg_1", "db_1")] * 2


def test_a_trigger_that_would_refuse_a_row_is_refused(table: Table) -> None:
    apply(table, table.watched())
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'not an id', 'x')")
    table.events()
    with pytest.raises(UnusableTrigger, match=r"nothing was changed: .*vercel_outbox_installation_id_is_valid"):
        apply(table, table.watched(installation=Column("Name")))
    assert leftovers(table.database) == set()
    table("UPDATE @T SET note = 'y'")
    assert table.events() == [("icfg_1", "db_1")]


@pytest.mark.parametrize(
    ("watched", "message"),
    [
        (
            {"installation": Column("Inst_of")},
            r"no column Inst_of: did you mean inst of\? \(its columns are id, inst of, Name, note\)",
        ),
        ({"resource": Expression("NEW.identity")}, "identity"),
        ({"installation": Expression("SELECT a.b FROM vercel_nothing a WHERE a.id = NEW.id")}, "vercel_nothing"),
    ],
)
def test_a_name_that_does_not_exist_is_refused(table: Table, watched: dict[str, Any], message: str) -> None:
    with pytest.raises(UnfitTrigger, match=message):
        apply(table, table.watched(**watched))
    table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
    assert table.events() == []


def test_a_table_that_does_not_exist_is_refused(table: Table) -> None:
    other = Table(table.database, table.partner, "my-Resource")
    with pytest.raises(UnfitTrigger, match=r"no table .*my-Resource"):
        apply(other, other.watched())


BYTES = {"postgresql": "bytea", "mysql": "binary(16)", "sqlite": "blob"}


def test_a_column_of_bytes_is_refused_with_an_expression_that_works(database: Database, partner: Engine) -> None:
    columns = f'(id {BYTES[database.dialect.name]}, "inst of" varchar(40))'
    with made(Table(database, partner), columns) as table:
        with pytest.raises(UnfitTrigger, match="--resource-expression") as refused:
            apply(table, table.watched())
        example = re.findall('"(.*)"', str(refused.value))[0]
        assert apply(table, table.watched(resource=Expression(example))) == 0


@pytest.mark.parametrize("server", ["postgresql", *VARIANTS[:2]], indirect=True)  # pgbouncer takes no options
def test_a_table_that_the_search_path_finds_in_its_second_schema(database: Database, partner: Engine) -> None:
    home = database.schema or "public"
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA IF EXISTS shop CASCADE; CREATE SCHEMA shop")
        connection.exec_driver_sql("CREATE TABLE shop.accounts (id int, installation text)")
        connection.exec_driver_sql("CREATE TABLE shop.resources (id int, account int)")
        connection.exec_driver_sql("INSERT INTO shop.accounts VALUES (1, 'icfg_1')")
    expression = Expression("SELECT a.installation FROM accounts a WHERE a.id = NEW.account")
    url = database.engine.url.update_query_dict({"options": f"-c search_path={home},shop"})
    opened = open_database(url.render_as_string(hide_password=False), database.schema)
    try:
        made_ = create(opened, Watched("resources", expression, Column("id"), outbox_schema=database.schema))
        assert made_.watched.table == "shop.resources"
        with partner.begin() as connection:
            connection.exec_driver_sql("SET LOCAL search_path = pg_catalog")
            connection.exec_driver_sql("INSERT INTO shop.resources VALUES (1, 1)")
        assert Table(database, partner).events() == [("icfg_1", "1")]
    finally:
        opened.close()
        with database.engine.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA shop CASCADE")


@on_servers
def test_a_locked_table_is_reported(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    for dialect in (Postgresql, Mysql):
        monkeypatch.setattr(dialect, "lock_seconds", 1)
    url = table.database.engine.url.render_as_string(hide_password=False)
    opened = open_database(url, table.database.schema)
    opened.max_tries = 1
    watched = replace(table.watched(), table=in_schema(table), outbox_schema=table.database.schema)
    try:
        with table.partner.begin() as connection:
            connection.exec_driver_sql(f"INSERT INTO {table.quoted} VALUES ('db_1', 'icfg_1', 'a', 'x')")
            with pytest.raises(UnusableTrigger, match=r"another transaction keeps .* locked"):
                create(opened, watched)
        assert create(opened, watched).tried_rows == 1
    finally:
        opened.close()


def scripts(table: Table) -> list[tuple[str, ...]]:
    """Returns the statements that replace the trigger, in each way that this database knows."""
    name = table.database.dialect.name
    dialects = ("mysql", "mariadb") if name == "mysql" else (DIALECTS[name],)
    begin = {"postgresql": ["BEGIN"], "sqlite": ["BEGIN IMMEDIATE"], "mysql": []}[name]
    commit = ["COMMIT"] if begin else []
    return [(*begin, *script(one, table.watched()).statements, *commit) for one in dialects]


def test_a_change_between_any_two_statements_of_a_swap_is_announced(table: Table) -> None:
    """Each change begins after a statement, and commits when it can: at once, or when the swap has ended."""
    table.watch(table.watched("Name"))
    names = (f"db_{n}" for n in itertools.count())
    for statements in scripts(table):
        written: list[str] = []
        with ThreadPoolExecutor(len(statements)) as pool, swapper(table) as swap:
            futures = []
            for statement in statements:
                swap(statement)
                written.append(next(names))
                futures.append(pool.submit(table, f"INSERT INTO @T VALUES ('{written[-1]}', 'icfg_1', 'a', 'x')"))
                if table.database.dialect.name == "mysql":
                    futures[-1].result(DEADLINE_SECONDS)
            for future in futures:
                future.result(DEADLINE_SECONDS)
        assert {resource for _, resource in table.events()} == set(written)


class swapper:  # noqa: N801 (reads as a function)
    """A connection on which each statement is executed as it is written."""

    def __init__(self, table: Table) -> None:
        self._engine = table.partner

    def __enter__(self) -> "swapper":
        self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        return self

    def __call__(self, statement: str) -> None:
        self._connection.exec_driver_sql(statement, execution_options={"no_parameters": True})

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def test_every_change_during_many_swaps_is_announced(table: Table) -> None:
    table.watch(table.watched())
    written: list[str] = []
    is_over = threading.Event()

    def write() -> None:
        while not is_over.is_set():
            table(f"INSERT INTO @T VALUES ('db_{len(written)}', 'icfg_1', 'a', 'x')")
            written.append(f"db_{len(written)}")

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        try:
            for n in range(6):
                apply(table, table.watched(*(["Name"] if n % 2 else [])))
        finally:
            is_over.set()
        writer.result(DEADLINE_SECONDS)
    assert written
    assert {resource for _, resource in table.events()} == set(written)


@on_mysql
def test_a_table_in_another_database(database: Database, partner: Engine) -> None:
    name = f"{database.engine.url.database}.my-Resources"
    with made(Table(database, partner, name)) as table:
        assert apply(table, table.watched()) == 0
        table("INSERT INTO @T VALUES ('db_1', 'icfg_1', 'a', 'x')")
        assert table.events() == [("icfg_1", "db_1")]
