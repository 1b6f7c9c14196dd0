"""One word for what an installation is doing."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dispatcher.inspection.installations import Installation

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
BEFORE, AFTER = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "due"),
        ({"due_at": BEFORE}, "due"),
        ({"due_at": AFTER}, "waiting"),
        ({"due_at": None}, "waiting"),
        ({"deliveries": 0}, "idle"),
        ({"deliveries": 0, "throttled_until": AFTER}, "idle"),
        ({"throttled_until": AFTER}, "throttled"),
        ({"throttled_until": NOW}, "due"),
        ({"throttled_until": BEFORE, "due_at": AFTER}, "waiting"),
        ({"leased_until": AFTER}, "sending"),
        ({"leased_until": AFTER, "deliveries": 0, "throttled_until": AFTER}, "sending"),
        ({"leased_until": NOW}, "due"),
        ({"leased_until": BEFORE}, "due"),
        ({"pause_reason": "operator", "leased_until": AFTER}, "paused"),
    ],
)
def test_a_lease_or_a_throttle_that_is_over_is_no_more_heeded(changes: dict[str, Any], state: str) -> None:
    as_it_is: dict[str, Any] = {
        "installation_id": "icfg_1",
        "due_at": NOW,
        "leased_until": None,
        "leased_by": None,
        "paused_until": None,
        "pause_reason": None,
        "paused_since": None,
        "throttled_until": None,
        "failures": 0,
        "last_delivered_at": None,
        "deliveries": 1,
        "now": NOW,
    }
    assert Installation(**as_it_is | changes).state == state
