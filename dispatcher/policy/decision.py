"""What an answer means: outcome → decision. Pure: the clock and the random source are arguments, nothing is read or written."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from dispatcher.policy.outcome import Outcome, OutcomeKind


class Action(StrEnum):
    """What is done with a delivery after an outcome; the `decision` of `vercel_attempt`."""

    DELIVERED = "delivered"  # settle it
    REFRESH = "refresh"  # once more at once with the credential read again, no attempt is used up
    RETRY = "retry"  # again after the backoff, one attempt used up unless it is spared
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


class ThrottleReason(StrEnum):
    """Why an installation waits although nothing is wrong with it."""

    RATE_LIMITED = "rate_limited"
    CREDENTIALS_UNAVAILABLE = "credentials_unavailable"
    OUTAGE = "outage"


class Resolution(StrEnum):
    """How a dead letter ended."""

    REPLAYED = "replayed"
    SUPERSEDED = "superseded"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, why, and in how many seconds. A retry that spares the attempt does not count as one of the delivery's."""

    action: Action
    reason: DeadLetterReason | PauseReason | ThrottleReason | None = None
    delay: float = 0.0
    spares_attempt: bool = False


_DELIVERED = Decision(Action.DELIVERED)


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits that decisions keep to; times in seconds."""

    max_attempts: int = 20
    backoff_base: float = 2.0
    backoff_cap: float = 3_600.0
    auth_grace: float = 86_400.0
    disabled_grace: float = 30 * 86_400.0


GONE_ATTEMPTS = 4
"""Answers 404 or 410 after which a resource is taken to be gone."""
GONE_BACKOFF = 60.0
PAUSE_PROBE_BACKOFF = 60.0
BREAKER_PROBE_BACKOFF = 1.0
BREAKER_PROBE_CAP = 15.0
LONGEST_HINT = 3_600.0
HINT_JITTER = 0.1


def backoff(attempt: int, base: float, cap: float, random: Callable[[], float]) -> float:
    """Seconds to wait before attempt number `attempt` + 1: exponential with full jitter, `random()` being in [0, 1)."""
    return random() * min(cap, base * 2.0 ** min(attempt - 1, 62))


def probe_gap(probes: int, policy: Policy, random: Callable[[], float]) -> float:
    """Seconds until an open breaker lets the next probe through, after `probes` that failed: growing, half of it jitter.

    Never more than the backoff of a delivery would be.
    """
    base, cap = min(BREAKER_PROBE_BACKOFF, policy.backoff_base), min(BREAKER_PROBE_CAP, policy.backoff_cap)
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
    """The table of the design. `attempts` were used up before this one, `gone` of them by a 404 or 410. `failures` are the
    installation's in a row, this one included; `paused_for` seconds it has been paused for `pause_reason`, None if it isn't. `outage`:
    the host's breaker is open; `suspected`: a fault may be the host's, not the delivery's.
    """
    match outcome.kind:
        case OutcomeKind.DELIVERED:
            return _DELIVERED
        case OutcomeKind.REJECTED:
            return Decision(Action.BURY, DeadLetterReason.REJECTED)
        case OutcomeKind.UNAUTHORIZED | OutcomeKind.DISABLED | OutcomeKind.NO_CREDENTIAL:
            reason = PauseReason(outcome.kind.value)
            # Another reason has a grace of its own.
            return _pause(reason, failures, paused_for if reason == pause_reason else None, policy, random)
        case OutcomeKind.GONE:
            return _gone(attempts, gone, policy, random)
        case OutcomeKind.THROTTLED:
            return _throttle(ThrottleReason.RATE_LIMITED, failures, outcome.retry_after, policy, random)
        case OutcomeKind.CREDENTIALS_UNAVAILABLE:
            return _throttle(ThrottleReason.CREDENTIALS_UNAVAILABLE, failures, outcome.retry_after, policy, random)
        case _:  # the faults of the destination
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
    """A few slow retries, however many attempts were used up by something else."""
    if gone + 1 >= GONE_ATTEMPTS or attempts + 1 >= policy.max_attempts:
        return Decision(Action.BURY, DeadLetterReason.GONE)
    slow = max(GONE_BACKOFF, policy.backoff_base)
    return Decision(Action.RETRY, delay=backoff(gone + 1, slow, policy.backoff_cap, random))


def _pause(
    reason: PauseReason, failures: int, paused_for: float | None, policy: Policy, random: Callable[[], float]
) -> Decision:
    grace = policy.disabled_grace if reason is PauseReason.DISABLED else policy.auth_grace
    if (paused_for or 0.0) >= grace:
        return Decision(Action.BURY, DeadLetterReason(reason.value))
    probe_in = PAUSE_PROBE_BACKOFF / 2 + backoff(failures, PAUSE_PROBE_BACKOFF, policy.backoff_cap, random)
    return Decision(Action.PAUSE, reason, probe_in)


def _throttle(
    reason: ThrottleReason, failures: int, hint: float | None, policy: Policy, random: Callable[[], float]
) -> Decision:
    wanted = min(max(hint or 0.0, 0.0), LONGEST_HINT) * (1 + HINT_JITTER * random())
    return Decision(
        Action.THROTTLE, reason, max(wanted, backoff(failures, policy.backoff_base, policy.backoff_cap, random))
    )
