"""Which deliveries are sent together after a crash."""

import pytest

from dispatcher.outbox.events import Subject
from dispatcher.store import LONG_AGO, Delivery
from dispatcher.store.suspects import choose


@pytest.mark.parametrize(
    ("attempts", "under_way", "chosen"),
    [
        ([], 0, []),
        ([0] * 6, 0, [0] * 4),
        ([0] * 6, 3, [0]),
        ([0] * 6, 4, []),
        ([1, 0, 1, 0], 0, [0, 0]),  # beside one that has used up an attempt, half as many
        ([1, 1, 1], 0, [1, 1]),
        ([19, 2], 0, [2]),  # alone …
        ([19], 0, [19]),
        ([19], 1, []),  # … really
    ],
)
def test_the_more_attempts_one_has_used_up_the_fewer_are_sent_beside_it(
    attempts: list[int], under_way: int, chosen: list[int]
) -> None:
    found = [
        Delivery(
            f"{n}", Subject(f"icfg_{n}", "resource.updated", "db"), None, None, 1, 1, 1, LONG_AGO, "v1", used, None
        )
        for n, used in enumerate(attempts)
    ]
    assert [one.attempts for one in choose(found, 4, under_way)] == chosen
