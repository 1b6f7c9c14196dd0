"""Decodes outbox rows one at a time: partners write them by any means, and one malformed row must not fail the batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from dispatcher.database.raw_values import Raw, instant, text
from dispatcher.outbox.events import (
    INSTALLATION_ID_LENGTH,
    INSTALLATION_REMOVED,
    PARTNER_ID_LENGTH,
    Event,
    InstallationRemoved,
    Subject,
    is_traceparent,
    parse_event,
    subject_of,
)

MAX_LENGTHS = {
    "installation_id": INSTALLATION_ID_LENGTH,
    "type": 32,
    "resource_id": PARTNER_ID_LENGTH,
    "product_id": PARTNER_ID_LENGTH,
    "billing_plan_id": PARTNER_ID_LENGTH,
}
_REMOVED = (INSTALLATION_REMOVED, INSTALLATION_REMOVED.encode())


@dataclass(slots=True)
class Changes:
    """The events of one subject in one collection."""

    subject_key: str
    subject: Subject
    first_event_id: int
    first_created_at: datetime
    """The earliest time."""
    events: int = 0
    last_event_id: int = 0
    product_id: str | None = None
    billing_plan_id: str | None = None
    traceparent: str | None = None

    def add(
        self,
        event_id: int,
        created_at: datetime,
        product_id: str | None,
        billing_plan_id: str | None,
        traceparent: str | None,
    ) -> None:
        """Adds one event. Events must be added in the order of their ids, because the last given value wins."""
        self.events += 1
        self.last_event_id = event_id
        self.first_created_at = min(self.first_created_at, created_at)
        self.product_id = product_id or self.product_id
        self.billing_plan_id = billing_plan_id or self.billing_plan_id
        self.traceparent = traceparent or self.traceparent


@dataclass(frozen=True, slots=True)
class Malformed:
    """An outbox row that can never become a request."""

    event_id: int
    values: dict[str, str | None]
    """The row's values in printable form, cut to the lengths of their columns."""
    created_at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Removal:
    """An outbox row that reports its installation as removed."""

    event_id: int
    installation_id: str
    created_at: datetime


def find_subjects(rows: Sequence[Any], now: datetime) -> tuple[dict[int, Subject], list[Malformed]]:
    """Returns the subjects of the changes by event id, in the order of the rows, and the malformed rows. Leaves out removals."""
    subjects: dict[int, Subject] = {}
    malformed = []
    for row in rows:
        try:
            event = _parse(row)
        except ValueError as error:
            malformed.append(_malformed(row.id, row[1:6], instant(row.created_at, now), error))
            continue
        if not isinstance(event, InstallationRemoved):
            subjects[row.id] = subject_of(event)
    return subjects, malformed


def group(rows: Sequence[Any], now: datetime) -> tuple[list[Changes], list[Malformed]]:
    """Groups the rows, which must be in the order of their ids, by subject. Returns the malformed rows separately, and no removals."""
    subjects, malformed = find_subjects(rows, now)
    changes: dict[Subject, Changes] = {}
    for row in rows:
        subject = subjects.get(row.id)
        if subject is None:
            continue
        created_at = instant(row.created_at, now)
        if subject not in changes:
            changes[subject] = Changes(subject.key, subject, row.id, created_at)
        newest = (text(row.product_id), text(row.billing_plan_id), _traceparent(row.traceparent))
        changes[subject].add(row.id, created_at, *newest)
    return list(changes.values()), malformed


def find_removals(rows: Sequence[Any], now: datetime) -> list[Removal]:
    """Returns the rows that report their installation as removed, in their order; malformed ones are left to `group`."""
    found = []
    for row in rows:
        if row.type not in _REMOVED:
            continue
        try:
            event = _parse(row)
        except ValueError:
            continue
        found.append(Removal(row.id, event.installation_id, instant(row.created_at, now)))
    return found


def _parse(row: Any) -> Event:
    return parse_event(*map(text, row[1:6]))


def _traceparent(value: Raw) -> str | None:
    try:
        given = text(value)
    except ValueError:
        return None
    return given if given is not None and is_traceparent(given) else None


def _malformed(event_id: int, raw: Sequence[Raw], created_at: datetime, error: ValueError) -> Malformed:
    values = {name: _shown(value, length) for (name, length), value in zip(MAX_LENGTHS.items(), raw, strict=True)}
    return Malformed(event_id, values, created_at, _why(error))


def _shown(value: Raw, length: int) -> str | None:
    if value is None:
        return None
    shown = value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown[:length])[:length]


def _why(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
        )
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason} at byte {error.start}"
    return str(error)
