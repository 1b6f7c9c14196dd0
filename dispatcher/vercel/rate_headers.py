"""Vercel's hints about waiting, from the headers and body of an answer. Pure and strict: a malformed hint is ignored."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

from dispatcher.policy.decision import MAX_HINT_SECONDS

RATE_WINDOW_HEADERS = ("x-ratelimit-remaining", "x-ratelimit-reset")
RATE_HEADERS = ("date", "retry-after", *RATE_WINDOW_HEADERS)
"""The headers that these functions read."""
_SECONDS = re.compile(r"[0-9]{1,9}")
_EPOCH = re.compile(r"[0-9]{10}")
_CLOCK = r"[0-9]{2}:[0-9]{2}:[0-9]{2}"
# The three forms of RFC 9110, section 5.6.7. Checked first because the parser is lenient.
_HTTP_DATE = re.compile(
    rf"[A-Z][a-z]{{2}}, [0-9]{{2}} [A-Z][a-z]{{2}} [0-9]{{4}} {_CLOCK} GMT"
    rf"|[A-Z][a-z]{{5,8}}, [0-9]{{2}}-[A-Z][a-z]{{2}}-[0-9]{{2}} {_CLOCK} GMT"
    rf"|[A-Z][a-z]{{2}} [A-Z][a-z]{{2}} [ 0-9][0-9] {_CLOCK} [0-9]{{4}}"
)
# Milliseconds between these are a point in time (1973 to 2286); fewer are a duration (up to three years).
_EPOCH_MS_FROM, _EPOCH_MS_TO = 1e11, 1e13


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Returns the seconds to wait by `Retry-After`, a number or a date. `now` (epoch seconds) replaces a missing `Date`."""
    value = headers.get("retry-after", "").strip(" \t")
    if _SECONDS.fullmatch(value):
        return _clamp(float(value))
    moment = parse_http_date(value)
    return None if moment is None else _clamp(moment - sent_at(headers, now))


def rate_wait(headers: Mapping[str, str], limit: object, now: float) -> float | None:
    """Returns the seconds to wait after a 429: by `Retry-After`, else `resetMs` of `error.limit`, else `X-RateLimit-Reset`."""
    waits = (retry_after(headers, now), reset_in_body(limit, sent_at(headers, now)), rate_reset(headers, now))
    return next((wait for wait in waits if wait is not None), None)


def reset_in_body(limit: object, now: float) -> float | None:
    """Returns the seconds to wait by `resetMs`: milliseconds since the epoch if it is large, otherwise a duration."""
    value = limit.get("resetMs") if isinstance(limit, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _EPOCH_MS_TO:
        return None
    return _clamp(value / 1_000 - now if value > _EPOCH_MS_FROM else value / 1_000)


def rate_reset(headers: Mapping[str, str], now: float) -> float | None:
    """Returns the seconds until the next rate window begins, by `X-RateLimit-Reset` (epoch seconds)."""
    value = headers.get("x-ratelimit-reset", "").strip(" \t")
    return _clamp(float(value) - sent_at(headers, now)) if _EPOCH.fullmatch(value) else None


def rate_remaining(headers: Mapping[str, str]) -> int | None:
    """Returns how many requests are left in the rate window, by `X-RateLimit-Remaining`."""
    value = headers.get("x-ratelimit-remaining", "").strip(" \t")
    return int(value) if _SECONDS.fullmatch(value) else None


def sent_at(headers: Mapping[str, str], now: float) -> float:
    """Returns when the answer was sent by its sender's clock (epoch seconds); `now` without a usable `Date`."""
    moment = parse_http_date(headers.get("date", "").strip(" \t"))
    return now if moment is None else moment


@lru_cache(maxsize=64)  # all answers of one second have the same Date
def parse_http_date(value: str) -> float | None:
    """Returns epoch seconds, or None if `value` is not an HTTP date."""
    if not _HTTP_DATE.fullmatch(value):
        return None
    try:
        moment: datetime = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC).timestamp()


def _clamp(seconds: float) -> float:
    return min(max(seconds, 0.0), MAX_HINT_SECONDS)
