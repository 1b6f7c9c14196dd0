"""Wrong clocks: the database's clock is set an hour back or forward, and a worker's own clock is a day off."""

import ast
import asyncio
import json
import time
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import Engine

import dispatcher
from dispatcher import store
from dispatcher.credentials.sources import StaticCredentials
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import delivery, installation, outbox
from dispatcher.policy.decision import Action, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.policy.rate_window import RateWindow
from dispatcher.settings.settings import Settings
from dispatcher.transport import Transport
from dispatcher.transport.portable import HttpxTransport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.worker import Worker
from tests.contract.steps import DEADLINE_SECONDS, DELIVERED, ID, LEASE, claim, collect, count, deliver, settle, write

CLOCK = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now', '{:+d} hours')",
    "postgresql": "(statement_timestamp() + interval '{} hours')",
    "mysql": "(utc_timestamp(6) + interval {} hour)",
}
either_way = pytest.mark.parametrize("hours", [-1, 1], ids=["back", "forward"])


def moved(database: Database, hours: int) -> Database:
    """Returns the same database after its clock was moved by `hours`."""
    dialect = type(database.dialect)()
    dialect.now = CLOCK[dialect.name].format(hours)
    return Database(database.engine, dialect, database.schema)


def resources(leased: tuple[store.Leased, ...]) -> list[str]:
    return sorted(str(one.subject.resource_id) for lease in leased for one in lease.deliveries)


@pytest.mark.varies
@either_way
def test_the_clock_moves_between_claim_and_settle(database: Database, partner: Engine, hours: int) -> None:
    collect(database, partner, "db_1")
    leased = claim(database)
    with partner.begin() as connection:
        write(connection, "db_1", "db_2")
    after = moved(database, hours)
    assert settle(after, *leased).lost == frozenset()
    assert sorted(map(str, deliver(after))) == ["db_1", "db_2"]
    assert store.repair(after) == 0
    assert [count(database, table) for table in (outbox, delivery)] == [0, 0]


@either_way
def test_a_lease_taken_before_the_move_is_kept_or_taken_over_with_at_worst_a_duplicate(
    database: Database, partner: Engine, hours: int
) -> None:
    collect(database, partner, "db_1")
    leased = claim(database)
    after = moved(database, hours)
    taken_over = claim(after)
    assert resources(taken_over) == (["db_1"] if hours > 0 else [])
    assert settle(after, *leased).lost == ({ID} if taken_over else frozenset())
    settle(after, *taken_over)
    assert count(database, delivery) == 0


def test_deliveries_due_before_the_clock_was_set_back_wait_until_it_has_caught_up_or_a_new_event_comes(
    database: Database, partner: Engine
) -> None:
    """Nothing is stranded: the installation is due at the same time as its deliveries."""
    collect(database, partner, "db_1")
    leased = claim(database)
    collect(database, partner, "db_2")
    after = moved(database, -1)
    settle(after, *leased)
    assert claim(after) == ()
    assert store.repair(after) == 0
    collect(after, partner, "db_3")
    again = claim(after)
    assert resources(again) == ["db_3"]
    settle(after, *again)
    collect(after, partner, "db_2")  # an event of the subject itself
    again = claim(after)
    assert resources(again) == ["db_2"]
    settle(after, *again, decision=Decision(Action.RETRY, delay=0))
    assert resources(claim(database)) == ["db_2"]


