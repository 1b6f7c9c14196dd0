"""What a run showed: whether the law held, and what it cost."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from tests.clusters.partner import Commit
from tests.clusters.receiver import Request

STRANDED_SECONDS = 10.0


class Disturbance(NamedTuple):
    """Something that was done to the cluster."""

    what: str
    began: float
    ended: float


@dataclass(frozen=True)
class Figures:
    """The figures of one scenario."""

    scenario: str
    acknowledged: int
    lost_by_database: int
    """Commits that the database acknowledged and no longer has."""
    lost: int
    """Resources whose mark no accepted request has read."""
    stranded: int
    """Commits without a request after them for more than 10 s, not counting the time of disturbances."""
    accepted: int
    repeated: int
    """Accepted requests that read a mark which had been read before."""
    unexplained: int
    """Repeated ones that announce no newer event than the first, although nothing was disturbed since."""
    longest_gap_seconds: float
    """The longest time without an accepted request."""

    @property
    def row(self) -> str:
        """A row of the table in ARCHITECTURE.md."""
        share = f"{self.repeated / max(self.accepted, 1):.0%}"
        figures = [f"{self.acknowledged:,}", self.lost_by_database, self.lost, self.stranded]
        figures += [
            f"{self.accepted:,}",
            f"{self.repeated} ({share})",
            self.unexplained,
            f"{self.longest_gap_seconds:.1f} s",
        ]
        return " | ".join(["", self.scenario, *map(str, figures), ""]).strip()


COLUMNS = (
    "scenario",
    "commits acknowledged",
    "lost by the database",
    "lost by us",
    "stranded",
    "requests accepted",
    "repeated",
    "unexplained",
    "longest gap",
)
HEADER = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def find_lost(marks: Iterable[tuple[str, int]], accepted: Iterable[Request]) -> list[str]:
    """Returns the resources whose mark in the database no accepted request has read."""
    read = {(one.resource, one.mark) for one in accepted}
    return [resource for resource, mark in marks if mark and (resource, mark) not in read]


def find_stranded(
    commits: Iterable[Commit],
    accepted: Iterable[Request],
    disturbances: Sequence[Disturbance],
    seconds: float = STRANDED_SECONDS,
) -> list[tuple[Commit, float]]:
    """Returns the commits that waited too long for a request that arrived after them, and when it arrived."""
    arrivals: dict[str, list[float]] = defaultdict(list)
    for one in sorted(accepted, key=lambda one: one.arrived_at):
        arrivals[one.resource].append(one.arrived_at)
    late = []
    for commit in commits:
        after = arrivals[commit.resource]
        place = bisect_left(after, commit.at)
        if place < len(after) and _undisturbed(commit.at, after[place], disturbances) > seconds:
            late.append((commit, after[place]))
    return late


def _undisturbed(start: float, end: float, disturbances: Sequence[Disturbance]) -> float:
    """Returns the seconds from the end of the last disturbance, or from the start if there was none."""
    return end - max([start, *(one.ended for one in disturbances if one.began < end and one.ended > start)])


def find_repeated(accepted: Iterable[Request]) -> list[tuple[Request, Request]]:
    """Returns the accepted requests that read a mark again, each after the one that read it before."""
    before: dict[tuple[str, int], Request] = {}
    pairs = []
    for one in sorted(accepted, key=lambda one: one.arrived_at):
        if (first := before.get((one.resource, one.mark))) is not None:
            pairs.append((first, one))
        before[one.resource, one.mark] = one
    return pairs


def find_unexplained(
    pairs: Iterable[tuple[Request, Request]], disturbances: Sequence[Disturbance]
) -> list[tuple[Request, Request]]:
    """Returns the repeated requests that the protocol does not call for.

    It calls for one if an event has been collected since the first was planned, which may nevertheless have read that event's mark; and if
    the answer to the first was not settled, because something was disturbed.
    """
    return [
        (first, second)
        for first, second in pairs
        if first.announced == second.announced
        and not any(one.began <= second.arrived_at and one.ended >= first.arrived_at for one in disturbances)
    ]


def longest_gap(accepted: Iterable[Request]) -> float:
    """Returns the longest time between two accepted requests, in seconds."""
    times = sorted(one.arrived_at for one in accepted)
    return max((after - before for before, after in pairwise(times)), default=0.0)
