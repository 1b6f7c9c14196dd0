"""An asynchronous replica is promoted while a request is in flight. It lacks the event that the request is about, so ids repeat."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import URL, Engine

from dispatcher.credentials.sources import StaticCredentials
from dispatcher.database import migration
from dispatcher.database.transactions import open_database
from dispatcher.settings.settings import Settings
from dispatcher.store import collection
from dispatcher.transport.portable import HttpxTransport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.worker import Worker
from tests.conftest import not_tested
from tests.contract.proxy import Proxy
from tests.contract.servers import MARIADB, own_mariadb
from tests.contract.steps import DEADLINE_SECONDS, write

pytestmark = pytest.mark.gate


class Pair:
    """A primary, its replica, and a proxy that leads to the current primary."""

    def __init__(self, primary: URL, replica: URL) -> None:
        self.primary = sa.create_engine(primary.set(drivername="mysql+pymysql"))
        self.replica = sa.create_engine(replica.set(drivername="mysql+pymysql"))
        self._promoted = str(replica.host), int(replica.port or 0)
        self.proxy = Proxy((str(primary.host), int(primary.port or 0)))
        self.url = primary.set(port=self.proxy.port).render_as_string(hide_password=False)
        source = f"MASTER_HOST='127.0.0.1', MASTER_PORT={primary.port}, MASTER_USER='root', MASTER_USE_GTID=slave_pos"
        self.on_replica(f"CHANGE MASTER TO {source}", "START SLAVE")

    def on_replica(self, *statements: str) -> None:
        with self.replica.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def catch_up(self) -> None:
        """Waits until the replica has all the primary's transactions."""
        with self.primary.connect() as connection:
            position = connection.exec_driver_sql("SELECT @@gtid_binlog_pos").scalar_one()
        with self.replica.connect() as connection:
            reached = connection.exec_driver_sql(
                f"SELECT MASTER_GTID_WAIT('{position}', {DEADLINE_SECONDS})"
            ).scalar_one()
        assert reached == 0

    def promote_replica(self) -> None:
        self.proxy.lead_to(self._promoted)


@pytest.fixture
def pair() -> Iterator[Pair]:
    if MARIADB is None:
        not_tested("mariadbd is not installed (Debian: apt-get install mariadb-server)")
    with ExitStack() as servers:
        made = Pair(servers.enter_context(own_mariadb(1)), servers.enter_context(own_mariadb(2)))
        yield made
        made.primary.dispose()
        made.replica.dispose()
        made.proxy.close()


class Receiver:
    """Records the requests and answers those of each resource when the test sets its event."""

    def __init__(self, *resources: str) -> None:
        self.arrived: list[str] = []
        self.answers = {resource: asyncio.Event() for resource in resources}

    async def receive(self, request: httpx.Request) -> httpx.Response:
        resource = str(json.loads(request.content)["event"]["resourceId"])
        self.arrived.append(resource)
        await self.answers[resource].wait()
        return httpx.Response(201)


def commit(partner: Engine, resource: str) -> None:
    with partner.begin() as connection:
        write(connection, resource)


def ids_of(partner: Engine) -> list[Any]:
    with partner.connect() as connection:
        return list(
            connection.exec_driver_sql(
                "SELECT first_event_id FROM vercel_delivery WHERE resource_id = 'db_1'"
            ).scalars()
        )


async def deliver_through_a_failover(pair: Pair) -> Receiver:
    """Promotes the replica during a request. A slow request of another resource keeps the lease, so that the replica has it."""
    database = open_database(pair.url)
    await asyncio.to_thread(migration.migrate, database)
    receiver = Receiver("db_0", "db_1")
    settings = Settings(vercel_token=SecretStr("t0ken"), poll_interval=0.02, request_timeout=300.0, lease=600.0)
    vercel = Vercel("https://vercel.test", HttpxTransport(httpx.MockTransport(receiver.receive)), 300.0)
    worker = Worker(database, vercel, StaticCredentials(SecretStr("t0ken")), settings, lambda _report: None, name="one")

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition():
                try:
                    await worker.tick()
                except sa.exc.DBAPIError:
                    assert receiver.arrived == ["db_0", "db_1"]  # its connections have ended with the old primary
                await asyncio.sleep(0.01)

    commit(pair.primary, "db_0")
    await until(lambda: receiver.arrived == ["db_0"])
    await asyncio.to_thread(pair.catch_up)
    pair.on_replica("STOP SLAVE")
    commit(pair.primary, "db_1")
    await until(lambda: receiver.arrived == ["db_0", "db_1"])
    lost = ids_of(pair.primary)
    pair.promote_replica()
    commit(pair.replica, "db_1")
    await until(lambda: bool(ids_of(pair.replica)))
    assert ids_of(pair.replica) == lost  # the id repeats
    receiver.answers["db_1"].set()
    receiver.answers["db_0"].set()
    await until(lambda: worker.idle and not ids_of(pair.replica))
    await worker.stop(DEADLINE_SECONDS)
    worker.close()
    database.close()
    return receiver


async def test_changes_on_the_new_primary_are_delivered(pair: Pair) -> None:
    receiver = await deliver_through_a_failover(pair)
    assert receiver.arrived == ["db_0", "db_1", "db_1"]


async def test_with_a_repeating_version_the_change_would_be_lost(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "draw_version", lambda: "always the same")
    receiver = await deliver_through_a_failover(pair)
    assert receiver.arrived == ["db_0", "db_1"]
