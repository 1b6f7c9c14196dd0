"""What `dispatcher check` says of triggers that are in place, gone, disabled, broken or outdated, on every database."""

import zlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from dispatcher.database.transactions import Database, open_database
from dispatcher.database.triggers import create
from dispatcher.inspection.checks import Finding, Level, examine
from dispatcher.inspection.checks.triggers import check_triggers
from dispatcher.outbox.trigger import Expression, Watched
from dispatcher.settings.settings import Settings
from tests.contract.databases import on_mysql, on_postgresql, on_servers
from tests.contract.watched_table import COLUMNS, Table, made

pytestmark = pytest.mark.varies


@pytest.fixture
def table(database: Database, partner: Engine) -> Iterator[Table]:
    """A table without a trigger, whose names need quoting."""
    with made(Table(database, partner)) as table:
        yield table


def create_trigger(table: Table, *when_changed: str) -> Watched:
    schema = table.database.schema
    name = f"{schema}.{table.name}" if schema else table.name
    expression = Expression("coalesce(NEW.note, '100%')")  # with what a driver could mistake for a placeholder
    watched = replace(table.watched(*when_changed, resource=expression), table=name, outbox_schema=schema)
    return create(table.database, watched).watched


def finding(table: Table) -> Finding:
    (one,) = check_triggers(table.database)
    return one


def test_without_triggers_there_is_no_finding(table: Table) -> None:
    assert list(check_triggers(table.database)) == []


@pytest.mark.parametrize("is_printed", [True, False])
def test_a_trigger_is_in_place(table: Table, is_printed: bool) -> None:
    if is_printed:
        table.watch(table.watched("Name"))
    else:
        create_trigger(table, "Name")
    assert (finding(table).level, finding(table).what.split()[:3]) == (Level.OK, ["in", "place", "on"])


def test_a_table_that_was_made_anew_has_lost_its_trigger(table: Table) -> None:
    watched = create_trigger(table)
    table("DROP TABLE @T", f"CREATE TABLE @T {COLUMNS}")
    lost = finding(table)
    assert lost.level is Level.PROBLEM
    assert "is gone" in lost.what
    assert f"run `{watched.command} --apply`" in lost.what
    create(table.database, watched)
    assert finding(table).level is Level.OK


def test_a_trigger_that_is_not_wanted_any_more_leaves_nothing_behind(table: Table) -> None:
    create_trigger(table)
    table("DROP TABLE @T")
    with table.database.engine.begin() as connection:
        connection.exec_driver_sql(finding(table).what.rpartition("any more, ")[2])
    assert list(check_triggers(table.database)) == []


@on_servers
def test_a_table_that_was_renamed_keeps_its_trigger(table: Table) -> None:
    create_trigger(table, "Name")
    table('ALTER TABLE @T RENAME TO "my New Resources"')
    try:
        assert (finding(table).level, "my New Resources" in finding(table).what) == (Level.OK, True)
    finally:
        table('ALTER TABLE "my New Resources" RENAME TO @T')


def test_a_trigger_of_which_a_part_is_gone(table: Table) -> None:
    create_trigger(table)
    name = f"vercel_outbox_{table.name}"
    if table.database.dialect.name == "postgresql":
        table(f'DROP TRIGGER "{name}" ON @T')
    else:
        table(f'DROP TRIGGER "{name}_update"')
    assert "is gone" in finding(table).what


@on_postgresql
def test_a_trigger_that_is_disabled(table: Table) -> None:
    create_trigger(table)
    table("ALTER TABLE @T DISABLE TRIGGER USER")
    assert finding(table).level is Level.PROBLEM
    assert "is disabled" in finding(table).what


def test_a_column_that_a_trigger_needs_is_gone(table: Table) -> None:
    create_trigger(table, "Name")
    name = f"vercel_outbox_{table.name}"
    if table.database.dialect.name == "sqlite":  # it refuses to drop a column that a trigger names
        table(*(f'DROP TRIGGER "{name}_{event}"' for event in ("insert", "update", "delete")))
        texts = [
            f'CREATE TRIGGER "{name}_{event}" AFTER {event} ON @T BEGIN\nSELECT 1; END'
            for event in ("insert", "update", "delete")
        ]
        table(*texts)
    table('ALTER TABLE @T DROP COLUMN "Name"')
    assert finding(table).level is Level.PROBLEM
    assert "has no column Name" in finding(table).what


def test_a_trigger_that_another_version_made_otherwise(table: Table) -> None:
    watched = create_trigger(table)
    name = f"vercel_outbox_{table.name}"
    match table.database.dialect.name:
        case "postgresql":
            body = "BEGIN RETURN NULL; END"
            table(f"CREATE OR REPLACE FUNCTION \"{name}\"() RETURNS trigger LANGUAGE plpgsql AS '{body}'")
        case "sqlite":
            table(
                f'DROP TRIGGER "{name}_delete"',
                f'CREATE TRIGGER "{name}_delete" AFTER DELETE ON @T BEGIN\nSELECT 1; END',
            )
        case _:
            table(f'CREATE OR REPLACE TRIGGER "{name}_delete" AFTER DELETE ON @T FOR EACH ROW DO 1')
    assert finding(table).level is Level.WARNING
    assert f"run `{watched.command} --apply`" in finding(table).what
    create(table.database, watched)
    assert finding(table).level is Level.OK


@on_mysql
def test_a_user_from_whom_triggers_are_hidden_is_told_so(table: Table) -> None:
    create_trigger(table)
    url = table.database.engine.url
    user = f"outbox_test_hidden_{zlib.crc32(str(url.database).encode()):08x}"
    table(
        f"CREATE OR REPLACE USER {user} IDENTIFIED BY 's3cret'",
        f'GRANT SELECT, SHOW VIEW ON "{url.database}".* TO {user}',
    )
    limited = open_database(url.set(username=user, password="s3cret").render_as_string(hide_password=False))
    try:
        (unseen,) = check_triggers(limited)
        assert unseen.level is Level.OK
        assert "the privilege TRIGGER" in unseen.what
    finally:
        limited.close()
        table(f"DROP USER {user}")


def test_a_trigger_that_this_version_cannot_read(table: Table) -> None:
    create_trigger(table)
    note = "dispatcher trigger --table t --of-another-version 1"
    name = f"vercel_outbox_{table.name}"
    if table.database.dialect.name == "postgresql":
        table(f"COMMENT ON FUNCTION \"{name}\"() IS '{note}'")
    else:
        table(f'DROP VIEW "{name}"', f"CREATE VIEW \"{name}\" AS SELECT '{note}' AS made_by")
    assert (finding(table).level, note in finding(table).what) == (Level.WARNING, True)


def test_a_lost_trigger_does_not_keep_the_credentials_from_being_tried(table: Table) -> None:
    create_trigger(table)
    table("DROP TABLE @T", f"CREATE TABLE @T {COLUMNS}")
    settings = Settings(
        database_url=SecretStr(table.database.engine.url.render_as_string(hide_password=False)),
        database_schema=table.database.schema,
        credentials_query="SELECT token FROM vercel_nothing WHERE id = :installation_id",
        vercel_base_url="http://127.0.0.1:1",
        allow_insecure_base_url=True,
    )
    found = {one.check: one for one in examine(settings, "icfg_1")}
    assert found["triggers"].level is Level.PROBLEM
    assert "not tried" not in found["credentials"].what
