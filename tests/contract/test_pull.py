"""A lease that lasts: pull renews it and reads what has fallen due meanwhile, a settlement renews it when it must write anyway."""

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import delivery, installation
from dispatcher.policy.decision import Action, Decision, PauseReason
from dispatcher.policy.outcome import Outcome, OutcomeKind
from tests.contract.steps import DELIVERED, ID, LEASE, claim, collect, count, expire_leases, settle


def leased_until(database: Database) -> datetime:
    """When the only lease ends."""
    with database.read() as connection:
        found: datetime = connection.execute(sa.select(installation.c.leased_until)).scalar_one()
    return found


@pytest.mark.varies
def test_it_renews_the_lease_and_reads_what_fell_due_meanwhile(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    until = leased_until(database)
    collect(database, partner, "db_2", "db_3")
    found = store.pull(database, {ID: leased.token}, 9, 2 * LEASE).deliveries
    assert sorted(str(one.subject.resource_id) for one in found[ID]) == ["db_1", "db_2", "db_3"]
    assert leased_until(database) >= until + LEASE


def test_it_reads_no_more_than_is_asked_for(database: Database, partner: Engine) -> None:
    collect(database, partner, *(f"db_{number}" for number in range(5)))
    (leased,) = claim(database)
    assert len(store.pull(database, {ID: leased.token}, 2, LEASE).deliveries[ID]) == 2


def test_an_installation_with_nothing_due_is_ours_all_the_same(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    with database.engine.begin() as connection:
        connection.execute(sa.delete(delivery))
    assert store.pull(database, {ID: leased.token}, 9, LEASE) == store.Pulled({ID: []})


def test_an_installation_under_another_token_is_left_out(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", installation_id="a")
    collect(database, partner, "db_1", installation_id="b")
    tokens = {lease.installation_id: lease.token for lease in claim(database)}
    found = store.pull(database, {"a": tokens["a"], "b": "another"}, 9, LEASE)
    assert (list(found.deliveries), found.locked) == (["a"], frozenset())


def test_what_is_only_renewed_lasts_longer_unless_it_is_no_longer_ours(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    until = leased_until(database)
    assert store.renew(database, {ID: "another"}, 2 * LEASE) == store.Pulled({})
    assert leased_until(database) == until
    assert store.renew(database, {ID: leased.token}, 2 * LEASE) == store.Pulled({ID: []})
    assert leased_until(database) >= until + LEASE


def test_the_heir_of_a_lease_does_not_wait_for_a_pause_that_its_holder_saw_end(
    database: Database, partner: Engine
) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    for throttled_for in (10_000, 0):
        kept = store.InstallationState(ID, leased.token, throttled_for=throttled_for, release=False)
        store.settle(database, [], [kept], LEASE)
        expire_leases(database)
        heirs = claim(database)
        assert bool(heirs) == (not throttled_for)


def as_row(database: Database) -> sa.Row[Any]:
    """The only installation, as it stands."""
    with database.read() as connection:
        return connection.execute(sa.select(installation)).one()


def test_a_settlement_leaves_a_row_alone_that_says_so_already(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_2")
    (leased,) = claim(database)
    for delivered, as_written in zip(leased.deliveries, (True, False), strict=True):
        before = as_row(database)
        answer = store.Answer(delivered, leased.token, Outcome(OutcomeKind.DELIVERED), DELIVERED)
        state = store.InstallationState(ID, leased.token, as_written=as_written)
        assert store.settle(database, [answer], [state], LEASE) == store.Settled()
        assert (as_row(database) == before) == as_written
    assert count(database, delivery) == 0


def test_it_leaves_no_row_alone_whose_heir_would_not_find_it(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    for due_at in (None, datetime.max.replace(tzinfo=UTC)):
        with database.engine.begin() as connection:
            connection.execute(sa.update(installation).values(due_at=due_at))
        store.settle(database, [], [store.InstallationState(ID, leased.token, as_written=True)], LEASE)
        expire_leases(database)
        heirs = claim(database)
        assert [heir.installation_id for heir in heirs] == [ID]
        (leased,) = heirs


def test_it_leaves_no_row_alone_whose_pause_was_probed(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database), decision=Decision(Action.PAUSE, PauseReason.UNAUTHORIZED, delay=-1))
    (leased,) = claim(database)
    assert as_row(database).pause_reason == PauseReason.UNAUTHORIZED
    answers = [store.Answer(one, leased.token, Outcome(OutcomeKind.DELIVERED), DELIVERED) for one in leased.deliveries]
    store.settle(database, answers, [store.InstallationState(ID, leased.token, as_written=True)], LEASE)
    assert as_row(database).pause_reason is None
