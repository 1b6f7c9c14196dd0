"""With a settle delay, the last request about a subject starts after the delay, even if the subject changes constantly."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from dispatcher.outbox.tables import delivery, outbox
from dispatcher.settings.settings import Settings
from dispatcher.store.collection import MAX_SETTLE_DELAYS
from tests.worker.conftest import Rig
from tests.worker.simulation import IDLE_STEP_SECONDS, SETTINGS, Simulation

DELAY_SECONDS = 12 * IDLE_STEP_SECONDS


@pytest.fixture
async def simulation(tmp_path: Path) -> AsyncIterator[Simulation]:
    settings = SETTINGS.model_copy(update={"settle_delay": DELAY_SECONDS})
    made = Simulation(tmp_path, lambda _now: httpx.Response(201), settings=settings)
    yield made
    await made.close()


async def test_a_request_at_the_cap_of_the_delay_is_followed_by_one_after_the_delay(simulation: Simulation) -> None:
    """The subject changes until the first request about it has begun."""

    def change() -> None:
        if not simulation.requests:
            simulation.change([1], 1)

    await simulation.run_until(2 * MAX_SETTLE_DELAYS * DELAY_SECONDS, change)
    (first, _), (last, _) = simulation.requests
    assert first < simulation.changed_at["db_1"] + DELAY_SECONDS <= last


@pytest.mark.parametrize(
    "settings", [Settings(vercel_token=SecretStr("t0ken"), settle_delay=0.1, rate_limit=None, poll_interval=0.005)]
)
async def test_a_subject_that_changes_during_each_request_is_sent_after_the_delay_too(rig: Rig) -> None:
    """It changes for longer than new events can postpone a delivery."""
    began: list[datetime] = []
    changed_at = rig.database.now()

    async def answer(_request: httpx.Request) -> httpx.Response:
        nonlocal changed_at
        began.append(rig.database.now())
        if len(began) <= MAX_SETTLE_DELAYS + 3:
            changed_at = rig.database.now()
            rig.commit("db_1")
            while rig.rows(outbox):
                await asyncio.sleep(0.001)
        return httpx.Response(201)

    rig.answer = answer
    rig.commit("db_1")
    await rig.until(lambda: bool(began) and rig.worker.idle and not rig.rows(delivery) and not rig.rows(outbox))
    assert len(began) == MAX_SETTLE_DELAYS + 4
    assert began[-1] >= changed_at + timedelta(seconds=rig.settings.settle_delay)
