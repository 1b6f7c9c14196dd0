"""Rows of the outbox as partners write them: what they announce, and what can never be announced."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from dispatcher.database.raw_values import Raw
from dispatcher.outbox.events import PARTNER_ID_LENGTH
from dispatcher.store.outbox_rows import Removal, find_removals, group

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
OTHER = f"00-{'c' * 32}-{'d' * 16}-01"


class Row(NamedTuple):
    """One of them, in the order in which a collection reads the columns."""

    id: int
    installation_id: Raw = "icfg_1"
    type: Raw = "resource.updated"
    resource_id: Raw = "db_1"
    product_id: Raw = None
    billing_plan_id: Raw = None
    created_at: Raw = "2026-11-30 11:00:00"
    traceparent: Raw = None


@pytest.mark.parametrize("as_bytes", [False, True], ids=["text", "bytes"])
def test_the_newest_value_that_is_given_wins_in_each_column(as_bytes: bool) -> None:
    rows = [
        Row(1, product_id="pg", traceparent=TRACE),
        Row(2, product_id="mysql", traceparent=OTHER),
        Row(3),
        Row(4, type="installation.updated", resource_id=None, billing_plan_id="pro"),
        Row(5, type="installation.updated", resource_id=None, billing_plan_id="team"),
        Row(6, type="installation.updated", resource_id=None),
    ]
    if as_bytes:  # as some databases give them
        rows = [Row(*(v.encode() if isinstance(v, str) else v for v in row)) for row in rows]  # type: ignore[arg-type]
    changes, malformed = group(rows, NOW)
    assert malformed == []
    assert [(one.product_id, one.billing_plan_id, one.traceparent) for one in changes] == [
        ("mysql", None, OTHER),
        (None, "team", None),
    ]
    assert [(one.events, one.first_event_id, one.last_event_id) for one in changes] == [(3, 1, 3), (3, 4, 6)]


@pytest.mark.parametrize(
    ("given", "kept"),
    [(TRACE, TRACE), (TRACE.encode(), TRACE), ("garbage", None), (b"\xff", None), (None, None)],
)
def test_a_trace_context_is_kept_if_it_is_one(given: Raw, kept: str | None) -> None:
    ((change,), _) = group([Row(1, traceparent=given)], NOW)
    assert change.traceparent == kept


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-11-30 10:30:00", datetime(2026, 11, 30, 10, 30, tzinfo=UTC)),
        (b"2026-11-30T10:30:00Z", datetime(2026, 11, 30, 10, 30, tzinfo=UTC)),
        ("2026-11-30T12:30:00+02:00", datetime(2026, 11, 30, 10, 30, tzinfo=UTC)),
        ("2026-11-30 12:00:01", NOW),  # not in the future
        (None, NOW),
        ("yesterday", NOW),
        (b"\xff", NOW),
    ],
)
def test_the_time_of_an_event_is_what_its_row_says_unless_that_cannot_be(written: Raw, read: datetime) -> None:
    ((change,), _) = group([Row(1, created_at=written)], NOW)
    assert change.first_created_at == read
    assert change.first_created_at.utcoffset() == timedelta(0)


def test_the_time_of_a_change_is_the_earliest_of_its_events() -> None:
    ((change,), _) = group([Row(id_, created_at=f"2026-11-30 10:3{id_ % 2}:00") for id_ in (1, 2, 3)], NOW)
    assert (change.first_event_id, change.first_created_at) == (1, datetime(2026, 11, 30, 10, 30, tzinfo=UTC))


def test_the_longest_id_may_be_of_the_longest_characters() -> None:
    longest = "\N{GRINNING FACE}" * PARTNER_ID_LENGTH
    changes, malformed = group([Row(1, resource_id=longest.encode())], NOW)
    assert ([one.subject.resource_id for one in changes], malformed) == ([longest], [])


@pytest.mark.parametrize(
    ("resource", "shown", "why"),
    [
        ("a\nb", "a\\nb", "control characters"),
        (b"a\x00b", "a\\x00b", "control characters"),
        (b"d\xc3\xb6_\xff", "dö_\\xff", "not UTF-8: invalid start byte at byte 4"),
        (b"x" * 4_000, "x" * PARTNER_ID_LENGTH, f"at most {PARTNER_ID_LENGTH} characters"),
        ("x" * 4_000, "x" * PARTNER_ID_LENGTH, f"at most {PARTNER_ID_LENGTH} characters"),
        (None, None, "resource_id"),
    ],
    ids=["line break", "NUL", "not UTF-8", "many bytes", "many characters", "nothing"],
)
def test_a_row_that_can_never_be_a_request_is_shown_as_far_as_it_can_be(
    resource: Raw, shown: str | None, why: str
) -> None:
    changes, (bad,) = group([Row(7, resource_id=resource, product_id="pg")], NOW)
    assert changes == []
    assert bad.event_id == 7
    assert bad.values == {
        "installation_id": "icfg_1",
        "type": "resource.updated",
        "resource_id": shown,
        "product_id": "pg",
        "billing_plan_id": None,
    }
    assert why in bad.why


@pytest.mark.parametrize("as_bytes", [False, True], ids=["text", "bytes"])
def test_removals_are_told_from_changes_and_malformed_rows(as_bytes: bool) -> None:
    removed = Row(2, type="installation.removed", resource_id=None)
    rows = [Row(1), removed, removed._replace(id=3, resource_id="db_1"), removed._replace(id=4, installation_id="a b")]
    if as_bytes:
        rows = [Row(*(v.encode() if isinstance(v, str) else v for v in row)) for row in rows]  # type: ignore[arg-type]
    written = datetime(2026, 11, 30, 11, tzinfo=UTC)
    assert find_removals(rows, NOW) == [Removal(2, "icfg_1", written)]
    changes, malformed = group(rows, NOW)
    assert ([one.first_event_id for one in changes], [one.event_id for one in malformed]) == ([1], [3, 4])


def test_why_a_row_is_malformed_names_the_column_and_does_not_repeat_its_value() -> None:
    _, (bad,) = group([Row(1, installation_id="icfg secret")], NOW)
    assert bad.why.startswith("installation_id: ")
    assert "secret" not in bad.why
