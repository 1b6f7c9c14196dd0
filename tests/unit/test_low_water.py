"""The low-water mark follows the head of a queue with a lag, and a scan begins at the bottom from time to time."""

import pytest

from dispatcher.worker.low_water import LAG_SECONDS, LowWaterMark

SWEEP_SECONDS = 5.0
BOTTOM = -100


@pytest.fixture
def mark() -> LowWaterMark[int]:
    """A mark whose last sweep was at 0."""
    made = LowWaterMark(BOTTOM, SWEEP_SECONDS)
    made.swept(0.0)
    return made


def test_the_first_scan_begins_at_the_bottom() -> None:
    assert LowWaterMark(BOTTOM, SWEEP_SECONDS).at(0.0) == BOTTOM


def test_it_follows_the_passed_positions_with_its_lag(mark: LowWaterMark[int]) -> None:
    mark.passed(0.0, 10)
    mark.passed(1.0, 20)
    assert mark.at(1.0) == BOTTOM
    mark.passed(LAG_SECONDS, 30)
    assert mark.at(LAG_SECONDS) == 10
    mark.passed(2 * LAG_SECONDS, 40)
    assert mark.at(2 * LAG_SECONDS) == 30


def test_scans_begin_at_the_bottom_until_one_of_them_reaches_the_end(mark: LowWaterMark[int]) -> None:
    mark.passed(0.0, 10)
    mark.passed(LAG_SECONDS, 20)
    assert mark.at(SWEEP_SECONDS - 0.1) == 10
    assert mark.at(SWEEP_SECONDS) == BOTTOM
    assert mark.at(SWEEP_SECONDS + 1) == BOTTOM
    mark.swept(SWEEP_SECONDS + 1)
    assert mark.at(SWEEP_SECONDS + 1) == 10


def test_a_requested_sweep_does_not_wait_until_the_next_is_due(mark: LowWaterMark[int]) -> None:
    mark.passed(0.0, 10)
    mark.passed(LAG_SECONDS, 20)
    mark.sweep()
    assert mark.at(LAG_SECONDS) == BOTTOM
    mark.swept(LAG_SECONDS)
    assert mark.at(LAG_SECONDS) == 10
    assert mark.at(LAG_SECONDS + SWEEP_SECONDS) == BOTTOM


def test_a_scan_that_began_at_the_mark_is_not_a_sweep(mark: LowWaterMark[int]) -> None:
    mark.passed(0.0, 10)
    mark.passed(LAG_SECONDS, 20)
    mark.swept(SWEEP_SECONDS - 0.1)
    assert mark.at(SWEEP_SECONDS) == BOTTOM


def test_after_a_pause_longer_than_its_lag_it_is_at_the_position_of_the_last_scan(mark: LowWaterMark[int]) -> None:
    mark.passed(0.0, 10)
    mark.passed(0.0, 11)
    mark.passed(SWEEP_SECONDS, 12)
    mark.swept(SWEEP_SECONDS)
    assert mark.at(SWEEP_SECONDS) == 11


def test_after_a_step_back_it_is_at_the_bottom(mark: LowWaterMark[int]) -> None:
    mark.passed(0.0, 10)
    mark.passed(LAG_SECONDS, 20)
    mark.passed(LAG_SECONDS, 5)
    assert mark.at(LAG_SECONDS) == BOTTOM


def test_positions_passed_before_a_step_back_no_longer_count(mark: LowWaterMark[int]) -> None:
    """Otherwise rows between the two would have to wait for a sweep."""
    mark.passed(0.0, 10)
    mark.passed(1.0, 20)
    mark.passed(1.5, 5)
    mark.passed(1.0 + LAG_SECONDS, 6)
    assert mark.at(1.0 + LAG_SECONDS) == BOTTOM
    mark.passed(1.5 + LAG_SECONDS, 7)
    assert mark.at(1.5 + LAG_SECONDS) == 5


def test_the_same_position_again_is_not_a_step_back(mark: LowWaterMark[int]) -> None:
    mark.passed(0.0, 10)
    mark.passed(LAG_SECONDS, 10)
    assert mark.at(LAG_SECONDS) == 10
