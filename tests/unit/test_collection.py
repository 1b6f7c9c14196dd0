"""The first events of a burst decide whether it is collected as a whole: whether enough of them share subjects."""

from dispatcher.store import Collected
from dispatcher.worker.collection import Burst

SAMPLE = 10_000


def collected(events: int, subjects: int, begin: int = 0) -> Collected:
    return Collected(events, frozenset(f"subject {number}" for number in range(begin, begin + subjects)))


def saves_no_requests(*collections: Collected) -> bool:
    burst = Burst(SAMPLE)
    for one in collections:
        burst.add(one)
    return burst.saves_no_requests


def test_until_enough_events_have_been_collected_waiting_may_still_save_requests() -> None:
    assert not saves_no_requests()
    assert not saves_no_requests(collected(SAMPLE - 1, SAMPLE - 1))


def test_waiting_saves_nothing_if_most_events_have_different_subjects() -> None:
    assert saves_no_requests(collected(SAMPLE, SAMPLE))
    assert saves_no_requests(collected(SAMPLE, SAMPLE // 2 + 1))
    assert not saves_no_requests(collected(SAMPLE, SAMPLE // 2))
    assert not saves_no_requests(collected(SAMPLE, 1))


def test_a_subject_in_several_collections_counts_once() -> None:
    half = SAMPLE // 2
    assert not saves_no_requests(collected(half, half), collected(half, half))
    assert saves_no_requests(collected(half, half), collected(half, half, begin=half))


def test_once_the_first_events_have_decided_the_rest_changes_nothing() -> None:
    """Otherwise its subjects would fill the memory."""
    own, shared = collected(SAMPLE, SAMPLE), collected(SAMPLE, 1)
    assert saves_no_requests(own, shared, shared)
    assert not saves_no_requests(shared, own, own)
