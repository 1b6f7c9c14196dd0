"""A database that is opened with limits: each statement ends in time, and the database itself refuses every write."""

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from dispatcher import store
from dispatcher.database import schema
from dispatcher.database.transactions import Database, open_database
from dispatcher.inspection.status import read_status
from dispatcher.outbox.tables import installation
from tests.contract.steps import count, in_background

pytestmark = pytest.mark.varies

LIMIT_SECONDS = 1
SOON_SECONDS = 20
"""Sooner than any other limit would end a statement."""
ENDLESS = {
    "postgresql": "SELECT pg_sleep(3600)",
    "mysql": "SELECT SLEEP(3600)",
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT count(*) FROM n",
}


@pytest.fixture
def limited(database: Database) -> Iterator[Database]:
    url = database.engine.url.render_as_string(hide_password=False)
    opened = open_database(url, database.schema, statement_seconds=LIMIT_SECONDS, read_only=True)
    yield opened
    opened.close()


def test_a_statement_ends_in_time_and_its_connection_serves_the_next(limited: Database) -> None:
    with limited.engine.connect() as connection:
        with in_background(lambda: connection.exec_driver_sql(ENDLESS[limited.dialect.name]).all()) as running:
            error = running.exception(SOON_SECONDS)
        assert error is not None
        assert limited.dialect.is_timeout(error)
        assert not connection.invalidated
        connection.rollback()
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1


def test_other_errors_are_no_timeouts(limited: Database) -> None:
    with limited.engine.connect() as connection, pytest.raises(DBAPIError) as failed:
        connection.exec_driver_sql("SELECT nonsense")
    assert not limited.dialect.is_timeout(failed.value)
    assert not limited.dialect.is_timeout(TimeoutError())


def insert(connection: sa.Connection) -> None:
    connection.execute(sa.insert(installation).values(installation_id="a"))


def write_in_a_transaction(database: Database) -> None:
    database.transact(insert)


def write_in_a_reading_transaction(database: Database) -> None:
    with database.read() as connection:
        insert(connection)


def write_in_one_statement(database: Database) -> None:
    with database.peek() as connection:
        insert(connection)
        connection.commit()


@pytest.mark.parametrize(
    "write",
    [write_in_a_transaction, write_in_a_reading_transaction, write_in_one_statement],
    ids=lambda one: one.__name__,
)
def test_the_database_refuses_every_write(
    limited: Database, database: Database, write: Callable[[Database], None]
) -> None:
    for _ in range(2):  # on a new connection, and on one that is used again
        with pytest.raises(DBAPIError, match=r"(?i)read.?only"):
            write(limited)
    assert count(database, installation) == 0


def test_it_reads_while_another_session_writes(limited: Database, database: Database) -> None:
    schema.check(limited)
    with database.engine.begin() as writing:
        insert(writing)
        assert read_status(limited).backlog.installations == 0
        assert store.look(limited, store.LOWEST_ID, store.LONG_AGO) is not None
    assert limited.now() > store.LONG_AGO
    assert read_status(limited).backlog.installations == 1
