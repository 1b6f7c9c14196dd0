"""No step waits forever for a database that does not answer: at its deadline its connection is cut, and the next step reconnects."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from functools import partial

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import URL, Engine
from sqlalchemy.exc import DBAPIError

from dispatcher import store
from dispatcher.credentials.sources import StaticCredentials
from dispatcher.database.errors import is_unreachable
from dispatcher.database.transactions import Database, open_database
from dispatcher.service import service
from dispatcher.service.drain import drain
from dispatcher.service.housekeeping import Housekeeping
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import Report
from dispatcher.transport.portable import HttpxTransport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.database_thread import DatabaseThread
from dispatcher.worker.worker import Worker
from tests.contract.databases import on_servers
from tests.contract.proxy import proxy_before
from tests.contract.steps import DEADLINE_SECONDS, write

LOCK = {"postgresql": "LOCK TABLE {}vercel_outbox", "mysql": "LOCK TABLES vercel_outbox WRITE"}
SHORT = 0.5
STARTED = 3.0
"""Seconds in which a service reaches the step that hangs; if it takes longer, it fails in the same way."""
RUN = partial(service.run, database_grace=0.0)
"""Does not wait for a database that is away."""


@pytest.mark.varies
@on_servers
async def test_behind_a_proxy_that_has_fallen_silent(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
    with proxy_before(database.engine.url) as (proxy, url):
        behind = open_database(url.render_as_string(hide_password=False), database.schema)
        thread = DatabaseThread(behind, deadline=DEADLINE_SECONDS)
        assert (await thread.run(store.look, store.LOWEST_ID, store.LONG_AGO)).to_collect
        proxy.fall_silent()
        async with asyncio.timeout(DEADLINE_SECONDS):
            with pytest.raises(DBAPIError) as failed:
                await thread.run_within(SHORT, store.collect, 500)
            assert is_unreachable(failed.value)
            assert (await thread.run(store.collect, 500)).events == 1
        thread.close()
        behind.close()


@pytest.mark.varies
@on_servers
@pytest.mark.parametrize("step", [Housekeeping.gauge, Housekeeping.beat, Housekeeping.fix_stranded, Housekeeping.prune])
async def test_housekeeping_behind_a_proxy_that_has_fallen_silent(
    database: Database, step: Callable[[Housekeeping], Awaitable[None]]
) -> None:
    with proxy_before(database.engine.url) as (proxy, url):
        behind = open_database(url.render_as_string(hide_password=False), database.schema)
        reports: list[Report] = []
        vercel = Vercel("https://vercel.test", HttpxTransport(httpx.MockTransport(lambda _: httpx.Response(201))), 10.0)
        token = StaticCredentials(SecretStr("t0ken"))
        worker = Worker(behind, vercel, token, Settings(), reports.append, name="idle")
        patient, hasty = (
            Housekeeping(behind, worker, Settings(), reports.append, deadline=seconds)
            for seconds in (DEADLINE_SECONDS, SHORT)
        )
        await step(patient)
        proxy.fall_silent()
        told = reports.copy()
        async with asyncio.timeout(DEADLINE_SECONDS):
            with pytest.raises(DBAPIError) as failed:
                await step(hasty)
            assert is_unreachable(failed.value)
            assert reports == told
            await step(patient)
        assert len(reports) == 2 * len(told)
        for one in (patient, hasty, worker):
            one.close()
        behind.close()


def settings_for(database: Database, url: URL) -> Settings:
    """Returns settings of a service that uses the database behind this URL."""
    return Settings(
        database_url=SecretStr(url.render_as_string(hide_password=False)),
        database_schema=database.schema,
        vercel_token=SecretStr("t0ken"),
        vercel_base_url="http://127.0.0.1:9",
        allow_insecure_base_url=True,
        ops_port=None,
    )


@pytest.mark.parametrize(
    ("server", "main", "last_word"),
    [
        ("postgresql", RUN, b"vercel_dispatcher_version"),
        ("mysql", RUN, b"vercel_dispatcher_version"),
        ("mysql", RUN, b"transaction_isolation"),
        ("mysql", RUN, b"wsrep_on"),
        ("postgresql", drain, b"pause_reason IS NOT NULL"),
        ("mysql", drain, b"pause_reason IS NOT NULL"),
    ],
    indirect=["server"],
)
async def test_a_start_and_a_drain_end_with_an_error(
    database: Database,
    main: Callable[[Settings], Awaitable[object]],
    last_word: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dispatcher.service.composition.DatabaseThread", partial(DatabaseThread, deadline=STARTED))
    with proxy_before(database.engine.url) as (proxy, url):
        proxy.fall_silent_at(last_word)
        async with asyncio.timeout(DEADLINE_SECONDS):
            with pytest.raises(DBAPIError) as failed:
                await main(settings_for(database, url))
        assert is_unreachable(failed.value)


@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
async def test_a_step_that_waits_for_another_does_not_use_up_its_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut: list[int] = []
    monkeypatch.setattr(database, "cut_connections", cut.append)
    go_on, thread = threading.Event(), DatabaseThread(database)
    first = asyncio.create_task(thread.run(lambda _: go_on.wait(DEADLINE_SECONDS)))
    second = asyncio.create_task(thread.run_within(SHORT, store.look, store.LOWEST_ID, store.LONG_AGO))
    await asyncio.wait([second], timeout=3 * SHORT)
    go_on.set()
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await first
        assert not (await second).to_collect
    assert cut == []
    thread.close()


@on_servers
async def test_while_somebody_keeps_the_outbox_locked(database: Database, partner: Engine) -> None:
    """On PostgreSQL the server sets no limit for a look."""
    thread = DatabaseThread(database)
    schema = f"{database.schema}." if database.schema else ""
    async with asyncio.timeout(DEADLINE_SECONDS):
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
    """For example a partner's query for credentials that never ends."""
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"

    def count(database: Database) -> object:
        with database.read() as connection:
            return connection.exec_driver_sql(endless).scalar_one()

    thread = DatabaseThread(database)
    async with asyncio.timeout(DEADLINE_SECONDS):
        with pytest.raises(DBAPIError, match="interrupted"):
            await thread.run_within(SHORT, count)
    thread.close()
