"""What an answer means: outcome → decision. Pure: the clock and the random source are arguments, nothing is read or written."""

from dataclasses import dataclass
from enum import StrEnum


class OutcomeKind(StrEnum):
    """What one request came to; the label of `dispatcher_requests_total`."""

    DELIVERED = "delivered"  # 2xx
    REJECTED = "rejected"  # 3xx and 4xx that a repetition cannot mend
    UNAUTHORIZED = "unauthorized"  # 401, 403
    DISABLED = "disabled"  # 403 integration_configuration_disabled
    NO_CREDENTIAL = "no_credential"  # no request was made: no token is known
    GONE = "gone"  # 404, 410
    THROTTLED = "throttled"  # 429
    FAILED = "failed"  # 408, 409, 423, 425, 5xx
    UNREACHABLE = "unreachable"  # connection, TLS, DNS, a broken or senseless answer
    TIMEOUT = "timeout"  # the total deadline passed


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one request came to, as a value.

    `retry_after` is the destination's own hint in seconds (from `Retry-After`, the error body or the rate headers), already
    validated and clamped. `error` is redacted and at most 2,000 characters. `duration` is in seconds. `rate_remaining` (requests)
    and `rate_reset` (seconds from the answer on) are the destination's view of the rate window, if it sent one.
    """

    kind: OutcomeKind
    status: int | None = None
    error_code: str | None = None
    error: str | None = None
    duration: float = 0.0
    vercel_id: str | None = None
    retry_after: float | None = None
    rate_remaining: int | None = None
    rate_reset: float | None = None
