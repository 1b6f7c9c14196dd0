"""Sleeping until the bell rings: `DISPATCHER_WAKEUP=notify`. A step between the clock and the worker's tick."""

import time
from collections.abc import Awaitable, Callable

from dispatcher.database.notifier import Notifier, NotifierUnavailable
from dispatcher.database.transactions import Database
from dispatcher.worker.worker import BUSY_PAUSE

RECONNECT_AFTER = 5.0
AWAKE_FOR = 1.0
"""Seconds of short ticks after a ring that was for something: under load, commits need not ring for a dispatcher that looks anyway."""
DEAF_FOR = 0.2
"""Seconds without an answer to a ring after a look that a ring was for and that found nothing: any role of the database can ring."""
UNARMED_PAUSE = 0.1
"""The longest pause, in seconds, while a partner's open transaction keeps us from arming the bell: its commit will not ring."""


class Sleeper:
    """Ticks, and then sleeps until the bell rings, at most for the pause that the tick asked for.

    `sweep` has the next tick look at the whole outbox: before a sleep and after a ring, since a commit rings whatever its ids are.
    `warn` is told once why there is no bell; then the pauses are those of polling, and every 5 s another bell is tried.
    """

    def __init__(
        self,
        database: Database,
        tick: Callable[[], Awaitable[float]],
        sweep: Callable[[], None],
        warn: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._tick = tick
        self._sweep = sweep
        self._warn = warn
        self._clock = clock
        self._bell: Notifier | None = None
        self._hang_at = self._awake_until = self._deaf_until = 0.0
        self._rung = self._warned = False

    async def tick(self) -> float:
        """One tick and perhaps a sleep; returns in how many seconds the next is wanted. Raises what the tick raises."""
        pause = await self._tick()
        if self._rung:
            self._judge_ring(found_work=pause <= BUSY_PAUSE)
        try:
            return await self._sleep(pause)
        except NotifierUnavailable as broken:
            await self.close()
            self._hang_at = self._clock() + RECONNECT_AFTER
            if not self._warned:
                self._warn(str(broken))
            self._warned = True
            return pause

    def _judge_ring(self, *, found_work: bool) -> None:
        self._rung = False
        if found_work:
            self._awake_until = self._clock() + AWAKE_FOR
        else:
            self._deaf_until = self._clock() + DEAF_FOR

    async def _sleep(self, pause: float) -> float:
        if pause <= BUSY_PAUSE or self._clock() < self._awake_until:
            if self._bell is not None:
                await self._bell.disarm()
            return min(pause, BUSY_PAUSE)
        bell = await self._hung()
        if bell is None:
            return pause
        if not bell.armed:
            if await bell.arm():
                self._sweep()
                return 0.0  # look once more: whoever committed until now did not ring
            if not await bell.is_armed_by_another():
                return min(pause, UNARMED_PAUSE)
        self._rung = await bell.wait(pause)
        if not self._rung:
            return 0.0
        self._sweep()
        return max(0.0, self._deaf_until - self._clock())

    async def _hung(self) -> Notifier | None:
        if self._bell is None and self._clock() >= self._hang_at:
            self._bell = await Notifier.connect(self._database)
            self._warned = False
        return self._bell

    async def close(self) -> None:
        """Takes the bell down."""
        bell, self._bell = self._bell, None
        if bell is not None:
            await bell.close()
