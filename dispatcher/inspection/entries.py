"""The entries of an explanation: what happened, and what happens next."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dispatcher.inspection.dead_letters import ADVICE, DeadLetter
from dispatcher.inspection.dispatchers import Fleet
from dispatcher.inspection.findings import Found
from dispatcher.inspection.installations import Installation
from dispatcher.inspection.outlook import look_ahead
from dispatcher.outbox.events import INSTALLATION_REMOVED
from dispatcher.policy.decision import Action, DeadLetterReason, Resolution
from dispatcher.store.attempt_log import Attempt

_FACTS = ("status", "duration_ms", "decision", "reason", "vercel_id", "attempt", "outcome")
_DECISIONS = {
    Action.DELIVERED: "",
    Action.REFRESH: " → sent again with a fresh token",
    Action.RETRY: " → retry",
    Action.THROTTLE: " → the installation waits",
    Action.PAUSE: " → the installation is paused",
    Action.BURY: " → dead letter",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened or, if `what` is `next`, is about to happen."""

    at: datetime | None
    """None if no time is known."""
    what: str
    message: str
    installation_id: str | None = None
    type: str | None = None
    resource_id: str | None = None
    product_id: str | None = None
    status: int | None = None
    duration_ms: int | None = None
    decision: str | None = None
    reason: str | None = None
    vercel_id: str | None = None
    attempt: int | None = None
    """Its number, if it is an attempt."""
    outcome: str | None = None
    """Of an attempt."""
    dead_letter_id: int | None = None
    """Of a dead letter, with which the message begins."""


def list_past(found: Found) -> Iterator[Entry]:
    """Yields what happened, in no particular order."""
    replayed = [letter for letter in found.dead_letters if letter.resolution == Resolution.REPLAYED]
    yield from map(_resolved, replayed)  # first, because the event that a replay writes may have the same time
    yield from _written(found)
    for removal in found.removals:
        message = f"event {removal.event_id} was written: the installation was removed"
        yield Entry(removal.created_at, "event", message, removal.installation_id, INSTALLATION_REMOVED)
    for malformed in found.malformed:
        message = f"event {malformed.event_id} was written, but can never become a request: {malformed.why}"
        yield Entry(malformed.created_at, "event", message, malformed.values["installation_id"])
    yield from map(_attempted, found.attempts)
    for installation in found.installations.values():
        if installation.pause_reason is not None:
            message = f"the installation was paused: {installation.pause_reason}{_signed(installation)}"
            yield Entry(
                installation.paused_since,
                "pause",
                message,
                installation.installation_id,
                reason=installation.pause_reason,
            )
    yield from map(_died, found.dead_letters)
    yield from map(_resolved, (one for one in found.dead_letters if one.resolved_at and one not in replayed))


def _signed(installation: Installation) -> str:
    by = f", by {installation.paused_by}" if installation.paused_by else ""
    return by + (f": {installation.pause_note}" if installation.pause_note else "")


def _written(found: Found) -> Iterator[Entry]:
    """Yields the first event of each request, delivery and dead letter. The times of the events that joined it later are not stored."""
    rows: list[Any] = [*found.attempts, *found.deliveries, *found.dead_letters]
    # Newest first, so that of several rows with the same first event the oldest, which has its time, wins.
    rows.sort(key=lambda row: row.first_created_at, reverse=True)
    firsts = {
        (row.subject_key, row.first_event_id): _entry(
            row, row.first_created_at, "event", f"event {row.first_event_id} was written"
        )
        for row in rows
        if row.subject_key is not None
    }
    yield from firsts.values()
    for change in found.changes:
        more = f", and {change.events - 1:,} more up to event {change.last_event_id}" if change.events > 1 else ""
        message = f"event {change.first_event_id} was written{more}"
        yield Entry(change.first_created_at, "event", message, *change.subject, change.product_id)


