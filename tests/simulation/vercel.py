"""Vercel: its limit for each installation, its outage, what it can take, and the tokens that it accepts."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.policy.rate_window import RateLimit
from dispatcher.sandbox.quota import Quota
from tests.simulation.clock import Clock
from tests.simulation.costs import REQUEST_SECONDS

LIMIT = RateLimit(60, 60.0)
"""Requests for one installation, as Vercel documents it."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to Vercel; times in seconds."""

    outage: tuple[float, float] = (math.inf, math.inf)
    """From when until when every request is answered with 503."""
    capacity: float = math.inf
    """Requests a second that it can take; it answers the others with 503."""
    rotation: float = math.inf
    """When every installation's token is replaced."""
    rotation_known: float = math.inf
    """When the partner's source of tokens returns the new ones."""


class Vercel:
    """Answers the requests of all dispatchers."""

    def __init__(self, clock: Clock, weather: Weather, random: Callable[[], float]) -> None:
        self._clock = clock
        self._weather = weather
        self._random = random
        self._quotas: dict[str, Quota | float] = {}
        self._second, self._taken = -1, 0
        self.requests: Counter[int] = Counter()
        """By the second in which they arrived."""
        self.outcomes: Counter[OutcomeKind] = Counter()
        self.most_in_window = 0
        """The most requests of one installation that counted in any 60 s."""

    def request(self, installation_id: str, token: int) -> tuple[float, Outcome]:
        """Returns the seconds that a request takes, and its outcome. It arrives at once."""
        shortest, longest = REQUEST_SECONDS
        seconds = shortest + (longest - shortest) * self._random()
        kind, retry_after = self._judge(installation_id, token, self._clock.now)
        self.outcomes[kind] += 1
        return seconds, Outcome(kind, duration=seconds, retry_after=retry_after)

    def _judge(self, installation_id: str, token: int, now: float) -> tuple[OutcomeKind, float | None]:
        self.requests[int(now)] += 1
        begin, end = self._weather.outage
        if begin <= now < end or self._is_overloaded(now):
            return OutcomeKind.FAILED, None
        if token != int(now >= self._weather.rotation):
            return OutcomeKind.UNAUTHORIZED, None
        wait = self._admit(installation_id, now)
        return (OutcomeKind.DELIVERED, None) if wait is None else (OutcomeKind.THROTTLED, wait)

    def _is_overloaded(self, now: float) -> bool:
        if int(now) != self._second:
            self._second, self._taken = int(now), 0
        self._taken += 1
        return self._taken > self._weather.capacity

    def _admit(self, installation_id: str, now: float) -> float | None:
        """Counts a request; returns the seconds to wait if the limit refuses it."""
        quota = self._quotas.get(installation_id)
        if quota is None:  # of a first request only the time is kept, because few installations have a second one
            self._quotas[installation_id] = now
            self.most_in_window = max(1, self.most_in_window)
            return None
        if isinstance(quota, float):
            first, quota = quota, Quota(LIMIT)
            self._quotas[installation_id] = quota
            quota.take(first)
        if not quota.take(now):
            return math.ceil(quota.reset_in(now))
        self.most_in_window = max(self.most_in_window, LIMIT.requests - quota.remaining)
        return None


class Tokens:
    """A dispatcher's cache of the tokens in the partner's database: 0 is an installation's old token, 1 its new one."""

    def __init__(self, clock: Clock, weather: Weather, keep_seconds: float) -> None:
        self._clock = clock
        self._weather = weather
        self._keep_seconds = keep_seconds
        self._kept: dict[str, tuple[int, float]] = {}

    def at_hand(self, installation_id: str) -> int | None:
        """Returns the token if it is kept."""
        token, until = self._kept.get(installation_id, (None, 0.0))
        return token if self._clock.now < until else None

    def find(self, installation_id: str) -> int:
        """Looks the token up, and keeps it."""
        token = int(self._clock.now >= self._weather.rotation_known)
        self._kept[installation_id] = token, self._clock.now + self._keep_seconds
        return token
