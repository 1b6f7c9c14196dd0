"""A search through every interleaving of a model of the protocol, and what can be wrong with one."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from enum import StrEnum
from typing import TypeVar

S = TypeVar("S", bound=Hashable)


class Verdict(StrEnum):
    """What is wrong with a state."""

    LOST = "all is quiet, but Vercel's last look is older than the last commit"
    STRANDED = "a delivery waits under no lease, and nothing will look at it again"


class Writer(StrEnum):
    """How far a partner's transaction is."""

    IDLE = "idle"
    INSERTED = "inserted"
    ENDED = "ended"


class Step(StrEnum):
    """How far a worker is."""

    IDLE = "idle"
    CLAIMED = "claimed"
    ANSWERED = "answered"
    FAILED = "failed"
    LOOKED = "looked"


def search(
    start: S, steps: Callable[[S], Iterable[S]], judge: Callable[[S], Verdict | None]
) -> tuple[Verdict | None, int]:
    """The first thing that goes wrong in any state that `steps` leads to, and how many states were seen."""
    found, waiting = {start}, deque([start])
    while waiting:
        state = waiting.popleft()
        if wrong := judge(state):
            return wrong, len(found)
        for after in steps(state):
            if after not in found:
                found.add(after)
                waiting.append(after)
    return None, len(found)
