"""Durations: parsed, refused and formatted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.settings.durations import age, format_duration, parse_duration


@given(st.text())
def test_any_text_is_a_duration_or_a_refusal(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds < 1e17
    assert text.isascii()
    assert text == "0" or text[-1] in "smhd"


@given(st.decimals(0, 10**9, places=3), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_number_with_a_unit_is_that_many_of_it(number: object, unit: str) -> None:
    size = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}[unit]
    assert parse_duration(f"{number}{unit}") == pytest.approx(float(str(number)) * size)


@given(st.integers(0, 10**12))
def test_a_duration_reads_back_as_it_was_written(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1_000)) == milliseconds / 1_000


@pytest.mark.parametrize("value", [True, None, -1, float("nan"), float("inf"), b"10s", [1]])
def test_what_is_neither_text_nor_a_number_of_seconds_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.0001, "1ms"),
        (0.178254, "178ms"),
        (0.9999, "999ms"),
        (1.0, "1s"),
        (2.54, "2.5s"),
        (9.96, "10s"),
        (59.6, "1m"),
        (178.254, "2m 58s"),
        (3_600.0, "1h"),
        (90_000.0, "1d 1h"),
    ],
)
def test_a_duration_for_people(seconds: float, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(("text", "seconds"), [("1h30m", 5_400), ("3m 12s", 192), ("1d 1h 1m 1s 1ms", 90_061.001)])
def test_what_is_printed_for_people_can_be_written(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)
