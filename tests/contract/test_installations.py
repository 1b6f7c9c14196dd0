"""Operators pause, resume, purge and list installations, on every database, also while a dispatcher holds the lease."""

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import InstallationUpdated, publish, store
from dispatcher.database.transactions import Database
from dispatcher.inspection.backlog import measure
from dispatcher.inspection.dead_letters import list_dead_letters, plan
from dispatcher.inspection.installation_list import Key, View, count_views, list_installations
from dispatcher.inspection.installations import (
    MAX_COUNTED_DELIVERIES,
    Due,
    Waiting,
    count_due,
    count_pausable,
    count_paused,
    count_waiting,
)
from dispatcher.outbox.tables import collector, dead_letter, delivery, installation, outbox
from dispatcher.policy.decision import Action, DeadLetterReason, Decision, PauseReason
from dispatcher.store import dead_letters, installations
from dispatcher.store.dead_letters import Filter, Signature
from dispatcher.store.installations import FOREVER
from tests.contract.databases import on_mysql, on_servers, on_sqlite
from tests.contract.steps import (
    GRACES,
    ID,
    LEASE,
    REJECTED,
    claim,
    count,
    deliver,
    expire_leases,
    in_background,
    settle,
    standing,
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
    """Returns the resources of the dead letters, all of which must be purged and resolved."""
    letters = list_dead_letters(database, Filter(), 999, resolved=True)
    assert {(letter.reason, letter.resolution) for letter in letters} <= {("purged", "discarded")}
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


def test_who_paused_and_why_is_kept_until_the_resume(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    installations.pause(database, ID, Signature("ann", "moves"))
    installations.pause(database, ID, Signature("bob", "again"))
    (leased,) = list_installations(database, GRACES, 9)
    assert (leased.paused_by, leased.pause_note) == ("ann", "moves")
    installations.resume(database, ID)
    resumed = row(database)
    assert (resumed.paused_by, resumed.pause_note) == (None, None)


def test_a_settlement_keeps_who_paused_and_why(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    leased = claim(database)
    installations.pause(database, ID, Signature("ann", "moves"))
    settle(database, *leased, decision=UNAUTHORIZED)
    paused = row(database)
    assert (paused.pause_reason, paused.paused_by, paused.pause_note) == ("operator", "ann", "moves")


def test_a_name_that_an_older_program_left_behind_is_not_shown(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database), decision=UNAUTHORIZED)
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).values(paused_by="ann", pause_note="moves"))
    (listed,) = list_installations(database, GRACES, 9)
    assert (listed.pause_reason, listed.paused_by, listed.pause_note) == ("unauthorized", None, None)


