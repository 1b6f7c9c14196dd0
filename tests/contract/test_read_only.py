"""An idle service whose server has become read-only, as after a failover: `/readyz` reports it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import httpx
import pytest
from sqlalchemy import Engine

from dispatcher.database import migration
from dispatcher.database.transactions import Database, open_database
from dispatcher.service import service
from dispatcher.service.housekeeping import Housekeeping
from tests.conftest import not_tested
from tests.contract.servers import MARIADB, own_mariadb
from tests.contract.steps import DEADLINE_SECONDS
from tests.worker.test_service import answers, running

USER = "CREATE USER dispatcher@'%%'; GRANT ALL ON test.* TO dispatcher@'%%'"
"""A user without the privilege to write on a read-only server."""


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "Housekeeping", partial(Housekeeping, heartbeat_seconds=0.1))


async def gives(client: httpx.AsyncClient, reason: str) -> None:
    """Waits until the service gives this reason for not being ready."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            answer = await client.get("/readyz")
            if reason in str(answer.json()["reason"]):
                assert answer.status_code == 503
                return
            await asyncio.sleep(0.02)


@contextmanager
def demoted(partner: Engine) -> Iterator[None]:
    """Ends all sessions and makes new ones read-only, as on a standby."""
    with partner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        name = connection.exec_driver_sql("SELECT current_database()").scalar_one()
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        try:
            ours = "datname = current_database() AND application_name = 'dispatcher'"
            connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")
            yield
        finally:
            connection.exec_driver_sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
async def test_on_postgresql_it_is_not_ready_until_the_server_takes_writes_again(
    database: Database, partner: Engine
) -> None:
    database.close()  # its sessions would be ended too
    async with running(database) as client:
        with demoted(partner):
            await gives(client, "heartbeat: the database takes no writes: it is a standby")
        assert await answers(client, "/readyz", 200)


@pytest.fixture
def own_server() -> Iterator[tuple[Database, Engine]]:
    """A MariaDB of our own, whose global settings the test may change: as the dispatcher and as its administrator."""
    if MARIADB is None:
        not_tested("mariadbd is not installed (Debian: apt-get install mariadb-server)")
    with own_mariadb(1) as url:
        administrator = open_database(url.render_as_string()).engine.execution_options(isolation_level="AUTOCOMMIT")
        with administrator.connect() as connection:
            for statement in USER.split("; "):
                connection.exec_driver_sql(statement)
        opened = open_database(url.set(username="dispatcher").render_as_string())
        migration.migrate(opened)
        yield opened, administrator
        opened.close()
        administrator.dispose()


@pytest.mark.gate
async def test_on_mariadb_it_is_not_ready_until_the_server_takes_writes_again(
    own_server: tuple[Database, Engine],
) -> None:
    database, administrator = own_server
    async with running(database) as client:
        with administrator.connect() as connection:
            connection.exec_driver_sql("SET GLOBAL read_only = ON")
            await gives(client, "heartbeat: the database takes no writes")
            connection.exec_driver_sql("SET GLOBAL read_only = OFF")
        assert await answers(client, "/readyz", 200)
