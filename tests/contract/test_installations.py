"""Operators pause, resume, purge and list installations, on every database, also while a dispatcher holds the lease."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.inspection.dead_letters import list_dead_letters, plan
from dispatcher.inspection.installations import Waiting, count_waiting, list_installations
from dispatcher.outbox.tables import collector, dead_letter, delivery, installation, outbox
from dispatcher.policy.decision import Action, DeadLetterReason, Decision
from dispatcher.store import dead_letters, installations
from dispatcher.store.dead_letters import Filter
from dispatcher.store.installations import FOREVER
from tests.contract.databases import on_mysql, on_servers, on_sqlite
from tests.contract.steps import (
    ID,
    LEASE,
    REJECTED,
    claim,
    count,
    deliver,
    expire_leases,
    in_background,
    settle,
    stays_blocked,
    write,
)

UNAUTHORIZED = Decision(Action.PAUSE, DeadLetterReason.UNAUTHORIZED, 3600)


def collect(database: Database, partner: Engine, *resources: str, installation_id: str = ID) -> None:
    with partner.begin() as connection:
        write(connection, *resources, installation_id=installation_id)
    store.collect(database, 500)


def row(database: Database, installation_id: str = ID) -> Any:
    with database.read() as connection:
        return connection.execute(
            sa.select(installation).where(installation.c.installation_id == installation_id)
        ).one_or_none()


def purge(database: Database, installation_id: str = ID) -> int:
    return installations.purge(database, installation_id, lambda _: None)


def purged(database: Database) -> list[str]:
    """Returns the resources of the dead letters, all of which must be purged ones."""
    letters = list_dead_letters(database, Filter(), 999)
    assert {letter.reason for letter in letters} <= {"purged"}
    return sorted(letter.resource_id or "" for letter in letters)


# pause and resume


@pytest.mark.varies
def test_a_paused_installation_is_not_claimed_and_loses_nothing(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    assert installations.pause(database, ID)
    collect(database, partner, "db_2")
    assert claim(database) == ()
    assert store.repair(database) == 0
    assert count(database, delivery) == 2
    assert installations.resume(database, ID)
    assert sorted(map(str, deliver(database))) == ["db_1", "db_2"]


def test_an_idle_installation_stays_paused_when_events_come(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    deliver(database)
    installations.pause(database, ID)
    assert row(database).due_at is None
    collect(database, partner, "db_2")
    assert row(database).due_at == FOREVER
    assert claim(database) == ()


def test_an_installation_whose_events_are_not_collected_yet_can_be_paused(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
    assert installations.pause(database, ID)
    assert deliver(database) == []
    assert count(database, delivery) == 1
    installations.resume(database, ID)
    assert deliver(database) == ["db_1"]


def test_an_unknown_installation_is_neither_paused_nor_resumed_nor_created(database: Database) -> None:
    assert not installations.pause(database, ID)
    assert not installations.resume(database, ID)
    assert count(database, installation) == 0


def test_pausing_twice_keeps_the_time_of_the_first(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    installations.pause(database, ID)
    since = row(database).paused_since
    installations.pause(database, ID)
    assert row(database).paused_since == since


def test_an_operator_takes_over_a_pause_and_ends_it(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database), decision=UNAUTHORIZED)
    installations.pause(database, ID)
    assert row(database).pause_reason == "operator"
    installations.resume(database, ID)
    resumed = row(database)
    assert (resumed.pause_reason, resumed.paused_since, resumed.paused_until) == (None, None, None)
    assert resumed.failures == 0
    assert deliver(database) == ["db_1"]


def test_resuming_an_installation_that_is_not_paused_changes_nothing(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    before = row(database)
    assert installations.resume(database, ID)
    assert row(database) == before


def test_resuming_does_not_bypass_the_rate_limit_or_a_backoff(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    later = database.now() + timedelta(hours=1)
    with database.engine.begin() as connection:
        connection.execute(sa.update(delivery).values(due_at=later - timedelta(minutes=1)))
        connection.execute(sa.update(installation).values(throttled_until=later))
    installations.pause(database, ID)
    installations.resume(database, ID)
    assert abs(row(database).due_at - later) < timedelta(seconds=1)
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(throttled_until=None))
    installations.pause(database, ID)
    installations.resume(database, ID)
    assert row(database).due_at < later - timedelta(seconds=30)


@pytest.mark.parametrize("decision", [Decision(Action.DELIVERED), UNAUTHORIZED, None])
def test_a_settlement_does_not_end_an_operators_pause(
    database: Database, partner: Engine, decision: Decision | None
) -> None:
    collect(database, partner, "db_1", "db_2")
    leased = claim(database)
    installations.pause(database, ID)
    if decision is None:  # the lease is kept
        settled = store.settle(database, [], [store.InstallationState(ID, leased[0].token)], LEASE)
        expire_leases(database)
    else:
        settled = settle(database, *leased, decision=decision)
    assert settled.paused == {ID}
    assert row(database).pause_reason == "operator"
    assert claim(database) == ()


@on_servers
def test_a_pause_waits_for_a_settlement_and_persists_after_it(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_2")
    (leased,) = claim(database)
    with database.engine.connect() as settling, settling.begin() as transaction:
        locked = sa.select(installation).where(installation.c.installation_id == ID).with_for_update()
        settling.execute(locked)
        released = {
            "lease_token": None,
            "leased_until": None,
            "leased_by": None,
            "due_at": leased.deliveries[0].first_created_at,
        }
        settling.execute(sa.update(installation).values(**released))
        with in_background(lambda: installations.pause(database, ID)) as pausing:
            try:
                assert stays_blocked(pausing, database)
            finally:
                transaction.commit()
    assert pausing.result()
    assert claim(database) == ()


def test_after_a_resume_the_lease_of_a_dead_dispatcher_is_taken_over(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    claim(database)
    installations.pause(database, ID)
    expire_leases(database)
    assert claim(database) == ()
    installations.resume(database, ID)
    assert [one.subject.resource_id for lease in claim(database) for one in lease.deliveries] == ["db_1"]


# purge


def test_a_purge_buries_deliveries_and_uncollected_events_of_this_installation_only(
    database: Database, partner: Engine
) -> None:
    collect(database, partner, "db_1", "db_2")
    collect(database, partner, "db_other", installation_id="icfg_2")
    with partner.begin() as connection:
        write(connection, "db_2", "db_3")
        write(connection, "db_other", installation_id="icfg_2")
    assert count_waiting(database, ID) == Waiting(events=2, deliveries=2)
    assert purge(database) == 3
    assert purged(database) == ["db_1", "db_2", "db_3"]
    assert count_waiting(database, ID) == Waiting(0, 0)
    assert row(database).due_at is None
    assert (count(database, outbox), count(database, delivery)) == (1, 1)
    assert deliver(database) == ["db_other"]


@pytest.mark.parametrize("waiting", [2, 3])
def test_a_purge_goes_chunk_by_chunk(database: Database, partner: Engine, waiting: int) -> None:
    with partner.begin() as connection:
        write(connection, *(f"db_{number}" for number in range(waiting)))
    progress: list[int] = []
    assert installations.purge(database, ID, progress.append, chunk=2) == waiting
    assert (progress[-1], len(progress)) == (waiting, (waiting + 1) // 2)
    assert len(purged(database)) == waiting


def test_deliveries_purged_by_mistake_can_be_replayed(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    purge(database)
    until = plan(database, Filter()).last_id
    assert dead_letters.replay(database, Filter(), until, dead_letters.Signature("ann"), lambda _: None) == 1
    assert deliver(database) == ["db_1"]


def test_a_purge_ends_a_pause_but_not_an_operators(database: Database, partner: Engine) -> None:
    for id_ in (ID, "icfg_2"):
        collect(database, partner, "db_1", installation_id=id_)
    settle(database, *claim(database), decision=UNAUTHORIZED)
    installations.pause(database, "icfg_2")
    purge(database)
    purge(database, "icfg_2")
    assert row(database).pause_reason is None
    assert row(database, "icfg_2").pause_reason == "operator"


def test_a_change_after_a_purge_is_delivered(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    purge(database)
    collect(database, partner, "db_1")
    assert deliver(database) == ["db_1"]


def test_events_that_are_not_collected_yet_count_as_waiting_too(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1", "db_2")
    assert count_waiting(database, ID) == Waiting(events=2, deliveries=0)
    assert purge(database) == 2


def test_a_purge_of_an_unknown_installation_finds_nothing(database: Database) -> None:
    assert count_waiting(database, ID) is None
    assert purge(database) == 0


def test_a_success_in_flight_during_a_purge_does_not_supersede_its_dead_letter(
    database: Database, partner: Engine
) -> None:
    """The dead letter may hold a change that was committed after the request had started."""
    collect(database, partner, "db_1")
    leased = claim(database)
    with partner.begin() as connection:
        write(connection, "db_1")
    assert purge(database) == 1
    settled = settle(database, *leased)
    assert (settled.lost, settled.superseded) == (frozenset(), 0)
    assert purged(database) == ["db_1"]


@pytest.mark.parametrize("decision", [Decision(Action.RETRY, delay=-1), REJECTED, UNAUTHORIZED])
def test_a_failure_in_flight_during_a_purge_brings_nothing_back(
    database: Database, partner: Engine, decision: Decision
) -> None:
    collect(database, partner, "db_1")
    leased = claim(database)
    assert purge(database) == 1
    settled = settle(database, *leased, decision=decision)
    assert (settled.lost, settled.buried) == (frozenset(), 0)
    assert purged(database) == ["db_1"]
    assert row(database).due_at is None
    assert claim(database) == ()


@pytest.mark.varies
@on_servers
def test_a_purge_waits_for_a_settlement_that_holds_the_installation(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_2")
    with database.engine.connect() as settling, settling.begin() as transaction:
        settling.execute(sa.select(installation).with_for_update())
        settling.execute(sa.delete(delivery).where(delivery.c.resource_id == "db_1"))
        with in_background(lambda: purge(database)) as purging:
            try:
                assert stays_blocked(purging, database)
            finally:
                transaction.commit()
    assert purging.result() == 1
    assert purged(database) == ["db_2"]


@on_servers
def test_a_purge_waits_for_a_collection_and_buries_its_deliveries(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    with partner.begin() as connection:
        write(connection, "db_2")
    with database.engine.connect() as collecting, collecting.begin() as transaction:
        collecting.execute(sa.select(collector).with_for_update())  # but has not reached this installation yet
        with in_background(lambda: purge(database)) as purging:
            try:
                assert stays_blocked(purging, database)
            finally:
                transaction.commit()
    assert purging.result() == 2
    assert purged(database) == ["db_1", "db_2"]


@on_servers
def test_two_concurrent_purges_bury_everything_once(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_2")
    with database.engine.connect() as first, first.begin() as transaction:
        assert installations._bury(first, database.dialect, ID, 500) == 2
        with in_background(lambda: purge(database)) as second:
            try:
                assert stays_blocked(second, database)
            finally:
                transaction.commit()
    assert second.result() == 0
    assert count(database, dead_letter) == 2


@on_sqlite
def test_a_purge_buries_a_malformed_row_as_malformed(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = 1")
        connection.exec_driver_sql("INSERT INTO vercel_outbox (installation_id, type) VALUES ('icfg_1', 'nonsense')")
    assert purge(database) == 0
    with database.read() as connection:
        assert connection.execute(sa.select(dead_letter.c.reason)).scalars().all() == ["malformed"]


@on_mysql
def test_an_id_with_a_trailing_blank_is_another_id_on_databases_that_pad(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    assert count_waiting(database, "icfg_1 ") is None


def test_a_purge_needs_no_row_in_the_collectors_table(database: Database, partner: Engine) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.delete(collector))
    with partner.begin() as connection:
        write(connection, "db_1")
    assert purge(database) == 1


# list


@pytest.mark.varies
def test_a_list_shows_the_state_of_each_installation(database: Database, partner: Engine) -> None:
    for state in ("sending", "throttled", "waiting", "paused", "idle", "due"):
        collect(database, partner, f"db_of_{state}", installation_id=state)
    later = database.now() + timedelta(hours=1)
    changes: dict[str, dict[str, object]] = {
        "sending": {"lease_token": "t", "leased_until": later, "leased_by": "d"},
        "throttled": {"throttled_until": later, "due_at": later},
        "waiting": {"due_at": later},
    }
    with database.engine.begin() as connection:
        for id_, values in changes.items():
            connection.execute(sa.update(installation).where(installation.c.installation_id == id_).values(**values))
    purge(database, "idle")
    installations.pause(database, "paused")
    listed = list_installations(database, 9)
    assert [(one.installation_id, one.state) for one in listed] == [
        (state, state) for state in ("due", "idle", "paused", "sending", "throttled", "waiting")
    ]
    assert [one.deliveries for one in listed] == [1, 0, 1, 1, 1, 1]
    assert [one.installation_id for one in list_installations(database, 2)] == ["due", "idle"]
    assert [one.installation_id for one in list_installations(database, 9, paused=True)] == ["paused"]
