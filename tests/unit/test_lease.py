"""A held lease: which requests may start, and how outcomes and decisions affect the rest of its installation."""

import pytest

from dispatcher.outbox.events import Subject
from dispatcher.policy.decision import Action, Decision, PauseReason, Policy
from dispatcher.policy.installation_breaker import BREAKER_FAULTS, FULL_SPEED_REQUESTS
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.policy.rate_window import RateWindow
from dispatcher.settings.contradictions import LEASE_MARGIN_SECONDS
from dispatcher.store import LONG_AGO, Delivery, Leased
from dispatcher.worker.lease import Clock, HeldLease

K = OutcomeKind
TIMEOUT = 10.0
DELIVERED = Decision(Action.DELIVERED)
RETRY = Decision(Action.RETRY, delay=5.0)
PAUSE = Decision(Action.PAUSE, PauseReason.UNAUTHORIZED, 30.0)
CLOCK = Clock(1_000.0, 1_002.0)


def delivery(name: str) -> Delivery:
    return Delivery(name, Subject("icfg_1", "resource.updated", name), None, None, 1, 1, 1, LONG_AGO, "v1", 0, None)


def claimed(
    *,
    faults: int = 0,
    suspects: int = 0,
    window: RateWindow | None = None,
    until: float = 60.0,
    clock: Clock = CLOCK,
) -> HeldLease:
    """Returns a lease under which nothing has been read yet."""
    leased = Leased("icfg_1", "token", (), None, faults, faults, suspects, None, None)
    return HeldLease.of(leased, until, clock, window)


def held(
    deliveries: int = 3, *, faults: int = 0, suspects: int = 0, window: RateWindow | None = None, until: float = 60.0
) -> HeldLease:
    lease = claimed(faults=faults, suspects=suspects, window=window, until=until)
    lease.add([delivery(f"db_{number}") for number in range(deliveries)], 500, 0.0)
    return lease


def answer(lease: HeldLease, kind: OutcomeKind, decision: Decision, now: float = 0.0) -> None:
    lease.end(now, sent=True)
    lease.record(Outcome(kind), now, now)
    lease.apply(decision, now, Policy(), lambda: 1.0)


def test_a_request_starts_only_if_the_lease_outlasts_it() -> None:
    lease = held(until=TIMEOUT + LEASE_MARGIN_SECONDS)
    assert lease.next(0.001, TIMEOUT) is None
    assert lease.next(0.0, TIMEOUT) == delivery("db_0")


def test_a_full_window_stops_the_lease_until_its_next_slot_by_the_cautious_clock() -> None:
    window = RateWindow(1, 60.0)
    lease = held(window=window)
    assert lease.next(0.0, TIMEOUT) is not None
    answer(lease, K.DELIVERED, DELIVERED, 2.0)  # at 1,004 by the clock that is ahead
    assert lease.next(3.0, TIMEOUT) is None
    assert lease.stopped_until == pytest.approx(64.0)  # 1,064 by the one behind
    assert lease.state(3.0, release=True, fresh=False).throttled_for == pytest.approx(61.0)


def test_a_slot_of_the_window_stays_occupied_while_others_are_taken() -> None:
    lease = held(window=RateWindow(2, 60.0))
    assert lease.next(0.0, TIMEOUT) is not None
    answer(lease, K.DELIVERED, DELIVERED, 1.0)
    assert lease.next(2.0, TIMEOUT) is not None
    answer(lease, K.DELIVERED, DELIVERED, 3.0)
    assert lease.next(4.0, TIMEOUT) is None


def test_another_worker_continues_the_window_by_the_databases_clock_although_its_own_differs() -> None:
    lease = held(window=RateWindow(2, 60.0))
    assert lease.next(0.0, TIMEOUT) is not None
    answer(lease, K.DELIVERED, DELIVERED, 1.0)  # at 1,003 by the clock that is ahead
    assert lease.next(2.0, TIMEOUT) is not None
    row = lease.state(2.0, release=False, fresh=False).rate_window  # in flight at 1,004
    clock = Clock(-500.0, -499.0)
    for now, stopped_until in ((1_502.0, 1_563.0), (1_562.9, 1_563.0), (1_563.0, 1_564.0)):
        other = claimed(until=2_000.0, window=RateWindow(2, 60.0, row), clock=clock)
        other.add([delivery("db_3"), delivery("db_4")], 500, now)
        while other.next(now, TIMEOUT) is not None:
            pass
        assert other.in_flight == (now >= 1_563.0)
        assert other.stopped_until == pytest.approx(stopped_until)


