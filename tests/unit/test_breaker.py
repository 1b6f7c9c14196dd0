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


def send(breaker: Breaker, outcome: Outcome | None, now: float, subject: str = "db_1") -> None:
    """Sends one request, which ends immediately with this outcome."""
    assert breaker.wait(now) == 0.0
    breaker.start(now)
    breaker.end(outcome, subject, now)


def fail(breaker: Breaker, times: int, now: float = 0.0, outcome: Outcome = FAILED, subjects: int = 99) -> None:
    for number in range(times):
        send(breaker, outcome, now, f"db_{number % subjects}")


def opened(now: float = 0.0) -> Breaker:
    breaker = made()
    fail(breaker, FAULTS_TO_OPEN, now)
    assert breaker.is_open
    return breaker


def closing(now: float = 100.0) -> Breaker:
    breaker = opened()
    send(breaker, DELIVERED, now)
    assert not breaker.is_open
    return breaker


@pytest.mark.parametrize("outcome", [FAILED, Outcome(K.TIMEOUT), BROKEN, NOT_CONNECTED])
def test_it_opens_after_several_faults_in_a_row(outcome: Outcome) -> None:
    breaker = made()
    fail(breaker, FAULTS_TO_OPEN - 1, outcome=outcome)
    assert not breaker.is_open
    fail(breaker, 1, outcome=outcome)
    assert breaker.is_open


def test_a_success_between_faults_restarts_the_count() -> None:
    breaker = made()
    fail(breaker, FAULTS_TO_OPEN - 1)
    send(breaker, DELIVERED, 0.0)
    fail(breaker, FAULTS_TO_OPEN - 1)
    assert not breaker.is_open


def test_it_is_calm_while_it_is_closed_and_counts_no_fault() -> None:
    breaker, calm = made(), []
    for outcome in (DELIVERED, FAILED, DELIVERED):
        send(breaker, outcome, 0.0)
        calm.append(breaker.is_calm)
    assert calm == [True, False, True]
    assert not opened().is_calm
    assert not closing().is_calm


def test_while_it_is_calm_a_success_has_the_same_effect_whichever_way_it_ends() -> None:
    ended, ended_well = made(), made()
    for number in range(30):
        for breaker in (ended, ended_well):
            breaker.start(number / 10)
        ended.end(DELIVERED, "db_1", number / 10)
        ended_well.end_well(number / 10)
    for breaker in (ended, ended_well):  # the ramp starts from the rate before the outage
        fail(breaker, FAULTS_TO_OPEN, 3.0)
        send(breaker, DELIVERED, 3.0 + breaker.wait(3.0))
    assert vars(ended_well) | {"_random": 0, "_served": 0} == vars(ended) | {"_random": 0, "_served": 0}
    assert ended_well._served.rate == ended._served.rate == 10.0


@pytest.mark.parametrize("kind", [K.REJECTED, K.GONE, K.UNAUTHORIZED, K.DISABLED, K.THROTTLED])
def test_any_valid_answer_shows_life(kind: OutcomeKind) -> None:
    breaker = opened()
    send(breaker, Outcome(kind), 10.0)
    assert not breaker.is_open


@pytest.mark.parametrize(("attempts", "faults"), [(1, 1), (2, 1), (3, 2), (11, 10), (20, FAULTS_TO_OPEN)])
def test_an_unreachable_host_uses_up_all_attempts_of_no_delivery(attempts: int, faults: int) -> None:
    breaker = Breaker(Policy(max_attempts=attempts), lambda: 1.0)
    fail(breaker, faults - 1, outcome=NOT_CONNECTED, subjects=1)
    assert not breaker.is_open
    fail(breaker, 1, outcome=NOT_CONNECTED, subjects=1)
    assert breaker.is_open


@pytest.mark.parametrize("outcome", [Outcome(K.NO_CREDENTIAL), Outcome(K.CREDENTIALS_UNAVAILABLE), None])
def test_a_request_that_was_not_sent_changes_nothing(outcome: Outcome | None) -> None:
    breaker = opened()
    send(breaker, outcome, 10.0)
    assert breaker.is_open
    assert breaker.wait(10.0) == 0.0


