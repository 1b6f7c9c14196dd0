"""The newest requests of all installations, and those that follow, on every database."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.inspection.minutes import Minute, outcomes_by_minute
from dispatcher.inspection.request_groups import group_requests
from dispatcher.inspection.requests import RequestFilter, RequestTail, Scope, newest_requests
from dispatcher.outbox.tables import attempt
from dispatcher.policy.decision import Action, Decision
from dispatcher.policy.outcome import OutcomeKind
from dispatcher.store.attempt_log import Attempt
from tests.contract.databases import on_servers
from tests.contract.steps import ID, claim, settle, standing, write

BACKOFF = Decision(Action.RETRY, delay=3_600.0)
ALL = RequestFilter()


def send(database: Database, partner: Engine, *resources: str, installation_id: str = ID, fails: bool = False) -> None:
    """One request for each of these changes, in this order."""
    for resource in resources:
        with partner.begin() as connection:
            write(connection, resource, installation_id=installation_id)
        store.collect(database, 500)
        (leased,) = claim(database)
        settle(database, leased, **({"decision": BACKOFF} if fails else {}))


def resources(requests: list[Attempt]) -> list[str | None]:
    return [one.resource_id for one in requests]


def test_the_newest_are_last(database: Database, partner: Engine) -> None:
    send(database, partner, "db_1", "db_2")
    send(database, partner, "db_3", installation_id="icfg_2")
    assert resources(newest_requests(database, ALL, 99).requests) == ["db_1", "db_2", "db_3"]
    assert resources(newest_requests(database, ALL, 2).requests) == ["db_2", "db_3"]


def test_the_filter_selects(database: Database, partner: Engine) -> None:
    send(database, partner, "db_1")
    send(database, partner, "db_2", fails=True)
    send(database, partner, "db_1", installation_id="icfg_2", fails=True)
    assert resources(newest_requests(database, RequestFilter(failed=True), 99).requests) == ["db_2", "db_1"]
    assert resources(newest_requests(database, RequestFilter("icfg_2"), 99).requests) == ["db_1"]
    assert resources(newest_requests(database, RequestFilter(ID, "db_1"), 99).requests) == ["db_1"]
    assert resources(newest_requests(database, RequestFilter(resource_id="db_1", failed=True), 99).requests) == ["db_1"]


def test_without_an_id_only_the_newest_are_searched(database: Database, partner: Engine) -> None:
    send(database, partner, "db_1", fails=True)
    send(database, partner, "db_2", "db_3")
    failed = RequestFilter(failed=True)
    assert newest_requests(database, failed, 99, scan_limit=2).requests == []
    assert resources(newest_requests(database, failed, 99, scan_limit=3).requests) == ["db_1"]
    assert resources(newest_requests(database, RequestFilter(ID, failed=True), 99, scan_limit=2).requests) == ["db_1"]


def test_it_says_what_was_searched(database: Database, partner: Engine) -> None:
    assert newest_requests(database, ALL, 9).scope == Scope(0, None, None, complete=True)
    send(database, partner, "db_1", "db_2", "db_3")
    first, second, third = newest_requests(database, ALL, 9).requests
    assert newest_requests(database, ALL, 1).scope == Scope(3, first.at, third.at, complete=True)
    failed = RequestFilter(failed=True)
    assert newest_requests(database, failed, 9, scan_limit=2).scope == Scope(2, second.at, third.at, complete=False)
    assert newest_requests(database, RequestFilter(ID), 9, scan_limit=2).scope is None


def move(database: Database, **ages: float) -> datetime:
    """Makes the requests of these resources this many seconds old; returns the time."""
    now = database.now()
    with database.engine.begin() as connection:
        for resource, age in ages.items():
            row = attempt.update().where(attempt.c.resource_id == resource)
            connection.execute(row.values(at=now - timedelta(seconds=age)))
    return now


@pytest.mark.varies
def test_the_times_of_the_filter_are_searched(database: Database, partner: Engine) -> None:
    send(database, partner, "db_1", "db_2", "db_3", "db_4")
    now = move(database, db_1=10, db_2=20, db_3=30, db_4=40)
    within = RequestFilter(since=now - timedelta(seconds=30), until=now - timedelta(seconds=10))
    assert resources(newest_requests(database, within, 9).requests) == ["db_3", "db_2"]
    assert resources(newest_requests(database, within, 1).requests) == ["db_2"]
    found = newest_requests(database, within, 9, scan_limit=1)
    assert (resources(found.requests), found.scope) == (
        ["db_2"],
        Scope(1, now - timedelta(seconds=20), now - timedelta(seconds=20), complete=False),
    )
    of_one = RequestFilter(ID, since=now - timedelta(seconds=30))
    assert resources(newest_requests(database, of_one, 9).requests) == ["db_1", "db_2", "db_3"]


def test_outcome_and_status_are_filters_too(database: Database, partner: Engine) -> None:
    send(database, partner, "db_1")
    send(database, partner, "db_2", "db_3", fails=True)
    with database.engine.begin() as connection:
        connection.execute(attempt.update().where(attempt.c.resource_id == "db_3").values(status=503))
    assert resources(newest_requests(database, RequestFilter(outcome=OutcomeKind.FAILED), 9).requests) == [
        "db_2",
        "db_3",
    ]
    assert resources(newest_requests(database, RequestFilter(outcome=OutcomeKind.DELIVERED), 9).requests) == ["db_1"]
    assert resources(newest_requests(database, RequestFilter(status=503), 9).requests) == ["db_3"]


# groups


def explain_failure(database: Database, resource: str, status: int | None, code: str | None, error: str | None) -> None:
    with database.engine.begin() as connection:
        row = attempt.update().where(attempt.c.resource_id == resource)
        connection.execute(row.values(status=status, error_code=code, error=error))


@pytest.mark.varies
def test_requests_are_grouped_by_what_they_came_to(database: Database, partner: Engine) -> None:
    send(database, partner, "db_1", "db_2")
    send(database, partner, "db_3", "main", fails=True)
    send(database, partner, "db_5", installation_id="icfg_2", fails=True)
    send(database, partner, "db_6", "db_7", fails=True)
    for resource in ("db_3", "main", "db_5"):
        explain_failure(database, resource, 400, "bad_request", f"no product {resource} of 7f3a")
    explain_failure(database, "db_6", 400, "bad_request", "503 Service Unavailable")
    found = group_requests(database, ALL)
    largest, delivered, *others = found.groups
    assert (largest.outcome, largest.status, largest.error_code, largest.error_prefix) == (
        "failed",
        400,
        "bad_request",
        "no product ",
    )
    assert (largest.requests, largest.installations, largest.newest.resource_id) == (3, 2, "db_5")
    assert largest.first_at < largest.newest.at
    assert (delivered.outcome, delivered.error_prefix, delivered.requests) == ("delivered", None, 2)
    assert sorted(str(one.error_prefix) for one in others) == ["503 Service Unavailable", "None"]
    assert (found.scope.requests, found.scope.complete) == (7, True)


def test_of_the_newest_requests_those_that_match_are_grouped(database: Database, partner: Engine) -> None:
    send(database, partner, "db_1", "db_2", fails=True)
    send(database, partner, "db_3")
    send(database, partner, "db_1", installation_id="icfg_2", fails=True)

    def sizes(wanted: RequestFilter, scan_limit: int) -> list[int]:
        return [group.requests for group in group_requests(database, wanted, scan_limit).groups]

    assert sizes(RequestFilter(failed=True), 9) == [3]
    assert sizes(RequestFilter(failed=True), 3) == [2]
    assert sizes(RequestFilter(ID), 9) == [2, 1]
    assert sizes(RequestFilter(resource_id="db_1"), 9) == [2]
    assert sizes(RequestFilter("icfg_3"), 9) == []
    assert group_requests(database, RequestFilter(ID), 2).scope.complete is False


# minutes


@pytest.mark.varies
def test_the_outcomes_of_each_minute_are_counted_up_to_a_limit(database: Database, partner: Engine) -> None:
    send(database, partner, "db_1", "db_2", "db_3")
    send(database, partner, "db_4", "db_5", fails=True)
    now = standing(database).now().replace(second=0, microsecond=0)
    minutes = {"db_1": 0.0, "db_2": 59.999, "db_3": 60, "db_4": 60, "db_5": 61}
    with database.engine.begin() as connection:
        for resource, seconds in minutes.items():
            row = attempt.update().where(attempt.c.resource_id == resource)
            connection.execute(row.values(at=now - timedelta(minutes=2) + timedelta(seconds=seconds)))
        connection.execute(
            attempt.update().where(attempt.c.resource_id == "db_5").values(outcome=OutcomeKind.THROTTLED)
        )
    counted = {one.at: one for one in outcomes_by_minute(database, 10)}
    assert list(counted) == sorted(counted)
    assert len(counted) == 10
    before, last = now - timedelta(minutes=2), now - timedelta(minutes=1)
    assert counted[before] == Minute(before, 2, 0, 0, capped=False)
    assert counted[last] == Minute(last, 1, 1, 1, capped=False)
    capped = {one.at: one for one in outcomes_by_minute(database, 10, cap=2)}
    assert (capped[last].delivered + capped[last].failed, capped[last].throttled, capped[last].capped) == (2, 0, True)


@pytest.mark.varies
def test_the_tail_returns_each_request_once(database: Database, partner: Engine) -> None:
    send(database, partner, "db_1", "db_2")
    tail = RequestTail(database, ALL)
    assert resources(tail.begin(1)) == ["db_2"]
    assert tail.read() == []
    send(database, partner, "db_3", "db_4")
    assert resources(tail.read()) == ["db_3", "db_4"]
    assert tail.read() == []


def test_a_tail_of_an_empty_log_begins_with_the_first_request(database: Database, partner: Engine) -> None:
    tail = RequestTail(database, RequestFilter(failed=True))
    assert tail.begin(9) == []
    send(database, partner, "db_1")
    send(database, partner, "db_2", fails=True)
    assert resources(tail.read()) == ["db_2"]


@on_servers
def test_the_tail_finds_a_request_that_is_committed_after_a_later_one(database: Database, partner: Engine) -> None:
    """Its id was drawn before."""
    send(database, partner, "db_1")
    (known,) = newest_requests(database, ALL, 1).requests
    row = {name: getattr(known, name) for name in Attempt.__slots__ if name != "id"}
    tail = RequestTail(database, ALL)
    tail.begin(9)
    with partner.begin() as slow:
        slow.execute(attempt.insert().values({**row, "resource_id": "slow"}))
        with partner.begin() as quick:
            quick.execute(attempt.insert().values({**row, "resource_id": "quick"}))
        assert resources(tail.read()) == ["quick"]
    assert resources(tail.read()) == ["slow"]
    assert tail.read() == []
