"""Unresolved dead letters are grouped by their cause, and each group is exactly what its filter selects, on every database."""

import itertools
from datetime import timedelta

import pytest
import sqlalchemy as sa

from dispatcher.database.transactions import Database
from dispatcher.inspection.causes import Cause, Causes, causes
from dispatcher.inspection.dead_letters import list_dead_letters, plan
from dispatcher.inspection.error_prefix import MAX_PREFIX_LENGTH
from dispatcher.outbox.tables import dead_letter
from dispatcher.policy.decision import DeadLetterReason
from dispatcher.store.dead_letters import UNSIGNED, Filter, discard
from tests.contract.steps import ID, count

_numbers = itertools.count()


def bury(database: Database, *errors: str | None, status: int | None = 400, **others: object) -> None:
    """Inserts a dead letter for each error, one second apart."""
    now = database.now()
    rows = []
    for second, error in enumerate(errors):
        key = f"key {next(_numbers)}"
        row = {
            "died_at": now + timedelta(seconds=second),
            "reason": "rejected",
            "subject_key": key,
            "installation_id": ID,
            "type": "resource.updated",
            "resource_id": key,
            "product_id": None,
            "billing_plan_id": None,
            "events": 1,
            "first_event_id": 1,
            "last_event_id": 1,
            "first_created_at": now,
            "attempts": 1,
            "last_status": status,
            "last_error": error,
        }
        rows.append(row | others)
    with database.engine.begin() as connection:
        connection.execute(sa.insert(dead_letter), rows)


def prefixes(found: Causes) -> list[str | None]:
    return [cause.error_prefix for cause in found.largest]


def selected(database: Database, cause: Cause, wanted: Filter | None = None) -> int:
    """The number of dead letters that the filter of the cause selects."""
    return plan(database, cause.within(wanted or Filter())).dead_letters


@pytest.mark.varies
def test_a_thousand_errors_with_different_ids_have_three_causes(database: Database) -> None:
    bury(database, *(f"billing plan plan_{number} is unknown" for number in range(500)))
    bury(database, *(f"no product {number * 0x9E3779B1 % 2**32:08x}-a1" for number in range(300)))
    bury(database, *(f"{200 + number} s have passed" for number in (300,) * 200))
    found = causes(database, Filter())
    assert prefixes(found) == ["billing plan plan_", "no product ", "500 s have passed"]
    assert [cause.number for cause in found.largest] == [500, 300, 200]
    assert (found.total, found.dead_letters, found.complete) == (3, 1_000, True)
    assert [selected(database, cause) for cause in found.largest] == [500, 300, 200]
    second = found.largest[1].within(Filter())
    assert discard(database, second, plan(database, second).last_id, UNSIGNED, lambda _: None) == 300
    assert prefixes(causes(database, Filter())) == ["billing plan plan_", "500 s have passed"]
    assert count(database, dead_letter) == 1_000


CUTS = [
    ("the plan 7 is unknown", "the plan "),
    ("the plan pro_7 is unknown", "the plan pro_"),
    ("the plan a7f is unknown", "the plan "),  # a hexadecimal id begins with a letter or a digit
    ("503 Service Unavailable", "503 Service Unavailable"),  # the empty prefix would select every error
    ("503 of 504", "503 of "),
    ("no icfg_own here", "no "),
    ("no bösé here", "no "),
    ("no böséx here", "no böséx here"),
    ("bösé is gone", "bösé is gone"),
    ("no pro-own and free-own", "no "),
    ("no free-own", "no "),
    ("é" * 300, "é" * MAX_PREFIX_LENGTH),
]


def test_a_prefix_ends_before_the_first_number_or_id(database: Database) -> None:
    ids = {
        "installation_id": "icfg_own",
        "resource_id": "bösé",
        "product_id": "pro-own",
        "billing_plan_id": "free-own",
    }
    for status, (error, _) in enumerate(CUTS, 400):
        bury(database, error, status=status, **ids)
    found = causes(database, Filter())
    assert [(one.status, one.error_prefix) for one in found.largest] == list(enumerate((cut for _, cut in CUTS), 400))
    assert [selected(database, cause) for cause in found.largest] == [1] * len(CUTS)


def test_a_prefix_that_continues_another_one_belongs_to_it(database: Database) -> None:
    bury(database, "no plan", "no plan pro", "no plan pro_1", "no place", "No plan")
    bury(database, "no plan pro", status=422)
    found = causes(database, Filter())
    groups = {(one.status, one.error_prefix): one.number for one in found.largest}
    assert groups == {(400, "no plan"): 3, (400, "no place"): 1, (400, "No plan"): 1, (422, "no plan pro"): 1}
    assert all(selected(database, cause) == cause.number for cause in found.largest)


def test_no_error_and_no_status_are_causes_of_their_own(database: Database) -> None:
    bury(database, None, None, "", status=None)
    bury(database, "timeout", "timeout", status=None)
    bury(database, None, status=500)
    found = causes(database, Filter())
    groups = [(one.status, one.error_prefix, one.number) for one in found.largest]
    assert groups == [(None, None, 3), (None, "timeout", 2), (500, None, 1)]
    assert [selected(database, cause) for cause in found.largest] == [3, 2, 1]


def test_a_cause_has_its_oldest_example_its_times_and_the_number_of_its_installations(database: Database) -> None:
    bury(database, "plan 1", "plan 2", "plan 3")
    bury(database, "plan 4", installation_id="icfg_2")
    bury(database, "gone", reason="gone", status=404)
    cause, other = causes(database, Filter()).largest
    letters = list_dead_letters(database, cause.within(Filter()), 9)
    died = [letter.died_at for letter in letters]
    oldest = letters[-1]
    assert cause == Cause("rejected", 400, "plan ", 4, 2, min(died), max(died), oldest.id, "plan 1")
    assert (other.reason, other.status, other.installations) == ("gone", 404, 1)


def test_resolved_ones_have_no_cause_and_a_filter_narrows_the_others(database: Database) -> None:
    bury(database, "plan 1", resolved_at=database.now(), resolution="discarded")
    assert causes(database, Filter()) == Causes([], 0, 0, complete=True)
    bury(database, "plan 21 x", "plan 22 x", "plan 3 x")
    bury(database, "plan 4", installation_id="icfg_2")
    for wanted, prefix, number in (
        (Filter(installation_id=ID), "plan ", 3),
        (Filter(error_prefix="plan 2"), "plan 2", 2),
        (Filter(error_prefix="pl"), "plan ", 4),
        (Filter(reason=DeadLetterReason.REJECTED, installation_id="icfg_2"), "plan ", 1),
    ):
        (cause,) = causes(database, wanted).largest
        assert (cause.error_prefix, cause.number) == (prefix, number)
        assert selected(database, cause, wanted) == number


def test_the_largest_come_first_up_to_the_limits(database: Database) -> None:
    bury(database, "one", "two", "two", "three", "three", "three")
    found = causes(database, Filter(), limit=2)
    assert (prefixes(found), found.total, found.complete) == (["three", "two"], 3, True)
    for max_rows, complete in ((5, False), (6, True)):
        found = causes(database, Filter(), max_rows=max_rows)
        assert (found.dead_letters, found.complete) == (max_rows, complete)
        assert sum(cause.number for cause in found.largest) == max_rows
