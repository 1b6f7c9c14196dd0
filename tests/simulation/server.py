"""The database server: when each step ends, and how much it has to do."""

import heapq
from collections import Counter

from tests.simulation.clock import Clock
from tests.simulation.costs import DATABASE_CORES, ROUND_TRIP_SECONDS, WORKER_STEP_SECONDS, Cost


class Server:
    """Serves the steps of all dispatchers in their order of arrival. A step occupies one core for its processor time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._free_at = [0.0] * DATABASE_CORES
        self.steps: Counter[str] = Counter()
        self.round_trips: Counter[int] = Counter()
        """By the second in which the step began."""
        self.busy: Counter[int] = Counter()
        """Microseconds of processor time, likewise."""

    def run(self, step: str, cost: Cost) -> float:
        """Begins a step and returns the time at which it ends for the dispatcher."""
        now = self._clock.now
        second = int(now)
        self.steps[step] += 1
        self.round_trips[second] += cost.round_trips
        self.busy[second] += round(cost.processor * 1_000_000)
        done = max(now, self._free_at[0]) + cost.processor
        heapq.heapreplace(self._free_at, done)
        return done + cost.round_trips * ROUND_TRIP_SECONDS + WORKER_STEP_SECONDS
