"""No step waits for ever on a database that does not answer: at its deadline its connection is cut, and the next connects anew."""

import asyncio

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from dispatcher import store
from dispatcher.database import Database, is_unreachable, open_database
from dispatcher.database_thread import DatabaseThread
from tests.contract.databases import on_servers
from tests.contract.proxy import proxy_before
from tests.contract.steps import LONGEST, write

LOCK = {"postgresql": "LOCK TABLE {}vercel_outbox", "mysql": "LOCK TABLES vercel_outbox WRITE"}
SHORT = 0.5


@pytest.mark.varies
@on_servers
async def test_behind_a_proxy_that_has_fallen_silent(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
    with proxy_before(database.engine.url) as (proxy, url):
        behind = open_database(url.render_as_string(hide_password=False), database.schema)
        thread = DatabaseThread(behind, deadline=LONGEST)
        assert (await thread.run(store.look, store.LOWEST_ID, store.LONG_AGO)).to_collect
        proxy.fall_silent()
        async with asyncio.timeout(LONGEST):
            with pytest.raises(DBAPIError) as failed:
                await thread.run_within(SHORT, store.collect, 500)
            assert is_unreachable(failed.value)
            assert (await thread.run(store.collect, 500)).events == 1
        thread.close()
        behind.close()


@on_servers
async def test_while_somebody_keeps_the_outbox_locked(database: Database, partner: Engine) -> None:
    """A look has no limit of the server's on PostgreSQL."""
    thread = DatabaseThread(database)
    schema = f"{database.schema}." if database.schema else ""
    async with asyncio.timeout(LONGEST):
        with partner.connect() as connection:
            connection.exec_driver_sql(LOCK[database.dialect.name].format(schema))
            with pytest.raises(DBAPIError):
                await thread.run_within(SHORT, store.look, store.LOWEST_ID, store.LONG_AGO)
            connection.exec_driver_sql("ROLLBACK" if database.dialect.name == "postgresql" else "UNLOCK TABLES")
        assert not (await thread.run(store.look, store.LOWEST_ID, store.LONG_AGO)).to_collect
    thread.close()


@pytest.mark.parametrize("server", ["sqlite", "postgresql", "mysql"], indirect=True)
async def test_another_threads_connections_are_left_alone(database: Database) -> None:
    thread = DatabaseThread(database)
    await thread.run(store.look, store.LOWEST_ID, store.LONG_AGO)
    with database.read() as connection:
        database.cut_connections(thread._ident)
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
    thread.close()


@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
async def test_on_sqlite_a_statement_is_interrupted(database: Database) -> None:
    """Such as one of a partner's query for credentials that never ends."""
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"

    def count(database: Database) -> object:
        with database.read() as connection:
            return connection.exec_driver_sql(endless).scalar_one()

    thread = DatabaseThread(database)
    async with asyncio.timeout(LONGEST):
        with pytest.raises(DBAPIError, match="interrupted"):
            await thread.run_within(SHORT, count)
    thread.close()
