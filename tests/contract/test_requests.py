"""The newest requests of all installations, and those that follow, on every database."""

import pytest
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.inspection.requests import RequestFilter, RequestTail, newest_requests
from dispatcher.outbox.tables import attempt
from dispatcher.policy.decision import Action, Decision
from dispatcher.store.attempt_log import Attempt
from tests.contract.databases import on_servers
from tests.contract.steps import ID, claim, settle, write

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
    assert resources(newest_requests(database, ALL, 99)) == ["db_1", "db_2", "db_3"]
    assert resources(newest_requests(database, ALL, 2)) == ["db_2", "db_3"]


def test_the_filter_selects(database: Database, partner: Engine) -> None:
    send(database, partner, "db_1")
    send(database, partner, "db_2", fails=True)
    send(database, partner, "db_1", installation_id="icfg_2", fails=True)
    assert resources(newest_requests(database, RequestFilter(failed=True), 99)) == ["db_2", "db_1"]
    assert resources(newest_requests(database, RequestFilter("icfg_2"), 99)) == ["db_1"]
    assert resources(newest_requests(database, RequestFilter(ID, "db_1"), 99)) == ["db_1"]
    assert resources(newest_requests(database, RequestFilter(resource_id="db_1", failed=True), 99)) == ["db_1"]


def test_without_an_id_only_the_newest_are_searched(database: Database, partner: Engine) -> None:
    send(database, partner, "db_1", fails=True)
    send(database, partner, "db_2", "db_3")
    failed = RequestFilter(failed=True)
    assert newest_requests(database, failed, 99, scan_limit=2) == []
    assert resources(newest_requests(database, failed, 99, scan_limit=3)) == ["db_1"]
    assert resources(newest_requests(database, RequestFilter(ID, failed=True), 99, scan_limit=2)) == ["db_1"]


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
    (known,) = newest_requests(database, ALL, 1)
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
