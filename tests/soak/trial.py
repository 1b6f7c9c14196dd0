"""The soak of one database: load, faults at random times, and samples, for hours."""

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from sqlalchemy.exc import DBAPIError

from tests.clusters.black_box import BlackBox, black_box
from tests.clusters.figures import Figures
from tests.clusters.fleet import LEASE_SECONDS
from tests.clusters.partner import Load
from tests.clusters.session import Session
from tests.soak.faults import FAULTS
from tests.soak.samples import Sampler, Trend, trends
from tests.soak.servers import Database

LOAD = Load(installations=20, resources=4, pause_seconds=0.2)
SAMPLE_SECONDS = 10.0
MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 15.0, 45.0
"""Between two faults."""
RECOVERY_SECONDS = LEASE_SECONDS + 16.0
"""Leases run out, the breaker probes after 15 s at the latest, and requests that were refused leave the rate window."""
FAULT_SHARE = 0.02
SETTINGS = {"DISPATCHER_RATE_LIMIT": "20/20s"}


@dataclass(frozen=True)
class Result:
    """What the soak of one database showed."""

    figures: Figures
    trends: Sequence[Trend]
    dead_letters: int
    faults: Counter[str]

    @property
    def problems(self) -> list[str]:
        """What must not be, in words."""
        figures = self.figures
        counts = {
            "lost": figures.lost + figures.lost_by_database,
            "stranded": figures.stranded,
            "unexplained repeats": figures.unexplained,
            "dead letters": self.dead_letters,
        }
        found = [f"{name}: {count}" for name, count in counts.items() if count]
        found += [f"{trend.quantity.name} grows: {trend}" for trend in self.trends if not trend.is_flat]
        return [f"{figures.scenario}: {problem}" for problem in found]


def soak(database: Database, seconds: float, seed: int) -> Result:
    """Runs one database for a time."""
    load = Load(LOAD.installations, LOAD.resources, LOAD.pause_seconds)
    reader = Session(database.url)
    urls = [database.url] * 2
    with black_box(database.name, urls, [reader], urls, load, SETTINGS, FAULT_SHARE) as box:
        sampler = Sampler(box.fleet.dispatchers[0].pid, database.url)
        done = _disturb(box, database, sampler, seconds, random.Random(seed))  # noqa: S311 (test data)
        figures = box.finish()
        sampler.close()
        result = Result(figures, trends(sampler.samples), box.dead_letters(), done)
        if result.problems:
            sys.stderr.write(box.evidence())
        return result


def _disturb(
    box: BlackBox, database: Database, sampler: Sampler, seconds: float, choose: random.Random
) -> Counter[str]:
    """Samples and disturbs until the time is over; returns how often each fault happened."""
    done: Counter[str] = Counter()
    others = {fault.__name__.replace("_", " "): partial(fault, box, database) for fault in FAULTS}
    faults: dict[str, Callable[[], None]] = {**others, **database.faults}
    end = time.monotonic() + seconds
    next_fault = time.monotonic() + MAX_PAUSE_SECONDS
    while time.monotonic() < end:
        if time.monotonic() >= next_fault:
            name = choose.choice([*faults])
            with box.disturbed(name, RECOVERY_SECONDS):
                faults[name]()
            done[name] += 1
            next_fault = time.monotonic() + choose.uniform(MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        with suppress(DBAPIError):  # a fault has just ended its connection
            sampler.sample()
        time.sleep(SAMPLE_SECONDS)
    return done
