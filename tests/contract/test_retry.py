"""Operators list what is waiting and retry it now, on every database, also while a dispatcher holds the lease."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.inspection.deliveries import Listing, RetryPlan, list_deliveries, plan_retry
from dispatcher.outbox.tables import delivery, installation
from dispatcher.policy.decision import Action, DeadLetterReason, Decision
from dispatcher.policy.rate_window import RateLimit
from dispatcher.store import installations
from dispatcher.store.deliveries import DeliveryFilter, retry
from tests.contract.databases import on_servers
from tests.contract.steps import GRACES, ID, claim, deliver, in_background, settle, stays_blocked, write

BACKOFF = Decision(Action.RETRY, delay=3_600.0)
ALL = DeliveryFilter()


def fail(database: Database, partner: Engine, *resources: str, installation_id: str = ID) -> None:
    """Each of these changes has failed once, and waits for an hour."""
    with partner.begin() as connection:
        write(connection, *resources, installation_id=installation_id)
    store.collect(database, 500)
    for leased in claim(database):
        settle(database, leased, decision=BACKOFF)


def retried(database: Database, wanted: DeliveryFilter = ALL, chunk: int = 500) -> int:
    return retry(database, wanted, lambda _: None, chunk)


def waiting(database: Database, wanted: DeliveryFilter = ALL, limit: int = 99, **options: Any) -> Listing:
    return list_deliveries(database, wanted, GRACES, limit, **options)


def resources(listing: Listing) -> list[str | None]:
    return [one.resource_id for one in listing.deliveries]


def due_at(database: Database, installation_id: str = ID) -> Any:
    with database.read() as connection:
        row = installation.c.installation_id == installation_id
        return connection.execute(sa.select(installation.c.due_at).where(row)).scalar_one()


@pytest.mark.varies
def test_what_waits_for_its_backoff_is_sent_now(database: Database, partner: Engine) -> None:
    fail(database, partner, "db_1", "db_2")
    assert deliver(database) == []
    assert retried(database) == 2
    assert sorted(map(str, deliver(database))) == ["db_1", "db_2"]
    assert retried(database) == 0


def test_the_attempts_so_far_still_count(database: Database, partner: Engine) -> None:
    fail(database, partner, "db_1")
    retried(database)
    assert [one.attempts for one in waiting(database).deliveries] == [1]


def test_only_what_the_filter_selects_is_retried(database: Database, partner: Engine) -> None:
    fail(database, partner, "db_1", "db_2")
    fail(database, partner, "db_1", installation_id="icfg_2")
    later = DeliveryFilter(since=database.now() + timedelta(hours=1))
    assert retried(database, later) == 0
    assert retried(database, DeliveryFilter(ID, "db_2")) == 1
    assert deliver(database) == ["db_2"]
    assert retried(database, DeliveryFilter("icfg_2")) == 1
    assert retried(database, DeliveryFilter(resource_id="db_1", since=database.now() - timedelta(hours=1))) == 1


def test_many_are_retried_in_chunks(database: Database, partner: Engine) -> None:
    fail(database, partner, *(f"db_{number}" for number in range(7)))
    done: list[int] = []
    assert retry(database, ALL, done.append, chunk=3) == 7
    assert done == [3, 6, 7]
    assert len(deliver(database)) == 7


def test_a_paused_installation_stays_paused(database: Database, partner: Engine) -> None:
    fail(database, partner, "db_1")
    installations.pause(database, ID)
    before = due_at(database)
    assert plan_retry(database, ALL) == RetryPlan(deliveries=1, paused=1, busiest=0)
    assert retried(database) == 1
    assert due_at(database) == before
    assert deliver(database) == []


def test_a_throttled_installation_waits_for_its_slot(database: Database, partner: Engine) -> None:
    fail(database, partner, "db_1")
    at = database.now() + timedelta(seconds=90)
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(throttled_until=at))
    retried(database)
    assert due_at(database) == at


@on_servers
def test_it_waits_for_the_installation_that_a_settlement_has_locked(database: Database, partner: Engine) -> None:
    fail(database, partner, "db_1")
    with partner.connect() as settling:
        settling.execute(sa.select(installation).with_for_update())
        with in_background(lambda: retried(database)) as done:
            assert stays_blocked(done, database)
            settling.execute(sa.delete(delivery))
            settling.commit()
        assert done.result() == 0
    assert deliver(database) == []


def test_what_is_in_flight_is_settled_as_usual(database: Database, partner: Engine) -> None:
    """The retry changes neither the lease nor the version on which the settlement relies."""
    fail(database, partner, "db_1")
    retried(database)
    (leased,) = claim(database)
    with database.engine.begin() as connection:
        connection.execute(sa.update(delivery).values(due_at=database.now() + timedelta(hours=1)))
    assert retried(database) == 1
    settle(database, leased)
    assert waiting(database).deliveries == []


def test_the_plan_counts_requests_and_their_time(database: Database, partner: Engine) -> None:
    fail(database, partner, "db_1", "db_2", "db_3")
    fail(database, partner, "db_1", installation_id="icfg_2")
    planned = plan_retry(database, ALL)
    assert (planned.deliveries, planned.requests, planned.busiest) == (4, 4, 3)
    assert planned.seconds(RateLimit(1, 60.0), None) == 120.0
    assert planned.seconds(None, RateLimit(2, 10.0)) == 10.0
    retried(database)
    assert plan_retry(database, ALL) == RetryPlan(0, 0, 0)


def test_the_list_has_the_longest_waiting_first_and_says_what_comes_next(database: Database, partner: Engine) -> None:
    fail(database, partner, "db_1")
    store.beat(database, store.Heartbeat("one", "1.0", 0, is_outage=False, is_first=True))
    with partner.begin() as connection:
        write(connection, "db_2")
    store.collect(database, 500)
    listing = waiting(database)
    assert resources(listing) == ["db_1", "db_2"]
    assert listing.complete
    first, second = listing.deliveries
    assert (first.attempts, first.last_status, first.next) == (1, None, "attempt 2, after the backoff")
    assert first.next_at == first.due_at > database.now()
    assert (second.attempts, second.next) == (0, "attempt 1, as soon as a dispatcher claims it")
    assert resources(waiting(database, DeliveryFilter(ID, "db_2"))) == ["db_2"]


def test_a_cut_list_says_so(database: Database, partner: Engine) -> None:
    fail(database, partner, "db_1", "db_2")
    assert not waiting(database, limit=1).complete
    assert not waiting(database, scan_limit=1).complete
    assert waiting(database, DeliveryFilter(ID), scan_limit=1).complete
    assert waiting(database, scan_limit=2).complete


def test_without_a_dispatcher_nothing_is_promised(database: Database, partner: Engine) -> None:
    fail(database, partner, "db_1")
    assert [one.next for one in waiting(database).deliveries] == ["attempt 2, when a dispatcher is running: none is"]


def test_what_waits_for_a_person_says_so(database: Database, partner: Engine) -> None:
    fail(database, partner, "db_1")
    retried(database)
    settle(database, *claim(database), decision=Decision(Action.PAUSE, DeadLetterReason.UNAUTHORIZED, 3_600.0))
    (one,) = waiting(database).deliveries
    assert one.next.startswith("a probe, because the installation is paused (unauthorized)")
