"""What one request came to, as a value, and what that says of the destination."""

from enum import StrEnum
from typing import NamedTuple


class OutcomeKind(StrEnum):
    """What one request came to; the label of `dispatcher_requests_total`."""

    DELIVERED = "delivered"  # 2xx
    REJECTED = "rejected"  # 3xx and 4xx that a repetition cannot mend
    UNAUTHORIZED = "unauthorized"  # 401, 403
    DISABLED = "disabled"  # 403 integration_configuration_disabled
    NO_CREDENTIAL = "no_credential"  # no request was made: no token is known
    CREDENTIALS_UNAVAILABLE = "credentials_unavailable"  # no request was made: where tokens come from does not answer
    GONE = "gone"  # 404, 410
    THROTTLED = "throttled"  # 429
    FAILED = "failed"  # 408, 409, 423, 425, 5xx
    UNREACHABLE = "unreachable"  # connection, TLS, DNS, a broken or senseless answer
    TIMEOUT = "timeout"  # the total deadline passed


class Outcome(NamedTuple):
    """What one request came to, as a value.

    `retry_after` is the destination's own hint in seconds (from `Retry-After`, the error body or the rate headers), already
    validated and clamped. `error` is redacted and at most 2,000 characters. `duration` is in seconds. `rate_remaining` (requests)
    and `rate_reset` (seconds from the answer on) are the destination's view of the rate window, if it sent one. `connected` is False
    if there was not even a connection.
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
    connected: bool = True

    @property
    def made_a_request(self) -> bool:
        """Whether there was a request at all."""
        return self.kind not in _NO_REQUEST


_NO_REQUEST = frozenset({OutcomeKind.NO_CREDENTIAL, OutcomeKind.CREDENTIALS_UNAVAILABLE})
_FAULTS = frozenset({OutcomeKind.FAILED, OutcomeKind.UNREACHABLE, OutcomeKind.TIMEOUT})
_SERVED = frozenset({OutcomeKind.DELIVERED, OutcomeKind.REJECTED, OutcomeKind.GONE})


def is_fault(kind: OutcomeKind) -> bool:
    """Whether the destination is to blame: what breakers count."""
    return kind in _FAULTS


def shows_life(kind: OutcomeKind) -> bool:
    """Whether the destination is up: it answered, and knew what it said."""
    return kind not in _FAULTS and kind not in _NO_REQUEST


def is_served(kind: OutcomeKind) -> bool:
    """Whether the installation's requests get through, whatever became of this one."""
    return kind in _SERVED
