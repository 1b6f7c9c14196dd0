"""The database refuses an answer every time: the worker settles all others."""

import asyncio
import contextlib
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dispatcher.database.transactions import Database
from dispatcher.outbox.events import Subject
from dispatcher.outbox.tables import attempt, delivery, outbox
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import Answered
from dispatcher.worker import leases
from dispatcher.worker.worker import Worker
from tests.worker.conftest import DEADLINE_SECONDS, Held, Rig


@pytest.fixture
def settings() -> Settings:
    """Two requests at a time."""
    return Settings(vercel_token=SecretStr("t0ken"), concurrency=2, rate_limit=None)


def refuse(database: Database, text: str) -> None:
    """Makes the log of attempts refuse this text, also that of a key."""

    def refusing(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith("INSERT INTO vercel_attempt") and text in str(parameters):
            raise OverflowError(text)

    sa.event.listen(database.engine, "before_cursor_execute", refusing)


async def tick(worker: Worker) -> None:
    """Runs a tick, even if its settlement is refused."""
    with contextlib.suppress(OverflowError):
        await worker.tick()
    await asyncio.sleep(0.001)


async def test_texts_that_the_database_cannot_store_never_cause_a_second_request(rig: Rig, worker: Worker) -> None:
    refuse(rig.database, "unspeakable")
    rig.answer = lambda _request: httpx.Response(400, json={"error": {"code": "no", "message": "unspeakable"}})
    for resource in ("db_1", "db_2", "db_3"):
        rig.commit(resource)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not worker.idle or rig.rows(outbox):
                await tick(worker)
    assert rig.bodies() == ["db_1", "db_2", "db_3"]
    assert [(row.status, row.error) for row in rig.rows(attempt)] == [(400, None)] * 3
    answers = [answer for report in rig.reports if isinstance(report, Answered) for answer in report.answers]
    assert [answer.outcome.error for answer in answers] == ["unspeakable"] * 3


async def test_a_delivery_whose_answer_is_given_up_is_sent_again_under_the_same_lease(rig: Rig, worker: Worker) -> None:
    refuse(rig.database, Subject("icfg_1", "resource.updated", "db_bad").key)
    held = Held(rig)
    slow = rig.answer
    rig.answer = lambda request: slow(request) if b"db_slow" in request.content else httpx.Response(201)
    rig.commit("db_slow", "db_bad", "db_good")
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(rig.rows(delivery)) != 2 or rig.rows(outbox):
            await tick(worker)
        rig.now += leases.PULL_SECONDS
        while rig.bodies().count("db_bad") < 2:
            await tick(worker)
    assert (rig.bodies().count("db_good"), worker.in_flight) == (1, 1)
    held.release()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while worker.in_flight or not worker.idle:
            await tick(worker)
