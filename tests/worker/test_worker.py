"""The pipeline, tick by tick, on a real database."""

import asyncio
import contextlib
import json
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dispatcher import ResourceUpdated, publish, store
from dispatcher.credentials.sources import StaticCredentials
from dispatcher.database.sqlite import Sqlite
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import attempt, dead_letter, delivery, installation, outbox
from dispatcher.policy.breaker import FAULTS_TO_OPEN
from dispatcher.policy.decision import Action
from dispatcher.policy.outcome import OutcomeKind
from dispatcher.policy.rate_window import RateLimit
from dispatcher.settings.settings import AttemptLog, Settings
from dispatcher.store import installations
from dispatcher.telemetry import Answered, CrashBuried, EventsCollected, LeaseLost, MalformedBuried, Ticked
from dispatcher.worker.collection import MAX_WAITING_ANSWERS
from dispatcher.worker.low_water import LAG_SECONDS
from dispatcher.worker.pace import Pace
from tests.worker.conftest import DEADLINE_SECONDS, Held, Rig


async def test_committed_changes_are_delivered_once_per_subject(rig: Rig) -> None:
    rig.commit("db_1", "db_1", "db_2")
    await rig.settle_all()
    assert sorted(rig.bodies()) == ["db_1", "db_2"]
    assert [rig.rows(table) for table in (outbox, delivery, dead_letter)] == [[], [], []]
    assert [row.due_at for row in rig.rows(installation)] == [None]
    assert {row.outcome for row in rig.rows(attempt)} == {"delivered"}


async def test_the_single_request_of_a_resource_has_its_newest_product(rig: Rig) -> None:
    with rig.database.engine.begin() as connection:
        for product in ("pg", "mysql", None):
            event = ResourceUpdated(installation_id="icfg_1", resource_id="db_1", product_id=product)
            publish(connection, event)
    await rig.settle_all()
    announced = {"type": "resource.updated", "resourceId": "db_1", "productId": "mysql"}
    assert [json.loads(request.content) for request in rig.requests] == [{"event": announced}]


async def test_after_a_transient_failure_the_delivery_is_sent_again(rig: Rig) -> None:
    answers = iter([503, 500, 201])
    rig.answer = lambda _request: httpx.Response(next(answers))
    rig.commit("db_1")
    await rig.until(lambda: len(rig.requests) == 3 and rig.worker.idle)
    assert [(row.attempt, row.status, row.decision) for row in rig.rows(attempt)] == [
        (1, 503, "retry"),
        (2, 500, "retry"),  # nothing else shows that Vercel works: this attempt is spared
        (2, 201, "delivered"),
    ]
    assert rig.rows(delivery) == []


async def test_a_rejected_event_is_a_dead_letter_with_its_reason(rig: Rig) -> None:
    rig.answer = lambda _request: httpx.Response(400, json={"error": {"code": "bad_request", "message": "no"}})
    rig.commit("db_1")
    await rig.settle_all()
    ((reason, status, error),) = [(row.reason, row.last_status, row.last_error) for row in rig.rows(dead_letter)]
    assert (reason, status, error) == ("rejected", 400, "no")
    assert rig.rows(delivery) == []


async def test_a_change_during_a_request_is_sent_in_another(rig: Rig) -> None:
    arrived, answered = asyncio.Event(), asyncio.Event()

    async def answer(_request: httpx.Request) -> httpx.Response:
        arrived.set()
        await answered.wait()
        return httpx.Response(201)

    rig.answer = answer
    rig.commit("db_1")
    await rig.until(arrived.is_set)
    rig.commit("db_1")
    await rig.until(lambda: not rig.rows(outbox))
    assert len(rig.requests) == 1  # one at a time per subject
    answered.set()
    await rig.until(lambda: len(rig.requests) == 2 and rig.worker.idle)
    assert rig.rows(delivery) == []


async def test_a_refused_token_is_read_again_once_and_then_the_installation_is_paused(rig: Rig) -> None:
    rig.answer = lambda _request: httpx.Response(401)
    rig.commit("db_1")
    await rig.settle_all()
    rig.commit("db_2")
    await rig.settle_all()
    assert len(rig.requests) == 2
    (row,) = rig.rows(installation)
    assert row.pause_reason == "unauthorized"
    assert row.due_at == row.paused_until
    assert [one.attempts for one in rig.rows(delivery)] == [0, 0]
    assert rig.rows(dead_letter) == []


