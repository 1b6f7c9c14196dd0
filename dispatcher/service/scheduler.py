"""APScheduler as the clock: it says when; the work is the worker's, and goes on when a clock is stopped."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from dispatcher.database.transactions import explain, summarize
from dispatcher.telemetry import Listener, StepFailed

RETRY_SECONDS = 1.0
WATCH_SECONDS = 1.0

Step = Callable[[], Awaitable[float | None]]
"""May say in how many seconds it is to come again."""


class Scheduler:
    """Steps at their times, each at most once at a time; one that fails is reported and comes again. Times in seconds."""

    def __init__(self, report: Listener, *, retry_seconds: float = RETRY_SECONDS) -> None:
        self._report = report
        self._retry_seconds = retry_seconds
        self._intervals: dict[str, float] = {}
        self._running: set[str] = set()
        # A step that goes on for longer than its interval is met by its own next run, which then has nothing to do.
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

    def every(self, name: str, seconds: float, step: Step) -> None:
        """Runs the step at once and then again and again: so many seconds later, or earlier if it returns fewer.

        For a step that wants to come again soon, APScheduler is not asked: that takes longer than many a step does.
        """
        self._intervals[name] = seconds
        interval = IntervalTrigger(seconds=seconds, timezone=UTC)
        self._scheduler.add_job(self._run, interval, args=(name, step), id=name, next_run_time=datetime.now(UTC))

    async def _run(self, name: str, step: Step) -> None:
        if name in self._running:
            return
        self._running.add(name)
        try:
            pause = await self._take(name, step)
            while pause < self._intervals[name] / 2:
                await asyncio.sleep(pause)
                pause = await self._take(name, step)
        except asyncio.CancelledError:
            if self._scheduler.running:
                raise
            # Stopped in the middle of a step, which APScheduler would log as an error.
        finally:
            self._running.discard(name)

    async def _take(self, name: str, step: Step) -> float:
        """The seconds after which it is to come again."""
        try:
            pause = await step()
        except Exception as error:  # noqa: BLE001 (whatever it is: a clock that stops loses nothing, but delivers nothing either)
            self._report(StepFailed(name, summarize(error), explain(error)))
            await asyncio.sleep(self._retry_seconds)
            return 0.0
        return self._intervals[name] if pause is None else pause

    async def _undo_jumps(self) -> None:
        """APScheduler goes by the wall clock: should that be set back an hour, everything would wait for an hour."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = datetime.now(UTC)
            for waiting in self._scheduler.get_jobs():
                if waiting.next_run_time > now + timedelta(seconds=self._intervals[waiting.id] + WATCH_SECONDS):
                    waiting.modify(next_run_time=now)
