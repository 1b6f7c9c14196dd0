"""Sleeping until a notification: `DISPATCHER_WAKEUP=notify`. Stands between the scheduler and the worker's tick."""

import time
from collections.abc import Awaitable, Callable

from dispatcher.database.notifier import ANSWER_SECONDS, Notifier, NotifierUnavailable
from dispatcher.database.transactions import Database
from dispatcher.worker.worker import BUSY_PAUSE_SECONDS

RECONNECT_SECONDS = 5.0
AWAKE_SECONDS = 1.0
"""How long to keep polling after a notification that led to work, so that under load commits need not notify a dispatcher that is about
to look anyway."""
COOLDOWN_SECONDS = 0.2
"""How long to ignore notifications after one that led to nothing: any role of the database can send one."""
UNARMED_PAUSE_SECONDS = 0.1
"""The longest pause while a partner's open transaction keeps us from arming the notifier: its commit will not notify us."""


class Sleeper:
    """Ticks, and then sleeps until a notification, at most for the pause that the tick returned.

    `sweep` makes the next tick look at the whole outbox: before a sleep and after a notification, since a commit notifies whatever
    its ids are. `warn` is called once with the reason why there is no notifier; then the pauses are those of polling, and every 5 s
    another connection is tried. `answer_seconds`: see `Notifier.connect`.
    """

    def __init__(
        self,
        database: Database,
        tick: Callable[[], Awaitable[float]],
        sweep: Callable[[], None],
        warn: Callable[[str], None],
        *,
        answer_seconds: float = ANSWER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._tick = tick
        self._sweep = sweep
        self._warn = warn
        self._answer_seconds = answer_seconds
        self._clock = clock
        self._notifier: Notifier | None = None
        self._connect_at = self._awake_until = self._cooldown_until = 0.0
        self._notified = self._warned = False

    async def tick(self) -> float:
        """One tick and perhaps a sleep; returns the seconds to wait before the next. Raises the tick's errors."""
        pause = await self._tick()
        if self._notified:
            self._judge_notification(found_work=pause <= BUSY_PAUSE_SECONDS)
        try:
            return await self._sleep(pause)
        except NotifierUnavailable as broken:
            await self.close()
            self._connect_at = self._clock() + RECONNECT_SECONDS
            if not self._warned:
                self._warn(str(broken))
            self._warned = True
            return pause

    def _judge_notification(self, *, found_work: bool) -> None:
        self._notified = False
        if found_work:
            self._awake_until = self._clock() + AWAKE_SECONDS
        else:
            self._cooldown_until = self._clock() + COOLDOWN_SECONDS

    async def _sleep(self, pause: float) -> float:
        if pause <= BUSY_PAUSE_SECONDS or self._clock() < self._awake_until:
            if self._notifier is not None:
                await self._notifier.disarm()
            return min(pause, BUSY_PAUSE_SECONDS)
        notifier = await self._connected()
        if notifier is None:
            return pause
        if not notifier.armed:
            if await notifier.arm():
                self._sweep()
                return 0.0  # look once more: commits up to now did not notify
            if not await notifier.is_armed_by_another():
                return min(pause, UNARMED_PAUSE_SECONDS)
        self._notified = await notifier.wait(pause)
        if not self._notified:
            return 0.0
        self._sweep()
        return max(0.0, self._cooldown_until - self._clock())

    async def _connected(self) -> Notifier | None:
        if self._notifier is None and self._clock() >= self._connect_at:
            self._notifier = await Notifier.connect(self._database, self._answer_seconds)
            self._warned = False
        return self._notifier

    async def close(self) -> None:
        """Closes the notifier's connection."""
        notifier, self._notifier = self._notifier, None
        if notifier is not None:
            await notifier.close()
