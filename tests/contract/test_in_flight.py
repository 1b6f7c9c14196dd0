"""A change committed while a request is in flight, before or after the receiver reads, with the real worker on every database."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from dispatcher.credentials.sources import StaticCredentials
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import delivery, outbox
from dispatcher.settings.settings import Settings
from dispatcher.transport.portable import HttpxTransport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.worker import Worker
from tests.contract.steps import DEADLINE_SECONDS, count, write

pytestmark = pytest.mark.varies


class Receiver:
    """Reads the partner's state when it is notified of a change, like Vercel. Commits another change during the first request."""

    def __init__(self, database: Database, partner: Engine, *, reads_first: bool, wait_for_collection: bool) -> None:
        self._database = database
        self._partner = partner
        self._reads_first = reads_first
        self._wait_for_collection = wait_for_collection
        self.committed = 0
        self.seen: list[int] = []

    def commit(self) -> None:
        """Commits another version of the resource."""
        with self._partner.begin() as connection:
            write(connection, "db_1")
        self.committed += 1

    async def receive(self, request: httpx.Request) -> httpx.Response:
        """Answers 201, whichever version it has read."""
        assert json.loads(request.content)["event"]["resourceId"] == "db_1"
        if self._reads_first or self.seen:
            self.seen.append(self.committed)
        if self.committed == 1:
            self.commit()
            if self._wait_for_collection:
                await until(lambda: asyncio.to_thread(lambda: count(self._database, outbox) == 0))
        if not self.seen:
            self.seen.append(self.committed)
        return httpx.Response(201)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("reads_first", [True, False], ids=["after the read", "before the read"])
@pytest.mark.parametrize("collected", [True, False], ids=["collected in flight", "collected later"])
async def test_a_commit_while_a_request_is_in_flight_is_followed_by_another_request(
    database: Database, partner: Engine, reads_first: bool, collected: bool
) -> None:
    receiver = Receiver(database, partner, reads_first=reads_first, wait_for_collection=collected)
    settings = Settings(vercel_token=SecretStr("t0ken"), poll_interval=0.02)
    vercel = Vercel(
        "https://vercel.test", HttpxTransport(httpx.MockTransport(receiver.receive)), settings.request_timeout
    )
    token = StaticCredentials(SecretStr("t0ken"))
    worker = Worker(database, vercel, token, settings, lambda _report: None, name="one")
    receiver.commit()

    async def is_delivered() -> bool:
        await worker.tick()
        return worker.idle and count(database, delivery) + count(database, outbox) == 0

    await until(is_delivered)
    await worker.stop(DEADLINE_SECONDS)
    worker.close()
    assert len(receiver.seen) == 2
    assert receiver.seen[-1] == receiver.committed == 2