def _attempted(one: Attempt) -> Entry:
    answer = _words(one.outcome) if one.status is None else f"{_words(one.outcome)} {one.status}"
    vercel_id = f" (vercel id {one.vercel_id})" if one.vercel_id else ""
    # After any other decision the installation waits, until a time that is not the attempt's.
    next_due_at = one.next_due_at if one.decision == Action.RETRY else None
    again = f", due again at {next_due_at:%Y-%m-%d %H:%M:%S} UTC" if next_due_at is not None else ""
    reason = f" ({_words(one.reason)})" if one.reason else ""
    why = f": {one.error}" if one.error else ""
    message = (
        f"attempt {one.attempt} ({_events_up_to(one)}): {answer} in {one.duration_ms:,} ms"
        f"{_DECISIONS[Action(one.decision)]}{reason}{again}{why}{vercel_id}"
    )
    facts = {name: getattr(one, name) for name in _FACTS}
    return _entry(one, one.at, "attempt", message, **facts)


def _died(letter: DeadLetter) -> Entry:
    why = f": {letter.last_error}" if letter.last_error else ""
    attempts = "1 attempt" if letter.attempts == 1 else f"{letter.attempts:,} attempts"
    message = f"dead letter {letter.id}, {_words(letter.reason)}, after {attempts} ({_events_up_to(letter)}){why}"
    facts = {"status": letter.last_status, "reason": letter.reason, "dead_letter_id": letter.id}
    return _entry(letter, letter.died_at, "dead_letter", message, **facts)


def _resolved(letter: DeadLetter) -> Entry:
    by = f" by {letter.resolved_by}" if letter.resolved_by else ""
    note = f": {letter.note}" if letter.note else ""
    message = f"dead letter {letter.id} was {letter.resolution}{by}{note}"
    facts = {"reason": letter.resolution, "dead_letter_id": letter.id}
    return _entry(letter, letter.resolved_at, "resolution", message, **facts)


def list_future(found: Found, fleet: Fleet | None) -> Iterator[Entry]:
    """Yields what happens next. `fleet`: the running dispatchers; None if they are not known."""
    soon = "when a dispatcher is running: none is" if is_idle(fleet) else "at the dispatcher's next tick"
    for change in found.changes:
        message = f"{_events_up_to(change)}: collected {soon}"
        yield Entry(None, "next", message, *change.subject, change.product_id)
    for removal in found.removals:
        message = f"what was written before event {removal.event_id} is purged {soon}"
        yield Entry(None, "next", message, removal.installation_id, INSTALLATION_REMOVED)
    for malformed in found.malformed:
        message = f"event {malformed.event_id} becomes a dead letter {soon}"
        yield Entry(None, "next", message, malformed.values["installation_id"])
    for row in found.deliveries:
        at, message = look_ahead(row, found.installations.get(row.installation_id), found.now, fleet)
        yield _entry(row, at, "next", f"{message} ({_events_up_to(row)})")
    for letter in found.dead_letters:
        if letter.resolved_at is None:
            message = f"dead letter {letter.id} waits for a person. {ADVICE[DeadLetterReason(letter.reason)]}"
            yield _entry(letter, None, "next", message, reason=letter.reason, dead_letter_id=letter.id)


def is_idle(fleet: Fleet | None) -> bool:
    """Whether no dispatcher is running; False if that is unknown."""
    return fleet is not None and not fleet.runs


def _entry(subject: Any, at: datetime | None, what: str, message: str, **facts: Any) -> Entry:
    names = ("installation_id", "type", "resource_id", "product_id")
    return Entry(at, what, message, **{name: getattr(subject, name) for name in names}, **facts)


def _events_up_to(row: Any) -> str:
    up_to = f"event {row.last_event_id}"
    return up_to if row.events == 1 else f"{row.events:,} events up to {up_to}"


def _words(value: str) -> str:
    """Returns a stored value such as `no_credential` as words."""
    return value.replace("_", " ")
