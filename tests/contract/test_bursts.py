"""A burst whose events have different subjects is collected beside the claims and settlements, on a connection of its own."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dispatcher import InstallationRemoved, publish, store
from dispatcher.credentials.sources import StaticCredentials
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import attempt, delivery, installation, outbox
from dispatcher.sandbox import Sandbox
from dispatcher.settings.settings import Settings
from dispatcher.transport import Network, open_transport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.pace import Pace
from dispatcher.worker.worker import Worker
from tests.contract.steps import DEADLINE_SECONDS, ID, count, write

SETTINGS = Settings(vercel_token=SecretStr("t0ken"), rate_limit=None)
BATCH = 10

pytestmark = pytest.mark.parametrize("server", ["postgresql", "mysql"], indirect=True)


class Gate:
    """Holds up the collections of another thread, from the second one on, until it is opened."""

    def __init__(self) -> None:
        self._passed = 0
        self._open = threading.Event()
        self.reached = threading.Event()
        self.error: Exception | None = None

    def collect(self, *arguments: Any) -> store.Collected:
        self._passed += 1
        if self._passed > 1:
            self.reached.set()
            assert self._open.wait(DEADLINE_SECONDS)
        if self._passed > 1 and self.error is not None:
            raise self.error
        return collect(*arguments)

    def open(self) -> None:
        self._open.set()


collect = store.collect


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate()
    monkeypatch.setattr(store, "collect", made.collect)
    yield made
    made.open()


@pytest.fixture
async def worker(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    """A worker that has collected the first events of a burst, sent them, and is collecting the next ones."""
    monkeypatch.setattr(type(database.dialect), "max_collected", BATCH)
    with database.engine.begin() as connection:
        write(connection, *(f"db_{number}" for number in range(2 * BATCH)))
    async with Sandbox(rate_limit=None) as sandbox:
        transport = open_transport(Network(), sandbox.url)
        vercel = Vercel(sandbox.url, transport, SETTINGS.request_timeout)
        credentials = StaticCredentials(SecretStr("t0ken"))
        pace = Pace(burst_sample_events=BATCH)
        worker = Worker(database, vercel, credentials, SETTINGS, lambda _: None, name="one", pace=pace)
        yield worker
        worker.close()
        await transport.aclose()


async def tick_until(worker: Worker, done: Any) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await asyncio.to_thread(done):
            await asyncio.sleep(min(await worker.tick(), 0.02))


async def test_claims_and_settlements_go_on_meanwhile(database: Database, worker: Worker, gate: Gate) -> None:
    await tick_until(worker, lambda: gate.reached.is_set() and count(database, attempt) == BATCH)
    assert count(database, outbox) == BATCH
    assert not worker.idle
    gate.open()
    await tick_until(worker, lambda: count(database, attempt) == 2 * BATCH)
    await tick_until(worker, lambda: worker.idle)
    assert count(database, outbox) + count(database, delivery) == 0


async def test_its_error_is_raised_by_a_later_tick(database: Database, worker: Worker, gate: Gate) -> None:
    gate.error = ValueError("broken")
    await tick_until(worker, lambda: gate.reached.is_set() and count(database, attempt) == BATCH)
    gate.open()
    with pytest.raises(ValueError, match="broken"):
        await tick_until(worker, lambda: False)
    gate.error = None
    await tick_until(worker, lambda: count(database, attempt) == 2 * BATCH)


async def test_an_installation_may_be_removed_while_its_answers_are_settled(
    database: Database, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    removing, settled, removed = threading.Event(), threading.Event(), threading.Event()
    remove, settle, drop = store.remove, store.settle, worker._leases.drop

    def remove_after_commit(*arguments: Any) -> store.Removed:
        removing.set()
        assert settled.wait(DEADLINE_SECONDS)
        return remove(*arguments)

    def settle_until_removed(*arguments: Any, **options: Any) -> store.Settled:
        if not worker._collection.is_running:
            return settle(*arguments, **options)
        assert removing.wait(DEADLINE_SECONDS)
        result = settle(*arguments, **options)
        if arguments[1]:
            settled.set()
            assert removed.wait(DEADLINE_SECONDS)
        return result

    def note_drop(installation_id: str) -> None:
        drop(installation_id)
        removed.set()

    monkeypatch.setattr(store, "remove", remove_after_commit)
    monkeypatch.setattr(store, "settle", settle_until_removed)
    monkeypatch.setattr(worker._leases, "drop", note_drop)
    with database.engine.begin() as connection:
        publish(connection, InstallationRemoved(installation_id=ID))
    await tick_until(worker, lambda: removed.is_set() and worker.idle)
    assert count(database, installation) + count(database, delivery) + count(database, outbox) == 0


@pytest.mark.parametrize("error", [None, ValueError("broken")])
async def test_a_worker_that_stops_waits_for_it(
    database: Database, worker: Worker, gate: Gate, error: Exception | None
) -> None:
    gate.error = error
    await tick_until(worker, lambda: gate.reached.is_set() and count(database, attempt) == BATCH)
    stopping = asyncio.create_task(worker.stop(DEADLINE_SECONDS))
    done, _ = await asyncio.wait([stopping], timeout=0.2)
    assert not done
    gate.open()
    await stopping
    assert count(database, outbox) == (0 if error is None else BATCH)
    with database.read() as connection:
        assert connection.execute(sa.select(installation.c.lease_token)).scalars().all() == [None]
