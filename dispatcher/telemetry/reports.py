"""What the worker reports, and who may listen. The core itself counts and writes nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from dispatcher.outbox.events import Subject
from dispatcher.policy.decision import Decision, PauseReason
from dispatcher.policy.outcome import Outcome


@dataclass(frozen=True, slots=True)
class EventsCollected:
    """Events moved from the outbox to deliveries; `malformed` of them became dead letters."""

    events: int
    malformed: int


class Attempted(NamedTuple):
    """A request came to an outcome. `lag`: seconds from the first event's `created_at` to now."""

    subject: Subject
    attempt: int
    events: int
    outcome: Outcome
    decision: Decision
    lag: float


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """A settlement found that the lease of these installations was no longer ours."""

    installations: int


@dataclass(frozen=True, slots=True)
class CrashBuried:
    """Deliveries whose leases expired each time they were due became dead letters."""

    deliveries: int


@dataclass(frozen=True, slots=True)
class Stranded:
    """The sweep mended installations that nothing would have looked at again: a defect in the protocol."""

    installations: int


@dataclass(frozen=True, slots=True)
class BreakerTurned:
    """A breaker opened: one probe at a time is sent from now on. Or it closed, and requests are sent at a growing rate."""

    is_open: bool
    installation_id: str | None = None
    """None: the host's."""


@dataclass(frozen=True, slots=True)
class InstallationPaused:
    """Nothing but probes is sent for it until one succeeds."""

    installation_id: str
    reason: PauseReason


@dataclass(frozen=True, slots=True)
class InstallationResumed:
    """A probe succeeded."""

    installation_id: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """A tick went through. `in_flight` requests were under way at its end."""

    in_flight: int


@dataclass(frozen=True, slots=True)
class WritesAccepted:
    """The database takes writes, as one that is there for the purpose showed."""


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step of the service broke off; what is scheduled is tried again. Neither text holds a secret."""

    step: str
    """`tick`, or what else it was."""
    summary: str
    """What kind of failure: names nobody."""
    why: str
    """The same with what the error says."""


@dataclass(frozen=True, slots=True)
class Gauged:
    """What the scheduled query found. Global figures: every replica reports the same ones."""

    backlog: dict[str, int]
    oldest_event_age: float
    dead_letters: dict[str, int]
    paused: dict[str, int]
    open_breakers: int
    """Of installations."""


Report = (
    EventsCollected
    | Attempted
    | LeaseLost
    | CrashBuried
    | Stranded
    | BreakerTurned
    | InstallationPaused
    | InstallationResumed
    | Ticked
    | WritesAccepted
    | StepFailed
    | Gauged
)
Listener = Callable[[Report], None]


def listen(*listeners: Listener) -> Listener:
    """One listener that tells them all."""

    def tell(report: Report) -> None:
        for listener in listeners:
            listener(report)

    return tell
