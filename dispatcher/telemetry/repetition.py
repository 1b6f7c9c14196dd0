"""Rate-limits log lines: a thousand dead letters are a thousand rows, but only a few lines."""

from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

MAX_LINES = 5
"""Of each kind in a window."""

Kind = TypeVar("Kind", bound=Hashable)


class Repetition(Generic[Kind]):
    """Counts the lines of one window by their kind."""

    def __init__(self) -> None:
        self._seen: Counter[Kind] = Counter()

    def allows(self, kind: Kind) -> bool:
        """Whether another line of this kind may be written."""
        self._seen[kind] += 1
        return self._seen[kind] <= MAX_LINES

    def end(self) -> dict[Kind, int]:
        """Begins a new window; returns how many lines of each kind were left out of the one that ends."""
        left_out = {kind: seen - MAX_LINES for kind, seen in self._seen.items() if seen > MAX_LINES}
        self._seen.clear()
        return left_out
