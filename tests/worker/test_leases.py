"""The leases that a worker holds while requests are under way: renewed, lost, or enough for now. One request at a time."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import attempt, delivery, installation
from dispatcher.policy.breaker import FAULTS_TO_OPEN
from dispatcher.policy.installation_breaker import BREAKER_FAULTS
from dispatcher.policy.rate_window import RateLimit
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import LeaseLost
from dispatcher.worker import leases, settlement
from dispatcher.worker.worker import BUSY_PAUSE_SECONDS, Worker
from tests.worker.conftest import LONGEST, Held, Rig, answered, arrived, leased

TWO = Settings(vercel_token=SecretStr("t0ken"), concurrency=2, rate_limit=None, poll_interval=60)


probed_too = pytest.mark.parametrize("faults", [0, BREAKER_FAULTS], ids=["healthy", "probed"])


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


def take_over(rig: Rig) -> None:
    """Another worker holds every lease from now on."""
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(lease_token="another"))


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
    monkeypatch.setattr(settlement, "MAX_WAIT_SECONDS", 0)
    held = Held(rig)
    rig.commit("db_1", "db_2", "db_3")
    await worker.tick()
    held.release()
    await arrived(rig, 2)
    take_over(rig)
    await worker.tick()
    assert LeaseLost(1) in rig.reports
    held.release(2)
    await answered(rig, 2)
    await asyncio.sleep(0.01)  # a third request would have begun
    await rig.until(lambda: worker.idle, worker)
    assert len(rig.requests) == 2


async def test_a_lease_lasts_as_long_as_its_row_says_whatever_was_settled_meanwhile(
    rig: Rig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "MAX_WAIT_SECONDS", 0)
    held = Held(rig)
    rig.commit(*(f"db_{number}" for number in range(9)))
    await worker.tick()
    for passed, renewed in ((0.2, False), (0.4, True), (0.5, False)):
        (before,) = rig.rows(installation)
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
    monkeypatch.setattr(settlement, "MAX_WAIT_SECONDS", 0)
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


async def test_while_more_is_due_than_one_claim_takes_none_of_it_is_passed_over(
    rig: Rig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(rig.database.dialect), "max_claimed", 1)
    for number in range(4):
        rig.commit("db_1", installation_id=f"icfg_{number}")
    for rig.now in (0.0, 2.1, 2.2, 2.3):
        await worker.tick()
    await rig.until(lambda: worker.idle, worker)
    assert len(rig.requests) == 4


async def test_a_paused_lease_that_had_to_be_renewed_goes_on_after_it(rig: Rig, worker: Worker) -> None:
    """A refusal does not end the pause, so that the next request is a probe, too; and it has become too late for one."""
    held = Held(rig, 400)
    rig.commit("db_1", "db_2")
    store.collect(rig.database, 500)
    with rig.database.engine.begin() as connection:
        past = sa.literal(store.LONG_AGO, installation.c.due_at.type)
        connection.execute(
            sa.update(installation).values(
                pause_reason="unauthorized", paused_since=past, paused_until=past, due_at=past
            )
        )
    await worker.tick()
    await arrived(rig, 1)
    rig.now = rig.settings.lease - 1
    held.release(2)
    async with asyncio.timeout(LONGEST):
        while worker.in_flight:
            await asyncio.sleep(0.001)
    await worker.tick()
    await arrived(rig, 2)
    await rig.until(lambda: worker.idle, worker)


async def test_a_pull_reads_beyond_what_is_held(rig: Rig, worker: Worker, read: list[int]) -> None:
    """What is queued has been due longest, so that it is read again, too."""
    Held(rig)
    rig.commit(*(f"db_{number}" for number in range(600)))
    store.collect(rig.database, 1_000)
    await worker.tick()
    await arrived(rig, 1)
    rig.now = rig.settings.lease / 2 + 1
    await worker.tick()
    claimed, pulled = read
    assert claimed < pulled == 600


@pytest.mark.parametrize(("changes", "claimed"), [(129, True), (130, False)])
async def test_while_plenty_is_queued_other_installations_are_left_to_other_workers(
    rig: Rig, worker: Worker, changes: int, claimed: bool
) -> None:
    Held(rig)
    rig.commit(*(f"db_{number}" for number in range(changes)))
    await worker.tick()
    await arrived(rig, 1)
    rig.commit("db_0", installation_id="icfg_2")
    await worker.tick()
    assert ("icfg_2" in leased(rig)) == claimed


async def test_a_worker_that_stops_gives_back_at_once_what_it_sends_nothing_for(rig: Rig, worker: Worker) -> None:
    held = Held(rig)
    rig.commit("db_1", installation_id="icfg_1")
    await worker.tick()
    await arrived(rig, 1)
    rig.commit("db_2", "db_3", installation_id="icfg_2")
    await worker.tick()
    assert leased(rig) == ["icfg_1", "icfg_2"]
    stopping = asyncio.create_task(worker.stop(LONGEST))
    await rig.until(lambda: leased(rig) == ["icfg_1"], worker)
    held.release(3)
    await stopping
    assert (len(rig.requests), leased(rig)) == (1, [])


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), concurrency=20, rate_limit=None)])
async def test_the_more_requests_may_be_in_flight_the_more_is_read_at_once(
    rig: Rig, worker: Worker, read: list[int]
) -> None:
    Held(rig)
    rig.commit(*(f"db_{number}" for number in range(600)))
    store.collect(rig.database, 1_000)
    await worker.tick()
    assert read == [600]  # 512 for up to 16


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), rate_limit=RateLimit(1, 60.0))])
async def test_a_window_that_is_full_is_written_in_the_databases_time_whatever_the_worker_counts_from(
    rig: Rig, worker: Worker
) -> None:
    rig.now = 20.0
    before = rig.database.now()
    rig.commit("db_1", "db_2")
    await rig.settle_all(worker)
    (row,) = rig.rows(installation)
    minute = timedelta(seconds=60)
    assert before + minute <= row.throttled_until <= rig.database.now() + minute
    with rig.database.engine.begin() as connection:  # as if the wait were over: the window itself must refuse
        past = sa.literal(store.LONG_AGO, installation.c.due_at.type)
        connection.execute(sa.update(installation).values(throttled_until=None, due_at=past))
    other = rig.another("two", clock=lambda: 5_000.0)
    await rig.settle_all(other)
    other.close()
    assert len(rig.requests) == 1


async def test_what_is_due_is_looked_for_above_what_was_done_seconds_ago(
    rig: Rig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each look steps over all that was due since the database last cleaned up."""
    floors: list[datetime] = []
    look = store.look

    def noting(database: Database, floor: int, due_floor: datetime) -> store.Work:
        floors.append(due_floor)
        return look(database, floor, due_floor)

    monkeypatch.setattr(store, "look", noting)
    for number, rig.now in enumerate((0.0, 2.5, 3.0)):
        rig.commit("db_1", installation_id=f"icfg_{number}")
        store.collect(rig.database, 9)
        await worker.tick()
    await rig.until(lambda: worker.idle, worker)
    assert floors[0] == store.LONG_AGO < floors[2]
    assert len(rig.requests) == 3


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        (Settings(vercel_token=SecretStr("t0ken"), concurrency=2, poll_interval=0.02), leases.PULL_SECONDS),
        (Settings(vercel_token=SecretStr("t0ken"), concurrency=2, poll_interval=5.0), 5.0),
    ],
)
async def test_beside_a_slow_request_what_another_worker_collected_is_looked_for_now_and_then(
    rig: Rig, worker: Worker, read: list[int], seconds: float
) -> None:
    rig.now = 100.0
    held = Held(rig)
    rig.commit("db_1")
    await worker.tick()
    await arrived(rig, 1)
    rig.commit("db_2")
    store.collect(rig.database, 9)
    for rig.now in (100.0, 99.9 + seconds):
        await worker.tick()
    assert read == [1]
    rig.now = 100.0 + seconds
    await worker.tick()
    await arrived(rig, 2)
    held.release(2)
    await rig.until(lambda: worker.idle, worker)
    assert (read, rig.bodies()) == ([1, 2], ["db_1", "db_2"])


