"""`dispatcher run` with WAKEUP=notify on a real PostgreSQL: a commit wakes it long before it would look by itself."""

import json
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from dispatcher import schema
from dispatcher.database import Database, open_database
from tests.processes.conftest import Stage, wait_until

POLL = 10.0
ASLEEP = """SELECT pid FROM pg_locks JOIN pg_database d ON d.oid = database AND d.datname = current_database()
WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted"""
INSERT = "INSERT INTO vercel_outbox (installation_id, type, resource_id) VALUES ('icfg_1', 'resource.updated', :r)"


@pytest.fixture
def postgresql(stage: Stage, postgresql_url: str) -> Iterator[Database]:
    """Fresh tables with the trigger, and a service that is asleep."""
    database = open_database(postgresql_url)
    schema.migrate(database)
    schema.downgrade(database)
    stage.environment |= {"DISPATCHER_DATABASE_URL": postgresql_url, "DISPATCHER_WAKEUP": "notify"}
    stage.environment |= {"DISPATCHER_POLL_INTERVAL": f"{POLL:g}s"}
    assert stage.run("migrate").returncode == 0
    with database.engine.begin() as connection:
        connection.exec_driver_sql(stage.run("schema", "--dialect", "postgresql", "--wakeup").stdout)
    yield database
    stage.end()
    schema.downgrade(database)
    database.close()


def sleepers(database: Database) -> list[int]:
    with database.read() as connection:
        return list(connection.exec_driver_sql(ASLEEP).scalars())


def sleeps_deeply(database: Database) -> Callable[[], bool]:
    """Whether it has slept for a second: its pauses grow, and a short one proves nothing."""
    since = time.monotonic()

    def asleep() -> bool:
        nonlocal since
        if not sleepers(database):
            since = time.monotonic()
        return time.monotonic() - since > 1.0

    return asleep


def commit(database: Database, resource: str) -> float:
    with database.engine.begin() as connection:
        connection.execute(sa.text(INSERT), {"r": resource})
    return time.time()


def arrival(stage: Stage, resource: str) -> float:
    """When the request for the resource came, as soon as it has come."""

    def received_at() -> list[float]:
        return [one["received_at"] for one in stage.requests() if one["body"]["event"]["resourceId"] == resource]

    return float(wait_until(received_at, seconds=4 * POLL)[0])


@pytest.mark.heavy
def test_a_commit_wakes_it_and_a_broken_connection_only_means_polling(stage: Stage, postgresql: Database) -> None:
    stage.start_service()
    lags = []
    for n in range(3):
        wait_until(sleeps_deeply(postgresql))
        at = commit(postgresql, f"db_{n}")
        lags.append(arrival(stage, f"db_{n}") - at)
    assert sorted(lags)[1] < POLL / 10, lags
    wait_until(sleeps_deeply(postgresql))
    with postgresql.engine.begin() as connection:
        connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid) FROM ({ASLEEP}) AS asleep")
    commit(postgresql, "db_polled")
    assert arrival(stage, "db_polled")
    wait_until(sleeps_deeply(postgresql), seconds=4 * POLL)
    stage.processes[-1].terminate()
    _, log = stage.processes[-1].communicate(timeout=20)
    said = [json.loads(line) for line in log.splitlines()]
    assert len([line for line in said if line["event"] == "no bell, polling only"]) == 1
    assert not [line for line in said if line["level"] == "error"]
    assert stage.processes[-1].returncode == 0
