"""APScheduler as the clock: it says when; the work is the worker's, and goes on when a clock is stopped."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from dispatcher.database import explain, summarize
from dispatcher.telemetry import Listener, StepFailed

AFTER_FAILURE = 1.0
WATCH_EVERY = 1.0

Step = Callable[[], Awaitable[object]]


class Scheduler:
    """Steps at their times, each at most once at a time; one that fails is reported and comes again. Times in seconds."""

    def __init__(self, report: Listener) -> None:
        self._report = report
        self._longest: dict[str, float] = {}
        # A step is scheduled again by its own run, which APScheduler may still count as running when the time has come: with
        # one instance the step would be skipped then, and never come again.
        self._scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "max_instances": 2, "misfire_grace_time": None}
        )

    def start(self) -> None:
        """From now on the steps run."""
        self._scheduler.start()
        self._watch = asyncio.create_task(self._undo_jumps())

    def stop(self) -> None:
        """No step begins any more."""
        self._watch.cancel()
        self._scheduler.shutdown(wait=False)

    def repeat(self, name: str, step: Callable[[], Awaitable[float]]) -> None:
        """Runs the step at once and then again after as many seconds as it returns."""
        self._schedule(name, step, 0.0)

    def every(self, name: str, seconds: float, step: Step) -> None:
        """Runs the step at once and then again, so many seconds after its end."""

        async def run() -> float:
            await step()
            return seconds

        self._schedule(name, run, 0.0)

    def _schedule(self, name: str, step: Callable[[], Awaitable[float]], pause: float) -> None:
        self._longest[name] = pause
        at = datetime.now(UTC) + timedelta(seconds=pause)
        self._scheduler.add_job(self._run, "date", run_date=at, args=(name, step), id=name, replace_existing=True)

    async def _run(self, name: str, step: Callable[[], Awaitable[float]]) -> None:
        try:
            pause = await step()
        except asyncio.CancelledError:
            if self._scheduler.running:
                raise
            return  # stopped in the middle of a step, which APScheduler would log as an error
        except Exception as error:  # noqa: BLE001 (whatever it is: a clock that stops loses nothing, but delivers nothing either)
            self._report(StepFailed(name, summarize(error), explain(error)))
            pause = AFTER_FAILURE
        if self._scheduler.running:
            self._schedule(name, step, pause)

    async def _undo_jumps(self) -> None:
        """APScheduler goes by the wall clock: should that be set back an hour, everything would wait for an hour."""
        while True:
            await asyncio.sleep(WATCH_EVERY)
            now = datetime.now(UTC)
            for waiting in self._scheduler.get_jobs():
                if waiting.next_run_time > now + timedelta(seconds=self._longest[waiting.id] + WATCH_EVERY):
                    waiting.modify(next_run_time=now)
