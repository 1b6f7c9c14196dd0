"""`dispatcher run` with WAKEUP=notify on a real PostgreSQL: a commit wakes it long before its next regular look."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast

import psycopg
import pytest
import sqlalchemy as sa

from dispatcher.database import migration
from dispatcher.database.transactions import Database, open_database
from tests.processes.conftest import Stage, wait_until

POLL_SECONDS = 10.0
DEEP_SLEEP_SECONDS = 20.0
"""After this the pauses of polling have grown to at least a third of it."""
CHANNEL = "SELECT 'vercel_outbox_' || CAST('vercel_outbox' AS regclass)::oid"
ASLEEP = """SELECT pid FROM pg_locks JOIN pg_database d ON d.oid = database AND d.datname = current_database()
WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted"""
INSERT = "INSERT INTO vercel_outbox (installation_id, type, resource_id) VALUES ('icfg_1', 'resource.updated', :r)"


@pytest.fixture
def postgresql(stage: Stage, postgresql_url: str) -> Iterator[Database]:
    """Fresh tables with the trigger, and a service that is asleep."""
    database = open_database(postgresql_url)
    migration.migrate(database)
    migration.downgrade(database)  # removes the rows of an interrupted run
    stage.environment |= {"DISPATCHER_DATABASE_URL": postgresql_url, "DISPATCHER_WAKEUP": "notify"}
    stage.environment |= {"DISPATCHER_POLL_INTERVAL": f"{POLL_SECONDS:g}s"}
    migration.migrate(database)
    with database.engine.begin() as connection:
        connection.exec_driver_sql(stage.run("schema", "--dialect", "postgresql", "--wakeup").stdout)
    yield database
    stage.end()
    migration.downgrade(database)
    database.close()


def sleepers(database: Database) -> list[int]:
    with database.read() as connection:
        return list(connection.exec_driver_sql(ASLEEP).scalars())


def end_sleepers(database: Database) -> list[bool]:
    """Terminates the connection of each armed notifier; returns whether each was terminated."""
    with database.engine.begin() as connection:
        ended = connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid) FROM ({ASLEEP}) AS asleep")
        return list(ended.scalars())


def sleeps_deeply(database: Database) -> Callable[[], bool]:
    """Returns a condition: the service has slept for so long that only a notification explains a prompt request."""
    since = time.monotonic()

    def asleep() -> bool:
        nonlocal since
        if not sleepers(database):
            since = time.monotonic()
        return time.monotonic() - since > DEEP_SLEEP_SECONDS

    return asleep


def commit(database: Database, resource: str) -> float:
    with database.engine.begin() as connection:
        connection.execute(sa.text(INSERT), {"r": resource})
    return time.time()


def arrival(stage: Stage, resource: str) -> float:
    """Waits for the request for the resource; returns when it arrived."""

    def received_at() -> list[float]:
        return [one["received_at"] for one in stage.requests() if one["body"]["event"]["resourceId"] == resource]

    return float(wait_until(received_at)[0])


@contextmanager
def listening_for_notifications(database: Database) -> Iterator[Callable[[], bool]]:
    """Yields a function that waits for a notification since the block began. Call it once."""
    raw = database.engine.raw_connection()
    listening = cast("psycopg.Connection", raw.driver_connection)
    listening.autocommit = True
    channel = str(listening.execute(CHANNEL).fetchall()[0][0])
    listening.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
    yield lambda: bool(list(listening.notifies(timeout=60, stop_after=1)))
    raw.invalidate()


@pytest.mark.gate
def test_a_commit_notifies_and_a_broken_connection_only_means_polling(stage: Stage, postgresql: Database) -> None:
    service = stage.start_service()
    wait_until(partial(sleepers, postgresql))
    with listening_for_notifications(postgresql) as notified:
        commit(postgresql, "db_notified")
        assert notified()
    assert arrival(stage, "db_notified")
    wait_until(partial(end_sleepers, postgresql))
    commit(postgresql, "db_polled")
    assert arrival(stage, "db_polled")
    wait_until(partial(sleepers, postgresql))
    service.terminate()
    assert service.wait(60) == 0
    assert len([line for line in service.lines if line["event"] == "no notifier, polling only"]) == 1
    assert not [line for line in service.lines if line["level"] == "error"]


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_a_commit_is_sent_long_before_it_would_look_by_itself(stage: Stage, postgresql: Database) -> None:
    stage.start_service()
    lags = []
    for n in range(3):
        wait_until(sleeps_deeply(postgresql))
        at = commit(postgresql, f"db_{n}")
        lags.append(arrival(stage, f"db_{n}") - at)
    assert sorted(lags)[1] < DEEP_SLEEP_SECONDS / 3 / 4, lags
