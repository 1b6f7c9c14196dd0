"""Explains a resource or an installation: everything that is known about it, oldest first, then what happens next and when."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Row, Subquery, Table

from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.inspection.dead_letters import ADVICE, DeadLetter
from dispatcher.inspection.dispatchers import Fleet, read_fleet
from dispatcher.inspection.graces import Graces
from dispatcher.inspection.installations import Installation, find_installations
from dispatcher.inspection.outlook import look_ahead
from dispatcher.outbox.columns import belongs_to
from dispatcher.outbox.events import INSTALLATION_REMOVED
from dispatcher.outbox.tables import attempt, dead_letter, delivery, outbox
from dispatcher.policy.decision import Action, DeadLetterReason, Resolution
from dispatcher.store import LOWEST_ID
from dispatcher.store.attempt_log import Attempt, latest_attempts
from dispatcher.store.batch import committed
from dispatcher.store.outbox_rows import Changes, Malformed, Removal, find_removals, group

MAX_SCANNED_ROWS = 100_000
"""Rows of the outbox and, without an installation, deliveries that are scanned at most: no index covers a resource there."""


MAX_NAMED_INSTALLATIONS = 5
"""Installations that are named at most where a resource belongs to several."""
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


@dataclass(frozen=True, slots=True)
class Explanation:
    """What happened, and what happens next."""

    about: str
    """What it explains, such as `resource db_1 of installation icfg_1`."""
    happened: list[Entry]
    """Oldest first."""
    next: list[Entry]
    complete: bool
    """Whether nothing older is known and nothing was left out."""
    idle: bool
    """Whether no dispatcher is running; False if the schema is too old to tell."""
    installation_ids: list[str]
    """Of everything that it explains."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """The subject of the explanation: a resource, an installation, or a resource of an installation."""

    installation_id: str | None = None
    resource_id: str | None = None
    scan_limit: int = MAX_SCANNED_ROWS
    """Rows read of a table that has no index for the scope."""

    def of(self, table: Table | Subquery) -> list[ColumnElement[bool]]:
        """Returns the conditions that select its rows of the table."""
        return belongs_to(table, self.installation_id, self.resource_id)


@dataclass(frozen=True, slots=True)
class _Found:
    """Everything that the database knows about a scope."""

    now: datetime
    changes: list[Changes]
    malformed: list[Malformed]
    removals: list[Removal]
    deliveries: Sequence[Row[Any]]
    attempts: list[Attempt]
    dead_letters: list[DeadLetter]
    installation_ids: list[str]
    """Of everything above."""
    installations: dict[str, Installation]
    """Of these, those for which anything has been collected."""
    complete: bool

    @property
    def anything(self) -> bool:
        """Whether the database knows anything about the scope."""
        return any(
            (
                self.changes,
                self.malformed,
                self.removals,
                self.deliveries,
                self.attempts,
                self.dead_letters,
                self.installations,
            )
        )


def explain(
    database: Database,
    name: str,
    graces: Graces,
    limit: int,
    installation_id: str | None = None,
    scan_limit: int = MAX_SCANNED_ROWS,
) -> Explanation | None:
    """Explains the installation `name`, or the resource `name` if no such installation is known; with `installation_id`, that
    installation's resource. Includes at most `limit` of the newest attempts, dead letters and entries. Returns None if nothing is known.
    """
    of_resource = _Scope(installation_id, name, scan_limit)
    scopes = [of_resource] if installation_id is not None else [_Scope(name, None, scan_limit), of_resource]
    with database.read() as connection:
        for scope in scopes:
            found = _find(connection, database, scope, graces, limit)
            if found.anything:
                happened = sorted(_happened(found), key=lambda entry: entry.at or found.now)
                complete = found.complete and len(happened) <= limit
                fleet = read_fleet(database, connection, found.now)
                upcoming = list(_next(found, fleet))
                about, idle = _about(scope, found), _is_idle(fleet)
                return Explanation(about, happened[-limit:], upcoming, complete, idle, found.installation_ids)
    return None


def _about(scope: _Scope, found: _Found) -> str:
    if scope.resource_id is None:
        return f"installation {scope.installation_id}"
    ids = found.installation_ids
    if not ids:  # malformed rows without one
        return f"resource {scope.resource_id}"
    more = f" and {len(ids) - MAX_NAMED_INSTALLATIONS} more" if len(ids) > MAX_NAMED_INSTALLATIONS else ""
    noun = "installation" if len(ids) == 1 else "installations"
    return f"resource {scope.resource_id} of {noun} {', '.join(ids[:MAX_NAMED_INSTALLATIONS])}{more}"


# what is known ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _find(connection: Connection, database: Database, scope: _Scope, graces: Graces, limit: int) -> _Found:
    """Reads the tables in the order in which an event passes through them, so that one that moves on meanwhile is not missed."""
    now: datetime = connection.execute(sa.select(database.dialect.clock())).scalar_one()
    events, all_events = _events(connection, database.dialect, scope, limit)
    changes, malformed = group(events, now)
    removals = find_removals(events, now)
    deliveries, all_deliveries = _deliveries(connection, scope, limit)
    attempts = latest_attempts(connection, limit, *scope.of(attempt))
    newest = sa.select(dead_letter).where(*scope.of(dead_letter)).order_by(dead_letter.c.id.desc()).limit(limit)
    letters = [DeadLetter.of(row) for row in connection.execute(newest)]
    subjects: list[Any] = [*(change.subject for change in changes), *deliveries, *attempts, *letters]
    named = [*(one.installation_id for one in subjects), *(row.values["installation_id"] for row in malformed)]
    ids: set[str] = {id_ for id_ in named if id_ is not None}
    if scope.installation_id is not None and scope.resource_id is None:
        ids.add(scope.installation_id)
    installations = find_installations(connection, database, graces, ids)
    complete = all_events and all_deliveries and max(len(attempts), len(letters)) < limit
    return _Found(
        now, changes, malformed, removals, deliveries, attempts, letters, sorted(ids), installations, complete
    )


def _events(connection: Connection, dialect: Dialect, scope: _Scope, limit: int) -> tuple[Sequence[Row[Any]], bool]:
    """Returns the events that are not collected yet, and whether these are all of them."""
    beyond = connection.execute(sa.select(outbox.c.id).order_by(outbox.c.id).offset(scope.scan_limit).limit(1)).scalar()
    wanted = scope.of(outbox) if beyond is None else [outbox.c.id < beyond, *scope.of(outbox)]
    rows = connection.execute(committed(dialect).where(*wanted), {"low_water": LOWEST_ID, "limit": limit}).all()
    return rows, beyond is None and len(rows) < limit


def _deliveries(connection: Connection, scope: _Scope, limit: int) -> tuple[Sequence[Row[Any]], bool]:
    """Returns the deliveries, those due first, and whether these are all of them."""
    scanned: Table | Subquery = delivery
    beyond = None
    if scope.installation_id is None:
        scanned = sa.select(delivery).order_by(delivery.c.subject_key).limit(scope.scan_limit).subquery()
        key = delivery.c.subject_key
        beyond = connection.execute(sa.select(key).order_by(key).offset(scope.scan_limit).limit(1)).scalar()
    wanted = sa.select(scanned).where(*scope.of(scanned)).order_by(scanned.c.due_at).limit(limit)
    rows = connection.execute(wanted).all()
    return rows, beyond is None and len(rows) < limit


# what happened ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _happened(found: _Found) -> Iterator[Entry]:
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


def _written(found: _Found) -> Iterator[Entry]:
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
    return _entry(letter, letter.died_at, "dead_letter", message, status=letter.last_status, reason=letter.reason)


def _resolved(letter: DeadLetter) -> Entry:
    by = f" by {letter.resolved_by}" if letter.resolved_by else ""
    note = f": {letter.note}" if letter.note else ""
    message = f"dead letter {letter.id} was {letter.resolution}{by}{note}"
    return _entry(letter, letter.resolved_at, "resolution", message, reason=letter.resolution)


def _entry(subject: Any, at: datetime | None, what: str, message: str, **facts: Any) -> Entry:
    names = ("installation_id", "type", "resource_id", "product_id")
    return Entry(at, what, message, **{name: getattr(subject, name) for name in names}, **facts)


def _events_up_to(row: Any) -> str:
    up_to = f"event {row.last_event_id}"
    return up_to if row.events == 1 else f"{row.events:,} events up to {up_to}"


def _words(value: str) -> str:
    """Returns a stored value such as `no_credential` as words."""
    return value.replace("_", " ")


# what happens next ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _is_idle(fleet: Fleet | None) -> bool:
    return fleet is not None and not fleet.runs


def _next(found: _Found, fleet: Fleet | None) -> Iterator[Entry]:
    soon = "when a dispatcher is running: none is" if _is_idle(fleet) else "at the dispatcher's next tick"
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
            yield _entry(letter, None, "next", message, reason=letter.reason)
