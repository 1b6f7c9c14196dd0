"""Whether the service is live and ready: a listener that remembers the last tick."""

import time
from collections.abc import Callable

from dispatcher.telemetry import Report, StepFailed, Ticked, WritesAccepted

LIVE_SECONDS = 90.0
"""Live for this long after the last tick, successful or not. A statement that hangs is given up after 30 s."""
READY_SECONDS = 30.0
"""Ready for this long after the last successful tick."""


class Health:
    """`clock` returns monotonic seconds; ticks are at most `poll_interval` seconds apart. Queries neither the database nor Vercel."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        poll_interval: float = 0.0,
        live_seconds: float = LIVE_SECONDS,
    ) -> None:
        self._clock = clock
        self._live_seconds = live_seconds + poll_interval
        self._ready_seconds = READY_SECONDS + poll_interval
        self._ticked_at = clock()
        self._succeeded_at: float | None = None
        self._failure: str | None = None
        self._no_writes: str | None = None
        self.stopping = False

    def __call__(self, report: Report) -> None:
        """Notes each tick, and whether the database accepts writes, which an idle tick does not show."""
        match report:
            case Ticked():
                self._ticked_at = self._succeeded_at = self._clock()
                self._failure = None
            case StepFailed("tick" | "start" as step, summary):
                self._ticked_at = self._clock()
                self._failure = f"{step}: {summary}"
            case WritesAccepted():
                self._no_writes = None
            case StepFailed("heartbeat", summary):
                self._no_writes = f"heartbeat: {summary}"
            case _:
                pass

    @property
    def live(self) -> bool:
        """Whether ticks, or attempts to start, are still made, even if they fail: a restart would not repair the database."""
        return self._clock() - self._ticked_at < self._live_seconds

    @property
    def why_not_ready(self) -> str | None:
        """The reason why the service cannot deliver; None if it can."""
        if self.stopping:
            return "the service is stopping"
        if self._failure is not None or self._no_writes is not None:
            return self._failure or self._no_writes
        if self._succeeded_at is None:
            return "no tick has gone through yet"
        age = self._clock() - self._succeeded_at
        return f"the last tick succeeded {age:.0f} s ago" if age >= self._ready_seconds else None
