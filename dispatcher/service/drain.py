"""Delivers what is due, then ends."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from dispatcher.inspection.backlog import measure
from dispatcher.policy.decision import Action
from dispatcher.service.composition import Parts, composed
from dispatcher.service.database_wait import check_database
from dispatcher.service.signals import stop_on_signals
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import Answered, CrashBuried, EventsCollected, Log, Report, Ticked, listen

MAX_PAUSE_SECONDS = 0.02
"""The longest pause between two ticks."""


@dataclass(frozen=True, slots=True)
class Drained:
    """The result of a drain."""

    events: int
    requests: int
    delivered: int
    dead_lettered: int
    waiting: int
    """Events and deliveries that are left."""


class Tally:
    """A listener that counts what the worker has done so far."""

    def __init__(self) -> None:
        self.events = self.requests = self.delivered = self.dead_lettered = 0

    def __call__(self, report: Report) -> None:
        match report:
            case EventsCollected(events, malformed):
                self.events += events
                self.dead_lettered += malformed
            case Answered(answers):
                for answer in answers:
                    self.requests += answer.outcome.made_a_request
                    self.delivered += answer.decision.action is Action.DELIVERED
                    self.dead_lettered += answer.decision.action is Action.BURY
            case CrashBuried(deliveries):
                self.dead_lettered += deliveries
            case _:
                pass


async def drain(
    settings: Settings,
    *,
    max_seconds: float | None = None,
    max_events: int | None = None,
    progress: Callable[[Tally], None] = lambda _: None,
) -> Drained:
    """Delivers what is due, then ends; at the latest after `max_seconds`, or after about `max_events` deliveries and dead letters.

    `progress` is called with the tally after each tick. Raises the errors of `run`, and the database's.
    """
    stop, tally, log = asyncio.Event(), Tally(), Log(settings.console_url)
    stop_on_signals(stop, settings.shutdown_grace)
    deadline = None if max_seconds is None else time.monotonic() + max_seconds

    def enough() -> bool:
        done = tally.delivered + tally.dead_lettered
        return (
            stop.is_set()
            or (max_events is not None and done >= max_events)
            or (deadline is not None and time.monotonic() >= deadline)
        )

    def show_progress(report: Report) -> None:
        if isinstance(report, Ticked):
            progress(tally)

    async with composed(settings, listen(tally, log, show_progress)) as parts:
        await check_database(parts.thread)
        await deliver_what_is_due(parts, enough)
        await parts.worker.stop(settings.shutdown_grace)
        left = await parts.thread.run(measure)
    log.sum_up()
    return Drained(tally.events, tally.requests, tally.delivered, tally.dead_lettered, left.left)


async def deliver_what_is_due(parts: Parts, enough: Callable[[], bool]) -> None:
    """Returns once nothing is due any more, during an outage of Vercel, or if `enough()`. Raises the database's errors."""
    worker = parts.worker
    while not enough():
        pause = await worker.tick_until_answer()
        if worker.idle and (worker.outage or not await parts.anything_due()):
            return
        await asyncio.sleep(min(pause, MAX_PAUSE_SECONDS))
