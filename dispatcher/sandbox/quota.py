"""The rate limit as the server sees it. Not `policy.RateWindow`: the dispatcher is measured by this one."""

import math
from collections import deque

from dispatcher.policy.rate_window import RateLimit


class Quota:
    """An exact sliding window over the arrivals that were let in, by one monotonic clock (seconds)."""

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self._arrivals: deque[float] = deque()

    def take(self, now: float) -> bool:
        """Whether a request that arrives now is let in; only then it counts."""
        while self._arrivals and self._arrivals[0] <= now - self.limit.seconds:
            self._arrivals.popleft()
        if not self.remaining:
            return False
        self._arrivals.append(now)
        return True

    @property
    def remaining(self) -> int:
        """How many more would be let in, as of the last `take`."""
        return self.limit.requests - len(self._arrivals)

    def reset_in(self, now: float) -> float:
        """Seconds until the oldest request leaves the window, which then has room for one more."""
        return self._arrivals[0] + self.limit.seconds - now

    def headers(self, reset_at: float) -> dict[str, str]:
        """The rate headers of an answer; `reset_at` in epoch seconds."""
        return {
            "X-RateLimit-Limit": str(self.limit.requests),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(math.ceil(reset_at)),
        }
