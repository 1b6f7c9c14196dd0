"""The host's breaker: opens at an outage, lets one probe at a time through, and closes over a ramp."""

import math
from itertools import count

import pytest

from dispatcher.breaker import BURST_SECONDS, FAULTS, FAULTS_ON_RAMP, RAMP_SECONDS, SUBJECTS, Breaker, ramp_rate
from dispatcher.policy import OutcomeKind, Policy

K = OutcomeKind


def made() -> Breaker:
    return Breaker(Policy(), lambda: 1.0)


def ask(breaker: Breaker, kind: OutcomeKind | None, now: float, subject: str = "db_1") -> None:
    """One request that comes to this at once."""
    assert breaker.wait(now) == 0.0
    breaker.start(now)
    breaker.end(kind, subject, now)


def fail(breaker: Breaker, times: int, now: float = 0.0, kind: OutcomeKind = K.FAILED, subjects: int = 99) -> None:
    for number in range(times):
        ask(breaker, kind, now, f"db_{number % subjects}")


def opened(now: float = 0.0) -> Breaker:
    breaker = made()
    fail(breaker, FAULTS, now)
    assert breaker.is_open
    return breaker


def closing(now: float = 100.0) -> Breaker:
    breaker = opened()
    ask(breaker, K.DELIVERED, now)
    assert not breaker.is_open
    return breaker


@pytest.mark.parametrize("kind", [K.FAILED, K.TIMEOUT, K.UNREACHABLE])
def test_it_opens_after_several_faults_in_a_row(kind: OutcomeKind) -> None:
    breaker = made()
    fail(breaker, FAULTS - 1, kind=kind)
    assert not breaker.is_open
    fail(breaker, 1, kind=kind)
    assert breaker.is_open


def test_a_success_between_them_begins_the_count_anew() -> None:
    breaker = made()
    fail(breaker, FAULTS - 1)
    ask(breaker, K.DELIVERED, 0.0)
    fail(breaker, FAULTS - 1)
    assert not breaker.is_open


@pytest.mark.parametrize("kind", [K.REJECTED, K.GONE, K.UNAUTHORIZED, K.DISABLED, K.THROTTLED])
def test_any_answer_that_makes_sense_shows_life(kind: OutcomeKind) -> None:
    breaker = opened()
    ask(breaker, kind, 10.0)
    assert not breaker.is_open


@pytest.mark.parametrize("kind", [K.NO_CREDENTIAL, K.CREDENTIALS_UNAVAILABLE, None])
def test_what_was_not_sent_says_nothing(kind: OutcomeKind | None) -> None:
    breaker = opened()
    ask(breaker, kind, 10.0)
    assert breaker.is_open
    assert breaker.wait(10.0) == 0.0


def test_a_single_subject_may_itself_be_the_cause() -> None:
    breaker = made()
    fail(breaker, 10 * FAULTS, subjects=SUBJECTS - 1)
    assert not breaker.is_open
    fail(breaker, 1, kind=K.UNREACHABLE, subjects=1)  # but a host that cannot be reached is out for all
    assert breaker.is_open


def test_while_it_is_open_one_probe_at_a_time_is_let_through_with_growing_gaps() -> None:
    breaker, now, gaps = opened(), 0.0, list[float]()
    for _ in range(9):
        gaps.append(breaker.wait(now))
        now += gaps[-1]
        breaker.start(now)
        assert breaker.wait(now) == math.inf
        breaker.end(K.TIMEOUT, "db_1", now)
    assert gaps == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 15.0, 15.0]


def test_what_was_in_flight_when_it_opened_does_not_put_off_the_probe() -> None:
    breaker = made()
    for _ in range(5):
        breaker.start(0.0)
    fail(breaker, FAULTS, 0.0)
    for _ in range(5):
        breaker.end(K.FAILED, "late", 0.5)
    assert breaker.wait(1.0) == 0.0


def test_it_closes_over_a_ramp() -> None:
    breaker, started = closing(100.0), list[float]()
    for tick in count():
        now = 100.0 + tick * 0.02
        if now >= 110.0:
            break
        while breaker.wait(now) == 0.0:
            breaker.start(now)
            breaker.end(K.DELIVERED, "db_1", now)
            started.append(now)
    for second in range(10):
        in_it = sum(100.0 + second <= at < 101.0 + second for at in started)
        fastest = ramp_rate(second + 1)
        assert fastest / 3 <= in_it <= fastest * (1 + BURST_SECONDS) + 1


def test_after_the_ramp_nothing_holds_it_back() -> None:
    breaker = closing(100.0)
    for _ in range(1_000):
        ask(breaker, K.DELIVERED, 100.0 + RAMP_SECONDS)


def test_a_fault_or_two_on_the_ramp_are_borne_and_a_third_opens_it_again() -> None:
    breaker, now = closing(100.0), 105.0
    for number in range(FAULTS_ON_RAMP):
        assert not breaker.is_open
        ask(breaker, K.FAILED, now + number, f"db_{number}")
    assert breaker.is_open
    assert breaker.wait(now + FAULTS_ON_RAMP - 1) == 1.0  # the gaps begin anew
