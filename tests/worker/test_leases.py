"""The leases that a worker holds while requests are under way: renewed, lost, or enough for now. One request at a time."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dispatcher import store
from dispatcher.outbox.tables import delivery, installation
from dispatcher.policy.decision import BREAKER_FAULTS
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import LeaseLost
from dispatcher.worker import leases
from dispatcher.worker.worker import Worker
from tests.worker.conftest import LONGEST, Rig


@pytest.fixture
def settings() -> Settings:
    """Everything else is queued behind the one request."""
    return Settings(vercel_token=SecretStr("t0ken"), concurrency=1, rate_limit=None)


@pytest.fixture
async def worker(rig: Rig) -> AsyncIterator[Worker]:
    """Goes by the rig's clock."""
    hired = rig.another(clock=lambda: rig.now)
    yield hired
    await hired.stop(0)
    hired.close()


class Held:
    """Answers that come one by one, when the test lets them."""

    def __init__(self, rig: Rig) -> None:
        self._turns = asyncio.Semaphore(0)
        rig.answer = self._answer

    async def _answer(self, _request: httpx.Request) -> httpx.Response:
        await self._turns.acquire()
        return httpx.Response(201)

    def release(self, requests: int = 1) -> None:
        """Answers so many."""
        for _ in range(requests):
            self._turns.release()


def take_over(rig: Rig) -> None:
    """Another worker holds every lease from now on."""
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(lease_token="another"))


async def arrived(rig: Rig, requests: int) -> None:
    async with asyncio.timeout(LONGEST):
        while len(rig.requests) < requests:
            await asyncio.sleep(0.001)


probed_too = pytest.mark.parametrize("faults", [0, BREAKER_FAULTS], ids=["healthy", "probed"])


def fail(rig: Rig, faults: int) -> None:
    """So many requests in a row have failed."""
    with rig.database.engine.begin() as connection:
        connection.execute(sa.insert(installation).values(installation_id="icfg_1", faults=faults))


@probed_too
async def test_a_lease_that_has_grown_short_is_renewed_although_enough_is_queued(
    rig: Rig, worker: Worker, faults: int
) -> None:
    fail(rig, faults)
    held = Held(rig)
    rig.commit(*(f"db_{number}" for number in range(4)))
    await worker.tick()
    await arrived(rig, 1)
    (before,) = rig.rows(installation)
    await asyncio.sleep(0.01)
    rig.now = rig.settings.lease / 2
    await worker.tick()
    assert [row.leased_until for row in rig.rows(installation)] == [before.leased_until]
    rig.now += 0.1
    await worker.tick()
    assert [row.leased_until > before.leased_until for row in rig.rows(installation)] == [True]
    held.release(4)
    await rig.until(lambda: worker.idle, worker)
    assert len(rig.requests) == len(set(rig.bodies())) == 4


@probed_too
async def test_a_lease_that_cannot_be_renewed_ends_what_is_queued(rig: Rig, worker: Worker, faults: int) -> None:
    fail(rig, faults)
    held = Held(rig)
    rig.commit("db_1", "db_2", "db_3")
    await worker.tick()
    await arrived(rig, 1)
    take_over(rig)
    rig.now = rig.settings.lease - 1
    await worker.tick()
    assert LeaseLost(1) in rig.reports
    held.release(3)
    await rig.until(lambda: worker.idle, worker)
    assert len(rig.requests) == 1


async def test_a_settlement_under_a_lost_lease_ends_what_is_queued(
    rig: Rig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SETTLED_WITHIN", 0)
    held = Held(rig)
    rig.commit("db_1", "db_2", "db_3")
    await worker.tick()
    held.release()
    await arrived(rig, 2)
    take_over(rig)
    await worker.tick()
    assert LeaseLost(1) in rig.reports
    held.release(2)
    await rig.until(lambda: worker.idle, worker)
    assert len(rig.requests) == 2


async def test_a_lease_lasts_as_long_as_its_row_says_whatever_was_settled_meanwhile(
    rig: Rig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SETTLED_WITHIN", 0)
    held = Held(rig)
    rig.commit(*(f"db_{number}" for number in range(9)))
    await worker.tick()
    (before,) = rig.rows(installation)
    for passed, renewed in ((0.2, False), (0.4, True)):
        held.release()
        await arrived(rig, len(rig.requests) + 1)
        rig.now = passed * rig.settings.lease
        await asyncio.sleep(0.01)  # the row's times go by the database's clock
        await worker.tick()
        assert [row.leased_until > before.leased_until for row in rig.rows(installation)] == [renewed]
    held.release(9)
    await rig.until(lambda: worker.idle, worker)
    assert len(rig.requests) == 9


async def test_a_lease_that_hardly_outlasts_a_request_is_renewed_by_every_settlement(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SETTLED_WITHIN", 0)
    rig.settings = rig.settings.model_copy(update={"lease": rig.settings.request_timeout + 3})
    worker, held = rig.another(clock=lambda: rig.now), Held(rig)
    rig.commit(*(f"db_{number}" for number in range(9)))
    await worker.tick()
    for _ in range(3):
        (before,) = rig.rows(installation)
        held.release()
        await arrived(rig, len(rig.requests) + 1)
        rig.now += 0.5
        await asyncio.sleep(0.01)  # the row's times go by the database's clock
        await worker.tick()
        assert [row.leased_until > before.leased_until for row in rig.rows(installation)] == [True]
    held.release(9)
    await rig.until(lambda: worker.idle, worker)
    worker.close()


async def test_while_plenty_is_queued_other_installations_are_left_to_other_workers(rig: Rig, worker: Worker) -> None:
    held = Held(rig)
    rig.commit(*(f"db_{number}" for number in range(200)))
    await worker.tick()
    await arrived(rig, 1)
    rig.commit("db_0", installation_id="icfg_2")
    await worker.tick()
    assert [bool(row.lease_token) for row in rig.rows(installation)] == [True, False]
    held.release(201)
    await rig.until(lambda: len(rig.requests) == 201 and worker.idle, worker)


async def test_after_a_time_without_the_database_answers_are_settled_before_the_leases_are_taken_over(
    rig: Rig, worker: Worker
) -> None:
    """By this worker itself: else they would be dropped, sent again, and an attempt counted for each."""
    rig.commit("db_1", "db_2", "db_3")
    await worker.tick()
    await arrived(rig, 3)
    await asyncio.sleep(0)  # the last answer is taken down
    rig.now += 2 * rig.settings.lease
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(leased_until=store.LONG_AGO))
    await rig.until(lambda: worker.idle, worker)
    assert len(rig.requests) == 3
    assert rig.rows(delivery) == []
    assert [report for report in rig.reports if isinstance(report, LeaseLost)] == []


async def test_a_burst_without_an_end_gives_way_before_the_leases_that_are_held_grow_short(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.settings = rig.settings.model_copy(update={"lease": 12.0})
    endless = store.Collected(1, frozenset({"the same"}), last_event_id=1, full=True)

    def collect(*_: object) -> store.Collected:
        rig.now += 1.0
        return endless

    monkeypatch.setattr(store, "collect", collect)
    monkeypatch.setattr(store, "look", lambda *_: store.Work(to_collect=True, to_claim=False))
    worker = rig.another(clock=lambda: rig.now)
    await worker.tick()
    assert rig.now == pytest.approx(4.0)
    worker.close()
