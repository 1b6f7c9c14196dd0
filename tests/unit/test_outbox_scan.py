"""Where a scan of the outbox continues when some of its events must stay."""

from dataclasses import replace

import pytest

from dispatcher import store
from dispatcher.store import Collected
from dispatcher.worker.low_water import LAG_SECONDS
from dispatcher.worker.outbox_scan import CONTENDED_SECONDS, OTHERS_COLLECT_SECONDS, OutboxScan

SWEEP_SECONDS = 5.0
RETRY = 0.2
LEFT = Collected(last_event_id=500, left=500, full=True)
MOVED = Collected(events=500, last_event_id=1_000, full=True)
NOTHING = Collected()


@pytest.fixture
def scan() -> OutboxScan:
    """A scan that reached its end at 0."""
    made = OutboxScan(RETRY, SWEEP_SECONDS)
    made.found_nothing(0.0)
    return made


def follow(scan: OutboxScan, now: float, collected: Collected) -> int:
    """Records a collection; returns where the next one begins."""
    scan.next(now)
    scan.note(now, collected)
    return scan.next(now)


def test_it_continues_beyond_the_events_it_left_until_its_end(scan: OutboxScan) -> None:
    assert follow(scan, 1.0, LEFT) == 500
    assert follow(scan, 1.0, MOVED) == 1_000
    assert follow(scan, 1.0, Collected(skipped=True)) == 1_000
    assert follow(scan, 1.0, NOTHING) == store.LOWEST_ID


def test_a_collection_that_left_nothing_is_followed_by_one_from_the_mark(scan: OutboxScan) -> None:
    assert follow(scan, 1.0, MOVED) == store.LOWEST_ID


def test_once_it_has_left_everything_it_waits(scan: OutboxScan) -> None:
    follow(scan, 1.0, LEFT)
    assert scan.may_go_on(1.0)
    follow(scan, 1.0, NOTHING)
    assert not scan.may_go_on(1.1)
    assert scan.may_go_on(1.0 + RETRY)


def test_while_another_dispatcher_collects_the_outbox_is_left_to_it_for_a_moment(scan: OutboxScan) -> None:
    follow(scan, 1.0, Collected(skipped=True))
    assert not scan.may_go_on(1.0 + OTHERS_COLLECT_SECONDS / 2)
    assert scan.may_go_on(1.0 + OTHERS_COLLECT_SECONDS)


def test_after_a_conflict_the_outbox_is_left_alone_for_longer(scan: OutboxScan) -> None:
    follow(scan, 1.0, replace(MOVED, contended=True, full=False))
    assert not scan.may_go_on(1.0 + CONTENDED_SECONDS / 2)
    assert scan.may_go_on(1.0 + CONTENDED_SECONDS)


def test_after_moving_something_it_does_not_wait(scan: OutboxScan) -> None:
    follow(scan, 1.0, LEFT)
    follow(scan, 1.0, MOVED)
    follow(scan, 1.0, NOTHING)
    assert scan.may_go_on(1.0)


def test_the_next_sweep_looks_again_for_events_that_were_left(scan: OutboxScan) -> None:
    follow(scan, 0.1, Collected(last_event_id=500, left=1))
    follow(scan, 0.1 + LAG_SECONDS, Collected(events=1, last_event_id=600))
    assert scan.low_water(SWEEP_SECONDS - 0.1) == 500
    assert scan.low_water(SWEEP_SECONDS) == store.LOWEST_ID


def test_a_scan_counts_as_a_sweep_only_if_it_began_at_the_bottom(scan: OutboxScan) -> None:
    follow(scan, 0.1, Collected(events=1, last_event_id=100))
    follow(scan, 0.1 + LAG_SECONDS, Collected(events=1, last_event_id=600))
    follow(scan, SWEEP_SECONDS - 0.1, LEFT)  # begins at the mark
    follow(scan, SWEEP_SECONDS + 0.1, NOTHING)
    assert scan.low_water(SWEEP_SECONDS + 0.1) == store.LOWEST_ID


def test_a_requested_sweep_begins_at_the_bottom_immediately(scan: OutboxScan) -> None:
    follow(scan, 0.1, Collected(events=1, last_event_id=500))
    follow(scan, 0.1 + LAG_SECONDS, Collected(events=1, last_event_id=600))
    assert scan.next(SWEEP_SECONDS - 0.1) == 500
    scan.sweep()
    assert scan.low_water(SWEEP_SECONDS - 0.1) == scan.next(SWEEP_SECONDS - 0.1) == store.LOWEST_ID


def test_a_look_that_sees_nothing_ends_the_scan(scan: OutboxScan) -> None:
    """Another dispatcher has then collected the remaining events: the next scan begins at the mark, without waiting."""
    assert follow(scan, 1.0, LEFT) == 500
    scan.found_nothing(1.0)
    assert scan.next(1.0) == store.LOWEST_ID
    scan.note(1.0, NOTHING)
    assert scan.may_go_on(1.0)