def test_after_a_crash_as_many_requests_as_may_have_been_in_flight_are_sent_one_at_a_time() -> None:
    lease = held(5, suspects=2)
    for left, kind, decision in ((1, K.DELIVERED, DELIVERED), (0, K.FAILED, RETRY)):
        assert lease.next(0.0, TIMEOUT) is not None
        assert lease.next(0.0, TIMEOUT) is None
        answer(lease, kind, decision)
        assert (lease.suspects, lease.breaker.limit, lease.state(0.0, release=True, fresh=True).suspects) == (
            left,
            1,
            left,
        )
    assert lease.next(0.0, TIMEOUT) is not None
    answer(lease, K.DELIVERED, DELIVERED)
    assert lease.breaker.limit == 2


def test_a_suspect_is_not_cleared_without_a_request() -> None:
    lease = held(suspects=2)
    assert lease.next(0.0, TIMEOUT) is not None
    answer(lease, K.NO_CREDENTIAL, PAUSE)
    assert lease.suspects == 2


def test_subjects_in_flight_are_not_queued_again() -> None:
    lease = held(2)
    assert lease.next(0.0, TIMEOUT) == delivery("db_0")
    lease.add([delivery("db_0"), delivery("db_1"), delivery("db_2")], 500, 1.0)
    assert [one.subject_key for one in lease.queue] == ["db_1", "db_2"]


def test_a_report_of_a_full_window_stops_the_lease() -> None:
    lease = held(window=RateWindow(60, 60.0))
    lease.record(Outcome(K.DELIVERED, rate_remaining=0, rate_reset=30.0), 0.0, 0.0)
    assert lease.next(0.0, TIMEOUT) is None
    assert lease.stopped_until is not None


def test_requests_that_a_report_includes_are_not_counted_twice() -> None:
    lease = held(window=RateWindow(3, 60.0))
    assert [lease.next(at, TIMEOUT) is not None for at in (0.0, 1.0)] == [True, True]
    lease.end(2.0, sent=True)
    lease.record(Outcome(K.DELIVERED, rate_remaining=1, rate_reset=30.0), 2.0, 1.0)  # both have arrived
    assert lease.next(2.0, TIMEOUT) is not None


@pytest.mark.parametrize(("remaining", "reset"), [(0, None), (None, 30.0)])
def test_an_incomplete_report_is_ignored(remaining: int | None, reset: float | None) -> None:
    lease = held(window=RateWindow(60, 60.0))
    lease.record(Outcome(K.DELIVERED, rate_remaining=remaining, rate_reset=reset), 0.0, 0.0)
    assert lease.next(0.0, TIMEOUT) is not None


def test_without_a_limit_of_our_own_a_report_is_ignored() -> None:
    lease = held(window=None)
    lease.record(Outcome(K.DELIVERED, rate_remaining=0, rate_reset=30.0), 0.0, 0.0)
    assert lease.next(0.0, TIMEOUT) is not None


def test_a_healthy_installations_requests_do_not_wait_for_each_other() -> None:
    lease = held(3)
    assert [lease.next(0.0, TIMEOUT) for _ in range(3)] == [delivery(f"db_{number}") for number in range(3)]
    assert not lease.one_at_a_time


def test_more_may_be_due_until_fewer_are_read_than_the_limit() -> None:
    lease = claimed()
    more = [lease.more]  # nothing has been read yet
    for count in (2, 1, 2):
        lease.add([delivery(f"db_{number}") for number in range(count)], 2, 0.0)
        more.append(lease.more)
    assert more == [True, True, False, True]


