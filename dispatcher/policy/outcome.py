"""The outcome of one request, and what it shows about the destination."""

from enum import StrEnum
from typing import NamedTuple


class OutcomeKind(StrEnum):
    """The kinds of outcome; the label `outcome` of `dispatcher_requests_total`."""

    DELIVERED = "delivered"  # 2xx
    REJECTED = "rejected"  # 3xx, and 4xx that a retry cannot fix
    UNAUTHORIZED = "unauthorized"  # 401, 403
    DISABLED = "disabled"  # 403 integration_configuration_disabled
    NO_CREDENTIAL = "no_credential"  # no request: there is no token
    CREDENTIALS_UNAVAILABLE = "credentials_unavailable"  # no request: the source of tokens does not answer
    GONE = "gone"  # 404, 410
    THROTTLED = "throttled"  # 429
    FAILED = "failed"  # 408, 409, 423, 425, 5xx
    UNREACHABLE = "unreachable"  # connection, TLS, DNS, a broken or invalid answer
    TIMEOUT = "timeout"  # the deadline of the whole request passed

    __hash__ = str.__hash__  # Enum's own is a Python function


class Outcome(NamedTuple):
    """The outcome of one request."""

    kind: OutcomeKind
    status: int | None = None
    error_code: str | None = None
    error: str | None = None
    """Redacted, at most 2,000 characters."""
    duration: float = 0.0
    """In seconds."""
    vercel_id: str | None = None
    retry_after: float | None = None
    """The destination's hint in seconds (from `Retry-After`, the error body or the rate headers), validated and clamped."""
    rate_remaining: int | None = None
    """Requests left in the destination's rate window, if it sent that."""
    rate_reset: float | None = None
    """Seconds from the answer until that window resets."""
    connected: bool = True
    """False if no connection could be opened."""

    @property
    def all_well(self) -> bool:
        """Whether the event was delivered."""
        return self.kind is OutcomeKind.DELIVERED

    @property
    def made_a_request(self) -> bool:
        """Whether a request was sent at all."""
        return self.kind not in _NO_REQUEST


_NO_REQUEST = frozenset({OutcomeKind.NO_CREDENTIAL, OutcomeKind.CREDENTIALS_UNAVAILABLE})
_FAULTS = frozenset({OutcomeKind.FAILED, OutcomeKind.UNREACHABLE, OutcomeKind.TIMEOUT})
_SERVED = frozenset({OutcomeKind.DELIVERED, OutcomeKind.REJECTED, OutcomeKind.GONE})


def is_fault(kind: OutcomeKind) -> bool:
    """Whether the destination is to blame. Breakers count these outcomes."""
    return kind in _FAULTS


def shows_life(kind: OutcomeKind) -> bool:
    """Whether the destination is up: it gave a valid answer."""
    return kind not in _FAULTS and kind not in _NO_REQUEST


def is_served(kind: OutcomeKind) -> bool:
    """Whether the installation's requests get through, even if this one was refused."""
    return kind in _SERVED
