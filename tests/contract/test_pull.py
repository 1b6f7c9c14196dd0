"""A lease that lasts: a pull renews it and reads newly due deliveries; a settlement renews it if it has to write the row anyway."""

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
    """Returns when the only lease ends."""
    with database.read() as connection:
        until: datetime = connection.execute(sa.select(installation.c.leased_until)).scalar_one()
    return until


@pytest.mark.varies
def test_a_pull_renews_the_lease_and_reads_newly_due_deliveries(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    until = leased_until(database)
    collect(database, partner, "db_2", "db_3")
    pulled = store.pull(database, {ID: leased.token}, 9, 2 * LEASE).deliveries
    assert sorted(str(one.subject.resource_id) for one in pulled[ID]) == ["db_1", "db_2", "db_3"]
    assert leased_until(database) >= until + LEASE


def test_a_pull_reads_no_more_than_its_limit(database: Database, partner: Engine) -> None:
    collect(database, partner, *(f"db_{number}" for number in range(5)))
    (leased,) = claim(database)
    assert len(store.pull(database, {ID: leased.token}, 2, LEASE).deliveries[ID]) == 2


def test_an_installation_with_nothing_due_is_still_ours(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    with database.engine.begin() as connection:
        connection.execute(sa.delete(delivery))
    assert store.pull(database, {ID: leased.token}, 9, LEASE) == store.Pulled({ID: []})


def test_an_installation_under_another_token_is_left_out(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", installation_id="a")
    collect(database, partner, "db_1", installation_id="b")
    tokens = {lease.installation_id: lease.token for lease in claim(database)}
    pulled = store.pull(database, {"a": tokens["a"], "b": "another"}, 9, LEASE)
    assert (list(pulled.deliveries), pulled.locked) == (["a"], frozenset())


def test_renewing_extends_a_lease_only_if_it_is_still_ours(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    until = leased_until(database)
    assert store.renew(database, {ID: "another"}, 2 * LEASE) == store.Pulled({})
    assert leased_until(database) == until
    assert store.renew(database, {ID: leased.token}, 2 * LEASE) == store.Pulled({ID: []})
    assert leased_until(database) >= until + LEASE


def test_the_next_holder_does_not_wait_for_a_throttle_that_the_previous_one_saw_end(
    database: Database, partner: Engine
) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    for throttled_for in (10_000, 0):
        kept = store.InstallationState(ID, leased.token, throttled_for=throttled_for, release=False)
        store.settle(database, [], [kept], LEASE)
        expire_leases(database)
        assert bool(claim(database)) == (not throttled_for)


def row(database: Database) -> sa.Row[Any]:
    with database.read() as connection:
        return connection.execute(sa.select(installation)).one()


def test_a_settlement_does_not_write_a_row_that_already_has_these_values(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1", "db_2")
    (leased,) = claim(database)
    for delivered, as_written in zip(leased.deliveries, (True, False), strict=True):
        before = row(database)
        answer = store.Answer(delivered, leased.token, Outcome(OutcomeKind.DELIVERED), DELIVERED)
        state = store.InstallationState(ID, leased.token, as_written=as_written)
        assert store.settle(database, [answer], [state], LEASE) == store.Settled()
        assert (row(database) == before) == as_written
    assert count(database, delivery) == 0


def test_a_settlement_writes_a_row_that_the_next_holder_would_not_find_otherwise(
    database: Database, partner: Engine
) -> None:
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    for due_at in (None, datetime.max.replace(tzinfo=UTC)):
        with database.engine.begin() as connection:
            connection.execute(sa.update(installation).values(due_at=due_at))
        store.settle(database, [], [store.InstallationState(ID, leased.token, as_written=True)], LEASE)
        expire_leases(database)
        (leased,) = claim(database)
        assert leased.installation_id == ID


def test_a_settlement_writes_a_row_whose_pause_was_probed(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")
    settle(database, *claim(database), decision=Decision(Action.PAUSE, PauseReason.UNAUTHORIZED, delay=-1))
    (leased,) = claim(database)
    assert row(database).pause_reason == PauseReason.UNAUTHORIZED
    answers = [store.Answer(one, leased.token, Outcome(OutcomeKind.DELIVERED), DELIVERED) for one in leased.deliveries]
    store.settle(database, answers, [store.InstallationState(ID, leased.token, as_written=True)], LEASE)
    assert row(database).pause_reason is None
