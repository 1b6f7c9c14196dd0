"""Reads the fields of a filter from the texts in a URL; an empty text stands for any value."""

from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from dispatcher.settings.durations import parse_since

Choice = TypeVar("Choice", bound=StrEnum)
_MAX_DIGITS = 19


class UnusableFilter(Exception):
    """A field of the filter cannot be used. The message continues the field's label."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(why)
        self.field = field


def read_text(field: str, text: str) -> str | None:
    """Returns the text; None for any. Raises UnusableFilter if it has a NUL, with which PostgreSQL refuses to search."""
    if "\0" in text:
        raise UnusableFilter(field, "has a character that no text in the database has")
    return text or None


def read_choice(field: str, text: str, kind: type[Choice]) -> Choice | None:
    """Returns the member of the enumeration; None for any. Raises UnusableFilter."""
    try:
        return kind(text) if text else None
    except ValueError:
        raise UnusableFilter(field, f"is none of {', '.join(kind)}") from None


def read_time(field: str, text: str, now: datetime) -> datetime | None:
    """Returns the time, see `durations.parse_since`; None for any. Raises UnusableFilter."""
    try:
        return parse_since(text, lambda: now) if text else None
    except ValueError as error:
        raise UnusableFilter(field, str(error)) from None


def read_number(field: str, text: str, low: int, high: int) -> int | None:
    """Returns the number within these bounds; None for any. Raises UnusableFilter."""
    if not text:
        return None
    is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    if not is_number or not low <= int(text) <= high:
        raise UnusableFilter(field, f"is not a number from {low} to {high}")
    return int(text)