async def test_while_others_wait_a_lease_is_given_back_when_what_it_read_has_been_sent(
    rig: Rig, worker: Worker, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(rig.database.dialect), "max_claimed", 1)
    monkeypatch.setattr(store, "fair_share", lambda *_: 1)  # so more may be due
    held = Held(rig)
    rig.commit("db_1", installation_id="icfg_1")
    rig.commit("db_1", installation_id="icfg_2")
    await worker.tick()
    await arrived(rig, 1)
    held.release(2)
    await answered(rig, 1)
    await rig.until(lambda: worker.idle, worker)
    assert read == [1, 1]


async def test_answers_are_settled_when_enough_are_together_although_every_sender_has_more_to_do(
    rig: Rig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "MAX_ACCUMULATED_ANSWERS", 3)
    held = Held(rig)
    rig.commit(*(f"db_{number}" for number in range(6)))
    await worker.tick()
    for answers, left in ((1, 6), (2, 6), (3, 3)):
        held.release()
        await arrived(rig, answers + 1)
        await worker.tick()
        assert len(rig.rows(delivery)) == left
    held.release(9)
    await rig.until(lambda: worker.idle, worker)


async def test_nor_does_an_answer_wait_for_others_for_long(rig: Rig, worker: Worker) -> None:
    rig.now = 100.0
    held = Held(rig)
    rig.commit(*(f"db_{number}" for number in range(3)))
    await worker.tick()
    held.release()
    await arrived(rig, 2)
    for rig.now, left in ((100.0, 3), (100.2, 3), (100.0 + settlement.MAX_WAIT_SECONDS, 2)):
        await worker.tick()
        assert len(rig.rows(delivery)) == left
    held.release(9)
    await rig.until(lambda: worker.idle, worker)


