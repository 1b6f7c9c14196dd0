"""Durations: parsed, refused and formatted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.settings.durations import format_duration, parse_duration


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
