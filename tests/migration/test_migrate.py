"""`dispatcher migrate`: up, down and up again with data, concurrently, and while another program holds a lock."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from dispatcher import store
from dispatcher.database import migration, revisions, schema
from dispatcher.database.mysql import MIGRATION_LOCK
from dispatcher.database.sqlite import Sqlite
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import VERSION_TABLE, attempt, dead_letter, delivery, installation, metadata, outbox
from tests.contract.databases import on_mysql, on_servers
from tests.contract.steps import (
    DEADLINE_SECONDS,
    ID,
    REJECTED,
    claim,
    deliver,
    in_background,
    settle,
    stays_blocked,
    write,
)

pytestmark = pytest.mark.varies

AT_ONCE = 4
EVERYTHING = (outbox, delivery, installation, attempt, dead_letter)


def fill(database: Database) -> dict[str, list[object]]:
    """Writes rows into every table and returns the contents."""
    with database.engine.begin() as connection:
        write(connection, "dead", installation_id="icfg_0")
    store.collect(database, 500)
    settle(database, *claim(database), decision=REJECTED)
    with database.engine.begin() as connection:
        write(connection, "db_1", "db_2", installation_id=ID)
    store.collect(database, 1)
    return contents(database)


def contents(database: Database) -> dict[str, list[object]]:
    with database.read() as connection:
        return {table.name: list(connection.execute(sa.select(table))) for table in EVERYTHING}


def versions(database: Database) -> list[str]:
    """Returns the rows of the version table."""
    with database.read() as connection:
        return list(
            connection.execute(sa.select(sa.column("version_num")).select_from(version_table(database))).scalars()
        )


def version_table(database: Database) -> sa.TableClause:
    return sa.table(VERSION_TABLE, sa.column("version_num"), schema=database.schema)


def test_up_again_keeps_what_there_is_and_down_and_up_begins_anew(bare_database: Database) -> None:
    migration.migrate(bare_database)
    before = fill(bare_database)
    assert all(before.values())
    migration.migrate(bare_database)
    assert contents(bare_database) == before
    migration.downgrade(bare_database)
    with bare_database.read() as connection:
        left = set(sa.inspect(connection).get_table_names(bare_database.schema))
    assert not left & {*metadata.tables, VERSION_TABLE}
    migration.migrate(bare_database)
    assert not any(contents(bare_database).values())
    with bare_database.engine.begin() as connection:
        write(connection, "db_3")
    assert deliver(bare_database) == ["db_3"]
    migration.downgrade(bare_database)


def test_replicas_that_start_at_once_migrate_once(bare_database: Database, database_url: str) -> None:
    def start(_replica: int) -> str:
        replica = open_database(database_url, bare_database.schema)
        try:
            return migration.migrate(replica)
        finally:
            replica.close()

    with ThreadPoolExecutor(AT_ONCE) as replicas:
        assert list(replicas.map(start, range(AT_ONCE))) == [revisions.newest()] * AT_ONCE
    assert versions(bare_database) == [revisions.newest()]
    schema.check(bare_database)
    migration.downgrade(bare_database)


def test_one_waits_until_the_other_has_migrated(bare_database: Database, database_url: str) -> None:
    other = open_database(database_url, bare_database.schema)
    with ExitStack() as ends_last, other.engine.connect() as connection:
        with other.dialect.migration(connection):
            waiting = ends_last.enter_context(in_background(lambda: migration.migrate(bare_database)))
            assert stays_blocked(waiting, bare_database)
        assert waiting.result() == revisions.newest()
    other.close()
    migration.downgrade(bare_database)


@on_mysql
def test_the_next_waits_until_the_revision_is_committed(bare_database: Database, database_url: str) -> None:
    """Otherwise it would find tables without a revision."""
    other = open_database(database_url)
    holders: list[int | None] = []

    def note(_connection: sa.Connection) -> None:
        with bare_database.read() as connection:
            holders.append(connection.exec_driver_sql(f"SELECT IS_USED_LOCK({MIGRATION_LOCK})").scalar())

    with other.engine.connect() as connection:
        with other.dialect.migration(connection):
            connection.exec_driver_sql("SELECT 1")
            sa.event.listen(other.engine, "commit", note)
        session = connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one()
    other.close()
    assert holders[0] == session


def test_one_that_opens_a_new_file_waits_for_whoever_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sqlite, "lock_seconds", DEADLINE_SECONDS)
    file = tmp_path / "new.db"
    first = sqlite3.connect(file, isolation_level=None)
    first.execute(
        "BEGIN IMMEDIATE"
    )  # nobody can switch the journal to WAL now, and SQLite refuses the switch without waiting
    database = open_database(f"sqlite:///{file}")
    with in_background(database.now) as waiting:
        assert stays_blocked(waiting, database)
        first.execute("COMMIT")
    waiting.result()
    assert first.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    first.close()
    database.close()


@on_servers
def test_one_that_waits_too_long_says_so_and_changes_nothing(
    bare_database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_database(database_url)
    with other.engine.connect() as connection, other.dialect.migration(connection):
        monkeypatch.setattr(type(other.dialect), "migration_seconds", 0.1)
        with pytest.raises(schema.UnusableSchema, match="another program is migrating"):
            migration.migrate(bare_database)
    other.close()
    with bare_database.read() as connection:
        assert not set(sa.inspect(connection).get_table_names()) & metadata.tables.keys()


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_who_holds_the_lock_of_migrations_is_named(
    bare_database: Database, plain_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(bare_database.dialect), "migration_seconds", 0.1)
    with plain_engine.connect() as connection:
        connection.exec_driver_sql("SET application_name = 'support of alice'")
        connection.exec_driver_sql("SELECT pg_advisory_lock(130178082891116)")
        session = connection.exec_driver_sql("SELECT pg_backend_pid(), current_user").one()
        with pytest.raises(schema.UnusableSchema) as refused:
            migration.migrate(bare_database)
        connection.exec_driver_sql("SELECT pg_advisory_unlock_all()")
    holder = f"process {session[0]} of the user {session[1]}, application 'support of alice'"
    assert f"({holder}): wait until it has finished, or stop it" in str(refused.value)
    assert migration.migrate(bare_database) == revisions.newest()
    migration.downgrade(bare_database)


def test_a_schema_that_this_program_does_not_know_is_left_alone(database: Database) -> None:
    before = fill(database)
    with database.engine.begin() as connection:
        connection.execute(sa.update(version_table(database)).values(version_num="9999"))
    with pytest.raises(schema.UnusableSchema, match=r"9999, which this program does not know.*upgrade it"):
        schema.check(database)
    with pytest.raises(schema.UnusableSchema, match="9999"):
        migration.migrate(database)
    assert contents(database) == before
    with database.engine.begin() as connection:
        connection.execute(sa.update(version_table(database)).values(version_num=revisions.newest()))
