"""What a dispatcher uses while it runs for hours, and whether any of it grows."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import psutil

from dispatcher.database.transactions import open_database
from dispatcher.settings.settings import Settings
from dispatcher.store import LONG_AGO, LOWEST_ID, collect, look

TIMES = 9
SETTLE_DELAY = timedelta(seconds=Settings.model_fields["settle_delay"].default)
WARM_UP_SHARE = 0.25
"""The first samples, which are left out: caches fill."""


@dataclass(frozen=True)
class Quantity:
    """Something that is sampled."""

    name: str
    unit: str
    growth_limit: float
    """Growth from the end of the warm-up to the end of the run that is not called growth, as a share of the median."""
    absolute_limit: float
    """The same in its unit."""


QUANTITIES = (
    Quantity("memory", "MB", 0.05, 4.0),
    Quantity("descriptors", "", 0.0, 3.0),
    Quantity("threads", "", 0.0, 2.0),
    Quantity("look", "ms", 0.5, 1.0),
    Quantity("collect", "ms", 0.5, 2.0),
)


class Sampler:
    """Samples one dispatcher's process, and how long a look and a collection take beside it."""

    def __init__(self, pid: int, url: str) -> None:
        self._process = psutil.Process(pid)
        self._database = open_database(url)
        self.samples: list[tuple[float, ...]] = []
        """The time in seconds, and the quantities."""

    def sample(self) -> None:
        """Adds a sample. Raises OSError or SQLAlchemy's errors if the database is away."""
        memory = self._process.memory_info().rss / 1e6
        used = (memory, self._process.num_fds(), self._process.num_threads())
        looks = _milliseconds(lambda: look(self._database, LOWEST_ID, LONG_AGO))
        collections = _milliseconds(lambda: collect(self._database, 500, LOWEST_ID, SETTLE_DELAY))
        self.samples.append((time.monotonic(), *map(float, used), looks, collections))

    def close(self) -> None:
        self._database.close()


def _milliseconds(step: Callable[[], object]) -> float:
    """Returns the median time of a step."""
    times = []
    for _ in range(TIMES):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


@dataclass(frozen=True)
class Trend:
    """How a quantity developed after the warm-up."""

    quantity: Quantity
    median: float
    growth: float
    """The slope through all samples times the duration, in the quantity's unit."""
    noise: float
    """Twice the standard deviation of the distances from this line."""

    @property
    def is_flat(self) -> bool:
        limit = max(self.quantity.growth_limit * self.median, self.quantity.absolute_limit, self.noise)
        return self.growth <= limit

    def __str__(self) -> str:
        return f"{self.median:.1f} {self.growth:+.1f} {self.quantity.unit}".strip()


def trends(samples: Sequence[tuple[float, ...]]) -> list[Trend]:
    """Returns the trend of each quantity."""
    kept = samples[int(len(samples) * WARM_UP_SHARE) :]
    assert len(kept) > 2, "too few samples"
    times = [sample[0] for sample in kept]
    return [_trend(quantity, times, [sample[place] for sample in kept]) for place, quantity in enumerate(QUANTITIES, 1)]


def _trend(quantity: Quantity, times: Sequence[float], values: Sequence[float]) -> Trend:
    slope, start = statistics.linear_regression(times, values)
    distances = [value - (start + slope * at) for at, value in zip(times, values, strict=True)]
    noise = 2 * statistics.pstdev(distances)
    return Trend(quantity, statistics.median(values), slope * (times[-1] - times[0]), noise)