async def test_a_new_token_is_used_immediately_and_nothing_is_paused(rig: Rig) -> None:
    answers = iter([401, 201])
    rig.answer = lambda _request: httpx.Response(next(answers))
    rig.commit("db_1")
    await rig.settle_all()
    assert [row.decision for row in rig.rows(attempt)] == ["refresh", "delivered"]
    assert [row.pause_reason for row in rig.rows(installation)] == [None]
    assert rig.rows(delivery) == []


@pytest.mark.parametrize(
    "settings",
    [
        Settings(vercel_token=SecretStr("t0ken"), rate_limit=RateLimit(1, 600.0)),
        Settings(vercel_token=SecretStr("t0ken"), global_rate_limit=RateLimit(1, 600.0)),
    ],
    ids=["of the installation", "global"],
)
async def test_a_refusal_at_the_rate_limit_pauses_the_installation_too(rig: Rig) -> None:
    """The limit does not allow a second request with the token read again."""
    rig.answer = lambda _request: httpx.Response(401)
    rig.commit(*(f"db_{number}" for number in range(10)))
    await rig.settle_all()
    assert len(rig.requests) == 1
    assert [row.pause_reason for row in rig.rows(installation)] == ["unauthorized"]
    assert {row.decision for row in rig.rows(attempt)} == {"pause"}


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), rate_limit=RateLimit(1, 600.0))])
async def test_at_the_rate_limit_too_a_changed_token_is_found(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("new")
    worker = rig.another(credentials=StaticCredentials(SecretStr("old"), path))
    rig.answer = lambda request: httpx.Response(201 if request.headers["authorization"] == "Bearer new" else 401)
    rig.commit(*(f"db_{number}" for number in range(10)))
    await rig.settle_all(worker)
    assert {row.decision for row in rig.rows(attempt)} == {"refresh"}
    with rig.database.engine.begin() as connection:  # as if the window had passed
        past = sa.literal(store.LONG_AGO, installation.c.due_at.type)
        connection.execute(sa.update(installation).values(rate_window=None, throttled_until=None, due_at=past))
    await rig.settle_all(worker)
    assert [row.pause_reason for row in rig.rows(installation)] == [None]
    assert [row.decision for row in rig.rows(attempt)].count("delivered") == 1
    worker.close()


async def test_a_probe_that_succeeds_resumes_the_installation(rig: Rig) -> None:
    rig.answer = lambda _request: httpx.Response(401)
    rig.commit("db_1", "db_2", "db_3")
    await rig.settle_all()
    past = sa.literal(store.LONG_AGO, installation.c.due_at.type)
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(paused_until=past, due_at=past))
    rig.requests.clear()
    rig.answer = lambda _request: httpx.Response(201)
    await rig.settle_all()
    assert sorted(rig.bodies()) == ["db_1", "db_2", "db_3"]
    assert [row.pause_reason for row in rig.rows(installation)] == [None]