async def test_the_log_says_when_an_answer_came_however_long_it_was_before_it_could_be_written(
    rig: Rig, worker: Worker
) -> None:
    rig.now = 30.0
    held = Held(rig)
    rig.commit("db_1")
    await worker.tick()
    held.release()
    await answered(rig, 1)
    rig.now += 20.0
    before = rig.database.now()
    await rig.until(lambda: worker.idle, worker)
    (row,) = rig.rows(attempt)
    passed = timedelta(seconds=20)
    assert before - passed <= row.at <= rig.database.now() - passed


async def test_while_the_host_is_out_no_lease_is_held_under_which_nothing_is_in_flight(
    rig: Rig, worker: Worker
) -> None:
    held = Held(rig, 503)
    for number in range(FAULTS_TO_OPEN + 2):
        rig.commit("db_1", "db_2", installation_id=f"icfg_{number}")
    held.release(FAULTS_TO_OPEN)
    await rig.until(lambda: worker.outage, worker)
    await rig.until(lambda: not leased(rig), worker)
    assert len(rig.requests) == FAULTS_TO_OPEN
    assert len(rig.rows(delivery)) == 2 * (FAULTS_TO_OPEN + 2)


async def test_while_plenty_is_queued_what_others_may_claim_keeps_no_tick_short(rig: Rig, worker: Worker) -> None:
    Held(rig)
    rig.commit(*(f"db_{number}" for number in range(200)))
    await worker.tick()
    await arrived(rig, 1)
    rig.commit("db_0", installation_id="icfg_2")
    await worker.tick()
    rig.now += 10
    assert await worker.tick() > BUSY_PAUSE_SECONDS


@pytest.mark.parametrize("settings", [TWO.model_copy(update={"poll_interval": 1.0})])
async def test_for_an_installation_that_has_been_told_to_wait_nothing_more_is_read(
    rig: Rig, worker: Worker, read: list[int]
) -> None:
    held = Held(rig)
    slow = rig.answer
    throttled = httpx.Response(429, headers={"retry-after": "30"})
    rig.answer = lambda request: slow(request) if b"db_slow" in request.content else throttled
    rig.commit("db_slow", "db_1")
    await worker.tick()
    await arrived(rig, 2)
    await answered(rig, 1)
    rig.commit("db_2")
    for _ in range(4):
        rig.now += 1.0
        await worker.tick()
    assert read == [2]
    assert len(rig.requests) == 2
    held.release()
    await rig.until(lambda: worker.idle, worker)


@pytest.mark.parametrize("settings", [TWO.model_copy(update={"poll_interval": 1.0})])
async def test_beside_a_probe_nothing_more_is_read(rig: Rig, worker: Worker, read: list[int]) -> None:
    fail(rig, BREAKER_FAULTS)
    held = Held(rig)
    rig.commit("db_1")
    await worker.tick()
    await arrived(rig, 1)
    rig.commit("db_2")
    for _ in range(4):
        rig.now += 1.0
        await worker.tick()
    assert read == [1]
    held.release(2)
    await rig.until(lambda: worker.idle and not rig.rows(delivery), worker)


@pytest.mark.parametrize(("changes", "reads"), [(2, [2, 3]), (3, [3])])
async def test_more_is_read_once_no_more_is_queued_than_may_be_in_flight(
    rig: Rig, worker: Worker, read: list[int], changes: int, reads: list[int]
) -> None:
    held = Held(rig)
    rig.commit(*(f"db_{number}" for number in range(changes)))
    await worker.tick()
    await arrived(rig, 1)
    rig.commit("db_new")
    await worker.tick()
    assert read == reads
    held.release(9)
    await rig.until(lambda: worker.idle, worker)
