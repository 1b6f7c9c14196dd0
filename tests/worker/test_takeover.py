"""A worker takes over the leases of a dead one: one delivery at a time, and no attempt is counted before it can be sent."""

from collections.abc import Sequence

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
from tests.worker.test_round_trips import counting_round_trips

RESOURCES = [f"db_{number}" for number in range(6)]
ONE = RateLimit(1, 600.0)


@pytest.fixture
async def orphaned(rig: Rig) -> Rig:
    """Deliveries under a lease whose holder has died."""
    rig.commit(*RESOURCES)
    store.collect(rig.database, 10)
    past = sa.literal(store.LONG_AGO, installation.c.leased_until.type)
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(lease_token="dead", leased_until=past))
    return rig


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), concurrency=2)])
async def test_as_many_as_may_have_been_in_flight_are_sent_one_at_a_time(orphaned: Rig) -> None:
    in_flight: list[int] = []

    def answer(_request: httpx.Request) -> httpx.Response:
        in_flight.append(orphaned.worker.in_flight)
        return httpx.Response(201)

    orphaned.answer = answer
    await orphaned.settle_all()
    assert sorted(orphaned.bodies()) == RESOURCES
    assert in_flight[:2] == [1, 1]
    assert [row.suspects for row in orphaned.rows(installation)] == [0]


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), rate_limit=ONE, concurrency=3)])
async def test_deliveries_that_wait_for_the_rate_window_use_up_no_attempt_and_stay_suspects(orphaned: Rig) -> None:
    await orphaned.settle_all()
    assert len(orphaned.requests) == 1
    assert [row.attempts for row in orphaned.rows(delivery)] == [0] * 5
    assert [(row.suspects, row.lease_token) for row in orphaned.rows(installation)] == [(2, None)]


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), global_rate_limit=ONE)])
async def test_deliveries_that_wait_for_the_global_rate_limit_use_up_no_attempt(orphaned: Rig) -> None:
    await orphaned.until(lambda: len(orphaned.rows(delivery)) == 5)
    await orphaned.worker.tick()
    assert len(orphaned.requests) == 1
    assert [row.attempts for row in orphaned.rows(delivery)] == [0] * 5


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), concurrency=2, rate_limit=None)])
async def test_after_the_death_of_many_leases_each_has_its_turn(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While others wait, a lease is given back after one delivery, and its remaining suspects are stored."""
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


def orphan(rig: Rig, *installation_ids: str, resources: Sequence[str] = ("db_1",)) -> None:
    """Commits changes of these installations, under leases whose holder has died."""
    for installation_id in installation_ids:
        rig.commit(*resources, installation_id=installation_id)
    store.collect(rig.database, 500)
    past = sa.literal(store.LONG_AGO, installation.c.leased_until.type)
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(lease_token="dead", leased_until=past))


@pytest.mark.parametrize("settings", [TWO])
async def test_only_as_many_leases_of_dead_workers_are_taken_over_as_are_soon_tried(
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
async def test_a_waiting_suspect_has_its_turn_as_soon_as_another_is_settled(rig: Rig, worker: Worker) -> None:
    held = Held(rig)
    orphan(rig, "icfg_1", "icfg_2", "icfg_3")
    for _ in range(3):
        await worker.tick()
    await arrived(rig, 2)
    assert len(rig.requests) == 2
    began = rig.now
    held.release(3)
    await rig.until(lambda: len(rig.requests) == 3, worker)
    assert rig.now == began  # no time has passed
    await rig.until(lambda: worker.idle, worker)


@pytest.mark.parametrize("settings", [TWO])
async def test_a_suspect_that_must_be_sent_alone_is_not_read_in_every_tick(rig: Rig, worker: Worker) -> None:
    held = Held(rig)
    orphan(rig, "icfg_1", "icfg_2")
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(delivery).where(delivery.c.installation_id == "icfg_2").values(attempts=3))
    await worker.tick()
    await arrived(rig, 1)
    with counting_round_trips(rig.database) as round_trips:
        for _ in range(3):
            await worker.tick()
    assert round_trips.transactions == 3  # only the look of each tick
    held.release(2)
    rig.now += 61
    await rig.until(lambda: len(rig.requests) == 2 and worker.idle, worker)
