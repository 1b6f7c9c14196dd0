"""The host's breaker: opens at an outage, lets one probe at a time through, and closes over a ramp."""

import math
from itertools import count

import pytest

from dispatcher.policy.breaker import (
    BURST_SECONDS,
    FAULTS_TO_OPEN,
    FAULTS_TO_REOPEN,
    MIN_RAMP_RATE,
    RAMP_SECONDS,
    SUBJECTS_TO_OPEN,
    Breaker,
    ServedRate,
    ramp_rate,
    ramp_start,
)
from dispatcher.policy.decision import Policy
from dispatcher.policy.outcome import Outcome, OutcomeKind

K = OutcomeKind


def made() -> Breaker:
    return Breaker(Policy(), lambda: 1.0)


DELIVERED = Outcome(K.DELIVERED)
FAILED = Outcome(K.FAILED)
NOT_CONNECTED = Outcome(K.UNREACHABLE, connected=False)
BROKEN = Outcome(K.UNREACHABLE)


def ask(breaker: Breaker, outcome: Outcome | None, now: float, subject: str = "db_1") -> None:
    """One request that comes to this at once."""
    assert breaker.wait(now) == 0.0
    breaker.start(now)
    breaker.end(outcome, subject, now)


def fail(breaker: Breaker, times: int, now: float = 0.0, outcome: Outcome = FAILED, subjects: int = 99) -> None:
    for number in range(times):
        ask(breaker, outcome, now, f"db_{number % subjects}")


def opened(now: float = 0.0) -> Breaker:
    breaker = made()
    fail(breaker, FAULTS_TO_OPEN, now)
    assert breaker.is_open
    return breaker


def closing(now: float = 100.0) -> Breaker:
    breaker = opened()
    ask(breaker, DELIVERED, now)
    assert not breaker.is_open
    return breaker


@pytest.mark.parametrize("outcome", [FAILED, Outcome(K.TIMEOUT), BROKEN, NOT_CONNECTED])
def test_it_opens_after_several_faults_in_a_row(outcome: Outcome) -> None:
    breaker = made()
    fail(breaker, FAULTS_TO_OPEN - 1, outcome=outcome)
    assert not breaker.is_open
    fail(breaker, 1, outcome=outcome)
    assert breaker.is_open


def test_a_success_between_them_begins_the_count_anew() -> None:
    breaker = made()
    fail(breaker, FAULTS_TO_OPEN - 1)
    ask(breaker, DELIVERED, 0.0)
    fail(breaker, FAULTS_TO_OPEN - 1)
    assert not breaker.is_open


@pytest.mark.parametrize("kind", [K.REJECTED, K.GONE, K.UNAUTHORIZED, K.DISABLED, K.THROTTLED])
def test_any_answer_that_makes_sense_shows_life(kind: OutcomeKind) -> None:
    breaker = opened()
    ask(breaker, Outcome(kind), 10.0)
    assert not breaker.is_open


@pytest.mark.parametrize(("attempts", "faults"), [(1, 1), (2, 1), (3, 2), (11, 10), (20, FAULTS_TO_OPEN)])
def test_a_host_out_of_reach_uses_up_the_attempts_of_no_delivery(attempts: int, faults: int) -> None:
    breaker = Breaker(Policy(max_attempts=attempts), lambda: 1.0)
    fail(breaker, faults - 1, outcome=NOT_CONNECTED, subjects=1)
    assert not breaker.is_open
    fail(breaker, 1, outcome=NOT_CONNECTED, subjects=1)
    assert breaker.is_open


@pytest.mark.parametrize("outcome", [Outcome(K.NO_CREDENTIAL), Outcome(K.CREDENTIALS_UNAVAILABLE), None])
def test_what_was_not_sent_says_nothing(outcome: Outcome | None) -> None:
    breaker = opened()
    ask(breaker, outcome, 10.0)
    assert breaker.is_open
    assert breaker.wait(10.0) == 0.0


@pytest.mark.parametrize("attempts", [2, 20])
@pytest.mark.parametrize("outcome", [FAILED, Outcome(K.TIMEOUT), BROKEN])
def test_a_single_subject_may_itself_be_the_cause(outcome: Outcome, attempts: int) -> None:
    breaker = Breaker(Policy(max_attempts=attempts), lambda: 1.0)
    fail(breaker, 10 * FAULTS_TO_OPEN, outcome=outcome, subjects=SUBJECTS_TO_OPEN - 1)
    assert not breaker.is_open
    fail(breaker, 1, outcome=NOT_CONNECTED, subjects=1)  # but a host without a connection is out for all
    assert breaker.is_open


def test_subjects_that_met_a_fault_before_a_success_clear_none_that_fails_alone_afterwards() -> None:
    breaker = made()
    fail(breaker, SUBJECTS_TO_OPEN)
    ask(breaker, DELIVERED, 0.0)
    fail(breaker, 10 * FAULTS_TO_OPEN, subjects=1)
    assert not breaker.is_open


