"""Runs steps at intervals. APScheduler decides when; the work belongs to the worker and outlives a stopped scheduler."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from dispatcher.database.errors import describe_error, summarize
from dispatcher.telemetry import Listener, StepFailed, StepRecovered

RETRY_SECONDS = 1.0
"""After a failure."""
WATCH_SECONDS = 1.0
"""Between two looks at the wall clock."""

Step = Callable[[], Awaitable[float | None]]
"""May return the seconds after which it wants to run again."""


class Scheduler:
    """Runs each step at its interval, never twice at once. One that fails is reported and tried again, and its recovery is reported too."""

    def __init__(self, report: Listener, *, retry_seconds: float = RETRY_SECONDS) -> None:
        self._report = report
        self._retry_seconds = retry_seconds
        self._intervals: dict[str, float] = {}
        self._running: set[str] = set()
        self._failed_at: dict[str, float] = {}
        # Two instances: while a step runs for longer than its interval, APScheduler starts its next run, which returns at once.
        self._scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "max_instances": 2, "misfire_grace_time": None}
        )

    def start(self) -> None:
        self._scheduler.start()
        self._watch = asyncio.create_task(self._undo_jumps())

    def stop(self) -> None:
        """Starts no more steps."""
        self._watch.cancel()
        self._scheduler.shutdown(wait=False)

    def every(self, name: str, seconds: float, step: Step) -> None:
        """Runs the step at once, and then every `seconds`, or earlier if it returns fewer.

        A step that is to run again earlier does not go through APScheduler, which would take longer than many a step.
        """
        self._intervals[name] = seconds
        interval = IntervalTrigger(seconds=seconds, timezone=UTC)
        self._scheduler.add_job(self._run, interval, args=(name, step), id=name, next_run_time=datetime.now(UTC))

    async def _run(self, name: str, step: Step) -> None:
        if name in self._running:
            return
        self._running.add(name)
        try:
            pause = await self._run_once(name, step)
            while pause < self._intervals[name]:
                await asyncio.sleep(pause)
                pause = await self._run_once(name, step)
        except asyncio.CancelledError:
            if self._scheduler.running:
                raise
            # Stopped in the middle of a step: APScheduler would log it as an error.
        finally:
            self._running.discard(name)

    async def _run_once(self, name: str, step: Step) -> float:
        """Returns the seconds after which the step is to run again."""
        try:
            pause = await step()
        except Exception as error:  # noqa: BLE001 (any error: a scheduler that stops loses nothing, but delivers nothing either)
            self._failed_at.setdefault(name, time.monotonic())
            self._report(StepFailed(name, summarize(error), describe_error(error)))
            await asyncio.sleep(self._retry_seconds)
            return 0.0
        if (failed_at := self._failed_at.pop(name, None)) is not None:
            self._report(StepRecovered(name, time.monotonic() - failed_at))
        return self._intervals[name] if pause is None else pause

    async def _undo_jumps(self) -> None:
        """APScheduler uses the wall clock: if that were set back by an hour, every step would wait for an hour."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = datetime.now(UTC)
            for job in self._scheduler.get_jobs():
                if job.next_run_time > now + timedelta(seconds=self._intervals[job.id] + WATCH_SECONDS):
                    job.modify(next_run_time=now)
