"""When steps run, also after a failure and after a jump of the wall clock."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from dispatcher.service.scheduler import Scheduler
from dispatcher.telemetry import Report, StepFailed, StepRecovered

WAIT_SECONDS = 60.0
"""How long a busy machine may take for something that an idle one does at once."""


@pytest.fixture
async def reports() -> list[Report]:
    return []


@pytest.fixture
async def scheduler(reports: list[Report]) -> AsyncIterator[Scheduler]:
    made = Scheduler(reports.append, retry_seconds=0.01)
    made.start()
    yield made
    made.stop()


@pytest.mark.parametrize(("every", "pause"), [(3_600, 0.1), (0.1, None), (0.1, 0.1), (0.1, 3_600)])
async def test_a_step_comes_again_after_its_interval_or_earlier_if_it_returns_less(
    scheduler: Scheduler, every: float, pause: float | None
) -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    done = asyncio.Event()

    async def step() -> float | None:
        times.append(loop.time())
        if len(times) == 4:
            done.set()
        return pause

    began = loop.time()
    scheduler.every("tick", every, step)
    async with asyncio.timeout(WAIT_SECONDS):
        await done.wait()
    assert times[-1] - began >= 0.27  # at least three pauses; the beginning of an interval is rounded


async def test_a_step_that_is_due_again_at_once_comes_again(scheduler: Scheduler) -> None:
    runs = itertools.count(1)
    done = asyncio.Event()

    async def step() -> float:
        if next(runs) == 10:
            done.set()
        return 0.0

    scheduler.every("tick", 60, step)
    async with asyncio.timeout(WAIT_SECONDS):
        await done.wait()
    assert next(runs) > 10


async def test_a_step_never_runs_twice_at_once(scheduler: Scheduler) -> None:
    running, max_running, runs = 0, 0, 0
    done = asyncio.Event()

    async def step() -> None:
        nonlocal running, max_running, runs
        running += 1
        max_running = max(max_running, running)
        await asyncio.sleep(0.03)
        running -= 1
        runs += 1
        if runs == 4:
            done.set()

    scheduler.every("gauges", 0.001, step)
    async with asyncio.timeout(WAIT_SECONDS):
        await done.wait()
    assert max_running == 1


async def test_a_step_that_fails_is_reported_and_so_is_its_recovery(
    scheduler: Scheduler, reports: list[Report]
) -> None:
    again = asyncio.Event()

    async def step() -> float:
        if len(reports) < 2:
            raise ValueError("failed")
        if len(reports) > 2:
            again.set()
            return 60.0
        return 0.0

    scheduler.every("tick", 60, step)
    async with asyncio.timeout(WAIT_SECONDS):
        await again.wait()
    *failed, recovered = reports
    assert failed == 2 * [StepFailed("tick", "ValueError", "ValueError: failed")]
    assert isinstance(recovered, StepRecovered)
    assert recovered.step == "tick"
    assert recovered.seconds > 0


async def test_a_wall_clock_that_is_set_back_stops_nothing(scheduler: Scheduler) -> None:
    runs = 0
    again = asyncio.Event()

    async def step() -> None:
        nonlocal runs
        runs += 1
        if runs == 2:
            again.set()

    scheduler.every("tick", 0.05, step)
    # A jump of the clock looks like this to the scheduler: a step that was due in a moment is due in an hour.
    scheduler._scheduler.get_job("tick").modify(next_run_time=datetime.now(UTC) + timedelta(hours=1))
    async with asyncio.timeout(WAIT_SECONDS):
        await again.wait()
    assert runs >= 2


async def test_stopping_in_the_middle_of_a_step_is_no_error(
    reports: list[Report], caplog: pytest.LogCaptureFixture
) -> None:
    scheduler, sleeping = Scheduler(reports.append), asyncio.Event()

    async def step() -> float:
        sleeping.set()
        await asyncio.Event().wait()
        raise AssertionError

    scheduler.every("tick", 60, step)
    scheduler.start()
    async with asyncio.timeout(WAIT_SECONDS):
        await sleeping.wait()
    scheduler.stop()
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert reports == []
