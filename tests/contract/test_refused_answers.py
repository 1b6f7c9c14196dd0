"""An answer that the database cannot hold affects only its own delivery."""

import asyncio
import json
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dispatcher.credentials.sources import StaticCredentials
from dispatcher.database import migration
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import attempt, delivery
from dispatcher.settings.settings import Settings
from dispatcher.transport.portable import HttpxTransport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.worker import Worker
from tests.contract.databases import on_sqlite
from tests.contract.servers import narrow_database
from tests.contract.steps import DEADLINE_SECONDS, write

BAD = "db_bad"
WITH_A_DASH = httpx.Response(400, json={"error": {"code": "bad_request", "message": "no – never"}})


@pytest.fixture
def narrow(postgresql_url: str) -> Iterator[Database]:
    """A PostgreSQL database that can only hold Latin-1."""
    with narrow_database(postgresql_url, "LATIN1") as url:
        database = open_database(url)
        migration.migrate(database)
        yield database
        database.close()


def worker_on(database: Database) -> Worker:
    """Returns a worker whose destination refuses one resource with a message containing a dash that Latin-1 lacks."""

    def answer(request: httpx.Request) -> httpx.Response:
        bad = json.loads(request.content)["event"]["resourceId"] == BAD
        return WITH_A_DASH if bad else httpx.Response(201)

    settings = Settings(vercel_token=SecretStr("t0ken"), poll_interval=0.02)
    vercel = Vercel("https://vercel.test", HttpxTransport(httpx.MockTransport(answer)), settings.request_timeout)
    token = StaticCredentials(SecretStr("t0ken"))
    return Worker(database, vercel, token, settings, lambda _report: None, name="one")


async def deliver(database: Database, done: Callable[[], bool]) -> int:
    """Ticks until `done`; returns how many ticks raised."""
    with database.engine.begin() as connection:
        write(connection, "db_1", BAD, "db_2")
        write(connection, "db_3", installation_id="icfg_2")
    worker, raised = worker_on(database), 0
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not done():
            try:
                await worker.tick()
            except (UnicodeError, OverflowError):
                raised += 1
            await asyncio.sleep(0.001)
    await worker.stop(0)
    worker.close()
    return raised


def rows(database: Database, statement: Any) -> list[Any]:
    with database.read() as connection:
        return list(connection.execute(statement).scalars())


async def test_a_text_that_the_databases_encoding_cannot_hold_is_left_out(narrow: Database) -> None:
    errors = sa.select(attempt.c.error).where(attempt.c.resource_id == BAD)
    raised = await deliver(
        narrow, lambda: not rows(narrow, sa.select(delivery.c.resource_id)) and bool(rows(narrow, errors))
    )
    assert raised == 1
    assert rows(narrow, errors) == [None]


@on_sqlite
async def test_an_answer_that_is_refused_without_its_text_too_is_given_up_and_the_others_are_settled(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    settling = import_module("dispatcher.store.settlement")  # not `import`: mypy would not allow its imported `record`
    record = settling.record

    def refuse(connection: Any, dialect: Any, answers: Any, now: Any) -> None:
        if any(one.delivery.subject.resource_id == BAD for one in answers):
            raise OverflowError("no column can hold this")
        record(connection, dialect, answers, now)

    monkeypatch.setattr(settling, "record", refuse)
    left = sa.select(delivery.c.resource_id)
    raised = await deliver(database, lambda: rows(database, left) == [BAD])
    assert raised >= 2
    assert sorted(rows(database, sa.select(attempt.c.resource_id))) == ["db_1", "db_2", "db_3"]
