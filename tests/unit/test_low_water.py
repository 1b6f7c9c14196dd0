"""The mark follows the head of a queue at a distance, and a scan begins at the bottom now and then."""

import pytest

from dispatcher.worker.low_water import LAG_SECONDS, SWEEP_SECONDS, LowWaterMark

BOTTOM = -100


@pytest.fixture
def mark() -> LowWaterMark[int]:
    """One that has just been swept, at 0."""
    made = LowWaterMark(BOTTOM)
    made.swept(0.0)
    return made


def test_the_first_scan_begins_at_the_bottom() -> None:
    assert LowWaterMark(BOTTOM).at(0.0) == BOTTOM


def test_it_follows_what_was_passed_after_its_lag(mark: LowWaterMark[int]) -> None:
    mark.passed(0.0, 10)
    mark.passed(1.0, 20)
    assert mark.at(1.0) == BOTTOM
    mark.passed(LAG_SECONDS, 30)
    assert mark.at(LAG_SECONDS) == 10
    mark.passed(2 * LAG_SECONDS, 40)
    assert mark.at(2 * LAG_SECONDS) == 30


def test_a_scan_begins_at_the_bottom_until_one_of_them_finds_the_end(mark: LowWaterMark[int]) -> None:
    mark.passed(0.0, 10)
    mark.passed(LAG_SECONDS, 20)
    assert mark.at(SWEEP_SECONDS - 0.1) == 10
    assert mark.at(SWEEP_SECONDS) == BOTTOM
    assert mark.at(SWEEP_SECONDS + 1) == BOTTOM
    mark.swept(SWEEP_SECONDS + 1)
    assert mark.at(SWEEP_SECONDS + 1) == 10


def test_a_sweep_that_is_asked_for_comes_before_its_time(mark: LowWaterMark[int]) -> None:
    mark.passed(0.0, 10)
    mark.passed(LAG_SECONDS, 20)
    mark.sweep()
    assert mark.at(LAG_SECONDS) == BOTTOM
    mark.swept(LAG_SECONDS)
    assert mark.at(LAG_SECONDS) == 10
    assert mark.at(LAG_SECONDS + SWEEP_SECONDS) == BOTTOM


def test_a_scan_that_began_at_the_floor_is_no_sweep(mark: LowWaterMark[int]) -> None:
    mark.passed(0.0, 10)
    mark.passed(LAG_SECONDS, 20)
    mark.swept(SWEEP_SECONDS - 0.1)
    assert mark.at(SWEEP_SECONDS) == BOTTOM


def test_after_a_pause_longer_than_its_lag_it_is_where_the_last_scan_was(mark: LowWaterMark[int]) -> None:
    mark.passed(0.0, 10)
    mark.passed(0.0, 11)
    mark.passed(SWEEP_SECONDS, 12)
    mark.swept(SWEEP_SECONDS)
    assert mark.at(SWEEP_SECONDS) == 11


def test_what_steps_back_begins_at_the_bottom(mark: LowWaterMark[int]) -> None:
    mark.passed(0.0, 10)
    mark.passed(LAG_SECONDS, 20)
    mark.passed(LAG_SECONDS, 5)
    assert mark.at(LAG_SECONDS) == BOTTOM


def test_what_was_passed_before_a_step_back_counts_no_more(mark: LowWaterMark[int]) -> None:
    """Else what comes between the two would have to wait for a sweep."""
    mark.passed(0.0, 10)
    mark.passed(1.0, 20)
    mark.passed(1.5, 5)
    mark.passed(1.0 + LAG_SECONDS, 6)
    assert mark.at(1.0 + LAG_SECONDS) == BOTTOM
    mark.passed(1.5 + LAG_SECONDS, 7)
    assert mark.at(1.5 + LAG_SECONDS) == 5


def test_the_same_position_again_is_no_step_back(mark: LowWaterMark[int]) -> None:
    mark.passed(0.0, 10)
    mark.passed(LAG_SECONDS, 10)
    assert mark.at(LAG_SECONDS) == 10
