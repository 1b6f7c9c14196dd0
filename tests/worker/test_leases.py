"""Leases with requests in flight: renewed, lost, or with enough queued. One request at a time, unless a test sets more."""

import asyncio
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
from dispatcher.worker import leases
from dispatcher.worker.pace import Pace
from dispatcher.worker.worker import BUSY_PAUSE_SECONDS, Worker
from tests.worker.conftest import DEADLINE_SECONDS, Held, Rig, answered, arrived, leased

TWO = Settings(vercel_token=SecretStr("t0ken"), concurrency=2, rate_limit=None, poll_interval=60)
probed_too = pytest.mark.parametrize("faults", [0, BREAKER_FAULTS], ids=["healthy", "probed"])


@pytest.fixture
def settings() -> Settings:
    """One request at a time: the other deliveries are queued."""
    return Settings(vercel_token=SecretStr("t0ken"), concurrency=1, rate_limit=None)


def take_over(rig: Rig) -> None:
    """Gives every lease to another worker."""
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(lease_token="another"))


def fail(rig: Rig, faults: int) -> None:
    """Stores this many consecutive faults."""
    with rig.database.engine.begin() as connection:
        connection.execute(sa.insert(installation).values(installation_id="icfg_1", faults=faults))


@probed_too
async def test_a_lease_that_ends_soon_is_renewed_although_enough_is_queued(
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
async def test_when_a_lease_cannot_be_renewed_its_queue_is_dropped(rig: Rig, worker: Worker, faults: int) -> None:
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


@pytest.mark.parametrize("pace", [Pace(answer_wait_seconds=0)])
async def test_when_a_settlement_finds_the_lease_lost_its_queue_is_dropped(rig: Rig, worker: Worker) -> None:
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


@pytest.mark.parametrize("pace", [Pace(answer_wait_seconds=0)])
async def test_a_settlement_renews_a_lease_only_once_a_quarter_of_it_has_passed(rig: Rig, worker: Worker) -> None:
    held = Held(rig)
    rig.commit(*(f"db_{number}" for number in range(9)))
    await worker.tick()
    for passed, renewed in ((0.2, False), (0.4, True), (0.5, False)):
        (before,) = rig.rows(installation)
        held.release()
        await arrived(rig, len(rig.requests) + 1)
        rig.now = passed * rig.settings.lease
        await asyncio.sleep(0.01)  # the row's times are by the database's clock
        await worker.tick()
        assert [row.leased_until > before.leased_until for row in rig.rows(installation)] == [renewed]
    held.release(9)
    await rig.until(lambda: worker.idle, worker)
    assert len(rig.requests) == 9


@pytest.mark.parametrize("pace", [Pace(answer_wait_seconds=0)])
async def test_a_lease_that_is_hardly_longer_than_a_request_is_renewed_by_every_settlement(rig: Rig) -> None:
    rig.settings = rig.settings.model_copy(update={"lease": rig.settings.request_timeout + 3})
    worker, held = rig.another(clock=lambda: rig.now), Held(rig)
    rig.commit(*(f"db_{number}" for number in range(9)))
    await worker.tick()
    for _ in range(3):
        (before,) = rig.rows(installation)
        held.release()
        await arrived(rig, len(rig.requests) + 1)
        rig.now += 0.5
        await asyncio.sleep(0.01)  # the row's times are by the database's clock
        await worker.tick()
        assert [row.leased_until > before.leased_until for row in rig.rows(installation)] == [True]
    held.release(9)
    await rig.until(lambda: worker.idle, worker)
    worker.close()


async def test_after_the_database_was_unreachable_answers_are_settled_before_their_leases_are_claimed_again(
    rig: Rig, worker: Worker
) -> None:
    """Otherwise this worker itself would claim them, drop the answers, send again, and count an attempt for each."""
    rig.commit("db_1", "db_2", "db_3")
    await worker.tick()
    await arrived(rig, 3)
    await asyncio.sleep(0)  # the last answer is recorded
    rig.now += 2 * rig.settings.lease
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(leased_until=store.LONG_AGO))
    await rig.until(lambda: worker.idle, worker)
    assert len(rig.requests) == 3
    assert rig.rows(delivery) == []
    assert [report for report in rig.reports if isinstance(report, LeaseLost)] == []


