"""A burst is judged by its first events: whether so many share a subject that it pays to collect the rest before any is sent."""

from dispatcher.store import Collected
from dispatcher.worker.collection import BURST_SAMPLE_EVENTS, Burst


def collected(events: int, subjects: int, begin: int = 0) -> Collected:
    return Collected(events, frozenset(f"subject {number}" for number in range(begin, begin + subjects)))


def judged(*collections: Collected) -> bool:
    burst = Burst()
    for one in collections:
        burst.add(one)
    return burst.saves_no_requests


def test_before_enough_has_been_collected_waiting_may_still_save_requests() -> None:
    assert not judged()
    assert not judged(collected(BURST_SAMPLE_EVENTS - 1, BURST_SAMPLE_EVENTS - 1))


def test_waiting_saves_nothing_if_most_events_have_a_subject_of_their_own() -> None:
    assert judged(collected(BURST_SAMPLE_EVENTS, BURST_SAMPLE_EVENTS))
    assert judged(collected(BURST_SAMPLE_EVENTS, BURST_SAMPLE_EVENTS // 2 + 1))
    assert not judged(collected(BURST_SAMPLE_EVENTS, BURST_SAMPLE_EVENTS // 2))
    assert not judged(collected(BURST_SAMPLE_EVENTS, 1))


def test_a_subject_in_several_collections_is_one() -> None:
    half = BURST_SAMPLE_EVENTS // 2
    assert not judged(collected(half, half), collected(half, half))
    assert judged(collected(half, half), collected(half, half, begin=half))


def test_once_a_burst_has_been_judged_the_rest_of_it_changes_nothing() -> None:
    """Else its subjects would fill the memory."""
    own, shared = collected(BURST_SAMPLE_EVENTS, BURST_SAMPLE_EVENTS), collected(BURST_SAMPLE_EVENTS, 1)
    assert judged(own, shared, shared)
    assert not judged(shared, own, own)
