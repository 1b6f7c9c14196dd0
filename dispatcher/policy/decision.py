"""Decides what follows from an outcome. Pure: randomness is an argument, nothing is read or written."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from dispatcher.policy.outcome import Outcome, OutcomeKind


class Action(StrEnum):
    """What to do with a delivery after an outcome; the column `decision` of `vercel_attempt`."""

    DELIVERED = "delivered"  # the delivery is done
    REFRESH = "refresh"  # send it again now, with the credential read again; uses up no attempt
    RETRY = "retry"  # send it again after the backoff; uses up an attempt unless that is spared
    THROTTLE = "throttle"  # the installation waits; uses up no attempt
    PAUSE = "pause"  # the installation is paused; uses up no attempt
    BURY = "dead_letter"

    __hash__ = str.__hash__  # Enum's own is a Python function


class DeadLetterReason(StrEnum):
    """Why a delivery became a dead letter."""

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


class ThrottleReason(StrEnum):
    """Why an installation that works has to wait."""

    RATE_LIMITED = "rate_limited"
    CREDENTIALS_UNAVAILABLE = "credentials_unavailable"
    OUTAGE = "outage"


class Resolution(StrEnum):
    """How a dead letter was resolved."""

    REPLAYED = "replayed"
    SUPERSEDED = "superseded"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, why, and when."""

    action: Action
    reason: DeadLetterReason | PauseReason | ThrottleReason | None = None
    delay: float = 0.0
    """Seconds to wait before it."""
    spares_attempt: bool = False
    """Whether a retry does not count as one of the delivery's attempts."""


DELIVERED = Decision(Action.DELIVERED)


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits on retries and pauses; times in seconds."""

    max_attempts: int = 20
    backoff_base: float = 2.0
    backoff_cap: float = 3_600.0
    auth_grace: float = 86_400.0
    disabled_grace: float = 30 * 86_400.0


MAX_GONE_ATTEMPTS = 4
"""After this many answers 404 or 410 a resource is considered gone."""
GONE_BACKOFF_SECONDS = 60.0
PAUSE_PROBE_SECONDS = 60.0
BREAKER_PROBE_SECONDS = 1.0
MAX_BREAKER_PROBE_SECONDS = 15.0
MAX_LOOK_UP_BACKOFF_SECONDS = 300.0
"""The longest wait of an installation whose token could not be looked up: it must not outlast the fault for long."""
MAX_HINT_SECONDS = 3_600.0
"""A longer wait that the destination requests is shortened to this."""
HINT_JITTER_FRACTION = 0.1


def backoff(attempt: int, base: float, cap: float, random: Callable[[], float]) -> float:
    """Returns the seconds between attempt number `attempt` and the next: exponential with full jitter; `random()` is in [0, 1)."""
    return random() * min(cap, base * 2.0 ** min(attempt - 1, 62))


def probe_gap(probes: int, policy: Policy, random: Callable[[], float]) -> float:
    """Returns the seconds until an open breaker allows the next probe, after `probes` that failed: growing, and up to half of it jitter.

    Never longer than the backoff of a delivery.
    """
    base, cap = min(BREAKER_PROBE_SECONDS, policy.backoff_base), min(MAX_BREAKER_PROBE_SECONDS, policy.backoff_cap)
    gap = min(cap, base * 2.0 ** min(probes - 1, 62))
    return gap * (0.5 + random() / 2)


def decide(
    outcome: Outcome,
    *,
    attempts: int,
    gone: int,
    failures: int,
    pause_reason: str | None,
    paused_for: float | None,
    outage: bool,
    suspected: bool,
    policy: Policy,
    random: Callable[[], float],
) -> Decision:
    """Returns the decision for one outcome.

    The delivery used up `attempts` before this request, `gone` of them by a 404 or 410. `failures` counts the installation's consecutive
    failures, including this one. The installation has been paused for `paused_for` seconds with `pause_reason`; both are None if it is
    not paused. `outage`: the host's breaker is open. `suspected`: the host, not the delivery, may have caused a fault.
    """
    match outcome.kind:
        case OutcomeKind.DELIVERED:
            return DELIVERED
        case OutcomeKind.REJECTED:
            return Decision(Action.BURY, DeadLetterReason.REJECTED)
        case OutcomeKind.UNAUTHORIZED | OutcomeKind.DISABLED | OutcomeKind.NO_CREDENTIAL:
            reason = PauseReason(outcome.kind.value)
            # A pause for another reason starts its own grace.
            return _pause(reason, failures, paused_for if reason == pause_reason else None, policy, random)
        case OutcomeKind.GONE:
            return _gone(attempts, gone, policy, random)
        case OutcomeKind.THROTTLED:
            return _throttle(ThrottleReason.RATE_LIMITED, failures, outcome.retry_after, policy, random)
        case OutcomeKind.CREDENTIALS_UNAVAILABLE:
            return _throttle(ThrottleReason.CREDENTIALS_UNAVAILABLE, failures, outcome.retry_after, policy, random)
        case _:  # a fault of the destination
            return _fault(attempts, failures, policy, random, outage=outage, suspected=suspected)


def _fault(
    attempts: int, failures: int, policy: Policy, random: Callable[[], float], *, outage: bool, suspected: bool
) -> Decision:
    if outage:
        return Decision(Action.THROTTLE, ThrottleReason.OUTAGE, probe_gap(failures, policy, random))
    if suspected:
        return Decision(Action.RETRY, delay=probe_gap(failures, policy, random), spares_attempt=True)
    if attempts + 1 >= policy.max_attempts:
        return Decision(Action.BURY, DeadLetterReason.EXHAUSTED)
    return Decision(Action.RETRY, delay=backoff(attempts + 1, policy.backoff_base, policy.backoff_cap, random))


def _gone(attempts: int, gone: int, policy: Policy, random: Callable[[], float]) -> Decision:
    """Allows a few slow retries, regardless of the attempts that other outcomes used up."""
    if gone + 1 >= MAX_GONE_ATTEMPTS or attempts + 1 >= policy.max_attempts:
        return Decision(Action.BURY, DeadLetterReason.GONE)
    slow = max(GONE_BACKOFF_SECONDS, policy.backoff_base)
    return Decision(Action.RETRY, delay=backoff(gone + 1, slow, policy.backoff_cap, random))


def _pause(
    reason: PauseReason, failures: int, paused_for: float | None, policy: Policy, random: Callable[[], float]
) -> Decision:
    grace = policy.disabled_grace if reason is PauseReason.DISABLED else policy.auth_grace
    if (paused_for or 0.0) >= grace:
        return Decision(Action.BURY, DeadLetterReason(reason.value))
    probe_in = PAUSE_PROBE_SECONDS / 2 + backoff(failures, PAUSE_PROBE_SECONDS, policy.backoff_cap, random)
    return Decision(Action.PAUSE, reason, probe_in)


def _throttle(
    reason: ThrottleReason, failures: int, hint: float | None, policy: Policy, random: Callable[[], float]
) -> Decision:
    wanted = min(max(hint or 0.0, 0.0), MAX_HINT_SECONDS) * (1 + HINT_JITTER_FRACTION * random())
    cap = policy.backoff_cap
    if reason is ThrottleReason.CREDENTIALS_UNAVAILABLE:
        cap = min(cap, MAX_LOOK_UP_BACKOFF_SECONDS)
    return Decision(Action.THROTTLE, reason, max(wanted, backoff(failures, policy.backoff_base, cap, random)))