async def test_an_endless_burst_is_interrupted_before_the_held_leases_end(
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


async def test_no_installation_is_passed_over_when_more_are_due_than_one_claim_takes(
    rig: Rig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(rig.database.dialect), "max_claimed", 1)
    for number in range(4):
        rig.commit("db_1", installation_id=f"icfg_{number}")
    for rig.now in (0.0, 2.1, 2.2, 2.3):
        await worker.tick()
    await rig.until(lambda: worker.idle, worker)
    assert len(rig.requests) == 4


async def test_a_paused_lease_continues_after_it_had_to_be_renewed(rig: Rig, worker: Worker) -> None:
    """A rejection does not end the pause, so the next request is a probe too, for which the lease is now too short."""
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
    async with asyncio.timeout(DEADLINE_SECONDS):
        while worker.in_flight:
            await asyncio.sleep(0.001)
    (before,) = rig.rows(installation)
    await worker.tick()
    await arrived(rig, 2)
    (renewed,) = rig.rows(installation)
    assert renewed.leased_until > before.leased_until
    await rig.until(lambda: worker.idle, worker)


async def test_a_pull_reads_beyond_the_deliveries_that_are_queued(rig: Rig, worker: Worker, read: list[int]) -> None:
    """The queued deliveries have been due longest, so they are read again too."""
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
async def test_with_enough_queued_other_installations_are_left_to_other_workers(
    rig: Rig, worker: Worker, changes: int, claimed: bool
) -> None:
    held = Held(rig)
    rig.commit(*(f"db_{number}" for number in range(changes)))
    await worker.tick()
    await arrived(rig, 1)
    rig.commit("db_0", installation_id="icfg_2")
    await worker.tick()
    assert ("icfg_2" in leased(rig)) == claimed
    held.release(changes + 1)
    await rig.until(lambda: len(rig.requests) == changes + 1 and worker.idle, worker)


async def test_a_stopping_worker_immediately_gives_back_leases_without_requests_in_flight(
    rig: Rig, worker: Worker
) -> None:
    held = Held(rig)
    rig.commit("db_1", installation_id="icfg_1")
    await worker.tick()
    await arrived(rig, 1)
    rig.commit("db_2", "db_3", installation_id="icfg_2")
    await worker.tick()
    assert leased(rig) == ["icfg_1", "icfg_2"]
    stopping = asyncio.create_task(worker.stop(DEADLINE_SECONDS))
    await rig.until(lambda: leased(rig) == ["icfg_1"], worker)
    held.release(3)
    await stopping
    assert (len(rig.requests), leased(rig)) == (1, [])


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), concurrency=20, rate_limit=None)])
async def test_the_more_requests_may_be_in_flight_the_more_deliveries_are_read(
    rig: Rig, worker: Worker, read: list[int]
) -> None:
    Held(rig)
    rig.commit(*(f"db_{number}" for number in range(600)))
    store.collect(rig.database, 1_000)
    await worker.tick()
    assert read == [600]  # 512 for up to 16


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), rate_limit=RateLimit(1, 60.0))])
async def test_a_full_window_is_stored_in_the_databases_time_although_the_workers_clock_differs(
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


async def test_a_look_for_due_installations_begins_at_the_low_water_mark(
    rig: Rig, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each look steps over all rows that were due since the last vacuum."""
    marks: list[datetime] = []
    look = store.look

    def noting(database: Database, low_water: int, due_low_water: datetime) -> store.Work:
        marks.append(due_low_water)
        return look(database, low_water, due_low_water)

    monkeypatch.setattr(store, "look", noting)
    for number, rig.now in enumerate((0.0, 2.5, 3.0)):
        rig.commit("db_1", installation_id=f"icfg_{number}")
        store.collect(rig.database, 9)
        await worker.tick()
    await rig.until(lambda: worker.idle, worker)
    assert marks[0] == store.LONG_AGO < marks[2]
    assert len(rig.requests) == 3


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        (Settings(vercel_token=SecretStr("t0ken"), concurrency=2, poll_interval=0.02), leases.PULL_SECONDS),
        (Settings(vercel_token=SecretStr("t0ken"), concurrency=2, poll_interval=5.0), 5.0),
    ],
)
async def test_during_a_slow_request_deliveries_that_another_worker_collected_are_read_from_time_to_time(
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


async def test_while_others_wait_a_lease_is_given_back_when_its_deliveries_have_been_sent(
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


@pytest.mark.parametrize("pace", [Pace(max_waiting_answers=3)])
async def test_enough_answers_are_settled_although_the_sender_is_saturated(rig: Rig, worker: Worker) -> None:
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


async def test_an_answer_does_not_wait_long_for_others(rig: Rig, worker: Worker) -> None:
    wait = rig.pace.answer_wait_seconds
    rig.now = 100.0
    held = Held(rig)
    rig.commit(*(f"db_{number}" for number in range(3)))
    await worker.tick()
    held.release()
    await arrived(rig, 2)
    for rig.now, left in ((100.0, 3), (100.2, 3), (100.0 + wait, 2)):
        await worker.tick()
        assert len(rig.rows(delivery)) == left
    held.release(9)
    await rig.until(lambda: worker.idle, worker)


async def test_the_log_has_the_time_of_an_answer_even_if_it_is_written_much_later(rig: Rig, worker: Worker) -> None:
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


async def test_during_an_outage_no_lease_is_held_without_a_request_in_flight(rig: Rig, worker: Worker) -> None:
    held = Held(rig, 503)
    for number in range(FAULTS_TO_OPEN + 2):
        rig.commit("db_1", "db_2", installation_id=f"icfg_{number}")
    held.release(FAULTS_TO_OPEN)
    await rig.until(lambda: worker.outage, worker)
    await rig.until(lambda: not leased(rig), worker)
    assert len(rig.requests) == FAULTS_TO_OPEN
    assert len(rig.rows(delivery)) == 2 * (FAULTS_TO_OPEN + 2)


async def test_with_enough_queued_other_due_installations_do_not_shorten_the_pause(rig: Rig, worker: Worker) -> None:
    Held(rig)
    rig.commit(*(f"db_{number}" for number in range(200)))
    await worker.tick()
    await arrived(rig, 1)
    rig.commit("db_0", installation_id="icfg_2")
    await worker.tick()
    rig.now += 10
    assert await worker.tick() > BUSY_PAUSE_SECONDS


@pytest.mark.parametrize("settings", [TWO.model_copy(update={"poll_interval": 1.0})])
async def test_nothing_more_is_read_for_a_throttled_installation(rig: Rig, worker: Worker, read: list[int]) -> None:
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
async def test_nothing_more_is_read_during_a_probe(rig: Rig, worker: Worker, read: list[int]) -> None:
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
async def test_more_is_read_once_the_queue_is_no_longer_than_the_concurrency(
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
