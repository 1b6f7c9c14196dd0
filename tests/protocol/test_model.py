"""Every interleaving of the protocol is safe; without any one of its guards some interleaving is not."""

import pytest

from tests.protocol.model import Protocol, Verdict


@pytest.mark.parametrize(
    ("protocol", "most"),
    [
        (Protocol(), 4_000),
        (Protocol(writers=3), 30_000),
        pytest.param(Protocol(writers=3, workers=3, claims=5), 150_000, marks=pytest.mark.gate),
    ],
    ids=["two of each", "three writers", "three of each"],
)
def test_no_interleaving_loses_or_strands_anything(protocol: Protocol, most: int) -> None:
    verdict, states = protocol.search()
    assert verdict is None
    assert states > most  # it did search


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
