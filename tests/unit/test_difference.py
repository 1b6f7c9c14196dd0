"""The difference between the events that a test expects and those that it finds, as a person reads it."""

from textwrap import dedent

import pytest

from dispatcher import Event, InstallationUpdated, ResourceUpdated
from dispatcher.testing.difference import describe_difference

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def resource(resource_id: str, product_id: str | None = None, installation_id: str = "icfg_1") -> ResourceUpdated:
    return ResourceUpdated(installation_id=installation_id, resource_id=resource_id, product_id=product_id)


PLAN = InstallationUpdated(installation_id="icfg_1", billing_plan_id="pro")


@pytest.mark.parametrize("found", [[], [resource("db_1")], [PLAN, resource("db_1"), PLAN]])
def test_the_same_events_do_not_differ_whatever_their_order(found: list[Event]) -> None:
    assert describe_difference(found, found) is None
    assert describe_difference(list(reversed(found)), found) is None


def test_trace_contexts_are_not_compared() -> None:
    traced = ResourceUpdated(installation_id="icfg_1", resource_id="db_1", traceparent=TRACEPARENT)
    assert describe_difference([traced], [resource("db_1")]) is None


def test_each_event_has_a_line() -> None:
    expected: list[Event] = [resource("db_1", "pg"), resource("db_2"), PLAN, PLAN]
    found: list[Event] = [PLAN, resource("db_1"), resource("db_9", installation_id="icfg_9")]
    difference = """\
        expected 4 events, 3 in the outbox:
          differs      ResourceUpdated(installation_id='icfg_1', resource_id='db_1'): product_id is None, expected 'pg'
          missing      ResourceUpdated(installation_id='icfg_1', resource_id='db_2')
          missing      InstallationUpdated(installation_id='icfg_1', billing_plan_id='pro')
          unexpected   ResourceUpdated(installation_id='icfg_9', resource_id='db_9')
          as expected  InstallationUpdated(installation_id='icfg_1', billing_plan_id='pro')"""
    assert describe_difference(expected, found) == dedent(difference)


def test_an_event_that_was_announced_twice_is_one_too_many() -> None:
    assert describe_difference([PLAN], [PLAN, PLAN]) == (
        "expected 1 event, 2 in the outbox:\n"
        "  unexpected   InstallationUpdated(installation_id='icfg_1', billing_plan_id='pro')\n"
        "  as expected  InstallationUpdated(installation_id='icfg_1', billing_plan_id='pro')"
    )


def test_where_nothing_was_announced_that_is_said() -> None:
    assert describe_difference([PLAN], []) == (
        "no event was announced (or none that this transaction sees)\n"
        "  missing      InstallationUpdated(installation_id='icfg_1', billing_plan_id='pro')"
    )


def test_where_none_was_expected_that_is_said() -> None:
    assert describe_difference([], [resource("db_1")]) == (
        "expected no event, 1 in the outbox:\n"
        "  unexpected   ResourceUpdated(installation_id='icfg_1', resource_id='db_1')"
    )


def test_the_arguments_are_left_as_they_are() -> None:
    expected, found = [resource("db_1")], [resource("db_2")]
    describe_difference(expected, found)
    assert (expected, found) == ([resource("db_1")], [resource("db_2")])
