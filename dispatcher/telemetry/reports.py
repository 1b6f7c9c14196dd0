"""What the worker reports. It neither counts nor logs by itself: listeners do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dispatcher.policy.decision import PauseReason
from dispatcher.store import Answer


@dataclass(frozen=True, slots=True)
class EventsCollected:
    """Events moved from the outbox to deliveries; `malformed` of them became dead letters."""

    events: int
    malformed: int


@dataclass(frozen=True, slots=True)
class MalformedBuried:
    """An outbox row that can never become a request is now a dead letter. No value is longer than its column."""

    event_id: int
    installation_id: str | None
    resource_id: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Answered:
    """Requests have their outcomes. One report has all answers since the one before it, so that counting them costs little."""

    answers: Sequence[Answer]
    """The oldest first."""


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """A settlement found that the lease of these installations was no longer ours."""

    installations: int


@dataclass(frozen=True, slots=True)
class CrashBuried:
    """Deliveries became dead letters because their lease expired at each attempt."""

    deliveries: int


@dataclass(frozen=True, slots=True)
class Stranded:
    """The sweep fixed installations that would never have become due again: a defect in the protocol."""

    installations: int


@dataclass(frozen=True, slots=True)
class BreakerTurned:
    """A breaker opened: from now on one probe is sent at a time. Or it closed: requests are sent at a growing rate."""

    is_open: bool
    installation_id: str | None = None
    """None for the host's breaker."""


@dataclass(frozen=True, slots=True)
class InstallationPaused:
    """Only probes are sent for the installation until one succeeds."""

    installation_id: str
    reason: PauseReason


@dataclass(frozen=True, slots=True)
class InstallationResumed:
    """A probe of the paused installation succeeded."""

    installation_id: str


@dataclass(frozen=True, slots=True)
class InstallationForgotten:
    """The application has reported the installation as removed, and that was carried out."""

    installation_id: str
    purged: int
    """Deliveries that became dead letters, all of them resolved."""
    resolved: int
    """Older dead letters that were resolved."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """A tick succeeded."""

    in_flight: int
    """Requests under way at its end."""


@dataclass(frozen=True, slots=True)
class WritesAccepted:
    """The database accepts writes: a statement for this purpose succeeded."""


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step of the service failed; a scheduled one is tried again. Neither text contains a secret."""

    step: str
    """Its name, such as `tick`."""
    summary: str
    """The kind of failure; contains no id."""
    why: str
    """The same with the error's own text."""


@dataclass(frozen=True, slots=True)
class StepRecovered:
    """A scheduled step that had failed went through again."""

    step: str
    seconds: float
    """Since its first failure."""


@dataclass(frozen=True, slots=True)
class Gauged:
    """The figures of the scheduled query. They are global: every replica reports the same ones."""

    backlog: dict[str, int]
    oldest_event_age: float
    dead_letters: dict[str, int]
    paused: dict[str, int]
    open_breakers: int
    """Of installations only."""
    overdue: float = 0.0
    """Seconds for which the longest waiting event or installation has been ready to be sent."""
    installations: int = 0
    """Known ones."""
    failing: int = 0
    """Installations whose last request did not succeed, without the paused ones."""


Report = (
    EventsCollected
    | MalformedBuried
    | Answered
    | LeaseLost
    | CrashBuried
    | Stranded
    | BreakerTurned
    | InstallationPaused
    | InstallationResumed
    | InstallationForgotten
    | Ticked
    | WritesAccepted
    | StepFailed
    | StepRecovered
    | Gauged
)
Listener = Callable[[Report], None]


def listen(*listeners: Listener) -> Listener:
    """Returns one listener that passes each report on to all of these."""

    def pass_on(report: Report) -> None:
        for listener in listeners:
            listener(report)

    return pass_on
