"""Decisions and backoff: pure, so the tests are tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.policy.decision import (
    MAX_BREAKER_PROBE_SECONDS,
    MAX_LOOK_UP_BACKOFF_SECONDS,
    Action,
    DeadLetterReason,
    Decision,
    PauseReason,
    Policy,
    ThrottleReason,
    backoff,
    decide,
    probe_gap,
)
from dispatcher.policy.outcome import Outcome, OutcomeKind, is_fault, is_served, shows_life

K = OutcomeKind
R = DeadLetterReason
POLICY = Policy(max_attempts=5, backoff_base=2.0, backoff_cap=100.0, auth_grace=1_000.0, disabled_grace=5_000.0)


def judge(
    kind: OutcomeKind,
    *,
    attempts: int = 0,
    gone: int = 0,
    failures: int = 1,
    paused_for: float | None = None,
    pause_reason: PauseReason | None = None,
    retry_after: float | None = None,
    outage: bool = False,
    suspected: bool = False,
    policy: Policy = POLICY,
    jitter: float = 1.0,
) -> Decision:
    """Decides with the longest possible jitter, unless `jitter` is given."""
    return decide(
        Outcome(kind, retry_after=retry_after),
        attempts=attempts,
        gone=gone,
        failures=failures,
        pause_reason=pause_reason,
        paused_for=paused_for,
        outage=outage,
        suspected=suspected,
        policy=policy,
        random=lambda: jitter,
    )


@pytest.mark.parametrize(
    ("kind", "action", "reason"),
    [
        (K.DELIVERED, Action.DELIVERED, None),
        (K.REJECTED, Action.BURY, R.REJECTED),
        (K.UNAUTHORIZED, Action.PAUSE, PauseReason.UNAUTHORIZED),
        (K.DISABLED, Action.PAUSE, PauseReason.DISABLED),
        (K.NO_CREDENTIAL, Action.PAUSE, PauseReason.NO_CREDENTIAL),
        (K.GONE, Action.RETRY, None),
        (K.THROTTLED, Action.THROTTLE, ThrottleReason.RATE_LIMITED),
        (K.CREDENTIALS_UNAVAILABLE, Action.THROTTLE, ThrottleReason.CREDENTIALS_UNAVAILABLE),
        (K.FAILED, Action.RETRY, None),
        (K.UNREACHABLE, Action.RETRY, None),
        (K.TIMEOUT, Action.RETRY, None),
    ],
)
def test_every_outcome_has_its_decision(kind: OutcomeKind, action: Action, reason: object) -> None:
    decision = judge(kind)
    assert (decision.action, decision.reason) == (action, reason)


@pytest.mark.parametrize("kind", [K.FAILED, K.UNREACHABLE, K.TIMEOUT])
def test_after_the_last_attempt_a_delivery_is_a_dead_letter(kind: OutcomeKind) -> None:
    assert judge(kind, attempts=3).action is Action.RETRY
    assert judge(kind, attempts=4) == Decision(Action.BURY, R.EXHAUSTED)


@pytest.mark.parametrize("kind", [K.FAILED, K.UNREACHABLE, K.TIMEOUT])
def test_each_failed_attempt_doubles_the_wait(kind: OutcomeKind) -> None:
    assert [judge(kind, attempts=used).delay for used in range(4)] == [2.0, 4.0, 8.0, 16.0]


@pytest.mark.parametrize("kind", [K.FAILED, K.UNREACHABLE, K.TIMEOUT])
def test_an_outage_uses_up_no_attempt_and_never_ends_in_a_dead_letter(kind: OutcomeKind) -> None:
    decision = judge(kind, attempts=1_000, outage=True)
    assert (decision.action, decision.reason) == (Action.THROTTLE, ThrottleReason.OUTAGE)
    assert 0 < decision.delay <= 60.0
    assert judge(K.REJECTED, outage=True).action is Action.BURY  # any answer is an answer, even during an outage


def test_a_resource_that_is_gone_gets_a_few_slow_retries() -> None:
    assert [judge(K.GONE, attempts=n, gone=n).action for n in range(4)] == [Action.RETRY] * 3 + [Action.BURY]
    assert [judge(K.GONE, gone=n, policy=Policy()).delay for n in range(3)] == [60.0, 120.0, 240.0]
    assert judge(K.GONE, attempts=1, policy=Policy(max_attempts=2)) == Decision(Action.BURY, R.GONE)


def test_attempts_used_up_by_other_outcomes_do_not_reduce_those_retries() -> None:
    assert judge(K.GONE, attempts=10, gone=0, policy=Policy()) == Decision(Action.RETRY, delay=60.0)
    assert judge(K.GONE, attempts=10, gone=3, policy=Policy()) == Decision(Action.BURY, R.GONE)
    assert judge(K.GONE, attempts=19, gone=0, policy=Policy()) == Decision(Action.BURY, R.GONE)


@pytest.mark.parametrize(
    ("kind", "grace"), [(K.UNAUTHORIZED, 1_000.0), (K.NO_CREDENTIAL, 1_000.0), (K.DISABLED, 5_000.0)]
)
def test_a_pause_ends_in_dead_letters_after_its_grace(kind: OutcomeKind, grace: float) -> None:
    own = PauseReason(kind.value)
    assert judge(kind, paused_for=grace - 1, pause_reason=own).action is Action.PAUSE
    assert judge(kind, paused_for=grace, pause_reason=own) == Decision(Action.BURY, DeadLetterReason(kind.value))


def test_by_default_a_pause_lasts_a_month_for_a_disabled_integration_and_a_day_for_a_refused_token() -> None:
    day = 86_400.0
    for kind, days in ((K.DISABLED, 30), (K.UNAUTHORIZED, 1), (K.NO_CREDENTIAL, 1)):
        ends = [
            judge(kind, paused_for=days * day + late, pause_reason=PauseReason(kind.value), policy=Policy()).action
            for late in (-1.0, 0.0)
        ]
        assert ends == [Action.PAUSE, Action.BURY]


def test_a_pause_for_another_reason_has_its_own_grace() -> None:
    decision = judge(K.UNAUTHORIZED, paused_for=4_000.0, pause_reason=PauseReason.DISABLED)
    assert (decision.action, decision.reason) == (Action.PAUSE, PauseReason.UNAUTHORIZED)


def test_without_a_grace_a_refused_token_buries_at_once() -> None:
    assert judge(K.UNAUTHORIZED, policy=Policy(auth_grace=0.0)) == Decision(Action.BURY, R.UNAUTHORIZED)


def test_the_gaps_between_a_breakers_probes_grow_up_to_a_quarter_of_a_minute() -> None:
    assert [probe_gap(n, Policy(), lambda: 1.0) for n in (1, 2, 3, 7, 1_000)] == [1.0, 2.0, 4.0, 15.0, 15.0]
    assert probe_gap(7, Policy(), lambda: 0.0) == 7.5


def test_the_gaps_between_a_breakers_probes_are_never_longer_than_the_backoff() -> None:
    hasty = Policy(backoff_base=0.1, backoff_cap=0.5)
    assert [probe_gap(n, hasty, lambda: 1.0) for n in (1, 2, 3, 4, 1_000)] == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_outcomes_are_faults_or_signs_of_life_or_neither() -> None:
    faults = {K.FAILED, K.UNREACHABLE, K.TIMEOUT}
    unsent = {K.NO_CREDENTIAL, K.CREDENTIALS_UNAVAILABLE}
    assert {kind for kind in K if is_fault(kind)} == faults
    assert {kind for kind in K if shows_life(kind)} == set(K) - faults - unsent
    assert {kind for kind in K if is_served(kind)} == {K.DELIVERED, K.REJECTED, K.GONE}


def test_the_gaps_between_the_probes_of_a_pause_grow() -> None:
    gaps = [judge(K.UNAUTHORIZED, failures=n, policy=Policy()).delay for n in range(1, 6)]
    assert gaps == [90.0, 150.0, 270.0, 510.0, 990.0]
    assert judge(K.UNAUTHORIZED, failures=5, policy=Policy(), jitter=0.0).delay == 30.0


def test_no_retry_comes_before_a_hint_or_the_backoff() -> None:
    assert judge(K.THROTTLED, retry_after=50.0).delay == pytest.approx(55.0)  # with a tenth of jitter
    assert judge(K.THROTTLED, retry_after=50.0, jitter=0.5).delay == pytest.approx(52.5)
    assert judge(K.THROTTLED, retry_after=50.0, jitter=0.0).delay == 50.0  # never earlier
    assert judge(K.THROTTLED, failures=4, retry_after=1.0).delay == 16.0
    assert judge(K.THROTTLED, retry_after=1e9).delay <= 3_600.0 * 1.1


@given(st.integers(1, 10**6), st.floats(0.001, 3_600), st.floats(0.001, 86_400), st.floats(0, 0.999))
def test_backoff_stays_within_its_cap(attempt: int, base: float, cap: float, jitter: float) -> None:
    assert 0 <= backoff(attempt, base, cap, lambda: jitter) <= cap


def test_backoff_doubles_with_full_jitter() -> None:
    assert [backoff(n, 2.0, 100.0, lambda: 1.0) for n in range(1, 8)] == [2, 4, 8, 16, 32, 64, 100]
    assert backoff(3, 2.0, 100.0, lambda: 0.0) == 0.0


@pytest.mark.parametrize("kind", K)
def test_without_a_token_there_is_no_request(kind: OutcomeKind) -> None:
    assert Outcome(kind).made_a_request is (kind not in {K.NO_CREDENTIAL, K.CREDENTIALS_UNAVAILABLE})


@pytest.mark.parametrize("kind", [K.FAILED, K.UNREACHABLE, K.TIMEOUT])
def test_a_fault_that_may_be_the_hosts_uses_up_no_attempt(kind: OutcomeKind) -> None:
    decision = judge(kind, attempts=POLICY.max_attempts - 1, failures=9, suspected=True)
    assert (decision.action, decision.spares_attempt) == (Action.RETRY, True)
    assert decision.delay == MAX_BREAKER_PROBE_SECONDS


@pytest.mark.parametrize("kind", [K.FAILED, K.UNREACHABLE, K.TIMEOUT, K.GONE])
def test_a_fault_that_is_certainly_the_deliverys_uses_up_an_attempt(kind: OutcomeKind) -> None:
    decision = judge(kind)
    assert (decision.action, decision.spares_attempt) == (Action.RETRY, False)


def test_a_source_of_tokens_that_fails_is_tried_again_within_minutes_however_long_it_has_failed() -> None:
    policy = Policy(backoff_base=2.0, backoff_cap=3_600.0)
    waits = [judge(K.CREDENTIALS_UNAVAILABLE, failures=failures, policy=policy).delay for failures in (1, 5, 50)]
    assert waits == [2.0, 32.0, MAX_LOOK_UP_BACKOFF_SECONDS]
    short = Policy(backoff_base=2.0, backoff_cap=10.0)
    assert judge(K.CREDENTIALS_UNAVAILABLE, failures=50, policy=short).delay == 10.0
    assert judge(K.THROTTLED, failures=50, policy=policy).delay == 3_600.0
