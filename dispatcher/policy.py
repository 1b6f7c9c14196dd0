"""What an answer means: outcome → decision. Pure: the clock and the random source are arguments, nothing is read or written."""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


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


class Action(StrEnum):
    """What is done with a delivery after an outcome; the `decision` of `vercel_attempt`."""

    DELIVERED = "delivered"  # settle it
    RETRY = "retry"  # again after the backoff, one attempt used up
    THROTTLE = "throttle"  # the installation waits, no attempt is used up
    PAUSE = "pause"  # the installation is paused, no attempt is used up
    BURY = "dead_letter"


class DeadLetterReason(StrEnum):
    """Why a delivery ended in the dead letters."""

    REJECTED = "rejected"
    UNAUTHORIZED = "unauthorized"
    DISABLED = "disabled"
    NO_CREDENTIAL = "no_credential"
    GONE = "gone"
    EXHAUSTED = "exhausted"
    MALFORMED = "malformed"
    PURGED = "purged"


class PauseReason(StrEnum):
    """Why an installation is paused."""

    UNAUTHORIZED = "unauthorized"
    DISABLED = "disabled"
    NO_CREDENTIAL = "no_credential"
    OPERATOR = "operator"


class Resolution(StrEnum):
    """How a dead letter ended."""

    REPLAYED = "replayed"
    SUPERSEDED = "superseded"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, why, and in how many seconds."""

    action: Action
    reason: DeadLetterReason | None = None
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits that decisions keep to; times in seconds."""

    max_attempts: int = 20
    backoff_base: float = 2.0
    backoff_cap: float = 3_600.0
    auth_grace: float = 86_400.0
    disabled_grace: float = 30 * 86_400.0


GONE_ATTEMPTS = 4
GONE_BACKOFF = 60.0
PROBE_BACKOFF = 60.0
LONGEST_HINT = 3_600.0


def backoff(attempt: int, base: float, cap: float, random: Callable[[], float]) -> float:
    """Seconds to wait before attempt number `attempt` + 1: exponential with full jitter, `random()` being in [0, 1)."""
    return random() * min(cap, base * 2.0 ** min(attempt - 1, 62))


def decide(  # noqa: C901 (the table of the design, a case a row)
    outcome: Outcome,
    *,
    attempts: int,
    failures: int,
    paused_for: float | None,
    policy: Policy,
    random: Callable[[], float],
) -> Decision:
    """The table of the design. `attempts` were used up before this one; `failures` are the installation's in a row, this one
    included; `paused_for` seconds it has been paused, None if it isn't.
    """
    attempt = attempts + 1
    match outcome.kind:
        case OutcomeKind.DELIVERED:
            return Decision(Action.DELIVERED)
        case OutcomeKind.REJECTED:
            return Decision(Action.BURY, DeadLetterReason.REJECTED)
        case OutcomeKind.UNAUTHORIZED | OutcomeKind.DISABLED | OutcomeKind.NO_CREDENTIAL:
            reason = DeadLetterReason(outcome.kind.value)
            grace = policy.disabled_grace if reason is DeadLetterReason.DISABLED else policy.auth_grace
            if paused_for is not None and paused_for >= grace:
                return Decision(Action.BURY, reason)
            return Decision(
                Action.PAUSE, reason, PROBE_BACKOFF / 2 + backoff(failures, PROBE_BACKOFF, policy.backoff_cap, random)
            )
        case OutcomeKind.GONE if attempt >= min(GONE_ATTEMPTS, policy.max_attempts):
            return Decision(Action.BURY, DeadLetterReason.GONE)
        case OutcomeKind.GONE:
            return Decision(
                Action.RETRY, delay=backoff(attempt, max(GONE_BACKOFF, policy.backoff_base), policy.backoff_cap, random)
            )
        case OutcomeKind.THROTTLED | OutcomeKind.CREDENTIALS_UNAVAILABLE:
            hint = min(max(outcome.retry_after or 0.0, 0.0), LONGEST_HINT)
            return Decision(
                Action.THROTTLE, delay=max(hint, backoff(failures, policy.backoff_base, policy.backoff_cap, random))
            )
        case OutcomeKind.FAILED | OutcomeKind.UNREACHABLE | OutcomeKind.TIMEOUT:
            if attempt >= policy.max_attempts:
                return Decision(Action.BURY, DeadLetterReason.EXHAUSTED)
            return Decision(Action.RETRY, delay=backoff(attempt, policy.backoff_base, policy.backoff_cap, random))


class RateWindow:
    """At most `requests` in any `seconds`, exactly: the times of the last requests, by the database's clock (epoch seconds).

    It is kept in the installation's row, and only the holder of the lease changes it, so it is exact across replicas too.
    """

    def __init__(self, requests: int, seconds: float, stored: str | None = None) -> None:
        self.requests = requests
        self.seconds = seconds
        self._sent: deque[float] = deque(maxlen=requests)
        self._sent.extend(json.loads(stored) if stored else ())

    def take(self, now: float) -> bool:
        """Whether a request may start now; if so, it counts."""
        if self.wait(now) > 0:
            return False
        self._sent.append(now)
        return True

    def wait(self, now: float) -> float:
        """Seconds until the next request may start."""
        if len(self._sent) < self.requests:
            return 0.0
        return max(0.0, self._sent[0] + self.seconds - now)

    def room(self, now: float) -> int:
        """How many requests may start now."""
        return self.requests - sum(1 for at in self._sent if at + self.seconds > now)

    def stored(self, now: float) -> str | None:
        """As it stands in the row; None when nothing in it matters any more."""
        recent = [round(at, 3) for at in self._sent if at + self.seconds > now]
        return json.dumps(recent, separators=(",", ":")) if recent else None
