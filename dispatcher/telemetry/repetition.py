"""Sparing with lines: a thousand dead letters are a thousand rows in their table, not a thousand lines a second in the log."""

from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

MAX_LINES = 5
"""So many lines of a kind are written in a window."""

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
        """How many lines of each kind were left out; then a new window begins."""
        left_out = {kind: seen - MAX_LINES for kind, seen in self._seen.items() if seen > MAX_LINES}
        self._seen.clear()
        return left_out
