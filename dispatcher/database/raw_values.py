"""Values as partners write them, by any means, and as the dialect's `raw` and `raw_time` read them."""

from datetime import UTC, datetime

from dispatcher.outbox.events import PARTNER_ID_LENGTH

Raw = str | bytes | None
MAX_TEXT_BYTES = 4 * PARTNER_ID_LENGTH
"""Bytes of the longest text that any column may hold. The database cuts longer values, possibly within a character."""


def text(value: Raw) -> str | None:
    """Raises ValueError if the value is too long or not UTF-8."""
    if not isinstance(value, bytes):
        return value
    if len(value) > MAX_TEXT_BYTES:
        raise ValueError(f"a text of at most {PARTNER_ID_LENGTH} characters was expected")
    return value.decode()


def instant(value: Raw, now: datetime) -> datetime:
    """Returns the time at which the event was written, by the database's clock; `now` if the value is malformed or in the future."""
    try:
        parsed = datetime.fromisoformat(text(value) or "")
        return min(parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC), now)
    except (ValueError, OverflowError):
        return now
