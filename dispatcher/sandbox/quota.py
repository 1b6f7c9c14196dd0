"""The rate limit as Vercel applies it: written independently of the dispatcher's own, which the tests measure against it."""

import math
from collections import deque

from dispatcher.policy.rate_window import RateLimit


class Quota:
    """An exact sliding window over the admitted requests, in seconds of one monotonic clock."""

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self._arrivals: deque[float] = deque()

    def take(self, now: float) -> bool:
        """Whether a request that arrives now is admitted. Only admitted requests count."""
        while self._arrivals and self._arrivals[0] <= now - self.limit.seconds:
            self._arrivals.popleft()
        if not self.remaining:
            return False
        self._arrivals.append(now)
        return True

    @property
    def remaining(self) -> int:
        """The number of requests that would still be admitted, as of the last `take`."""
        return self.limit.requests - len(self._arrivals)

    def reset_in(self, now: float) -> float:
        """Seconds until the oldest request leaves the window and another one is admitted."""
        return self._arrivals[0] + self.limit.seconds - now

    def headers(self, reset_at: float) -> dict[str, str]:
        """The rate headers of an answer; `reset_at` is in epoch seconds."""
        return {
            "X-RateLimit-Limit": str(self.limit.requests),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(math.ceil(reset_at)),
        }
