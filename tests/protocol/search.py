"""A search through every interleaving of a model of the protocol, and the faults that it can find."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from enum import StrEnum
from typing import TypeVar

S = TypeVar("S", bound=Hashable)


class Verdict(StrEnum):
    """A fault of a state."""

    LOST = "nothing is under way, but Vercel's last look is older than the last commit"
    STRANDED = "a delivery waits under no lease, and no worker will look at it again"


class Writer(StrEnum):
    """The progress of a partner's transaction."""

    IDLE = "idle"
    INSERTED = "inserted"
    ENDED = "ended"


class Step(StrEnum):
    """The progress of a worker."""

    IDLE = "idle"
    CLAIMED = "claimed"
    ANSWERED = "answered"
    FAILED = "failed"
    LOOKED = "looked"


def search(
    start: S, steps: Callable[[S], Iterable[S]], judge: Callable[[S], Verdict | None]
) -> tuple[Verdict | None, int]:
    """Returns the first fault in any state that `steps` leads to, and the number of states visited."""
    visited, waiting = {start}, deque([start])
    while waiting:
        state = waiting.popleft()
        if verdict := judge(state):
            return verdict, len(visited)
        for after in steps(state):
            if after not in visited:
                visited.add(after)
                waiting.append(after)
    return None, len(visited)
