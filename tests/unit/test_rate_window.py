"""The rate window: pure, and exact no matter when in its flight a request arrives."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.policy.rate_window import RateWindow


def room(window: RateWindow, now: float) -> int:
    """Returns how many requests may start now, without starting any."""
    count = 0
    while count <= window.requests and window.take(now):
        count += 1
    for _ in range(count):
        window.end(now, sent=False)
    return count


def test_a_request_occupies_its_slot_until_a_window_after_its_end() -> None:
    window = RateWindow(2, 60.0)
    assert [window.take(0.0), window.take(1.0), window.take(2.0)] == [True, True, False]
    window.end(5.0)
    window.end(7.0)
    assert window.wait(10.0) == 55.0
    assert not window.take(64.9)
    assert window.take(65.0)
    assert room(window, 65.0) == 0
    assert room(window, 67.0) == 1


def test_a_slot_that_was_not_used_is_free_again() -> None:
    window = RateWindow(1, 60.0)
    window.take(0.0)
    window.end(0.0, sent=False)
    assert window.take(0.0)


def test_the_stored_window_holds_for_the_next_worker() -> None:
    window = RateWindow(3, 60.0)
    for _ in range(2):
        window.take(0.0)
    window.end(10.0)
    stored = window.stored(20.0)
    assert stored == "[10.0,20.0]"  # the request in flight may end now
    again = RateWindow(3, 60.0, stored)
    assert room(again, 20.0) == 1
    assert room(again, 70.0) == 2
    assert again.stored(80.0) is None


def test_times_are_stored_to_the_millisecond_and_no_slot_is_free_too_early() -> None:
    window = RateWindow(1, 60.0)
    window.take(0.0)
    window.end(0.0004)
    stored = window.stored(1.0)
    assert stored == "[0.001]"
    assert window.wait(1.0) == RateWindow(1, 60.0, stored).wait(1.0) == pytest.approx(59.001)
    assert not window.take(60.0005)
    assert window.take(60.001)


def test_the_destination_narrows_the_window_and_never_widens_it() -> None:
    window = RateWindow(10, 60.0)
    window.correct(remaining=3, reset=20.0, now=0.0, began=0.0)
    assert room(window, 0.0) == 3
    assert room(window, 20.0) == 10
    window.correct(remaining=50, reset=20.0, now=20.0, began=20.0)
    assert room(window, 20.0) == 10
    window.correct(remaining=0, reset=600.0, now=20.0, began=20.0)  # another window than ours
    assert room(window, 20.0) == 10
    window.correct(remaining=3, reset=62.0, now=20.0, began=20.0)  # the same, whose times are rounded
    assert room(window, 79.9) == 3
    assert room(window, 80.0) == 10


def test_a_request_that_the_report_includes_is_not_counted_twice_although_its_own_answer_is_late() -> None:
    window = RateWindow(3, 60.0)
    window.take(0.0)
    window.take(1.0)
    window.end(2.0)
    window.correct(remaining=1, reset=30.0, now=2.0, began=1.0)
    assert room(window, 2.0) == 1


def test_requests_that_have_left_the_window_are_not_counted_against_a_report() -> None:
    window = RateWindow(10, 60.0)
    for _ in range(8):
        window.take(0.0)
        window.end(0.0)
    window.correct(remaining=3, reset=20.0, now=60.0, began=60.0)
    assert room(window, 60.0) == 3


def test_a_report_about_a_window_that_has_ended_is_ignored() -> None:
    window = RateWindow(10, 60.0)
    window.correct(remaining=0, reset=0.0, now=0.0, began=0.0)
    assert room(window, 0.0) == 10


def test_requests_that_began_later_are_deducted_from_the_reported_limit() -> None:
    """Another client has used four of ten slots; three requests are in flight when the first answer reports that."""
    window = RateWindow(10, 60.0)
    for start in (0.0, 1.0, 2.0, 3.0):
        window.take(start)
    window.end(4.0)
    window.correct(remaining=5, reset=20.0, now=4.0, began=0.0)
    assert room(window, 4.0) == 2
    window.end(5.0)
    window.correct(remaining=4, reset=19.0, now=5.0, began=1.0)
    assert room(window, 5.0) == 2


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 30)), max_size=200), st.integers(1, 10))
def test_no_window_holds_more_than_the_limit_no_matter_when_a_request_in_flight_arrives(
    steps: list[tuple[float, float]], limit: int
) -> None:
    window, now, flights = RateWindow(limit, 60.0), 0.0, list[tuple[float, float]]()
    arrivals: list[float] = []
    for gap, duration in steps:
        now += gap
        for start, end in sorted((one for one in flights if one[1] <= now), key=lambda one: one[1]):
            window.end(end)
            arrivals.append(end if int(start) % 2 else start)
            flights.remove((start, end))
        if window.take(now):
            flights.append((now, now + duration))
    arrivals.sort()
    assert all(later - first >= 60.0 - 1e-9 for first, later in zip(arrivals, arrivals[limit:], strict=False))


def test_it_can_be_used_in_full() -> None:
    window = RateWindow(60, 60.0)
    for start in (0.0, 60.0, 120.0):
        assert room(window, start) == 60
        for _ in range(60):
            assert window.take(start)
            window.end(start)


def test_a_worker_with_a_larger_clock_error_never_shortens_it() -> None:
    """A worker knows the database's clock only to within the time its claim took: it records late times and forgets them late."""
    window = RateWindow(1, 60.0)
    window.take(0.0)
    assert window.stored(10.0, 12.0) == "[12.0]"
    window.end(12.0)
    other = RateWindow(1, 60.0, window.stored(10.0, 12.0))
    assert other.wait(71.0) == pytest.approx(1.0)


