"""A crash uses up attempts of the deliveries about to be sent, not of all leased ones. Only the deadly delivery is buried."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.credentials.sources import StaticCredentials
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import dead_letter, delivery
from dispatcher.policy.decision import Action, Decision, ThrottleReason
from dispatcher.settings.settings import Settings
from dispatcher.transport.portable import HttpxTransport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.worker import Worker
from tests.contract.databases import on_durable
from tests.contract.steps import (
    DEADLINE_SECONDS,
    ID,
    LEASE,
    claim,
    collect,
    commits,
    count,
    expire_leases,
    pull_suspects,
    settle,
    write,
)

POISON = "db_poison"
MAX_ATTEMPTS = 5


def take_over(database: Database) -> store.Leased:
    """Takes over the only lease, as after the death of its holder."""
    expire_leases(database)
    (leased,) = claim(database, suspects=2)
    return leased


def attempts(database: Database) -> list[int]:
    with database.read() as connection:
        return sorted(connection.execute(sa.select(delivery.c.attempts)).scalars())


@pytest.mark.varies
def test_a_suspect_uses_up_an_attempt_before_it_is_sent_and_its_answer_corrects_that(
    database: Database, partner: Engine
) -> None:
    collect(database, partner, "db_1", "db_2")
    claim(database)
    leased = take_over(database)
    assert (leased.deliveries, leased.suspects, attempts(database)) == ((), 2, [0, 0])
    pulled = pull_suspects(database, leased)
    assert (pulled.ours, pulled.due, pulled.buried) == (frozenset({ID}), frozenset({ID}), 0)
    assert [one.attempts for one in pulled.deliveries] == [0]
    assert attempts(database) == [0, 1]
    settle(
        database,
        replace(leased, deliveries=pulled.deliveries),
        decision=Decision(Action.THROTTLE, ThrottleReason.RATE_LIMITED),
    )
    assert attempts(database) == [0, 0]


def test_a_lease_that_is_given_back_leaves_the_suspects_to_the_next_holder(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_2")
    claim(database)
    for left in (1, 0):
        leased = take_over(database) if left else claim(database)[0]
        state = store.InstallationState(ID, leased.token, suspects=left, release=True)
        store.settle(database, [], [state], LEASE)
    (leased,) = claim(database)
    assert (leased.suspects, len(leased.deliveries)) == (0, 2)


def test_under_a_lost_lease_nothing_is_read_or_counted(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    claim(database)
    dead = take_over(database)
    take_over(database)
    assert pull_suspects(database, dead) == store.Suspects()
    assert attempts(database) == [0]


def test_a_delivery_that_has_used_up_all_attempts_becomes_a_dead_letter_and_nothing_is_due(
    database: Database, partner: Engine
) -> None:
    collect(database, partner, "db_1")
    claim(database)
    leased = take_over(database)
    for _ in range(2):
        assert pull_suspects(database, leased, max_attempts=2).buried == 0
    assert pull_suspects(database, leased, max_attempts=2).buried == 1
    assert pull_suspects(database, leased, max_attempts=2) == store.Suspects(frozenset({ID}))
    with database.read() as connection:
        (letter,) = connection.execute(sa.select(dead_letter)).all()
    assert (letter.reason, letter.attempts, letter.last_status) == ("exhausted", 2, None)


@pytest.mark.varies
@on_durable
def test_reading_suspects_need_not_wait_for_the_disk(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    claim(database)
    leased = take_over(database)
    with commits(database) as waits:
        pull_suspects(database, leased)
    assert waits == [False]


class Lives:
    """Runs one dispatcher after another. A request about the poison kills the dispatcher, whatever else it has in flight."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._buried_alive = asyncio.Event()
        self._dead = False
        self._workers: list[Worker] = []
        self.deaths = 0
        self.delivered: list[str] = []

    async def _receive(self, request: httpx.Request) -> httpx.Response:
        resource = str(json.loads(request.content)["event"]["resourceId"])
        if resource == POISON or self._dead:
            self._dead = True
            await self._buried_alive.wait()
        self.delivered.append(resource)
        return httpx.Response(201)

    def _hire(self) -> Worker:
        vercel = Vercel("https://vercel.test", HttpxTransport(httpx.MockTransport(self._receive)), 10.0)
        token = StaticCredentials(SecretStr("t0ken"))
        worker = Worker(self._database, vercel, token, self._settings, lambda _report: None, name="mortal")
        self._workers.append(worker)
        return worker

    async def run(self) -> None:
        """Runs dispatchers until everything is delivered or buried."""
        async with asyncio.timeout(2 * DEADLINE_SECONDS):
            while count(self._database, delivery):
                self._dead, worker = False, self._hire()
                while not self._dead and not (worker.idle and not count(self._database, delivery)):
                    await worker.tick()
                    await asyncio.sleep(0.001)
                self.deaths += self._dead
                expire_leases(self._database)
        announced = list(self.delivered)
        self._buried_alive.set()
        for worker in self._workers:
            while worker.in_flight:
                await asyncio.sleep(0.001)
            worker.close()
        self.delivered = announced


def in_order(database: Database, *resources: str) -> None:
    """Makes the resources due in this order, the first one longest ago."""
    now = database.now()
    with database.engine.begin() as connection:
        for number, resource in enumerate(resources):
            due_at = now - timedelta(seconds=len(resources) - number)
            connection.execute(sa.update(delivery).where(delivery.c.resource_id == resource).values(due_at=due_at))


def buried(database: Database) -> list[tuple[str, str, int]]:
    with database.read() as connection:
        columns = (dead_letter.c.reason, dead_letter.c.resource_id, dead_letter.c.attempts)
        return [tuple(row) for row in connection.execute(sa.select(*columns))]


SETTINGS = Settings(vercel_token=SecretStr("t0ken"), rate_limit=None, max_attempts=MAX_ATTEMPTS, poll_interval=0.01)


async def test_twenty_deaths_right_after_a_claim_bury_nothing(database: Database, partner: Engine) -> None:
    resources = [f"db_{number}" for number in range(500)]
    collect(database, partner, *resources)
    for _ in range(20):
        claim(database, suspects=64)
        expire_leases(database)
    lives = Lives(database, SETTINGS)
    await lives.run()
    assert (lives.deaths, buried(database)) == (0, [])
    assert sorted(lives.delivered) == sorted(resources)


@pytest.mark.parametrize("place", [0, 29])
async def test_a_delivery_that_kills_its_worker_each_time_is_the_only_one_buried(
    database: Database, partner: Engine, place: int
) -> None:
    resources = [f"db_{number}" for number in range(100)]
    resources[place] = POISON
    collect(database, partner, *resources)
    in_order(database, *resources)
    lives = Lives(database, SETTINGS)
    await lives.run()
    assert buried(database) == [("exhausted", POISON, MAX_ATTEMPTS)]
    assert set(lives.delivered) == set(resources) - {POISON}
    assert lives.deaths == MAX_ATTEMPTS + 1  # at the first death it was one of many in flight


async def test_a_deadly_delivery_does_not_affect_other_installations(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, POISON)
        for number in range(8):
            write(connection, f"db_{number}", installation_id=f"icfg_other_{number}")
    store.collect(database, 500)
    lives = Lives(database, SETTINGS.model_copy(update={"concurrency": 4}))
    await lives.run()
    assert buried(database) == [("exhausted", POISON, MAX_ATTEMPTS)]
    assert set(lives.delivered) == {f"db_{number}" for number in range(8)}
