"""Decodes outbox rows one at a time: partners write them by any means, and one malformed row must not fail the batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from dispatcher.outbox.events import (
    INSTALLATION_ID_LENGTH,
    INSTALLATION_REMOVED,
    PARTNER_ID_LENGTH,
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
Raw = str | bytes | None
"""A value as the dialect's `raw` reads it."""
_REMOVED = (INSTALLATION_REMOVED, INSTALLATION_REMOVED.encode())
MAX_TEXT_BYTES = 4 * PARTNER_ID_LENGTH
"""Bytes of the longest text that any column may hold. The database cuts longer values, possibly within a character."""


@dataclass(slots=True)
class Changes:
    """The events of one subject in one collection."""

    subject_key: str
    subject: Subject
    first_event_id: int
    first_created_at: datetime
    events: int = 0
    last_event_id: int = 0
    product_id: str | None = None
    billing_plan_id: str | None = None
    traceparent: str | None = None

    def add(self, event_id: int, product_id: str | None, billing_plan_id: str | None, traceparent: str | None) -> None:
        """Adds one event. Events must be added in the order of their ids, because the last given value wins."""
        self.events += 1
        self.last_event_id = event_id
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


def group(rows: Sequence[Any], now: datetime) -> tuple[list[Changes], list[Malformed]]:
    """Groups the rows, which must be in the order of their ids, by subject. Returns the malformed rows separately, and no removals."""
    changes: dict[str, Changes] = {}
    known: dict[tuple[Raw, ...], tuple[Changes, str | None, str | None]] = {}
    malformed = []
    for row in rows:
        raw = tuple(row[1:6])
        entry = known.get(raw)
        if entry is None:
            try:
                texts = [_text(value) for value in raw]
                event = parse_event(*texts)
            except ValueError as error:
                malformed.append(_malformed(row.id, raw, instant(row.created_at, now), error))
                continue
            if isinstance(event, InstallationRemoved):
                continue
            subject = subject_of(event)
            key = subject.key
            change = changes.setdefault(key, Changes(key, subject, row.id, instant(row.created_at, now)))
            known[raw] = entry = change, texts[3], texts[4]
        change, product_id, billing_plan_id = entry
        change.add(row.id, product_id, billing_plan_id, _traceparent(row.traceparent))
    return list(changes.values()), malformed


def find_removals(rows: Sequence[Any], now: datetime) -> list[Removal]:
    """Returns the rows that report their installation as removed, in their order; malformed ones are left to `group`."""
    found = []
    for row in rows:
        if row.type not in _REMOVED:
            continue
        try:
            event = parse_event(*map(_text, row[1:6]))
        except ValueError:
            continue
        found.append(Removal(row.id, event.installation_id, instant(row.created_at, now)))
    return found


def _text(value: Raw) -> str | None:
    if not isinstance(value, bytes):
        return value
    if len(value) > MAX_TEXT_BYTES:
        raise ValueError(f"a text of at most {PARTNER_ID_LENGTH} characters was expected")
    return value.decode()


def _traceparent(value: Raw) -> str | None:
    try:
        text = _text(value)
    except ValueError:
        return None
    return text if text is not None and is_traceparent(text) else None


def instant(value: Raw, now: datetime) -> datetime:
    """Returns the time at which the event was written, by the database's clock; `now` if the value is malformed or in the future."""
    try:
        parsed = datetime.fromisoformat(_text(value) or "")
        return min(parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC), now)
    except (ValueError, OverflowError):
        return now


def _malformed(event_id: int, raw: tuple[Raw, ...], created_at: datetime, error: ValueError) -> Malformed:
    values = {name: _shown(value, length) for (name, length), value in zip(MAX_LENGTHS.items(), raw, strict=True)}
    return Malformed(event_id, values, created_at, _why(error))


def _shown(value: Raw, length: int) -> str | None:
    if value is None:
        return None
    text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:length])[:length]


def _why(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
        )
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason} at byte {error.start}"
    return str(error)
