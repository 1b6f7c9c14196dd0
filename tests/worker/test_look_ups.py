"""Tokens that are not at hand are looked up concurrently with the requests in flight."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from dispatcher.credentials.bearer_token import CredentialsUnavailable, NoCredential
from dispatcher.outbox.tables import delivery, installation, outbox
from dispatcher.policy.rate_window import RateLimit
from dispatcher.settings.settings import Settings
from dispatcher.worker.worker import Worker
from tests.worker.conftest import Rig

TOKEN = SecretStr("t0ken")


class Slow:
    """Looks a token up when the test releases it, and keeps it."""

    def __init__(self) -> None:
        self.looked_up: list[str] = []
        self.found: dict[str, SecretStr] = {}
        self.failure: Exception | None = None
        self.keeps = True
        self.cancelled = 0
        self._turns = asyncio.Semaphore(0)

    def is_at_hand(self, installation_id: str) -> bool:
        return self.keeps and installation_id in self.found

    async def token(self, installation_id: str, *, refused: SecretStr | None = None) -> SecretStr:
        if not self.is_at_hand(installation_id) or refused is not None:
            self.looked_up.append(installation_id)
            await self._turn()
            if self.failure is not None:
                raise self.failure
            self.found[installation_id] = TOKEN
        return self.found[installation_id]

    async def _turn(self) -> None:
        try:
            await self._turns.acquire()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def release(self, look_ups: int = 1) -> None:
        """Lets this many look-ups end."""
        for _ in range(look_ups):
            self._turns.release()

    async def aclose(self) -> None:
        pass


@pytest.fixture
def settings() -> Settings:
    """Four requests at a time, and therefore two look-ups."""
    return Settings(vercel_token=TOKEN, concurrency=4, poll_interval=0.02, rate_limit=RateLimit(60, 60.0))


@pytest.fixture
def credentials() -> Slow:
    return Slow()


@pytest.fixture
async def worker(rig: Rig, credentials: Slow) -> AsyncIterator[Worker]:
    hired = rig.another(credentials=credentials)
    yield hired
    await hired.stop(0)
    hired.close()


async def test_a_token_is_looked_up_once_for_all_deliveries_that_wait_for_it(
    rig: Rig, worker: Worker, credentials: Slow
) -> None:
    rig.commit("db_1", "db_2")
    await rig.until(lambda: bool(credentials.looked_up), worker)
    rig.commit("db_3")  # it is read in addition to the others
    await rig.until(lambda: not rig.rows(outbox), worker)
    assert (credentials.looked_up, worker.in_flight, rig.requests) == (["icfg_1"], 0, [])
    credentials.release()
    await rig.until(lambda: worker.idle, worker)
    assert (credentials.looked_up, len(rig.requests)) == (["icfg_1"], 3)


async def test_many_look_ups_do_not_delay_installations_whose_token_is_at_hand(
    rig: Rig, worker: Worker, credentials: Slow
) -> None:
    credentials.found["icfg_quick"] = TOKEN
    for number in range(9):
        rig.commit("slow", installation_id=f"icfg_{number}")
    await rig.until(lambda: len(credentials.looked_up) == 2, worker)
    rig.commit("quick", installation_id="icfg_quick")
    await rig.until(lambda: rig.bodies() == ["quick"], worker)
    assert len(credentials.looked_up) == 2
    credentials.release()
    await rig.until(lambda: len(credentials.looked_up) == 3, worker)
    credentials.release(8)
    await rig.until(lambda: worker.idle, worker)
    assert (len(credentials.looked_up), len(rig.requests)) == (9, 10)


@pytest.mark.parametrize(
    ("failure", "reason"), [(NoCredential("none"), "no_credential"), (CredentialsUnavailable("later"), None)]
)
async def test_without_a_token_the_installation_waits_and_no_attempt_is_used_up(
    rig: Rig, worker: Worker, credentials: Slow, failure: Exception, reason: str | None
) -> None:
    credentials.failure = failure
    credentials.release()
    rig.commit("db_1", "db_2")
    await rig.until(lambda: worker.idle and not rig.rows(outbox), worker)
    (row,) = rig.rows(installation)
    assert (row.pause_reason, row.failures, row.lease_token) == (reason, 1, None)
    assert [(one.attempts, one.last_error) for one in rig.rows(delivery)].count((0, str(failure))) == 1
    assert (credentials.looked_up, rig.requests) == (["icfg_1"], [])


async def test_a_look_up_that_fails_after_the_installation_was_stopped_changes_nothing(
    rig: Rig, worker: Worker, credentials: Slow
) -> None:
    credentials.failure = NoCredential("none")
    rig.commit("db_1")
    await rig.until(lambda: bool(credentials.looked_up), worker)
    (lease,) = worker._leases.held.values()
    lease.stop(0.0)
    credentials.release()
    await rig.until(lambda: worker.idle, worker)
    assert [row.pause_reason for row in rig.rows(installation)] == [None]


async def test_a_worker_that_stops_does_not_wait_for_look_ups(rig: Rig, worker: Worker, credentials: Slow) -> None:
    for number in range(3):
        rig.commit("slow", installation_id=f"icfg_{number}")
    await rig.until(lambda: len(credentials.looked_up) == 2, worker)
    await worker.stop(0)
    await asyncio.sleep(0)  # the look-ups are cancelled
    assert credentials.cancelled == 2
    assert {row.lease_token for row in rig.rows(installation)} == {None}
    assert (len(credentials.looked_up), len(rig.rows(delivery))) == (2, 3)


async def test_a_token_that_may_not_be_kept_is_used_for_one_request(
    rig: Rig, worker: Worker, credentials: Slow
) -> None:
    credentials.keeps = False
    rig.commit("db_1", "db_2")
    credentials.release(8)
    await rig.until(lambda: worker.idle and not rig.rows(outbox), worker)
    assert sorted(rig.bodies()) == ["db_1", "db_2"]
