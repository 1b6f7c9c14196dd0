"""Hints about waiting are read strictly and clamped, and never raise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.policy.decision import MAX_HINT_SECONDS
from dispatcher.vercel.rate_headers import (
    rate_remaining,
    rate_reset,
    rate_wait,
    reset_in_body,
    retry_after,
)

NOW = 1_795_521_600.0  # Tue, 24 Nov 2026 12:00:00 GMT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("30", 30.0),
        (" 30\t", 30.0),
        ("999999999", MAX_HINT_SECONDS),
        ("1234567890", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1_000", None),
        ("nan", None),
        ("٣٠", None),
        ("30\n", None),
        ("", None),
        ("Tue, 24 Nov 2026 12:00:30 GMT", 30.0),
        ("Tuesday, 24-Nov-26 12:00:30 GMT", 30.0),
        ("Tue Nov 24 12:00:30 2026", 30.0),
        ("Tue, 24 Nov 2026 11:00:00 GMT", 0.0),
        ("Tue, 24 Nov 2036 12:00:00 GMT", MAX_HINT_SECONDS),
        ("Tue, 24 Nov 2026 12:00:30 +0100", None),
        ("Tue, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value}, NOW) == seconds


def test_a_date_counts_from_the_answers_own_date() -> None:
    headers = {"retry-after": "Tue, 24 Nov 2026 12:00:30 GMT", "date": "Tue, 24 Nov 2026 12:00:10 GMT"}
    assert retry_after(headers, now=0.0) == 20.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (5_000, 5.0),
        (2_500.0, 2.5),
        ((NOW + 7) * 1_000, 7.0),
        (True, None),
        ("5000", None),
        (-1, None),
        (float("nan"), None),
        (float("inf"), None),
        (10**400, None),
    ],
)
def test_reset_in_the_body(value: object, seconds: float | None) -> None:
    assert reset_in_body({"resetMs": value}, NOW) == seconds


def test_the_strongest_hint_wins() -> None:
    headers = {"retry-after": "5", "x-ratelimit-reset": str(int(NOW) + 50)}
    assert rate_wait(headers, {"resetMs": 20_000}, NOW) == 5.0
    del headers["retry-after"]
    assert rate_wait(headers, {"resetMs": 20_000}, NOW) == 20.0
    assert rate_wait(headers, None, NOW) == 50.0
    assert rate_wait({}, None, NOW) is None


def test_the_rate_headers() -> None:
    assert rate_remaining({"x-ratelimit-remaining": "7"}) == 7
    assert rate_remaining({"x-ratelimit-remaining": "-7"}) is None
    assert rate_reset({"x-ratelimit-reset": "30"}, NOW) is None
    assert rate_reset({"x-ratelimit-reset": str(int(NOW) + 9)}, NOW) == 9.0


@given(
    st.text(), st.text(), st.text(), st.recursive(st.none() | st.integers() | st.floats(), st.lists), st.floats(0, 4e9)
)
def test_nothing_raises_or_waits_beyond_the_limit(value: str, date: str, reset: str, limit: object, now: float) -> None:
    headers = {"retry-after": value, "date": date, "x-ratelimit-reset": reset}
    wait = rate_wait(headers, {"resetMs": limit}, now)
    assert wait is None or 0 <= wait <= MAX_HINT_SECONDS
