"""Each guard of the protocol: the scenario that it protects against, with the guard and without it."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, Select

from dispatcher import store
from dispatcher.database.dialect import Dialect
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import delivery, installation
from dispatcher.policy.decision import Action, DeadLetterReason, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.store import collection, conclusion, leases
from dispatcher.store.collection import _collect
from dispatcher.store.installations import purge
from tests.contract.databases import on_mysql, on_postgresql, on_servers
from tests.contract.steps import ID, LEASE, claim, count, expire_leases, in_background, settle, stays_blocked, write

pytestmark = pytest.mark.varies

CLAIMING, CONCLUDING, COLLECTING = leases, conclusion, collection


def _without_token(dialect: Dialect) -> Select[Any]:
    rows = dialect.rows(installation.c.installation_id, installation.c.lease_token)
    return sa.select(installation, dialect.clock().label("now")).select_from(
        rows.join(installation, installation.c.installation_id == rows.c.installation_id)
    )


WITHOUT_VERSION = ("subject_key",)


def _zombie_settles(database: Database, partner: Engine) -> bool:
    """Whether the delivery survives the late answer of a worker whose lease has expired."""
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    sleeper = claim(database)
    expire_leases(database)
    claim(database)
    settle(database, *sleeper)
    return count(database, delivery) == 1


def _change_in_flight(database: Database, partner: Engine) -> bool:
    """Whether a change that is collected while the request is in flight is still to be delivered."""
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    leased = claim(database)
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    settle(database, *leased)
    return count(database, delivery) == 1


def _failed_over_in_flight(database: Database, partner: Engine) -> bool:
    """Whether a change that came after a failover, while a request from before it was in flight, is still to be delivered.

    The replica had the lease, but neither the event nor its delivery. So the partner's next event gets the same id.
    """
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    (leased,) = claim(database)
    (kept,) = leased.deliveries
    answer = store.Answer(kept, leased.token, Outcome(OutcomeKind.DELIVERED), Decision(Action.DELIVERED))
    store.settle(database, [answer], [store.InstallationState(ID, leased.token)], LEASE)
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    (pulled,) = store.pull(database, {ID: leased.token}, 500, LEASE).deliveries[ID]
    with database.engine.begin() as connection:
        connection.execute(sa.delete(delivery))
        anyway = "OVERRIDING SYSTEM VALUE " if database.dialect.name == "postgresql" else ""
        again = f"INSERT INTO {database.schema + '.' if database.schema else ''}vercel_outbox (id, installation_id, type, resource_id)"
        values = f"VALUES ({pulled.first_event_id}, '{ID}', 'resource.updated', 'db_1')"
        connection.exec_driver_sql(f"{again} {anyway}{values}")
    store.collect(database, 500)
    settle(database, replace(leased, deliveries=(pulled,)))
    return count(database, delivery) == 1


def _purged_in_flight(database: Database, partner: Engine) -> bool:
    """Whether a change that came after a purge, while a request from before it was in flight, is still to be delivered."""
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    leased = claim(database)
    purge(database, ID, lambda _: None)
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    settle(database, *leased)
    return count(database, delivery) == 1


def _drawn_once() -> str:
    return "always the same"


GUARDED: list[Any] = [
    pytest.param(_zombie_settles, CLAIMING, "_ours", cache(_without_token), id="token"),
    pytest.param(_change_in_flight, CONCLUDING, "VERSION", WITHOUT_VERSION, id="version"),
    pytest.param(_change_in_flight, COLLECTING, "draw_version", _drawn_once, id="version drawn by each collection"),
    pytest.param(_purged_in_flight, COLLECTING, "draw_version", _drawn_once, id="version after a purge"),
    pytest.param(_failed_over_in_flight, COLLECTING, "draw_version", _drawn_once, id="version after a failover"),
]


@pytest.mark.parametrize(("scenario", "module", "name", "mutant"), GUARDED)
def test_the_guard_keeps_the_change(
    database: Database,
    partner: Engine,
    scenario: Callable[[Database, Engine], bool],
    module: ModuleType,
    name: str,
    mutant: object,
) -> None:
    assert getattr(module, name) is not mutant
    assert scenario(database, partner)


@pytest.mark.parametrize(("scenario", "module", "name", "mutant"), GUARDED)
def test_without_the_guard_the_change_is_lost(
    database: Database,
    partner: Engine,
    monkeypatch: pytest.MonkeyPatch,
    scenario: Callable[[Database, Engine], bool],
    module: ModuleType,
    name: str,
    mutant: object,
) -> None:
    monkeypatch.setattr(module, name, mutant)
    assert not scenario(database, partner)


def _give_back_in_one_statement(database: Database) -> None:
    """Gives the lease back in the tempting way: the statement that waits for the lock also looks up whether anything is due."""
    first_due = (
        sa.select(sa.func.min(delivery.c.due_at))
        .where(delivery.c.installation_id == installation.c.installation_id)
        .scalar_subquery()
    )
    given_back = {"due_at": first_due, "lease_token": None, "leased_until": None, "leased_by": None}
    with database.engine.begin() as connection:
        connection.execute(sa.update(installation).where(installation.c.installation_id == ID).values(given_back))


def _released_while_collecting(database: Database, partner: Engine, give_back: Callable[[], object]) -> bool:
    """Whether a delivery collected while its installation's lease was given back can be claimed."""
    with partner.begin() as connection:
        write(connection, "db_2")
    with database.engine.connect() as collecting, collecting.begin() as transaction:
        _collect(collecting, database.dialect, 500, store.LOWEST_ID, 0 * LEASE)
        with in_background(give_back) as waiting:
            try:
                assert stays_blocked(waiting, database)
            finally:
                transaction.commit()
    assert count(database, delivery) == 1
    return [one.subject.resource_id for lease in claim(database) for one in lease.deliveries] == ["db_2"]


