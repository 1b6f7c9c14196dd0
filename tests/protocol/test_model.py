"""Every interleaving of the protocol is safe, and each guard is needed: without it, some interleaving is not."""

import pytest

from tests.protocol.cluster import Cluster
from tests.protocol.failover import Failover
from tests.protocol.model import Protocol
from tests.protocol.search import Verdict


@pytest.mark.parametrize(
    ("protocol", "min_states"),
    [
        (Protocol(), 4_000),
        (Protocol(writers=3), 30_000),
        pytest.param(Protocol(writers=3, workers=3, claims=5), 150_000, marks=pytest.mark.gate),
    ],
    ids=["two of each", "three writers", "three of each"],
)
def test_no_interleaving_loses_or_strands_anything(protocol: Protocol, min_states: int) -> None:
    verdict, states = protocol.search()
    assert verdict is None
    assert states > min_states  # the search did not end early


@pytest.mark.parametrize(
    ("broken", "verdict"),
    [
        (Protocol(version=False), Verdict.LOST),
        (Protocol(token=False), Verdict.LOST),
        (Protocol(token=False, version=False), Verdict.LOST),
        (Protocol(lock=False), Verdict.STRANDED),
    ],
    ids=["without the version", "without the token", "without either", "without the lock"],
)
def test_each_guard_is_needed(broken: Protocol, verdict: Verdict) -> None:
    assert broken.search()[0] is verdict


@pytest.mark.parametrize(
    ("failover", "min_states"),
    [
        (Failover(failovers=0), 15_000),
        pytest.param(Failover(workers=1, zombies=0, claims=2), 5_000, marks=pytest.mark.gate),
        pytest.param(Failover(), 700_000, marks=[pytest.mark.nightly, pytest.mark.timeout(900)]),
    ],
    ids=["no failover", "one worker", "two workers"],
)
def test_with_random_versions_a_failover_loses_no_change_that_the_database_kept(
    failover: Failover, min_states: int
) -> None:
    verdict, states = failover.search()
    assert verdict is None
    assert states > min_states  # the search did not end early


@pytest.mark.gate
def test_with_versions_that_count_events_a_failover_loses_a_change() -> None:
    assert Failover(drawn=False, failovers=0).search()[0] is None
    assert Failover(drawn=False, workers=1, zombies=0, claims=2).search()[0] is Verdict.LOST


@pytest.mark.parametrize(
    "failover",
    [
        Failover(workers=1, failovers=0, purges=1),
        pytest.param(Failover(failovers=0, purges=2), marks=pytest.mark.nightly),
        pytest.param(Failover(workers=1, zombies=0, claims=2, purges=1), marks=pytest.mark.nightly),
    ],
    ids=["one worker", "two workers", "and a failover"],
)
def test_a_purge_during_a_request_loses_nothing(failover: Failover) -> None:
    verdict, states = failover.search()
    assert verdict is None
    assert states > 1_000  # the search did not end early


def test_a_request_that_began_before_a_purge_must_not_supersede_its_dead_letter() -> None:
    assert Failover(workers=1, failovers=0, purges=1, supersedes_own=False).search()[0] is Verdict.LOST


@pytest.mark.parametrize("cluster", [Cluster(), Cluster(local=False, counted=False)], ids=["local locks", "one server"])
def test_nothing_is_stranded_where_locks_are_local_to_a_node(cluster: Cluster) -> None:
    verdict, states = cluster.search()
    assert verdict is None
    assert states > 1_000  # the search did not end early


def test_where_locks_are_local_each_collection_must_write_the_row_that_it_relies_on() -> None:
    assert Cluster(counted=False).search()[0] is Verdict.STRANDED
