"""Which deliveries are sent concurrently after a crash."""

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
        ([1, 0, 1, 0], 0, [0, 0]),  # together with one that has used up an attempt, half as many
        ([1, 1, 1], 0, [1, 1]),
        ([19, 2], 0, [2]),  # it is sent alone …
        ([19], 0, [19]),
        ([19], 1, []),  # … even if others are already in flight
    ],
)
def test_the_more_attempts_a_delivery_has_used_up_the_fewer_are_sent_with_it(
    attempts: list[int], under_way: int, chosen: list[int]
) -> None:
    deliveries = [
        Delivery(
            f"{n}", Subject(f"icfg_{n}", "resource.updated", "db"), None, None, 1, 1, 1, LONG_AGO, "v1", used, None
        )
        for n, used in enumerate(attempts)
    ]
    assert [one.attempts for one in choose(deliveries, 4, under_way)] == chosen
