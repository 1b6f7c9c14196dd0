"""A removed installation: what was written before is purged and resolved, what is written later is delivered, nothing is lost."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from dispatcher import InstallationRemoved, publish, store
from dispatcher.database.transactions import Database
from dispatcher.inspection.backlog import measure
from dispatcher.inspection.dead_letters import list_dead_letters, plan
from dispatcher.outbox.tables import collector, dead_letter, delivery, installation, outbox
from dispatcher.policy.decision import Action, DeadLetterReason, Decision, PauseReason
from dispatcher.store import dead_letters, installations
from dispatcher.store.collection import _collect
from dispatcher.store.dead_letters import Filter, Signature
from dispatcher.store.removal import _remove
from tests.contract.databases import on_servers, on_sqlite
from tests.contract.row_locks import locked_by_another, with_row_locks
from tests.contract.steps import (
    ID,
    LEASE,
    REJECTED,
    claim,
    collect,
    count,
    deliver,
    in_background,
    pull_suspects,
    settle,
    stays_blocked,
    write,
)
from tests.deploy.documents import blocks

UNAUTHORIZED = Decision(Action.PAUSE, PauseReason.UNAUTHORIZED, 3600)
RETRY = Decision(Action.RETRY, delay=3600)
ANNOUNCED = "INSERT INTO {}vercel_outbox (installation_id, type) VALUES (:id, 'installation.removed')"


def uninstall(partner: Connection, installation_id: str = ID) -> None:
    """Executes the partner's plain INSERT in the connection's current transaction."""
    schema = partner.get_execution_options().get("schema_translate_map", {}).get(None)
    partner.execute(sa.text(ANNOUNCED.format(f"{schema}." if schema else "")), {"id": installation_id})


def removals(database: Database) -> tuple[store.Removal, ...]:
    return store.collect(database, 500).removals


def carry_out(database: Database, found: tuple[store.Removal, ...], chunk: int = 500) -> list[store.Removed]:
    """Returns the steps of these removals."""
    steps = []
    for removal in found:
        while not (step := store.remove(database, removal, chunk)).done:
            steps.append(step)
        steps.append(step)
    return steps


def remove(database: Database, partner: Engine, installation_id: str = ID) -> None:
    """Commits a removal, and collects and carries it out."""
    with partner.begin() as connection:
        uninstall(connection, installation_id)
    carry_out(database, removals(database))


def letters(database: Database) -> list[tuple[str | None, str, str | None, str | None]]:
    """Returns the resource, the reason and how each dead letter was resolved, in the order of their first events."""
    rows = list_dead_letters(database, Filter(), 999, resolved=True)
    return [
        (one.resource_id, one.reason, one.resolution, one.resolved_by)
        for one in sorted(rows, key=lambda one: one.first_event_id)
    ]


def purged(*resources: str) -> list[tuple[str | None, str, str | None, str | None]]:
    return [(resource, "purged", "discarded", "installation.removed") for resource in resources]


def row(database: Database, installation_id: str = ID) -> Any:
    with database.read() as connection:
        this = installation.c.installation_id == installation_id
        return connection.execute(sa.select(installation).where(this)).one_or_none()


# what it does


@pytest.mark.varies
def test_what_waits_is_purged_and_resolved_and_the_installation_forgotten(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_2")
    collect(database, partner, "db_other", installation_id="icfg_2")
    with partner.begin() as connection:
        write(connection, "db_2", "db_3")
        publish(connection, InstallationRemoved(installation_id=ID))
    carry_out(database, removals(database))
    assert letters(database) == purged("db_1", "db_2", "db_3")
    assert row(database) is None
    assert count(database, outbox) == 0
    backlog = measure(database)
    assert (backlog.dead_letters, backlog.paused_installations) == ({}, {})
    assert deliver(database) == ["db_other"]


def test_a_removal_of_an_installation_without_events_leaves_nothing(database: Database, partner: Engine) -> None:
    remove(database, partner)
    assert [count(database, table) for table in (outbox, delivery, installation, dead_letter)] == [0, 0, 0, 0]


@pytest.mark.parametrize("decision", [RETRY, UNAUTHORIZED], ids=["in backoff", "paused"])
def test_a_delivery_that_failed_before_is_purged_with_its_error(
    database: Database, partner: Engine, decision: Decision
) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database), decision=decision)
    remove(database, partner)
    assert letters(database) == purged("db_1")
    assert row(database) is None


def test_an_operators_pause_ends_with_the_installation(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    installations.pause(database, ID)
    remove(database, partner)
    assert row(database) is None
    assert letters(database) == purged("db_1")


def test_unresolved_dead_letters_are_resolved_those_of_others_are_not(database: Database, partner: Engine) -> None:
    for installation_id in (ID, "icfg_2"):
        collect(database, partner, "db_1", installation_id=installation_id)
    settle(database, *claim(database), decision=REJECTED)
    remove(database, partner)
    assert [one[1:] for one in letters(database)] == [
        ("rejected", "discarded", "installation.removed"),
        ("rejected", None, None),
    ]
    assert measure(database).dead_letters == {"rejected": 1}


def test_a_dead_letter_that_was_resolved_before_stays_as_it_was(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database), decision=REJECTED)
    until = plan(database, Filter()).last_id
    dead_letters.discard(database, Filter(), until, Signature("ann"), lambda _: None)
    remove(database, partner)
    assert letters(database) == [("db_1", "rejected", "discarded", "ann")]


@on_sqlite
def test_a_malformed_row_from_before_is_resolved_too(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = 1")
        connection.exec_driver_sql("INSERT INTO vercel_outbox (installation_id, type) VALUES ('icfg_1', 'nonsense')")
        uninstall(connection)
    carry_out(database, removals(database))
    assert letters(database) == [(None, "malformed", "discarded", "installation.removed")]


def test_purged_by_a_removal_can_be_replayed(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    remove(database, partner)
    wanted = Filter(reason=DeadLetterReason.PURGED, installation_id=ID)
    until = plan(database, wanted, for_replay=True).last_id
    assert [dead_letters.replay(database, wanted, until, Signature("ann"), lambda _: None) for _ in range(2)] == [1, 0]
    assert deliver(database) == ["db_1"]


@pytest.mark.parametrize("waiting", [3, 4])
def test_it_goes_chunk_by_chunk(database: Database, partner: Engine, waiting: int) -> None:
    collect(database, partner, *(f"dead_{number}" for number in range(waiting)))
    settle(database, *claim(database), decision=REJECTED)
    collect(database, partner, *(f"db_{number}" for number in range(waiting)))
    with partner.begin() as connection:
        write(connection, *(f"new_{number}" for number in range(waiting)))
        uninstall(connection)
    steps = carry_out(database, (store.Removal(3 * waiting + 1, ID, database.now()),), chunk=2)
    assert max(max(step.events - 1, step.purged, step.resolved) for step in steps) == 2
    assert len(steps) == waiting + 1
    assert sum(step.events for step in steps) == waiting + 1
    assert sum(step.resolved for step in steps) == waiting
    assert [one[2] for one in letters(database)] == ["discarded"] * 3 * waiting
    assert row(database) is None


def test_until_it_is_done_the_removal_stays_in_the_outbox(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_2", "db_3")
    with partner.begin() as connection:
        uninstall(connection)
    (removal,) = removals(database)
    assert not store.remove(database, removal, 2).done
    assert removals(database) == (removal,)
    assert row(database) is not None
    carry_out(database, (removal,), 2)
    assert letters(database) == purged("db_1", "db_2", "db_3")
    assert row(database) is None


def test_the_documented_line_of_sql_works_as_it_stands(database: Database, partner: Engine) -> None:
    (line,) = blocks("examples/recipes.md", "sql")
    collect(database, partner, "db_1")
    with partner.begin() as connection:
        connection.exec_driver_sql(line)
    carry_out(database, removals(database))
    assert letters(database) == purged("db_1")


# what comes later


def test_an_event_with_a_higher_id_in_the_same_batch_is_delivered(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1", "db_2")
        uninstall(connection)
        write(connection, "db_2", "db_3")
    carry_out(database, removals(database))
    assert letters(database) == purged("db_1")
    assert sorted(map(str, deliver(database))) == ["db_2", "db_3"]


def test_an_event_that_was_collected_after_the_removal_is_delivered(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
        uninstall(connection)
    found = removals(database)
    collect(database, partner, "db_2")
    carry_out(database, found)
    assert letters(database) == purged("db_1")
    assert deliver(database) == ["db_2"]


def test_after_a_removal_the_same_id_starts_afresh(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database), decision=UNAUTHORIZED)
    remove(database, partner)
    collect(database, partner, "db_1")
    assert row(database).pause_reason is None
    assert deliver(database) == ["db_1"]
    assert letters(database) == purged("db_1")


def test_dead_letters_of_later_events_stay(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        uninstall(connection)
    found = removals(database)
    collect(database, partner, "db_1")
    settle(database, *claim(database), decision=REJECTED)
    carry_out(database, found)
    assert letters(database) == [("db_1", "rejected", None, None)]


def test_a_removal_that_was_carried_out_does_nothing_more(database: Database, partner: Engine) -> None:
    """For example for a dispatcher that read it before another one carried it out."""
    with partner.begin() as connection:
        uninstall(connection)
    found = removals(database)
    carry_out(database, found)
    collect(database, partner, "db_1")
    assert carry_out(database, found) == [store.Removed(done=True)]
    assert deliver(database) == ["db_1"]
    assert carry_out(database, found) == [store.Removed(done=True)]
    assert row(database) is not None


def test_an_id_that_begins_alike_is_another_installation(database: Database, partner: Engine) -> None:
    for installation_id in ("icfg_1", "ICFG_1", "icfg_11"):
        collect(database, partner, "db_1", installation_id=installation_id)
    remove(database, partner)
    assert sorted(one.installation_id for one in claim(database)) == ["ICFG_1", "icfg_11"]


# requests in flight


@pytest.mark.parametrize(
    "decision", [Decision(Action.DELIVERED), Decision(Action.RETRY, delay=-1), REJECTED, UNAUTHORIZED]
)
def test_a_late_answer_changes_nothing(database: Database, partner: Engine, decision: Decision) -> None:
    collect(database, partner, "db_1")
    leased = claim(database)
    remove(database, partner)
    assert settle(database, *leased, decision=decision) == store.Settled(lost=frozenset({ID}))
    assert letters(database) == purged("db_1")
    assert row(database) is None
    assert count(database, delivery) == 0
    assert claim(database) == ()


def test_whoever_holds_the_lease_finds_it_lost(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    remove(database, partner)
    tokens = {ID: leased.token}
    assert store.pull(database, tokens, 9, LEASE) == store.Pulled({})
    assert store.renew(database, tokens, LEASE) == store.Pulled({})
    assert pull_suspects(database, leased) == store.Suspects()
    assert row(database) is None


def test_a_late_answer_does_not_conclude_a_new_event_of_the_same_subject(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    leased = claim(database)
    remove(database, partner)
    collect(database, partner, "db_1")
    assert settle(database, *leased).lost == {ID}
    assert deliver(database) == ["db_1"]


def test_with_a_newer_delivery_the_lease_stays_and_its_answers_count(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    with partner.begin() as connection:
        uninstall(connection)
    found = removals(database)
    collect(database, partner, "db_2")
    leased = claim(database)
    assert len(leased[0].deliveries) == 2
    carry_out(database, found)
    settled = settle(database, *leased)
    assert settled.lost == frozenset()
    assert letters(database) == purged("db_1")
    assert count(database, delivery) == 0


# interleavings


@on_servers
def test_a_lower_id_that_commits_before_it_is_carried_out_is_purged(database: Database, partner: Engine) -> None:
    with partner.connect() as slow, slow.begin() as open_transaction:
        write(slow, "db_1")
        with partner.begin() as quick:
            uninstall(quick)
        found = removals(database)
        open_transaction.commit()
    carry_out(database, found)
    assert letters(database) == purged("db_1")
    assert store.collect(database, 500).events == 0
    assert row(database) is None


@on_servers
def test_a_lower_id_that_commits_after_it_was_carried_out_is_delivered(database: Database, partner: Engine) -> None:
    """Its change was committed after the removal: losing it would be worse than a request that Vercel refuses."""
    with partner.connect() as slow, slow.begin() as open_transaction:
        write(slow, "db_1")
        remove(database, partner)
        open_transaction.commit()
    assert deliver(database) == ["db_1"]


def test_events_below_the_low_water_mark_are_purged_too(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
        uninstall(connection)
    (removal,) = store.collect(database, 500, low_water=1).removals
    assert count(database, outbox) == 2
    carry_out(database, (removal,))
    assert letters(database) == purged("db_1")


@on_servers
def test_a_removal_that_is_rolled_back_changes_nothing(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    with partner.connect() as connection, connection.begin() as transaction:
        uninstall(connection)
        transaction.rollback()
    assert removals(database) == ()
    assert deliver(database) == ["db_1"]


@pytest.mark.varies
@on_servers
def test_it_waits_for_a_collection_and_purges_what_that_has_collected(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
        uninstall(connection)
    (removal,) = store.collect(database, 500, low_water=1).removals
    with database.engine.connect() as collecting, collecting.begin() as transaction:
        _collect(collecting, database.dialect, 500, store.LOWEST_ID, 0 * LEASE)
        with in_background(lambda: store.remove(database, removal)) as removing:
            try:
                assert stays_blocked(removing, database)
            finally:
                transaction.commit()
    assert removing.result().done
    assert letters(database) == purged("db_1")
    assert row(database) is None


@on_servers
def test_it_waits_for_a_settlement_that_holds_the_installation(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_2")
    with partner.begin() as connection:
        uninstall(connection)
    (removal,) = removals(database)
    with database.engine.connect() as settling, settling.begin() as transaction:
        settling.execute(sa.select(installation).with_for_update())
        settling.execute(sa.delete(delivery).where(delivery.c.resource_id == "db_1"))
        with in_background(lambda: store.remove(database, removal)) as removing:
            try:
                assert stays_blocked(removing, database)
            finally:
                transaction.commit()
    assert removing.result().forgotten
    assert letters(database) == purged("db_2")


@contextmanager
def removing_and_holding(database: Database, removal: store.Removal) -> Iterator[sa.Transaction]:
    """A transaction that has carried the removal out, except for its commit."""
    with database.engine.connect() as connection, connection.begin() as transaction:
        assert _remove(connection, False, dialect=database.dialect, removal=removal, chunk=500).forgotten
        yield transaction


@on_servers
@pytest.mark.parametrize("commits", [True, False], ids=["commits", "rolls back"])
def test_a_settlement_waits_for_it(database: Database, partner: Engine, commits: bool) -> None:
    collect(database, partner, "db_1")
    leased = claim(database)
    with partner.begin() as connection:
        uninstall(connection)
    (removal,) = removals(database)
    with (
        removing_and_holding(database, removal) as transaction,
        in_background(lambda: settle(database, *leased)) as settling,
    ):
        try:
            assert stays_blocked(settling, database)
        finally:
            transaction.commit() if commits else transaction.rollback()
    assert settling.result().lost == ({ID} if commits else set())
    assert letters(database) == (purged("db_1") if commits else [])
    assert count(database, delivery) == 0


@on_servers
def test_a_later_event_that_is_collected_while_it_commits_is_delivered(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    with partner.begin() as connection:
        uninstall(connection)
    (removal,) = removals(database)
    with partner.begin() as connection:
        write(connection, "db_1")
    with removing_and_holding(database, removal) as transaction:
        assert store.collect(database, 500).skipped  # rather than relying on a row that is about to be deleted
        transaction.commit()
    assert deliver(database) == ["db_1"]
    assert store.repair(database) == 0


@on_servers
def test_without_the_collectors_lock_a_collection_still_does_not_rely_on_the_deleted_row(
    database: Database, partner: Engine
) -> None:
    """On Galera that lock is local to a node."""
    collect(database, partner, "db_1")
    with partner.begin() as connection:
        write(connection, "db_2")
    with database.engine.connect() as deleting, deleting.begin() as transaction:
        deleting.execute(sa.delete(delivery))
        deleting.execute(sa.delete(installation))
        with in_background(lambda: store.collect(database, 500)) as collecting:
            try:
                assert stays_blocked(collecting, database)
            finally:
                transaction.commit()
    assert deliver(database) == ["db_2"]
    assert store.repair(database) == 0


@pytest.mark.varies
@on_servers
def test_two_dispatchers_carry_it_out_once(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    with partner.begin() as connection:
        uninstall(connection)
    (removal,) = removals(database)
    with (
        removing_and_holding(database, removal) as transaction,
        in_background(lambda: store.remove(database, removal)) as second,
    ):
        try:
            assert stays_blocked(second, database)
        finally:
            transaction.commit()
    assert second.result() == store.Removed(done=True)
    assert letters(database) == purged("db_1")


@on_servers
def test_a_dead_letter_that_is_being_replayed_is_left_to_the_operator(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database), decision=REJECTED)
    with partner.begin() as connection:
        uninstall(connection)
    (removal,) = removals(database)
    with database.engine.connect() as replaying, replaying.begin():
        replaying.execute(sa.select(dead_letter).with_for_update())
        assert store.remove(database, removal).forgotten
    assert letters(database) == [("db_1", "rejected", None, None)]


@on_sqlite
def test_a_locked_installation_waits_and_no_other(database: Database, partner: Engine) -> None:
    """The events before the removal must not be collected after it, so they stay in the outbox together."""
    patient = with_row_locks(database)
    for installation_id in (ID, "icfg_2"):
        collect(patient, partner, "db_1", installation_id=installation_id)
    with partner.begin() as connection:
        for installation_id in (ID, "icfg_2"):
            write(connection, "db_2", installation_id=installation_id)
            uninstall(connection, installation_id)
    found = store.collect(patient, 500).removals
    with locked_by_another(patient, installation.c.installation_id, ID):
        assert [store.remove(patient, removal) for removal in found] == [
            store.Removed(locked=True),
            store.Removed(events=1, purged=2, done=True, forgotten=True),
        ]
        with partner.begin() as connection:
            write(connection, "db_3")
        skipping = store.collect(patient, 500)
        assert (skipping.removals, skipping.left) == ((), 2)
    carry_out(patient, store.collect(patient, 500).removals)
    assert {one[0] for one in letters(database)} == {"db_1", "db_2"}
    assert deliver(database) == ["db_3"]


def test_without_a_row_in_the_collectors_table_it_works_too(database: Database, partner: Engine) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.delete(collector))
    remove(database, partner)
    assert count(database, outbox) == 0