@pytest.mark.varies
@pytest.mark.parametrize("chunk", [1, 2, 500])
def test_all_are_paused_and_resumed_chunk_by_chunk(database: Database, partner: Engine, chunk: int) -> None:
    for id_ in ("a", "b", "c"):
        collect(database, partner, "db_1", installation_id=id_)
    installations.pause(database, "b", Signature("bob"))
    progress: list[int] = []
    assert count_pausable(database) == 2
    assert installations.pause_all(database, Signature("ann", "incident"), progress.append, chunk) == 2
    assert (progress[-1], len(progress)) == (2, -(-2 // chunk))
    assert {one.installation_id: one.paused_by for one in list_installations(database, GRACES, 9)} == {
        "a": "ann",
        "b": "bob",
        "c": "ann",
    }
    assert claim(database) == ()
    assert installations.pause_all(database, Signature("ann"), progress.append, chunk) == 0
    assert count_paused(database) == installations.resume_all(database, None, progress.append, chunk) == 3
    assert {(one.paused_by, one.pause_note) for one in list_installations(database, GRACES, 9)} == {(None, None)}
    assert sorted(one.installation_id for one in claim(database)) == ["a", "b", "c"]


def test_those_paused_for_one_reason_are_resumed(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", installation_id="a")
    settle(database, *claim(database), decision=UNAUTHORIZED)
    collect(database, partner, "db_1", installation_id="b")
    installations.pause(database, "b")
    for reason in (PauseReason.DISABLED, PauseReason.UNAUTHORIZED):
        expected = int(reason is PauseReason.UNAUTHORIZED)
        assert count_paused(database, reason) == expected
        assert installations.resume_all(database, reason, lambda _: None) == expected
    assert [one.installation_id for one in claim(database)] == ["a"]
    assert (row(database, "a").failures, row(database, "b").pause_reason) == (0, "operator")


def test_an_idle_installation_is_paused_and_resumed_with_all(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    deliver(database)
    assert installations.pause_all(database, Signature("ann"), lambda _: None) == 1
    assert row(database).due_at is None
    assert installations.resume_all(database, None, lambda _: None) == 1
    assert row(database).due_at is None


@on_servers
def test_a_pause_of_all_skips_a_row_that_is_locked_for_long(
    database: Database, partner: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for id_ in ("a", "b", "c"):
        collect(database, partner, "db_1", installation_id=id_)
    monkeypatch.setattr(database, "_skip_until", math.inf)  # as after a lock timeout
    with database.engine.connect() as session, session.begin():
        session.execute(sa.select(installation).where(installation.c.installation_id == "b").with_for_update())
        assert installations.pause_all(database, Signature("ann"), lambda _: None) == 2
    assert count_pausable(database) == 1
    assert [one.installation_id for one in claim(database)] == ["b"]


def test_what_is_sent_after_a_resume_is_told_from_what_waits_for_its_time(database: Database, partner: Engine) -> None:
    still = standing(database)
    collect(database, partner, "db_1", "db_2", "db_3")
    collect(database, partner, "db_1", installation_id="icfg_2")
    later = still.now() + timedelta(hours=1)
    with database.engine.begin() as connection:
        for resource, due_at in (("db_1", still.now()), ("db_2", later), ("db_3", later + timedelta(hours=1))):
            of_it = (delivery.c.resource_id == resource, delivery.c.installation_id == ID)
            connection.execute(sa.update(delivery).where(*of_it).values(due_at=due_at))
    with partner.begin() as connection:
        write(connection, "db_4")
    assert count_due(still, ID) == Due(events=1, now=1, later=2, first_later=later)
    assert count_due(still, "unknown") == Due(0, 0, 0, None)


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
    assert count_waiting(database, ID) is None
    assert row(database) is None
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
    wanted = Filter(reason=DeadLetterReason.PURGED)
    until = plan(database, wanted, for_replay=True).last_id
    replays = [dead_letters.replay(database, wanted, until, Signature("ann"), lambda _: None) for _ in range(2)]
    assert replays == [1, 0]
    assert deliver(database) == ["db_1"]


def test_only_those_who_ask_for_purged_dead_letters_replay_resolved_ones(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    purge(database)
    for wanted in (Filter(), Filter(installation_id=ID), Filter(reason=DeadLetterReason.GONE)):
        assert plan(database, wanted, for_replay=True).dead_letters == 0
        assert dead_letters.replay(database, wanted, 9, Signature("ann"), lambda _: None) == 0
    assert plan(database, Filter(reason=DeadLetterReason.PURGED)).dead_letters == 0  # there is nothing to discard


def test_the_newest_plan_of_purged_events_is_replayed_last(database: Database, partner: Engine) -> None:
    for plan_ in ("old", "new"):
        with partner.begin() as connection:
            publish(connection, InstallationUpdated(installation_id=ID, billing_plan_id=plan_))
        purge(database)
    wanted = Filter(reason=DeadLetterReason.PURGED)
    dead_letters.replay(database, wanted, 9, Signature("ann"), lambda _: None)
    store.collect(database, 500)
    assert [one.billing_plan_id for lease in claim(database) for one in lease.deliveries] == ["new"]


def test_a_purge_is_signed(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    installations.purge(database, ID, lambda _: None, signature=Signature("ann", "uninstalled"))
    (letter,) = list_dead_letters(database, Filter(), 9, resolved=True)
    assert (letter.resolution, letter.resolved_by, letter.note) == ("discarded", "ann", "uninstalled")
    assert letter.resolved_at == letter.died_at
    assert list_dead_letters(database, Filter(), 9) == []
    assert measure(database).dead_letters == {}


def test_a_purge_forgets_the_installation_unless_its_row_still_says_something(
    database: Database, partner: Engine
) -> None:
    still = standing(database)
    recently = (still.now() - timedelta(seconds=10)).timestamp()
    states: dict[str, dict[str, object]] = {
        "requested": {"rate_window": f"[{recently}]"},
        "requested_long_ago": {"rate_window": f"[{recently - 0.001}]"},
        "leased": {"lease_token": "t", "leased_until": still.now() + timedelta(seconds=1)},
        "lease_expired": {"lease_token": "t", "leased_until": still.now()},
    }
    for id_, values in states.items():
        collect(database, partner, "db_1", installation_id=id_)
        with database.engine.begin() as connection:
            connection.execute(sa.update(installation).where(installation.c.installation_id == id_).values(**values))
        window = timedelta(seconds=10)
        assert installations.purge(still, id_, lambda _: None, rate_window=window) == 1
    assert [one.installation_id for one in list_installations(database, GRACES, 9)] == ["leased", "requested"]
    assert claim(database) == ()
    assert store.repair(database) == 0


def test_a_purge_ends_a_pause_but_not_an_operators(database: Database, partner: Engine) -> None:
    for id_ in (ID, "icfg_2"):
        collect(database, partner, "db_1", installation_id=id_)
    settle(database, *claim(database), decision=UNAUTHORIZED)
    installations.pause(database, "icfg_2")
    purge(database)
    purge(database, "icfg_2")
    assert row(database) is None
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


def test_the_events_of_an_installation_are_counted_among_the_oldest_ones(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
        write(connection, "db_other", installation_id="icfg_2")
        write(connection, "db_2")
    assert count_waiting(database, ID, 2) == Waiting(events=1, deliveries=0, events_complete=False)
    assert count_waiting(database, ID, 4) == Waiting(events=2, deliveries=0)
    assert count_due(database, ID, 2) == Due(1, 0, 0, None, events_complete=False)


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
        assert installations._bury(first, database.dialect, ID, 500, Signature("ann")) == 2
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
        "idle": {"due_at": None},
    }
    with database.engine.begin() as connection:
        for id_, values in changes.items():
            connection.execute(sa.update(installation).where(installation.c.installation_id == id_).values(**values))
        connection.execute(sa.delete(delivery).where(delivery.c.installation_id == "idle"))
    installations.pause(database, "paused")
    listed = list_installations(database, GRACES, 9)
    assert {one.installation_id: one.state for one in listed} == {
        state: state for state in ("due", "idle", "paused", "sending", "throttled", "waiting")
    }
    assert (listed[0].state, listed[-1].state) == ("paused", "idle")  # trouble first
    assert {one.installation_id for one in listed if not one.deliveries} == {"idle"}
    assert list_installations(database, GRACES, 2)[0].installation_id == "paused"
    assert len(list_installations(database, GRACES, 2)) == 2
    assert [one.installation_id for one in list_installations(database, GRACES, 9, View.PAUSED)] == ["paused"]


def add(database: Database, **rows: dict[str, object]) -> None:
    """Writes these installations."""
    with database.engine.begin() as connection:
        for id_, values in rows.items():
            connection.execute(sa.insert(installation).values(installation_id=id_, **values))


def paused(reason: PauseReason, since: datetime) -> dict[str, object]:
    return {"pause_reason": reason, "paused_since": since, "paused_until": FOREVER, "due_at": FOREVER, "failures": 9}


def ids(
    database: Database, view: View, limit: int = 9, prefix: str = "", reason: PauseReason | None = None
) -> list[str]:
    return [one.installation_id for one in list_installations(database, GRACES, limit, view, prefix, reason)]


@pytest.mark.varies
def test_paused_ones_are_listed_by_when_they_begin_to_die(database: Database) -> None:
    now = database.now()
    hours = {
        "unauthorized": (PauseReason.UNAUTHORIZED, 20),
        "disabled": (PauseReason.DISABLED, 30 * 24 - 2),
        "dying": (PauseReason.NO_CREDENTIAL, 25),
        "disabled_later": (PauseReason.DISABLED, 26),
        "by_hand": (PauseReason.OPERATOR, 999),
        "by_hand_later": (PauseReason.OPERATOR, 1),
    }
    add(
        database,
        running={},
        **{id_: paused(reason, now - timedelta(hours=ago)) for id_, (reason, ago) in hours.items()},
    )
    in_order = ["dying", "disabled", "unauthorized", "disabled_later", "by_hand", "by_hand_later"]
    assert ids(database, View.PAUSED) == in_order
    assert ids(database, View.PAUSED, limit=4) == in_order[:4]
    assert ids(database, View.PAUSED, prefix="disabled") == ["disabled", "disabled_later"]
    assert ids(database, View.PAUSED, reason=PauseReason.NO_CREDENTIAL) == ["dying"]
    assert ids(database, View.PAUSED, reason=PauseReason.OPERATOR, prefix="by_hand_") == ["by_hand_later"]
    listed = {one.installation_id: one for one in list_installations(database, GRACES, 9)}
    assert listed["by_hand"].dies_at is listed["running"].dies_at is None
    for id_, left in (("dying", -1), ("disabled", 2), ("unauthorized", 4)):
        dies_at = listed[id_].dies_at
        assert dies_at is not None
        assert abs(dies_at - now - timedelta(hours=left)) < timedelta(minutes=1)


@pytest.mark.varies
def test_failing_ones_are_listed_with_the_worst_first(database: Database) -> None:
    now = database.now()
    add(
        database,
        twice={"failures": 2, "due_at": now + timedelta(hours=1)},
        often={"failures": 7, "due_at": now + timedelta(hours=2)},
        twice_and_due={"failures": 2, "due_at": now},
        without_work={"failures": 8},
        well={"due_at": now},
        paused=paused(PauseReason.UNAUTHORIZED, now),
    )
    assert ids(database, View.FAILING) == ["often", "twice", "twice_and_due"]  # equal ones by id, for the next page
    assert ids(database, View.FAILING, limit=1) == ["often"]
    assert ids(database, View.FAILING, prefix="tw") == ["twice", "twice_and_due"]
    assert measure(database).failing == 3


@pytest.mark.varies
def test_those_behind_are_listed_with_the_longest_due_first(database: Database) -> None:
    now = database.now()
    add(
        database,
        late={"due_at": now - timedelta(minutes=1)},
        later={"due_at": now - timedelta(seconds=1)},
        latest={"due_at": now - timedelta(hours=1), "lease_token": "t", "leased_until": now + timedelta(hours=1)},
        waiting={"due_at": now + timedelta(hours=1)},
        idle={},
        paused=paused(PauseReason.OPERATOR, now) | {"due_at": now - timedelta(days=1)},
    )
    assert ids(database, View.BEHIND) == ["latest", "late", "later"]
    assert ids(database, View.BEHIND, limit=1) == ["latest"]
    assert ids(database, View.BEHIND, prefix="later") == ["later"]


@pytest.mark.varies
def test_each_view_is_counted_up_to_a_limit(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    now = database.now()
    add(
        database,
        refused=paused(PauseReason.UNAUTHORIZED, now),
        disabled=paused(PauseReason.DISABLED, now),
        by_hand=paused(PauseReason.OPERATOR, now),
        failing={"failures": 1, "due_at": now + timedelta(hours=1)},
        late={"failures": 2, "due_at": now - timedelta(hours=1)},
        idle={"failures": 3},
    )
    assert count_views(database) == {View.PAUSED: 3, View.FAILING: 2, View.BEHIND: 1}
    assert count_views(database, "f") == {View.PAUSED: 0, View.FAILING: 1, View.BEHIND: 0}
    monkeypatch.setattr("dispatcher.inspection.installation_list.MAX_COUNTED_INSTALLATIONS", 2)
    assert count_views(database) == {View.PAUSED: 2, View.FAILING: 2, View.BEHIND: 1}


@pytest.fixture
def crowded(database: Database) -> Database:
    """Installations in each part, with equal values, also of two reasons; on PostgreSQL ids have the order of its collation."""
    now = database.now()
    grace = GRACES.disabled - GRACES.auth
    hour, day = timedelta(hours=1), timedelta(days=1)
    for n, id_ in enumerate(("a", "B", "c_1", "C-1", "d", "E")):
        rows: dict[str, dict[str, object]] = {
            "r": paused(PauseReason.UNAUTHORIZED, now - hour * (n // 2)),
            "n": paused(PauseReason.NO_CREDENTIAL, now - hour * (n // 3)),
            "d": paused(PauseReason.DISABLED, now - hour * (n // 2) - grace),
            "o": paused(PauseReason.OPERATOR, now - day * (n // 2)),
            "f": {"failures": 1 + n // 2, "due_at": now - hour},
            "w": {"due_at": now - day * (n // 4)},
            "l": {"due_at": now + day * (n // 4 + 1)},
            "i": {"failures": n},
        }
        add(database, **{id_ + state: values for state, values in rows.items()})
    return database


NUMBERS = {View.ALL: 48, View.PAUSED: 24, View.FAILING: 6, View.BEHIND: 12}


@pytest.mark.varies
@pytest.mark.parametrize("view", View)
def test_the_pages_have_each_installation_once_in_the_order_of_the_list(crowded: Database, view: View) -> None:
    whole = ids(crowded, view, limit=99)
    assert len(set(whole)) == NUMBERS[view]
    for size in (1, 2, 5, 11, NUMBERS[view]):
        assert list(pages(crowded, view, size)) == whole, size
    assert list(pages(crowded, view, 2, "c_1")) == [id_ for id_ in whole if id_.startswith("c_1")]


@pytest.mark.parametrize("reason", PauseReason)
def test_the_pages_keep_the_reason(crowded: Database, reason: PauseReason) -> None:
    found = list(pages(crowded, View.PAUSED, 2, reason=reason))
    assert found == ids(crowded, View.PAUSED, limit=99, reason=reason)
    assert len(found) == 6


def pages(
    database: Database, view: View, size: int, prefix: str = "", reason: PauseReason | None = None
) -> Iterator[str]:
    """The ids of all pages, each found by the text of the key that ends the one before."""
    after = None
    while page := list_installations(database, GRACES, size, view, prefix, reason, after):
        assert len(page) <= size
        yield from (one.installation_id for one in page)
        after = Key.parse(str(Key.of(page[-1], view)), view)


def test_an_installation_that_is_gone_is_still_a_key(crowded: Database) -> None:
    """A page begins where the one before has ended, also if its last installation works again."""
    *first, last = list_installations(crowded, GRACES, 4, View.PAUSED)
    whole = ids(crowded, View.PAUSED, limit=99)
    installations.resume(crowded, last.installation_id)
    rest = list_installations(crowded, GRACES, 99, View.PAUSED, after=Key.of(last, View.PAUSED))
    assert [one.installation_id for one in (*first, last, *rest)] == whole


def test_trouble_comes_first_and_then_those_that_are_due(crowded: Database) -> None:
    parts = [Key.of(one, View.ALL).part for one in list_installations(crowded, GRACES, 99)]
    assert [part for part, _ in groupby(parts)] == ["refused", "failing", "disabled", "by_hand", "waiting", "idle"]


@pytest.mark.parametrize("view", View)
def test_a_limited_number_of_installations_is_searched(
    database: Database, monkeypatch: pytest.MonkeyPatch, view: View
) -> None:
    """Of paused ones some; otherwise those that come first, and for the next page those after it."""
    monkeypatch.setattr(f"{list_installations.__module__}.MAX_SCANNED_ROWS", 2)
    now = database.now()
    for n in range(4):
        ago = timedelta(minutes=10 - n)
        add(
            database,
            **{
                f"a{n}": {"failures": n + 1, "due_at": now - ago},
                f"b{n}": paused(PauseReason.UNAUTHORIZED, now - ago),
                f"c{n}": {},
            },
        )
    found = ids(database, view)
    if view in {View.ALL, View.PAUSED}:
        assert len([id_ for id_ in found if id_.startswith("b")]) == 2
    if view is not View.PAUSED:
        assert {id_ for id_ in found if id_.startswith("a")} == {"a0", "a1"}
    if view is View.BEHIND:
        assert list(pages(database, view, 2)) == ["a0", "a1", "a2", "a3"]


@pytest.mark.varies
@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("", ["Icfg_a", "icfg-a", "icfg_A", "icfg_a", "icfg_ab"]),
        ("icfg_a", ["icfg_a", "icfg_ab"]),
        ("icfg_", ["icfg_A", "icfg_a", "icfg_ab"]),
        ("icfg%", []),
        ("x", []),
    ],
)
def test_a_prefix_is_taken_literally(database: Database, prefix: str, found: list[str]) -> None:
    add(database, **{id_: {} for id_ in ("icfg_a", "icfg_ab", "icfg_A", "icfg-a", "Icfg_a")})
    assert sorted(ids(database, View.ALL, prefix=prefix)) == found


@pytest.mark.varies
def test_the_deliveries_of_each_are_counted_up_to_a_limit(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_2", installation_id="few")
    for id_, more in (("most", 0), ("least", 1)):
        with partner.begin() as connection:
            write(connection, *(f"db_{n}" for n in range(MAX_COUNTED_DELIVERIES - more)), installation_id=id_)
        while store.collect(database, 500).events:
            pass
    listed = {one.installation_id: one for one in list_installations(database, GRACES, 9)}
    assert {id_: (one.deliveries, one.deliveries_complete) for id_, one in listed.items()} == {
        "few": (2, True),
        "least": (MAX_COUNTED_DELIVERIES - 1, True),
        "most": (MAX_COUNTED_DELIVERIES, False),
    }
