"""A worker takes over what a dead one held: one delivery at a time, none of them counted before it can be sent."""

from collections.abc import AsyncIterator, Sequence

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dispatcher import store
from dispatcher.outbox.tables import delivery, installation
from dispatcher.policy.rate_window import RateLimit
from dispatcher.settings.settings import Settings
from dispatcher.worker.worker import Worker
from tests.worker.conftest import Held, Rig, arrived, leased
from tests.worker.test_round_trips import listening

RESOURCES = [f"db_{number}" for number in range(6)]
ONE = RateLimit(1, 600.0)


@pytest.fixture
async def orphaned(rig: Rig) -> Rig:
    """Deliveries under a lease whose holder died."""
    rig.commit(*RESOURCES)
    store.collect(rig.database, 10)
    past = sa.literal(store.LONG_AGO, installation.c.leased_until.type)
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(lease_token="dead", leased_until=past))
    return rig


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), concurrency=2)])
async def test_as_many_as_may_have_been_in_flight_are_sent_one_at_a_time(orphaned: Rig) -> None:
    beside: list[int] = []

    def answer(_request: httpx.Request) -> httpx.Response:
        beside.append(orphaned.worker.in_flight)
        return httpx.Response(201)

    orphaned.answer = answer
    await orphaned.settle_all()
    assert sorted(orphaned.bodies()) == RESOURCES
    assert beside[:2] == [1, 1]
    assert [row.suspects for row in orphaned.rows(installation)] == [0]


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), rate_limit=ONE, concurrency=3)])
async def test_what_the_rate_window_keeps_waiting_is_not_counted_and_stays_suspected(orphaned: Rig) -> None:
    await orphaned.settle_all()
    assert len(orphaned.requests) == 1
    assert [row.attempts for row in orphaned.rows(delivery)] == [0] * 5
    assert [(row.suspects, row.lease_token) for row in orphaned.rows(installation)] == [(2, None)]


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), global_rate_limit=ONE)])
async def test_nor_is_what_the_limit_over_all_keeps_waiting(orphaned: Rig) -> None:
    await orphaned.until(lambda: len(orphaned.rows(delivery)) == 5)
    await orphaned.worker.tick()
    assert len(orphaned.requests) == 1
    assert [row.attempts for row in orphaned.rows(delivery)] == [0] * 5


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), concurrency=2, rate_limit=None)])
async def test_after_the_death_of_many_leases_each_has_its_turn(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While others wait, a lease is given back after one delivery, and what is still suspected is not forgotten."""
    monkeypatch.setattr(type(rig.database.dialect), "max_claimed", 2)
    for number in range(5):
        rig.commit("db_1", "db_2", "db_3", installation_id=f"icfg_{number}")
    store.collect(rig.database, 100)
    past = sa.literal(store.LONG_AGO, installation.c.leased_until.type)
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(lease_token="dead", leased_until=past))
    await rig.until(lambda: rig.worker.idle and not rig.rows(delivery))
    assert sorted(rig.bodies()) == sorted(["db_1", "db_2", "db_3"] * 5)
    first_of_each = {request.url.path for request in rig.requests[:6]}
    assert len(first_of_each) >= 4
    assert {row.suspects for row in rig.rows(installation)} == {0}


TWO = Settings(vercel_token=SecretStr("t0ken"), concurrency=2, rate_limit=None, poll_interval=60)


@pytest.fixture
async def worker(rig: Rig) -> AsyncIterator[Worker]:
    """Goes by the rig's clock."""
    hired = rig.another(clock=lambda: rig.now)
    yield hired
    await hired.stop(0)
    hired.close()


def orphan(rig: Rig, *installation_ids: str, resources: Sequence[str] = ("db_1",)) -> None:
    """Their deliveries are under leases whose holder died."""
    for installation_id in installation_ids:
        rig.commit(*resources, installation_id=installation_id)
    store.collect(rig.database, 500)
    past = sa.literal(store.LONG_AGO, installation.c.leased_until.type)
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(lease_token="dead", leased_until=past))


@pytest.mark.parametrize("settings", [TWO])
async def test_no_more_dead_leases_are_taken_over_than_are_soon_tried(
    rig: Rig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(rig.database.dialect), "max_claimed", 1)
    held = Held(rig)
    orphan(rig, *(f"icfg_{number}" for number in range(6)))
    for _ in range(8):
        await worker.tick()
    await arrived(rig, 2)
    assert len(leased(rig)) == 4
    held.release(6)
    await rig.until(lambda: len(rig.requests) == 6 and worker.idle, worker)


@pytest.mark.parametrize("settings", [TWO])
async def test_a_dead_lease_that_waits_for_another_has_its_turn_as_soon_as_that_is_settled(
    rig: Rig, worker: Worker
) -> None:
    held = Held(rig)
    orphan(rig, "icfg_1", "icfg_2", "icfg_3")
    for _ in range(3):
        await worker.tick()
    await arrived(rig, 2)
    held.release(3)
    await rig.until(lambda: len(rig.requests) == 3, worker)  # no time has passed
    await rig.until(lambda: worker.idle, worker)


@pytest.mark.parametrize("settings", [TWO])
async def test_what_may_not_be_sent_beside_others_is_not_read_in_every_tick(rig: Rig, worker: Worker) -> None:
    held = Held(rig)
    orphan(rig, "icfg_1", "icfg_2")
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(delivery).where(delivery.c.installation_id == "icfg_2").values(attempts=3))
    await worker.tick()
    await arrived(rig, 1)
    with listening(rig.database) as spoken:
        for _ in range(3):
            await worker.tick()
    assert spoken.transactions == 3  # each has looked
    held.release(2)
    rig.now += 61
    await rig.until(lambda: len(rig.requests) == 2 and worker.idle, worker)