def _leased_and_delivered(database: Database, partner: Engine) -> tuple[store.Leased, ...]:
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    return claim(database)


@on_servers
def test_locking_before_looking_keeps_the_delivery_claimable(database: Database, partner: Engine) -> None:
    leased = _leased_and_delivered(database, partner)
    assert _released_while_collecting(database, partner, lambda: settle(database, *leased))


@on_postgresql
def test_looking_in_the_statement_that_waits_strands_the_delivery(database: Database, partner: Engine) -> None:
    _leased_and_delivered(database, partner)
    with database.engine.begin() as connection:
        connection.execute(sa.delete(delivery))
    assert not _released_while_collecting(database, partner, lambda: _give_back_in_one_statement(database))


def _claim_lets_new_installations_in(database: Database, partner: Engine, isolation: str) -> bool:
    """Whether a collector can add an installation while a claim has the due ones locked."""
    with partner.begin() as connection:
        write(connection, "db_1", installation_id="b")
    store.collect(database, 500)
    with partner.begin() as connection:
        write(connection, "db_1", installation_id="a")
    engine = database.engine.execution_options(isolation_level=isolation)
    due = sa.select(installation).where(installation.c.due_at <= database.dialect.clock())
    with engine.connect() as claiming, claiming.begin() as transaction:
        claiming.execute(due.order_by(installation.c.due_at).with_for_update(skip_locked=True)).all()
        with in_background(lambda: store.collect(database, 500)) as collecting:
            try:
                return not stays_blocked(collecting, database)
            finally:
                transaction.rollback()


@on_mysql
@pytest.mark.parametrize(("isolation", "lets_in"), [("READ COMMITTED", True), ("REPEATABLE READ", False)])
def test_read_committed_takes_no_gap_locks(database: Database, partner: Engine, isolation: str, lets_in: bool) -> None:
    assert _claim_lets_new_installations_in(database, partner, isolation) is lets_in


@on_servers
def test_the_dispatcher_uses_read_committed_whatever_the_default_is(database: Database) -> None:
    with database.read() as connection:
        assert connection.get_isolation_level() == "READ COMMITTED"
        assert database.dialect.check_isolation(connection) is None


def test_an_expired_lease_does_not_end_the_pause(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1")
    store.collect(database, 500)
    (leased,) = claim(database)
    paused = Decision(Action.PAUSE, DeadLetterReason.UNAUTHORIZED, 600.0)
    answer = store.Answer(leased.deliveries[0], leased.token, Outcome(OutcomeKind.UNAUTHORIZED), paused)
    store.settle(database, [answer], [store.InstallationState(ID, leased.token)], LEASE)
    expire_leases(database)
    assert claim(database) == ()


@on_mysql
def test_a_collection_writes_each_row_whose_lock_it_relies_on_and_a_settlement_keeps_that_value(
    database: Database, partner: Engine
) -> None:
    """On Galera a lock only holds on one node; rows that both write are certified. So a row that is already due is written too."""

    def collections() -> int:
        with database.read() as connection:
            return int(connection.execute(sa.select(installation.c.collections)).scalar_one())

    counts = []
    for number in range(3):
        with partner.begin() as connection:
            write(connection, f"db_{number}")
        store.collect(database, 500)
        counts.append(collections())
    settle(database, *claim(database))
    assert [*counts, collections()] == [0, 1, 2, 2]
