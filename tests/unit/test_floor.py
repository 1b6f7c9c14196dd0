"""The floor follows the head of a queue at a distance, and a scan begins at the bottom now and then."""

import pytest

from dispatcher.worker.low_water import LAG, SWEEP_EVERY, Floor

BOTTOM = -100


@pytest.fixture
def floor() -> Floor[int]:
    """One that has just been swept, at 0."""
    made = Floor(BOTTOM)
    made.swept(0.0)
    return made


def test_the_first_scan_begins_at_the_bottom() -> None:
    assert Floor(BOTTOM).at(0.0) == BOTTOM


def test_it_follows_what_was_passed_after_its_lag(floor: Floor[int]) -> None:
    floor.passed(0.0, 10)
    floor.passed(1.0, 20)
    assert floor.at(1.0) == BOTTOM
    floor.passed(LAG, 30)
    assert floor.at(LAG) == 10
    floor.passed(2 * LAG, 40)
    assert floor.at(2 * LAG) == 30


def test_a_scan_begins_at_the_bottom_until_one_of_them_finds_the_end(floor: Floor[int]) -> None:
    floor.passed(0.0, 10)
    floor.passed(LAG, 20)
    assert floor.at(SWEEP_EVERY - 0.1) == 10
    assert floor.at(SWEEP_EVERY) == BOTTOM
    assert floor.at(SWEEP_EVERY + 1) == BOTTOM
    floor.swept(SWEEP_EVERY + 1)
    assert floor.at(SWEEP_EVERY + 1) == 10


def test_a_sweep_that_is_asked_for_comes_before_its_time(floor: Floor[int]) -> None:
    floor.passed(0.0, 10)
    floor.passed(LAG, 20)
    floor.sweep()
    assert floor.at(LAG) == BOTTOM
    floor.swept(LAG)
    assert floor.at(LAG) == 10
    assert floor.at(LAG + SWEEP_EVERY) == BOTTOM


def test_a_scan_that_began_at_the_floor_is_no_sweep(floor: Floor[int]) -> None:
    floor.passed(0.0, 10)
    floor.passed(LAG, 20)
    floor.swept(SWEEP_EVERY - 0.1)
    assert floor.at(SWEEP_EVERY) == BOTTOM


def test_after_a_pause_longer_than_its_lag_it_is_where_the_last_scan_was(floor: Floor[int]) -> None:
    floor.passed(0.0, 10)
    floor.passed(0.0, 11)
    floor.passed(SWEEP_EVERY, 12)
    floor.swept(SWEEP_EVERY)
    assert floor.at(SWEEP_EVERY) == 11


def test_what_steps_back_begins_at_the_bottom(floor: Floor[int]) -> None:
    floor.passed(0.0, 10)
    floor.passed(LAG, 20)
    floor.passed(LAG, 5)
    assert floor.at(LAG) == BOTTOM


def test_what_was_passed_before_a_step_back_counts_no_more(floor: Floor[int]) -> None:
    """Else what comes between the two would have to wait for a sweep."""
    floor.passed(0.0, 10)
    floor.passed(1.0, 20)
    floor.passed(1.5, 5)
    floor.passed(1.0 + LAG, 6)
    assert floor.at(1.0 + LAG) == BOTTOM
    floor.passed(1.5 + LAG, 7)
    assert floor.at(1.5 + LAG) == 5


def test_the_same_position_again_is_no_step_back(floor: Floor[int]) -> None:
    floor.passed(0.0, 10)
    floor.passed(LAG, 10)
    assert floor.at(LAG) == 10