@pytest.mark.parametrize("attempts", [2, 20])
@pytest.mark.parametrize("outcome", [FAILED, Outcome(K.TIMEOUT), BROKEN])
def test_a_single_subject_may_itself_be_the_cause(outcome: Outcome, attempts: int) -> None:
    breaker = Breaker(Policy(max_attempts=attempts), lambda: 1.0)
    fail(breaker, 10 * FAULTS_TO_OPEN, outcome=outcome, subjects=SUBJECTS_TO_OPEN - 1)
    assert not breaker.is_open
    fail(
        breaker, 1, outcome=NOT_CONNECTED, subjects=1
    )  # but a host that cannot be connected to is down for all subjects
    assert breaker.is_open


def test_after_a_success_subjects_with_earlier_faults_do_not_count() -> None:
    breaker = made()
    fail(breaker, SUBJECTS_TO_OPEN)
    send(breaker, DELIVERED, 0.0)
    fail(breaker, 10 * FAULTS_TO_OPEN, subjects=1)
    assert not breaker.is_open


def test_while_it_is_open_it_allows_one_probe_at_a_time_with_growing_gaps() -> None:
    breaker, now, gaps = opened(), 0.0, list[float]()
    for _ in range(9):
        gaps.append(breaker.wait(now))
        now += gaps[-1]
        breaker.start(now)
        assert breaker.wait(now) == math.inf
        breaker.end(Outcome(K.TIMEOUT), "db_1", now)
    assert gaps == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 15.0, 15.0]


def test_requests_in_flight_when_it_opened_do_not_postpone_the_probe() -> None:
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
        requests = sum(100.0 + second <= at < 101.0 + second for at in started)
        max_rate = ramp_rate(second + 1)
        assert max_rate / 3 <= requests <= max_rate * (1 + BURST_SECONDS) + 1


def test_after_the_ramp_requests_are_not_limited() -> None:
    breaker = closing(100.0)
    for _ in range(2_000):
        breaker.start(100.0 + RAMP_SECONDS)
        assert breaker.wait(100.0 + RAMP_SECONDS) == 0.0


def test_two_faults_during_the_ramp_are_tolerated_and_the_third_opens_it_again() -> None:
    breaker, now = closing(100.0), 105.0
    for number in range(FAULTS_TO_REOPEN):
        assert not breaker.is_open
        send(breaker, FAILED, now + number, f"db_{number}")
    assert breaker.is_open
    assert breaker.wait(now + FAULTS_TO_REOPEN - 1) == 1.0  # the gaps start again from the shortest


def test_only_a_fault_that_follows_a_sign_of_life_is_certainly_the_deliverys() -> None:
    breaker = made()
    fail(breaker, 1)
    suspected = [breaker.is_suspected]  # as far as the breaker knows, the host worked until now
    fail(breaker, 1)
    suspected.append(breaker.is_suspected)
    send(breaker, DELIVERED, 0.0)
    fail(breaker, 1)
    assert [*suspected, breaker.is_suspected] == [False, True, False]
    fail(breaker, FAULTS_TO_OPEN - 1)
    assert (breaker.is_open, breaker.is_suspected) == (True, True)


@pytest.mark.parametrize(
    ("answers", "rate"),
    [
        ([], 0.0),
        ([0.0, 0.5, 0.9], 3.0),
        ([0.0, 0.5, 0.9, 1.0], 3.0),  # too little is known about the second that has just begun
        ([0.0, 1.0, 1.5], 2.0),
        ([0.0, 0.1, 0.2, 1.0, 2.0], 1.0),
    ],
)
def test_the_rate_before_an_outage_is_that_of_the_busier_of_the_last_two_seconds(
    answers: list[float], rate: float
) -> None:
    served = ServedRate()
    for at in answers:
        served.count(at)
    assert served.rate == rate


def test_the_ramp_starts_from_the_rate_before_the_outage_reduced_by_its_length() -> None:
    breaker = made()
    for number in range(160):
        send(breaker, DELIVERED, number / 80)
    fail(breaker, FAULTS_TO_OPEN, now=2.0)
    send(breaker, DELIVERED, 3.0)
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
def test_the_deliveries_that_waited_during_an_outage_go_out_within_its_length_and_a_second(
    rate: float, outage: float
) -> None:
    """In continuous time: compares the deliveries that have become due with those that the ramp allows."""
    seconds, started, start = 0.0, 0.0, ramp_start(rate, outage)
    while started < rate * (outage + seconds) and seconds < RAMP_SECONDS:
        started += ramp_rate(seconds, start) * 0.01
        seconds += 0.01
    assert seconds <= outage + 1.0