async def test_a_probing_lease_with_an_empty_queue_is_given_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rejection neither ends the pause nor stops the lease, and during a pause nothing more is read."""
    monkeypatch.setattr(store, "fair_share", lambda *_: 1)  # so more may be due
    rig.answer = lambda _request: httpx.Response(401)
    rig.commit("db_1")
    await rig.settle_all()
    past = sa.literal(store.LONG_AGO, installation.c.due_at.type)
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(paused_until=past, due_at=past))
    rig.answer = lambda _request: httpx.Response(400)
    await rig.settle_all()
    assert [row.reason for row in rig.rows(dead_letter)] == ["rejected"]
    assert [row.lease_token for row in rig.rows(installation)] == [None]


async def test_a_429_uses_up_no_attempt_and_makes_the_installation_wait(rig: Rig) -> None:
    rig.answer = lambda _request: httpx.Response(429, headers={"retry-after": "30"})
    rig.commit("db_1")
    await rig.settle_all()
    (row,) = rig.rows(installation)
    assert row.throttled_until == row.due_at
    assert [one.attempts for one in rig.rows(delivery)] == [0]
    await rig.worker.tick()
    assert len(rig.requests) == 1


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), rate_limit=RateLimit(3, 60.0))])
async def test_the_rate_window_holds_across_workers(rig: Rig) -> None:
    rig.commit(*(f"db_{number}" for number in range(10)))
    await rig.settle_all()
    other = rig.another("two")
    with rig.database.engine.begin() as connection:  # as if the wait were over: the window itself must refuse
        past = sa.literal(store.LONG_AGO, installation.c.due_at.type)
        connection.execute(sa.update(installation).values(throttled_until=None, due_at=past))
    await rig.settle_all(other)
    assert len(rig.requests) == 3
    other.close()


async def test_a_stored_rate_window_that_cannot_be_parsed_is_replaced(rig: Rig) -> None:
    rig.commit("db_1")
    await rig.settle_all()
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(rate_window="[1764451234.1,17644"))
    rig.commit("db_2")
    rig.commit("db_3", installation_id="icfg_2")
    await rig.settle_all()
    assert sorted(rig.bodies()) == ["db_1", "db_2", "db_3"]
    assert {row.lease_token for row in rig.rows(installation)} == {None}


async def test_installations_take_turns(rig: Rig) -> None:
    rig.commit(*(f"a_{number}" for number in range(200)), installation_id="icfg_a")
    rig.commit("b_1", installation_id="icfg_b")
    await rig.settle_all()
    assert rig.bodies().index("b_1") < 5


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), rate_limit=None)])
@pytest.mark.parametrize(("subjects", "left"), [(250, 0), (1_000, 500)])
@pytest.mark.parametrize("pace", [Pace(burst_sample_events=Sqlite.max_collected + 1)])
async def test_a_burst_is_collected_before_any_of_it_is_sent_if_that_saves_requests(
    rig: Rig, subjects: int, left: int
) -> None:
    rig.commit(*(f"db_{number % subjects}" for number in range(1_000)))
    await rig.worker.tick()
    assert len(rig.rows(outbox)) == left
    assert [bool(row.lease_token) for row in rig.rows(installation)] == [True]
    await rig.until(lambda: rig.worker.idle and not rig.rows(outbox))
    assert len(rig.requests) == len(set(rig.bodies())) == subjects


@pytest.mark.parametrize(("events", "looks"), [(1_000, 1), (1_001, 0)])  # whether or not its last collection is full
@pytest.mark.parametrize("pace", [Pace(burst_sample_events=Sqlite.max_collected + 1)])
async def test_each_burst_is_judged_by_its_own_events(rig: Rig, events: int, looks: int) -> None:
    rig.commit(*(f"db_{number}" for number in range(events)))
    while rig.rows(outbox):
        await rig.worker.tick()
    for _ in range(looks):
        await rig.worker.tick()
    rig.commit(*["db_1"] * 1_000)
    await rig.worker.tick()
    assert rig.rows(outbox) == []


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), concurrency=16, rate_limit=None)])
async def test_nothing_more_is_read_while_enough_is_queued(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read would return the queued deliveries again."""
    turns, pulled = asyncio.Semaphore(0), 0
    pull = store.pull

    async def answer(_request: httpx.Request) -> httpx.Response:
        await turns.acquire()
        return httpx.Response(201)

    def counting(*arguments: Any) -> store.Pulled:
        nonlocal pulled
        pulled += 1
        return pull(*arguments)

    monkeypatch.setattr(store, "pull", counting)
    rig.answer = answer
    for one in range(64):  # a claim reads 8 deliveries of each
        rig.commit(*(f"db_{number}" for number in range(10)), installation_id=f"icfg_{one}")
    await rig.until(lambda: rig.worker.in_flight == 16)
    for _ in range(3):
        await rig.worker.tick()
    assert pulled == 0
    for _ in range(64 * 10):
        turns.release()
    await rig.until(lambda: len(rig.requests) == 64 * 10)
    assert pulled > 0