def test_its_use_and_the_time_of_many_requests_are_known_without_changing_it() -> None:
    stored = "[0.0,10.0,20.0,30.0]"
    window = RateWindow(5, 60.0, stored)
    assert [window.used(at) for at in (30.0, 59.9, 60.0, 90.0)] == [4, 4, 3, 0]
    window = RateWindow(5, 60.0, stored)
    assert [window.wait(30.0, requests) for requests in (1, 2, 3, 6, 7, 11)] == [0.0, 30.0, 40.0, 60.0, 90.0, 120.0]
    assert RateWindow(5, 60.0).wait(0.0, 6) == 60.0
    assert RateWindow(2, 60.0, stored).wait(30.0) == 50.0  # the limit has been lowered
    window.take(30.0)
    assert (window.used(30.0), window.wait(30.0), window.stored(30.0)) == (5, 30.0, "[0.0,10.0,20.0,30.0,30.0]")


@given(st.lists(st.floats(0, 60), max_size=12), st.integers(1, 5), st.integers(1, 20))
def test_the_time_of_many_requests_is_that_of_sending_them(ended: list[float], limit: int, requests: int) -> None:
    stored = orjson.dumps(sorted(ended)).decode()
    window, now = RateWindow(limit, 60.0, stored), 60.0
    for _ in range(requests):
        now += window.wait(now)
        assert window.take(now + 1e-6)
        window.end(now)
    assert RateWindow(limit, 60.0, stored).wait(60.0, requests) == pytest.approx(now - 60.0, abs=0.1)


def test_after_the_clock_was_set_back_it_waits_at_most_one_window() -> None:
    window = RateWindow(2, 60.0, "[3590.0,3600.0]")
    assert window.wait(0.0) == 60.0
    assert room(window, 59.9) == 0
    assert room(window, 60.0) == 2
    little = RateWindow(2, 60.0, "[10.0,30.0]")  # by no more than two clocks may differ
    assert little.wait(0.0) == 70.0
    both = RateWindow(2, 60.0, "[62.0,3600.0]")
    assert [room(both, at) for at in (0.0, 59.9, 60.0, 121.9, 122.0)] == [0, 0, 1, 1, 2]