def test_a_delivery_dropped_from_the_queue_is_queued_when_it_is_read_again() -> None:
    lease = held(2)
    assert lease.next(0.0, TIMEOUT) == delivery("db_0")
    lease.drop_queue()
    lease.add([delivery("db_0"), delivery("db_1")], 500, 1.0)
    assert lease.next(1.0, TIMEOUT) == delivery("db_1")
    assert lease.next(1.0, TIMEOUT) is None


def test_after_a_crash_a_lease_is_untried_until_a_delivery_has_been_read() -> None:
    crashed, healthy = claimed(suspects=1), claimed()
    assert (crashed.untried, healthy.untried) == (True, False)
    for lease in (crashed, healthy):
        lease.add([delivery("db_0")], 1, 0.0)
    assert (crashed.untried, healthy.untried) == (False, False)


def test_after_a_crash_the_next_delivery_is_read_when_the_previous_one_is_settled() -> None:
    lease = claimed(suspects=2)
    assert lease.wants_suspect(0.0)
    lease.add([delivery("db_0")], 1, 0.0)
    wanted = [lease.wants_suspect(0.0)]
    assert lease.next(0.0, TIMEOUT) is not None
    wanted.append(lease.wants_suspect(0.0))
    answer(lease, K.DELIVERED, DELIVERED)
    wanted.append(lease.wants_suspect(0.0))
    lease.held.discard("db_0")  # settled
    assert [*wanted, lease.wants_suspect(0.0)] == [False, False, False, True]


def test_after_a_crash_an_installation_with_nothing_to_read_is_read_again_at_its_time() -> None:
    lease = claimed(suspects=2)
    lease.suspects_at = 1.0
    assert [lease.wants_suspect(now) for now in (0.0, 0.999, 1.0, 2.0)] == [False, False, True, True]


def test_no_suspect_is_read_while_the_lease_is_stopped_or_its_window_full() -> None:
    lease = claimed(suspects=2)
    lease.stop(0.0)
    assert not lease.wants_suspect(0.0)
    full = claimed(suspects=2, window=RateWindow(1, 60.0, "[1000.0]"))
    assert not full.wants_suspect(0.0)
    assert full.state(0.0, release=True, fresh=False).throttled_for == pytest.approx(60.0)


def test_several_faults_in_a_row_open_the_breaker_and_stop_the_installation_once() -> None:
    lease = held(20)
    for _ in range(BREAKER_FAULTS + 3):
        lease.next(0.0, TIMEOUT)
    for _ in range(BREAKER_FAULTS - 1):
        answer(lease, K.FAILED, RETRY)
        assert not lease.breaker.is_open
    answer(lease, K.FAILED, RETRY)
    assert lease.breaker.is_open
    assert lease.stopped_until == 1.0
    for _ in range(3):  # requests already in flight do not count
        answer(lease, K.FAILED, RETRY)
    assert lease.state(0.0, release=True, fresh=False).faults == BREAKER_FAULTS


@pytest.mark.parametrize("kind", [K.DELIVERED, K.GONE, K.REJECTED, K.THROTTLED, K.UNAUTHORIZED])
def test_an_answer_restarts_the_count_of_faults(kind: OutcomeKind) -> None:
    lease = held(faults=BREAKER_FAULTS - 1)
    lease.next(0.0, TIMEOUT)
    lease.record(Outcome(kind), 0.0, 0.0)
    assert lease.breaker.faults == 0


@pytest.mark.parametrize("kind", [K.NO_CREDENTIAL, K.CREDENTIALS_UNAVAILABLE])
def test_a_request_that_was_not_sent_is_not_a_fault_of_the_destination(kind: OutcomeKind) -> None:
    lease = held(faults=2)
    lease.record(Outcome(kind), 0.0, 0.0)
    assert (lease.breaker.faults, lease.breaker.failures) == (2, 3)


def test_an_open_breaker_allows_one_probe_and_then_twice_as_many_requests_after_each_success() -> None:
    lease = held(500, faults=BREAKER_FAULTS)
    started = 0
    for allowed in (1, 2, 4, 8, 16, 32, FULL_SPEED_REQUESTS):
        while lease.next(0.0, TIMEOUT) is not None:
            started += 1
        assert lease.in_flight == allowed
        answer(lease, K.DELIVERED, DELIVERED)
        assert not lease.probing
    while lease.next(0.0, TIMEOUT) is not None:
        started += 1
    assert started == 500  # no longer limited


