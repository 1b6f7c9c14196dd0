"""Parses and formats durations: `200ms`, `10s`, `5m`, `24h`, `30d`; for people `3m 12s`. A duration ago is a time."""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

MINUTE = 60.0
HOUR = 3_600.0
DAY = 86_400.0

_UNITS = {"ms": 0.001, "s": 1.0, "m": MINUTE, "h": HOUR, "d": DAY}
# Spelled out, because \d matches digits of other scripts and float() accepts "1_000", "nan" and "1e9".
_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_DURATION = re.compile(rf"{_PART.pattern}(?: ?{_PART.pattern})*")
_MAX_ECHO_LENGTH = 18


def parse_duration(value: object) -> float:
    """Returns seconds, from text such as `200ms`, `10s`, `5m`, `24h`, `30d`, `1h30m` or `0`, or from a number of seconds.

    Raises ValueError for anything else: signs, spaces, `nan`, `1_000`, non-ASCII digits.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
        return float(value)
    if value == "0":
        return 0.0
    parts = _PART.findall(value) if isinstance(value, str) and _DURATION.fullmatch(value) else []
    sizes = [_UNITS[unit] for _, unit in parts]
    if not parts or sizes != sorted(set(sizes), reverse=True):
        raise ValueError(
            f"is not a duration{echo(value)}: write a number and a unit, such as 200ms, 10s, 5m, 24h or 30d"
        )
    return sum(float(number) / 1_000 if unit == "ms" else float(number) * _UNITS[unit] for number, unit in parts)


def parse_since(text: str, now: Callable[[], datetime]) -> datetime:
    """Returns the time that a person means: a duration before `now()`, or a time, which is UTC unless it has an offset.

    Raises ValueError if it is neither.
    """
    try:
        parsed = datetime.fromisoformat(text)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    try:
        return now() - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        raise ValueError(
            "cannot be read: write how long ago, such as 30m, 24h or 7d, or a time such as 2026-01-31T12:00 (UTC)"
        ) from None


def format_duration(seconds: float) -> str:
    """Returns the shortest text that `parse_duration` converts back to these seconds: 0.2 → `200ms`, 300 → `5m`."""
    for unit in ("d", "h", "m", "s"):
        count = seconds / _UNITS[unit]
        if count >= 1 and count.is_integer():
            return f"{count:.0f}{unit}"
    count, unit = (seconds * 1_000, "ms") if 0 < seconds < 1 else (seconds, "s")
    return f"{count:.9f}".rstrip("0").rstrip(".") + unit


def age(seconds: float) -> str:
    """Returns the duration for people: `178ms`, `2.5s`, or its two largest units, `3m 12s`."""
    if 0 < seconds < 1:
        return f"{max(1, min(999, round(seconds * 1_000)))}ms"
    if 0 < seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    rest = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in (("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", 1.0)):
        count, rest = divmod(rest, int(size))
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    return " ".join(part for part in parts[:2] if part[:-1] != "0" or len(parts) == 1)


def echo(value: object) -> str:
    """Returns the value in parentheses if it is too short to be a secret in the wrong variable, else nothing."""
    shown = ascii(value)
    return f" (it is {shown})" if len(shown) <= _MAX_ECHO_LENGTH else ""