async def test_a_worker_that_stops_waits_for_its_requests_and_gives_its_leases_back(rig: Rig) -> None:
    arrived, answered = asyncio.Event(), asyncio.Event()

    async def answer(_request: httpx.Request) -> httpx.Response:
        arrived.set()
        await answered.wait()
        return httpx.Response(201)

    rig.answer = answer
    rig.commit("db_1")
    await rig.until(arrived.is_set)
    stopping = asyncio.create_task(rig.worker.stop(DEADLINE_SECONDS))
    await asyncio.sleep(0)  # it begins
    rig.commit("db_2")
    await rig.worker.tick()
    answered.set()
    await stopping
    assert [row.resource_id for row in rig.rows(outbox)] == ["db_2"]
    assert rig.rows(delivery) == []
    assert [row.lease_token for row in rig.rows(installation)] == [None]


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), rate_limit=None, concurrency=8)])
async def test_after_a_pause_by_an_operator_the_next_settlement_drops_the_queue(rig: Rig) -> None:
    turns = asyncio.Semaphore(0)

    async def answer(_request: httpx.Request) -> httpx.Response:
        await turns.acquire()
        return httpx.Response(201)

    rig.answer = answer
    in_flight, waiting = rig.settings.concurrency, 90
    rig.commit(*(f"db_{number}" for number in range(in_flight + waiting)), installation_id="icfg_1")
    await rig.until(lambda: len(rig.requests) == in_flight)
    installations.pause(rig.database, "icfg_1")
    turns.release()
    await rig.until(lambda: len(rig.rows(delivery)) == in_flight + waiting - 1)
    begun = len(rig.requests)
    for _ in range(in_flight + waiting):
        turns.release()
    await rig.until(lambda: rig.worker.idle)
    assert len(rig.requests) == begun == in_flight + 1
    assert len(rig.rows(delivery)) == waiting - 1
    assert [(row.pause_reason, row.lease_token) for row in rig.rows(installation)] == [("operator", None)]


async def test_a_request_that_is_cancelled_after_the_grace_is_sent_again_by_the_next_worker(rig: Rig) -> None:
    arrived = asyncio.Event()

    async def answer(_request: httpx.Request) -> httpx.Response:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    rig.answer = answer
    rig.commit("db_1")
    await rig.until(arrived.is_set)
    await rig.worker.stop(0.05)
    rig.answer = lambda _request: httpx.Response(201)
    other = rig.another("two")
    await rig.settle_all(other)
    assert rig.bodies() == ["db_1", "db_1"]
    assert rig.rows(delivery) == []
    other.close()


async def test_an_answer_under_a_lost_lease_changes_nothing_and_is_reported(rig: Rig) -> None:
    arrived, answered = asyncio.Event(), asyncio.Event()

    async def answer(_request: httpx.Request) -> httpx.Response:
        arrived.set()
        await answered.wait()
        return httpx.Response(400)

    rig.answer = answer
    rig.commit("db_1")
    await rig.until(arrived.is_set)
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(lease_token="another"))
    answered.set()
    await rig.until(lambda: rig.worker.idle)
    assert LeaseLost(1) in rig.reports
    assert rig.rows(dead_letter) == []
    assert len(rig.rows(delivery)) == 1


async def test_no_request_starts_under_a_lease_that_ends_before_the_requests_deadline(rig: Rig) -> None:
    rig.commit("db_1")
    store.collect(rig.database, 10)
    worker = rig.another(clock=lambda: rig.now)
    await worker.tick()  # claimed; the sender has not run yet
    rig.now = rig.settings.lease - rig.settings.request_timeout - 0.5
    await asyncio.sleep(0.01)
    assert rig.requests == []
    await worker.stop(0)
    worker.close()


async def test_a_delivery_that_repeatedly_killed_its_worker_becomes_a_dead_letter(rig: Rig) -> None:
    rig.commit("db_1")
    store.collect(rig.database, 10)
    past = sa.literal(store.LONG_AGO, installation.c.leased_until.type)
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(lease_token="dead", leased_until=past))
        connection.execute(sa.update(delivery).values(attempts=rig.settings.max_attempts))
    await rig.settle_all()
    assert rig.requests == []
    assert CrashBuried(1) in rig.reports
    assert [row.reason for row in rig.rows(dead_letter)] == ["exhausted"]