def test_a_full_rate_window_does_not_delay_new_events_until_the_clock_has_caught_up(
    database: Database, partner: Engine
) -> None:
    collect(database, partner, "db_1", "db_2")
    (leased,) = claim(database)
    answer = store.Answer(leased.deliveries[0], leased.token, Outcome(OutcomeKind.DELIVERED), DELIVERED)
    used_up = f"[{database.now().timestamp()}]"
    state = store.InstallationState(ID, leased.token, rate_window=used_up, throttled_for=60, release=True)
    store.settle(database, [answer], [state], LEASE)
    collect(database, partner, "db_3")
    assert claim(database) == ()  # the next slot is in the future
    after = moved(database, -1)
    collect(after, partner, "db_4")
    ((rate_window, deliveries),) = [(lease.rate_window, lease.deliveries) for lease in claim(after)]
    assert [one.subject.resource_id for one in deliveries] == ["db_4"]
    assert RateWindow(1, 60.0, rate_window).wait(after.now().timestamp()) == pytest.approx(60.0, abs=0.001)


@either_way
async def test_a_running_worker_delivers_events_committed_after_the_clock_moved(
    database: Database, partner: Engine, hours: int
) -> None:
    """Its low-water marks, which follow the database's clock, do not hide events for long. Leased deliveries may be sent twice."""
    received: set[str] = set()

    async def receive(request: httpx.Request) -> httpx.Response:
        received.add(json.loads(request.content)["event"]["resourceId"])
        return httpx.Response(201)

    worker = hire(database, HttpxTransport(httpx.MockTransport(receive)))
    for number in range(3):
        with partner.begin() as connection:
            write(connection, f"db_{number}")
        async with asyncio.timeout(DEADLINE_SECONDS):
            while f"db_{number}" not in received:
                await asyncio.sleep(min(await worker.tick(), 0.02))
        worker._thread.database = worker._collector.database = moved(database, hours)
    await worker.stop(DEADLINE_SECONDS)
    worker.close()
    assert count(database, delivery) == 0


def hire(database: Database, transport: Transport, skew: float = 0.0) -> Worker:
    """Returns a worker whose own clock is `skew` seconds off."""
    settings = Settings(vercel_token=SecretStr("t0ken"), poll_interval=0.02)
    vercel = Vercel("https://vercel.test", transport, settings.request_timeout)
    token = StaticCredentials(SecretStr("t0ken"))
    return Worker(
        database,
        vercel,
        token,
        settings,
        lambda _report: None,
        name="one",
        clock=lambda: time.monotonic() + skew,
    )


@pytest.mark.parametrize("skew", [-86_400.0, 86_400.0])
async def test_a_worker_whose_own_clock_is_a_day_off_leases_by_the_databases_clock(
    database: Database, partner: Engine, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    real_time = time.time
    monkeypatch.setattr(time, "time", lambda: real_time() + skew)
    leases: list[object] = []

    async def receive(_request: httpx.Request) -> httpx.Response:
        with database.read() as connection:
            now = connection.execute(sa.select(database.dialect.clock())).scalar_one()
            leases.append(connection.execute(sa.select(installation.c.leased_until)).scalar_one() - now)
        return httpx.Response(201)

    worker = hire(database, HttpxTransport(httpx.MockTransport(receive)), skew)
    with partner.begin() as connection:
        write(connection, "db_1")
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not leases or not worker.idle:
            await asyncio.sleep(min(await worker.tick(), 0.02))
    worker.close()
    assert [0 < lease.total_seconds() <= 60 for lease in leases] == [True]  # type: ignore[attr-defined]
    assert count(database, delivery) == 0


WALL_CLOCK = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
MAY_READ_IT = (
    "cli",
    "console",  # for the end of its sessions and plans
    "inspection/system.py",  # compares it with the database's
    "sandbox",
    "service/scheduler.py",  # its library uses the wall clock; the module corrects jumps
    "telemetry",
    "vercel/client.py",  # for a Retry-After date in an answer without a Date header
)


def test_no_decision_reads_the_wall_clock_of_this_machine() -> None:
    package = Path(str(dispatcher.__file__)).parent
    uses = {
        f"{path.relative_to(package)}:{node.lineno}"
        for path in package.rglob("*.py")
        if not any(path.relative_to(package).is_relative_to(allowed) for allowed in MAY_READ_IT)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in WALL_CLOCK
    }
    assert uses == set()