def test_while_it_is_open_one_probe_at_a_time_is_let_through_with_growing_gaps() -> None:
    breaker, now, gaps = opened(), 0.0, list[float]()
    for _ in range(9):
        gaps.append(breaker.wait(now))
        now += gaps[-1]
        breaker.start(now)
        assert breaker.wait(now) == math.inf
        breaker.end(Outcome(K.TIMEOUT), "db_1", now)
    assert gaps == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 15.0, 15.0]


def test_what_was_in_flight_when_it_opened_does_not_put_off_the_probe() -> None:
    breaker = made()
    for _ in range(5):
        breaker.start(0.0)
    fail(breaker, FAULTS_TO_OPEN, 0.0)
    for _ in range(5):
        breaker.end(FAILED, "late", 0.5)
    assert breaker.wait(1.0) == 0.0


def test_it_closes_over_a_ramp() -> None:
    breaker, started = closing(100.0), list[float]()
    for tick in count():
        now = 100.0 + tick * 0.02
        if now >= 110.0:
            break
        while breaker.wait(now) == 0.0 and len(started) < 10_000:
            breaker.start(now)
            breaker.end(DELIVERED, "db_1", now)
            started.append(now)
    for second in range(10):
        in_it = sum(100.0 + second <= at < 101.0 + second for at in started)
        fastest = ramp_rate(second + 1)
        assert fastest / 3 <= in_it <= fastest * (1 + BURST_SECONDS) + 1


def test_after_the_ramp_nothing_holds_it_back() -> None:
    breaker = closing(100.0)
    for _ in range(2_000):
        breaker.start(100.0 + RAMP_SECONDS)
        assert breaker.wait(100.0 + RAMP_SECONDS) == 0.0


def test_a_fault_or_two_on_the_ramp_are_borne_and_a_third_opens_it_again() -> None:
    breaker, now = closing(100.0), 105.0
    for number in range(FAULTS_TO_REOPEN):
        assert not breaker.is_open
        ask(breaker, FAILED, now + number, f"db_{number}")
    assert breaker.is_open
    assert breaker.wait(now + FAULTS_TO_REOPEN - 1) == 1.0  # the gaps begin anew


def test_only_a_fault_that_follows_life_is_surely_the_deliverys() -> None:
    breaker = made()
    fail(breaker, 1)
    suspected = [breaker.is_suspected]  # as far as it knows, the host worked until now
    fail(breaker, 1)
    suspected.append(breaker.is_suspected)
    ask(breaker, DELIVERED, 0.0)
    fail(breaker, 1)
    assert [*suspected, breaker.is_suspected] == [False, True, False]
    fail(breaker, FAULTS_TO_OPEN - 1)
    assert (breaker.is_open, breaker.is_suspected) == (True, True)


@pytest.mark.parametrize(
    ("answers", "rate"),
    [
        ([], 0.0),
        ([0.0, 0.5, 0.9], 3.0),
        ([0.0, 0.5, 0.9, 1.0], 3.0),  # of the second that has just begun, not enough is known
        ([0.0, 1.0, 1.5], 2.0),
        ([0.0, 0.1, 0.2, 1.0, 2.0], 1.0),
    ],
)
def test_the_rate_before_an_outage_is_that_of_the_busier_one_of_the_last_two_seconds(
    answers: list[float], rate: float
) -> None:
    served = ServedRate()
    for at in answers:
        served.count(at)
    assert served.rate == rate


def test_the_ramp_starts_from_the_rate_before_the_lower_the_longer_the_outage_was() -> None:
    breaker = made()
    for number in range(160):
        ask(breaker, DELIVERED, number / 80)
    fail(breaker, FAULTS_TO_OPEN, now=2.0)
    ask(breaker, DELIVERED, 3.0)
    begun, now = 0, 3.0
    while now < 3.1 and begun < 1_000:
        breaker.start(now)
        now += breaker.wait(now)
        begun += 1
    assert begun == pytest.approx(ramp_start(80.0, 1.0) * 0.1, abs=2)
    assert ramp_start(80.0, 0.0) == 240.0
    assert ramp_start(80.0, 4.0) == 120.0
    assert ramp_start(80.0, 3_600.0) == MIN_RAMP_RATE


@pytest.mark.parametrize("rate", [5.0, 80.0, 500.0, 3_000.0])
@pytest.mark.parametrize("outage", [0.5, 1.0, 2.0, 4.0, 10.0, 60.0, 3_600.0])
def test_what_an_outage_kept_waiting_goes_out_within_its_length_and_a_second(rate: float, outage: float) -> None:
    """In continuous time: what came in until then, against what the ramp lets through."""
    seconds, started, start = 0.0, 0.0, ramp_start(rate, outage)
    while started < rate * (outage + seconds) and seconds < RAMP_SECONDS:
        started += ramp_rate(seconds, start) * 0.01
        seconds += 0.01
    assert seconds <= outage + 1.0