async def test_a_report_has_the_outcome_the_decision_and_the_lag(rig: Rig) -> None:
    rig.commit("db_1")
    with rig.database.engine.begin() as connection:
        connection.execute(sa.update(outbox).values(created_at=rig.database.now() - timedelta(days=1)))
    await rig.settle_all()
    (answered,) = [report for report in rig.reports if isinstance(report, Answered)]
    (answer,) = answered.answers
    assert answer.outcome.kind is OutcomeKind.DELIVERED
    assert answer.decision.action is Action.DELIVERED
    assert 86_400 <= answer.lag < 90_000


async def test_an_answer_that_arrives_while_the_worker_stops_is_reported_and_settled(rig: Rig) -> None:
    held = Held(rig)
    rig.commit("db_1")
    await rig.until(lambda: len(rig.requests) == 1)
    stopping = asyncio.create_task(rig.worker.stop(DEADLINE_SECONDS))
    await asyncio.sleep(0)  # it begins
    held.release()
    await stopping
    (answered,) = [report for report in rig.reports if isinstance(report, Answered)]
    assert [answer.decision.action for answer in answered.answers] == [Action.DELIVERED]
    assert rig.rows(delivery) == []


async def test_answers_are_settled_even_if_nothing_can_be_collected_or_claimed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_arguments: object) -> store.Work:
        raise OSError("another session keeps the outbox locked")

    answered = asyncio.Event()

    async def answer() -> httpx.Response:
        await answered.wait()
        return httpx.Response(201)

    rig.answer = lambda _request: answer()
    rig.commit("db_1")
    await rig.until(lambda: bool(rig.requests))
    monkeypatch.setattr(store, "look", locked)
    answered.set()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while rig.rows(delivery):
            with pytest.raises(OSError, match="locked"):
                await rig.worker.tick()
            await asyncio.sleep(0.001)
    assert len(rig.requests) == 1
    monkeypatch.undo()


REFUSAL = httpx.Response(400, json={"error": {"code": "bad_request", "message": "no"}})


async def test_an_answer_keeps_its_text_while_the_database_is_unreachable(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, failures = store.settle, 3

    def fail_at_first(*arguments: Any, **options: Any) -> store.Settled:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise sa.exc.OperationalError("UPDATE", {}, Exception("gone away"), connection_invalidated=True)
        return settle(*arguments, **options)

    monkeypatch.setattr(store, "settle", fail_at_first)
    rig.answer = lambda _request: REFUSAL
    rig.commit("db_1")
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not rig.rows(attempt):
            with contextlib.suppress(sa.exc.OperationalError):
                await rig.worker.tick()
            await asyncio.sleep(0.001)
    assert [row.error for row in rig.rows(attempt)] == ["no"]
    assert failures < 0


@pytest.mark.parametrize("pace", [Pace(max_batch_characters=3)])
async def test_long_texts_are_settled_in_several_statements(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    settle, settled = store.settle, []

    def note(database: Any, answers: Any, *arguments: Any, **options: Any) -> store.Settled:
        settled.append(len(answers))
        return settle(database, answers, *arguments, **options)

    monkeypatch.setattr(store, "settle", note)
    rig.answer = lambda _request: REFUSAL
    rig.commit("db_1", "db_2", "db_3")
    await rig.settle_all()
    assert max(settled) == 1
    assert [row.error for row in rig.rows(attempt)] == ["no"] * 3


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), global_rate_limit=RateLimit(3, 6.0))])
async def test_an_installation_due_below_the_low_water_mark_is_claimed_as_soon_as_a_claim_is_possible(rig: Rig) -> None:
    """The sweep that saw it came while the global rate limit prevented every claim."""
    worker = rig.another(clock=lambda: rig.now)
    for now in (0.0, LAG_SECONDS, 2 * LAG_SECONDS):  # the mark follows
        rig.now = now
        rig.commit(f"db_{now}")
        await rig.settle_all(worker)
    make_due_long_ago(rig, "icfg_old")
    await worker.tick()
    assert not is_leased(rig, "icfg_old")  # the mark is indeed above it
    rig.now = rig.pace.sweep_seconds
    await worker.tick()
    assert not is_leased(rig, "icfg_old")
    rig.now = 6.1  # the slot of the first request is free again
    await worker.tick()
    assert is_leased(rig, "icfg_old")
    await rig.settle_all(worker)
    assert rig.bodies()[-1] == "old"
    worker.close()