def test_a_failed_probe_makes_the_next_gap_longer() -> None:
    lease = held(faults=BREAKER_FAULTS + 2)
    lease.next(0.0, TIMEOUT)
    answer(lease, K.FAILED, RETRY)
    assert lease.stopped_until == 8.0


def test_a_paused_installation_too_waits_after_a_probe_that_ends_in_a_fault() -> None:
    lease = held()
    lease.paused_for, lease.breaker.limit = 100.0, 1
    lease.next(0.0, TIMEOUT)
    answer(lease, K.FAILED, RETRY)
    assert lease.stopped_until == 1.0


def test_a_lease_is_stopped_by_a_pause_only_if_the_installation_was_paused_under_it() -> None:
    throttled, probing, paused = held(), held(), held()
    throttled.stop(5.0)
    probing.paused_for = 100.0
    for lease in (throttled, probing):
        assert not lease.stopped_by_pause
    assert paused.next(0.0, TIMEOUT) is not None
    answer(paused, K.UNAUTHORIZED, PAUSE)
    assert paused.stopped_by_pause


def test_a_pause_stops_the_lease_and_a_success_ends_the_pause() -> None:
    lease = held()
    lease.next(0.0, TIMEOUT)
    lease.next(0.0, TIMEOUT)
    answer(lease, K.UNAUTHORIZED, PAUSE)
    assert (lease.is_paused, list(lease.queue), lease.next(0.0, TIMEOUT)) == (True, [], None)
    answer(lease, K.DELIVERED, DELIVERED)
    assert not lease.is_paused


@pytest.mark.parametrize(("reason", "paused_for"), [("unauthorized", 100.0), ("disabled", 0.0)])
def test_a_pause_continues_for_the_same_reason_and_starts_again_for_another(reason: str, paused_for: float) -> None:
    lease = held()
    lease.pause_reason, lease.paused_for = reason, 100.0
    lease.next(0.0, TIMEOUT)
    answer(lease, K.UNAUTHORIZED, PAUSE)
    assert (lease.pause_reason, lease.paused_for) == ("unauthorized", paused_for)


def test_a_throttled_installation_waits_as_long_as_decided() -> None:
    lease = held()
    lease.next(0.0, TIMEOUT)
    answer(lease, K.THROTTLED, Decision(Action.THROTTLE, delay=7.0))
    assert lease.state(2.0, release=True, fresh=False).throttled_for == 5.0


def test_a_dead_letter_does_not_stop_the_lease() -> None:
    lease = held()
    lease.next(0.0, TIMEOUT)
    answer(lease, K.REJECTED, Decision(Action.BURY))
    assert lease.next(0.0, TIMEOUT) == delivery("db_1")


@pytest.mark.parametrize(
    ("kind", "decision", "as_written"),
    [(K.DELIVERED, DELIVERED, True), (K.FAILED, RETRY, False), (K.UNAUTHORIZED, PAUSE, False)],
)
def test_its_row_need_not_be_written_while_requests_succeed(kind: K, decision: Decision, as_written: bool) -> None:
    lease = held()
    assert lease.next(0.0, TIMEOUT) is not None
    answer(lease, kind, decision)
    assert lease.state(0.0, release=False, fresh=True).as_written is as_written
    assert not lease.state(0.0, release=False, fresh=False).as_written
    assert not lease.state(0.0, release=True, fresh=True).as_written


def test_after_its_state_was_written_it_need_not_be_written_again() -> None:
    lease = held(window=RateWindow(60, 60.0))
    assert lease.next(0.0, TIMEOUT) is not None
    answer(lease, K.DELIVERED, DELIVERED)
    state = lease.state(0.0, release=False, fresh=True)
    assert not state.as_written
    lease.renew(90.0, state)
    assert lease.state(0.0, release=False, fresh=True).as_written


def test_a_lease_that_was_stopped_without_a_failure_must_be_written() -> None:
    lease = held()
    lease.stop(0.0)
    assert not lease.state(0.0, release=False, fresh=True).as_written
