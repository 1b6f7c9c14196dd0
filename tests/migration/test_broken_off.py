"""An interrupted or overtaken migration on MySQL or MariaDB: each statement commits by itself, so the first ones persist."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from dispatcher.database import migration, revisions, schema
from dispatcher.database.dialect import Dialect
from dispatcher.database.mysql import Mysql
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import VERSION_TABLE, collector, metadata
from tests.contract import steps
from tests.contract.databases import on_mysql
from tests.migration.definitions import Definitions, definitions

pytestmark = on_mysql

AT_ONCE = 3
Change = tuple[str, Any]
Act = Callable[[sa.Connection], object]
MIGRATE_WITHOUT_LOCK = """
from dispatcher.cli import main
from dispatcher.database.dialect import Dialect
from dispatcher.database.mysql import Mysql
Mysql.migration = Dialect.migration
main()
"""


@pytest.fixture
def fresh(bare_database: Database) -> Iterator[Definitions]:
    """The definitions that an undisturbed migration creates; the database is bare before and after the test."""
    migration.migrate(bare_database)
    yield definitions(bare_database)
    with bare_database.engine.begin() as connection:
        metadata.drop_all(connection)
    migration.downgrade(bare_database)


@contextmanager
def before_change(database: Database, number: int, act: Act) -> Iterator[list[Change]]:
    """Calls `act` before the changing statement of this number; yields the list of changing statements so far."""
    changes: list[Change] = []

    def note(connection: sa.Connection, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:
        if statement.strip().startswith(("CREATE", "INSERT", "ALTER", "UPDATE")):
            changes.append((statement, parameters))
            if len(changes) == number:
                act(connection)

    sa.event.listen(database.engine, "before_cursor_execute", note)
    yield changes
    sa.event.remove(database.engine, "before_cursor_execute", note)


def is_whole(database: Database, fresh: Definitions) -> bool:
    """Whether the tables exist completely."""
    assert schema.check(database).warning is None
    is_newest = versions(database) == [revisions.newest()]
    return definitions(database) == fresh and is_newest and steps.count(database, collector) == 1


def versions(database: Database) -> list[str]:
    """Returns the rows of the version table."""
    with database.read() as connection:
        if not sa.inspect(connection).has_table(VERSION_TABLE):
            return []
        return list(connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalars())


def test_it_is_completed_wherever_it_broke_off(bare_database: Database, database_url: str, fresh: Definitions) -> None:
    def kill(connection: sa.Connection) -> None:
        session = connection.connection.driver_connection.thread_id()  # type: ignore[union-attr]  # PyMySQL's
        with bare_database.read() as other:
            other.exec_driver_sql(f"KILL CONNECTION {session}")

    for number in count(1):
        migration.downgrade(bare_database)
        dying = open_database(database_url)
        with before_change(dying, number, kill) as changes:
            try:
                migration.migrate(dying)
            except DBAPIError:
                pass
            else:
                break
        dying.close()
        assert_says_what_to_do(bare_database, has_tables=number > 2)  # the first statement creates the version table
        assert migration.migrate(bare_database) == revisions.newest()
        assert is_whole(bare_database, fresh), changes[-1]
    dying.close()
    assert len(changes) == number - 1 >= 1 + len(metadata.tables) + 2


def assert_says_what_to_do(database: Database, *, has_tables: bool) -> None:
    """Asserts that programs do not start before the first revision is complete, and that they warn before the newest is."""
    if versions(database):
        assert "Run `dispatcher migrate`" in str(schema.check(database).warning)
        return
    what_to_do = (
        "was interrupted: run `dispatcher migrate` again"
        if has_tables
        else "tables are missing: run `dispatcher migrate`"
    )
    with pytest.raises(schema.UnusableSchema, match=what_to_do):
        schema.check(database)


def test_one_that_is_overtaken_ends_well(
    bare_database: Database, database_url: str, fresh: Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster the migration lock is local to a node, so another migration may be ahead by any number of statements."""
    migration.downgrade(bare_database)
    with before_change(bare_database, 0, print) as changes:
        migration.migrate(bare_database)
    monkeypatch.setattr(Mysql, "migration", Dialect.migration)
    other = open_database(database_url)
    for ahead_of in range(len(changes)):
        migration.downgrade(bare_database)
        with before_change(bare_database, ahead_of + 1, partial(execute, other, changes[ahead_of:])):
            assert migration.migrate(bare_database) == revisions.newest()
        assert is_whole(bare_database, fresh), changes[ahead_of]
    other.close()


def execute(database: Database, changes: list[Change], overtaken: sa.Connection) -> None:
    """Executes the statements of a concurrent migration."""
    if (
        not changes[0][0].strip().startswith(("INSERT", "UPDATE"))
    ):  # the overtaken statement commits before it does anything
        overtaken.exec_driver_sql("COMMIT")
    with database.engine.begin() as connection:
        for statement, parameters in changes:
            connection.exec_driver_sql(statement, parameters)


def test_several_at_once_end_well(bare_database: Database, fresh: Definitions) -> None:
    migration.downgrade(bare_database)
    url = bare_database.engine.url.set(drivername="mysql").render_as_string(hide_password=False)
    nodes = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE_WITHOUT_LOCK, "migrate"],
            env=os.environ | {"DISPATCHER_DATABASE_URL": url},
            stderr=subprocess.PIPE,
        )
        for _ in range(AT_ONCE)
    ]
    complaints = [node.communicate(timeout=100)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0] * AT_ONCE, complaints
    assert is_whole(bare_database, fresh)


@pytest.mark.parametrize(
    "foreign",
    [
        "CREATE TABLE vercel_delivery (id int PRIMARY KEY)",
        "ALTER TABLE vercel_delivery MODIFY attempts varchar(9) NOT NULL",
        "ALTER TABLE vercel_delivery ADD theirs int",
    ],
)
def test_tables_of_another_shape_are_left_alone(bare_database: Database, fresh: Definitions, foreign: str) -> None:
    ours = foreign.startswith("ALTER")
    assert fresh
    with bare_database.engine.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM {VERSION_TABLE}")
        metadata.drop_all(
            connection, [table for table in metadata.sorted_tables if table.name != "vercel_delivery" or not ours]
        )
        connection.exec_driver_sql(foreign)
    before = definitions(bare_database)
    with pytest.raises(schema.UnusableSchema, match="vercel_delivery is not as `dispatcher migrate` makes it"):
        migration.migrate(bare_database)
    assert definitions(bare_database) == before
    assert list(before) == ["vercel_delivery"]
