"""No change is lost under nasty interleavings, with real connections held open at the nasty moment."""

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import collector, delivery, installation, outbox
from dispatcher.policy.decision import Action, Decision
from dispatcher.store.collection import _collect
from tests.contract.databases import on_servers
from tests.contract.steps import (
    ID,
    LEASE,
    claim,
    count,
    deliver,
    expire_leases,
    in_background,
    settle,
    stays_blocked,
    write,
)


@on_servers
def test_a_change_committed_after_its_subject_was_delivered_is_delivered_too(
    database: Database, partner: Engine
) -> None:
    with partner.connect() as slow, slow.begin() as open_transaction:
        write(slow, "db_1")  # the lower id
        with partner.begin() as quick:
            write(quick, "db_1")
        assert deliver(database) == ["db_1"]
        assert deliver(database) == []
        open_transaction.commit()
    assert deliver(database) == ["db_1"]
    assert [count(database, table) for table in (outbox, delivery)] == [0, 0]


@pytest.mark.varies
@on_servers
def test_a_commit_between_claim_and_settle_is_seen_by_the_next_collection(database: Database, partner: Engine) -> None:
    with partner.connect() as slow, slow.begin() as open_transaction:
        write(slow, "db_1")
        with partner.begin() as quick:
            write(quick, "db_1")
        store.collect(database, 500)
        leased = claim(database)
        open_transaction.commit()
        settle(database, *leased)
    assert deliver(database) == ["db_1"]