def make_due_long_ago(rig: Rig, installation_id: str) -> None:
    """Adds a delivery, and marks its installation as due since long before the first look."""
    rig.commit("old", installation_id=installation_id)
    store.collect(rig.database, 10)
    past = sa.literal(store.LONG_AGO, installation.c.due_at.type)
    with rig.database.engine.begin() as connection:
        due = sa.update(installation).values(due_at=past)
        connection.execute(due.where(installation.c.installation_id == installation_id))


def is_leased(rig: Rig, installation_id: str) -> bool:
    return any(row.lease_token for row in rig.rows(installation) if row.installation_id == installation_id)


async def test_a_requested_sweep_finds_a_late_commit_in_the_next_tick(rig: Rig) -> None:
    worker = rig.another(clock=lambda: rig.now)
    for now in (0.0, LAG_SECONDS / 2, LAG_SECONDS):  # the mark follows
        rig.now = now
        rig.commit(f"db_{now}")
        await rig.settle_all(worker)
    rig.commit("late")
    with rig.database.engine.begin() as connection:  # as if its transaction had begun first
        connection.execute(sa.update(outbox).values(id=-1))
    await worker.tick()
    assert len(rig.rows(outbox)) == 1  # the mark is indeed above it
    worker.sweep()
    await rig.settle_all(worker)
    assert rig.bodies()[-1] == "late"
    worker.close()


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), rate_limit=None)])
async def test_answers_that_arrive_while_a_burst_is_collected_are_settled_meanwhile(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, loop, collect = asyncio.Event(), asyncio.get_running_loop(), store.collect
    settled: list[int] = []

    async def answer(_request: httpx.Request) -> httpx.Response:
        await gate.wait()
        return httpx.Response(201)

    def wait_for_answers(*arguments: Any) -> store.Collected:
        settled.append(len(rig.rows(attempt)))
        loop.call_soon_threadsafe(gate.set)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while rig.answered < MAX_WAITING_ANSWERS and time.monotonic() < deadline:
            time.sleep(0.001)
        return collect(*arguments)

    rig.answer = answer
    rig.commit(*(f"db_{number}" for number in range(MAX_WAITING_ANSWERS)))
    await rig.until(lambda: len(rig.requests) == MAX_WAITING_ANSWERS)
    monkeypatch.setattr(store, "collect", wait_for_answers)
    rig.commit(*["another"] * (rig.database.dialect.max_collected + 1))
    await rig.worker.tick()
    assert settled == [0, MAX_WAITING_ANSWERS]
    monkeypatch.undo()
    await rig.settle_all()


async def test_an_idle_worker_only_occasionally_looks_from_the_bottom(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a long transaction holds back vacuum, each look from the bottom steps over all rows that are long done."""
    worker, look = rig.another(clock=lambda: rig.now), store.look
    at_bottom: list[tuple[bool, bool]] = []

    def note(database: Database, low_water: int, due_low_water: datetime) -> store.Work:
        at_bottom.append((low_water == store.LOWEST_ID, due_low_water == store.LONG_AGO))
        return look(database, low_water, due_low_water)

    for now in (0.0, LAG_SECONDS, 2 * LAG_SECONDS):  # the marks follow
        rig.now = now
        rig.commit(f"db_{now}")
        await rig.settle_all(worker)
    monkeypatch.setattr(store, "look", note)
    for intervals in (0.5, 0.5, 0.0, 0.9, 0.1, 0.0):
        rig.now += intervals * rig.pace.sweep_seconds
        await worker.tick()
    sweep, above = (True, True), (False, False)
    assert at_bottom == [sweep, above, above, sweep, above, above]
    worker.close()


async def test_it_reports_the_collected_events_and_each_tick_with_the_requests_in_flight(rig: Rig) -> None:
    held = Held(rig)
    rig.commit("db_1", "db_1", "db_2")
    await rig.until(lambda: len(rig.requests) == 2)
    await rig.worker.tick()
    assert [one for one in rig.reports if isinstance(one, EventsCollected)] == [EventsCollected(3, 0)]
    assert rig.reports[-1] == Ticked(2)
    held.release(2)
    await rig.settle_all()
    assert rig.reports[-1] == Ticked(0)


async def test_it_reports_which_row_is_malformed(rig: Rig) -> None:
    insert = "INSERT INTO vercel_outbox (installation_id, type, resource_id) VALUES ('icfg_1', 'resource.updated', ?)"
    with rig.database.engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = 1")
        connection.exec_driver_sql(insert, ("a\x07b",))
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = 0")
    await rig.worker.tick()
    assert [one for one in rig.reports if isinstance(one, EventsCollected)] == [EventsCollected(1, 1)]
    (malformed,) = [one for one in rig.reports if isinstance(one, MalformedBuried)]
    assert (malformed.event_id, malformed.installation_id, malformed.resource_id) == (1, "icfg_1", "a\\x07b")
    assert malformed.why.startswith("resource_id: must not contain control characters")


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), concurrency=1)])
async def test_a_stopping_worker_immediately_gives_back_leases_that_it_will_not_use(rig: Rig) -> None:
    held = Held(rig)
    rig.commit("db_1", installation_id="icfg_1")
    await rig.until(lambda: len(rig.requests) == 1)
    rig.commit("db_2", installation_id="icfg_2")
    await rig.until(lambda: is_leased(rig, "icfg_2"))
    stopping = asyncio.create_task(rig.worker.stop(DEADLINE_SECONDS))
    await asyncio.sleep(0)  # it begins
    await rig.worker.tick()
    assert (is_leased(rig, "icfg_1"), is_leased(rig, "icfg_2")) == (True, False)
    held.release()
    await stopping
    assert rig.bodies() == ["db_1"]
    assert not is_leased(rig, "icfg_1")


@pytest.mark.parametrize("settings", [Settings(vercel_token=SecretStr("t0ken"), concurrency=FAULTS_TO_OPEN + 1)])
async def test_during_an_outage_no_lease_is_held_without_a_request(rig: Rig) -> None:
    """Another dispatcher may be able to reach the host."""
    held, worker = Held(rig, status=503), rig.another(clock=lambda: rig.now)
    for number in range(3 * FAULTS_TO_OPEN):
        rig.commit("db_1", installation_id=f"icfg_{number}")
    await rig.until(lambda: len(rig.requests) == FAULTS_TO_OPEN + 1, worker)
    assert all(is_leased(rig, f"icfg_{number}") for number in range(3 * FAULTS_TO_OPEN))
    held.release(FAULTS_TO_OPEN)
    await rig.until(lambda: worker.outage, worker)
    await worker.tick()
    in_flight = len(rig.requests) - FAULTS_TO_OPEN
    assert 0 < in_flight < 2 * FAULTS_TO_OPEN
    assert len([row for row in rig.rows(installation) if row.lease_token]) == in_flight
    held.release(in_flight)
    await rig.until(lambda: not any(row.lease_token for row in rig.rows(installation)), worker)
    assert len(rig.rows(delivery)) == 3 * FAULTS_TO_OPEN
    worker.close()


async def test_a_closed_worker_does_nothing_more(rig: Rig) -> None:
    worker = rig.another()
    await worker.tick()
    worker.close()
    rig.commit("db_1")
    with pytest.raises(RuntimeError, match="shutdown"):
        await worker.tick()
    assert len(rig.rows(outbox)) == 1


@pytest.mark.parametrize(
    ("settings", "logged"),
    [
        (Settings(vercel_token=SecretStr("t0ken")), ["db_1", "db_2"]),
        (Settings(vercel_token=SecretStr("t0ken"), attempt_log=AttemptLog.FAILURES), ["db_2"]),
        (Settings(vercel_token=SecretStr("t0ken"), attempt_retention=0.0), ["db_2"]),
    ],
    ids=["all", "failures", "no retention"],
)
async def test_the_log_of_attempts_has_the_requests_that_the_settings_name(rig: Rig, logged: list[str]) -> None:
    rig.answer = lambda request: REFUSAL if b"db_2" in request.content else httpx.Response(201)
    rig.commit("db_1", "db_2")
    await rig.settle_all()
    assert sorted(row.resource_id for row in rig.rows(attempt)) == logged
