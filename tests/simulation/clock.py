"""The simulated clock: a queue of calls, each with its time. Nothing happens between two of them."""

import heapq
from collections.abc import Callable, Generator
from typing import Any

Process = Generator[float, None, None]
"""Yields the time at which it goes on."""


class Clock:
    """Times are seconds since the beginning. Calls of the same time happen in the order in which they were added."""

    def __init__(self) -> None:
        self.now = 0.0
        self._calls: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._added = 0

    def call(self, at: float, function: Callable[..., object], *arguments: object) -> None:
        """Calls the function at that time."""
        self._added += 1
        heapq.heappush(self._calls, (at, self._added, function, arguments))

    def start(self, process: Process) -> None:
        """Runs the process from now on."""
        for at in process:
            self.call(at, self.start, process)
            return

    def run(self, until: float) -> None:
        """Makes all calls up to that time."""
        calls = self._calls
        while calls and calls[0][0] <= until:
            self.now, _, function, arguments = heapq.heappop(calls)
            function(*arguments)
        self.now = until