def test_a_change_collected_while_the_request_is_in_flight_is_due_at_once(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    settle(database, *claim(database), decision=Decision(Action.RETRY, delay=-1))
    leased = claim(database)
    assert [one.attempts for one in leased[0].deliveries] == [1]
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    settle(database, *leased)
    ((again,),) = [lease.deliveries for lease in claim(database)]
    assert (again.events, again.attempts) == (2, 0)


def test_events_that_are_rolled_back_are_never_collected(database: Database, partner: Engine) -> None:
    with partner.connect() as connection:
        with connection.begin() as transaction:
            write(connection, "whole")
            transaction.rollback()
        with connection.begin():
            write(connection, "kept")
            savepoint = connection.begin_nested()
            write(connection, "part")
            savepoint.rollback()
    assert deliver(database) == ["kept"]
    assert deliver(database) == []


PREPARE = {
    "postgresql": ("BEGIN", "PREPARE TRANSACTION {0}", "COMMIT PREPARED {0}"),
    "mysql": ("XA START {0}", "XA END {0}; XA PREPARE {0}", "XA COMMIT {0}"),
}


@pytest.mark.varies
@pytest.mark.parametrize("server", [pytest.param("postgresql-18", marks=pytest.mark.variant), "mysql"], indirect=True)
def test_a_prepared_transaction_that_was_left_behind_blocks_nothing(database: Database, partner: Engine) -> None:
    name = f"'left behind in {database.engine.url.database}'"  # the name is visible on the whole server
    begin, prepare, commit = (statement.format(name) for statement in PREPARE[database.dialect.name])
    alone = partner.execution_options(isolation_level="AUTOCOMMIT")  # such transactions are begun and ended explicitly
    with alone.connect() as connection:
        connection.exec_driver_sql(begin)
        write(connection, "prepared")
        for statement in prepare.split("; "):
            connection.exec_driver_sql(statement)
        connection.invalidate()
    try:
        with partner.begin() as other:
            write(other, "db_1")
        assert deliver(database) == ["db_1"]
        assert store.repair(database) == 0
    finally:
        with alone.connect() as connection:
            connection.exec_driver_sql(commit)
    assert deliver(database) == ["prepared"]


def test_a_settlement_after_the_lease_was_taken_over_changes_nothing(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    sleeper = claim(database)
    expire_leases(database)
    (taken_over,) = claim(database)
    assert settle(database, *sleeper).lost == {ID}
    assert store.pull(database, {ID: sleeper[0].token}, 9, LEASE) == store.Pulled({})
    assert count(database, delivery) == 1
    assert [one.attempts for one in taken_over.deliveries] == [0]
    assert settle(database, taken_over).lost == frozenset()
    assert count(database, delivery) == 0


def test_new_events_of_a_subject_in_backoff_join_its_delivery_and_do_not_end_the_backoff(
    database: Database, partner: Engine
) -> None:
    for _ in range(2):
        with partner.begin() as connection:
            write(connection, "db_1")
        store.collect(database, 500)
        settle(database, *claim(database), decision=Decision(Action.RETRY, delay=3600))
    assert all(lease.deliveries == () for lease in claim(database))
    with database.read() as connection:
        row = connection.execute(sa.select(delivery.c.events, delivery.c.attempts)).one()
    assert tuple(row) == (2, 1)


@on_servers
def test_a_lease_given_back_while_a_collector_holds_the_row_strands_nothing(
    database: Database, partner: Engine
) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    leased = claim(database)
    with partner.begin() as connection:
        write(connection, "db_2")
    collecting = _collect_and_hold(database)
    with in_background(lambda: settle(database, *leased)) as settling:
        try:
            assert stays_blocked(settling, database)
        finally:
            collecting.commit()
    assert [one.subject.resource_id for lease in claim(database) for one in lease.deliveries] == ["db_2"]
    assert store.repair(database) == 0


def _collect_and_hold(database: Database) -> sa.Connection:
    connection = database.engine.connect()
    connection.begin()
    _collect(connection, database.dialect, 500, store.LOWEST_ID, LEASE * 0)
    return connection


@on_servers
def test_a_collector_that_waits_for_a_lease_being_given_back_strands_nothing(
    database: Database, partner: Engine
) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    settle(database, *claim(database))
    with partner.begin() as connection:
        write(connection, "db_2")
    with database.engine.connect() as settling, settling.begin() as transaction:
        row = installation.c.installation_id == ID
        settling.execute(sa.select(installation).where(row).with_for_update())
        settling.execute(sa.update(installation).where(row).values(due_at=None))
        with in_background(lambda: store.collect(database, 500)) as collecting:
            try:
                assert stays_blocked(collecting, database)
            finally:
                transaction.commit()
    assert deliver(database) == ["db_2"]


@pytest.mark.varies
@on_servers
def test_a_second_collector_gives_up_at_once(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
    with database.engine.begin() as first:
        first.execute(sa.select(collector).with_for_update())
        with in_background(lambda: store.collect(database, 500)) as second:
            assert not stays_blocked(second, database)
            assert second.result() == store.Collected(skipped=True)
    assert store.collect(database, 500).events == 1


@pytest.mark.varies
@on_servers
@pytest.mark.parametrize("decision", [None, Decision(Action.RETRY, delay=5)])
def test_installations_are_locked_in_key_order(database: Database, partner: Engine, decision: Decision | None) -> None:
    """Otherwise two dispatchers could each hold a lock that the other waits for."""
    with partner.begin() as connection:
        for id_ in ("b", "a"):
            write(connection, "db_1", installation_id=id_)
    store.collect(database, 500)
    leased = sorted(claim(database), key=lambda lease: lease.installation_id, reverse=True)
    with partner.begin() as connection:
        for id_ in ("b", "a"):
            write(connection, "db_1", installation_id=id_)
    lock = sa.select(installation.c.installation_id).with_for_update(skip_locked=True)
    with database.engine.connect() as first, database.engine.connect() as other:
        transaction = first.begin()
        first.execute(sa.select(installation).where(installation.c.installation_id == "a").with_for_update())
        step = (
            (lambda: store.collect(database, 500))
            if decision is None
            else (lambda: settle(database, *leased, decision=decision))
        )
        with in_background(step) as waiting:
            try:
                assert stays_blocked(waiting, database)
                with other.begin():
                    assert list(other.execute(lock).scalars()) == ["b"]
            finally:
                transaction.rollback()


@on_servers
def test_a_sweep_waits_for_an_installation_that_is_just_being_inserted(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    with database.engine.begin() as connection:
        connection.execute(sa.delete(installation))
    with database.engine.connect() as other, other.begin() as transaction:
        other.execute(sa.insert(installation).values(installation_id=ID))
        with in_background(lambda: store.repair(database)) as repairing:
            try:
                assert stays_blocked(repairing, database)
            finally:
                transaction.commit()
    assert repairing.result() == 1
    assert deliver(database) == ["db_1"]
