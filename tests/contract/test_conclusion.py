"""How the successes are written: which deliveries go, what the log says about each, and which dead letters they supersede."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import attempt, dead_letter, delivery
from dispatcher.policy.decision import Action, Decision
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.store import conclusion
from dispatcher.store.installations import purge
from tests.contract.databases import on_postgresql
from tests.contract.steps import (
    DELIVERED,
    ID,
    LEASE,
    REJECTED,
    claim,
    collect,
    count,
    expire_leases,
    pull_suspects,
    settle,
    write,
)

SENT = Outcome(OutcomeKind.DELIVERED, 201, duration=0.25, vercel_id="iad1::x")
Change = Callable[[Database, Engine], None]


def collected(database: Database, partner: Engine) -> None:
    collect(database, partner, "db_1")


def purged(database: Database, _partner: Engine) -> None:
    purge(database, ID, lambda _: None)


def purged_and_collected(database: Database, partner: Engine) -> None:
    purged(database, partner)
    collected(database, partner)


def nothing(_database: Database, _partner: Engine) -> None:
    pass


def log(database: Database) -> list[sa.Row[Any]]:
    with database.read() as connection:
        return list(connection.execute(sa.select(attempt).order_by(attempt.c.id)))


def planned(one: store.Delivery) -> tuple[object, ...]:
    """What the log is to say about its request."""
    return (
        *(one.subject_key, *one.subject, one.product_id, one.attempts + 1),
        *(one.events, one.first_event_id, one.last_event_id, one.first_created_at),
    )


PLANNED = (
    *("subject_key", "installation_id", "type", "resource_id", "product_id", "attempt"),
    *("events", "first_event_id", "last_event_id", "first_created_at"),
)


def told(row: sa.Row[Any]) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in PLANNED)


@pytest.mark.varies
@pytest.mark.parametrize("change", [nothing, collected, purged, purged_and_collected])
def test_the_log_describes_the_request_as_it_was_planned_whatever_happened_to_its_delivery_meanwhile(
    database: Database, partner: Engine, change: Change
) -> None:
    with partner.begin() as connection:
        write(connection, "db_1", "db_1")
    collect(database, partner, "db_1")
    (leased,) = claim(database)
    (one,) = leased.deliveries
    change(database, partner)
    answer = store.Answer(one, leased.token, SENT, DELIVERED, age=7.0)
    store.settle(database, [answer], [store.InstallationState(ID, leased.token)], LEASE)
    (row,) = log(database)
    assert told(row) == planned(one)
    assert (row.events, row.outcome, row.status, row.duration_ms) == (3, "delivered", 201, 250)
    assert (row.error_code, row.error, row.vercel_id) == (None, None, "iad1::x")
    assert (row.decision, row.reason, row.next_due_at) == ("delivered", None, None)
    assert count(database, delivery) == (change in {collected, purged_and_collected})


@pytest.mark.parametrize("logs", [True, False])
def test_each_success_of_a_batch_is_logged_once_and_only_changed_deliveries_start_over(
    database: Database, partner: Engine, logs: bool
) -> None:
    collect(database, partner, *(f"db_{number}" for number in range(6)))
    (leased,) = claim(database)
    collect(database, partner, "db_0", "db_3")
    with database.engine.begin() as connection:
        connection.execute(sa.delete(delivery).where(delivery.c.resource_id == "db_4"))
    early = [one._replace(early=one.subject.resource_id == "db_5") for one in leased.deliveries]
    answers = [store.Answer(one, leased.token, SENT, DELIVERED) for one in early]
    store.settle(database, answers, [store.InstallationState(ID, leased.token)], LEASE, failures_only=not logs)
    with database.read() as connection:
        left = connection.execute(sa.select(delivery).order_by(delivery.c.resource_id)).all()
    assert [row.resource_id for row in left] == ["db_0", "db_3", "db_5"]
    assert all(row.due_at == row.visible_at for row in left)
    assert {row.first_created_at for row in left}.isdisjoint(one.first_created_at for one in early)
    assert sorted(map(told, log(database))) == (sorted(map(planned, early)) if logs else [])


def test_the_log_counts_the_attempts_before_the_request_although_a_suspects_row_counts_it_too(
    database: Database, partner: Engine
) -> None:
    collect(database, partner, "db_1")
    claim(database)
    expire_leases(database)
    (leased,) = claim(database, suspects=1)
    (one,) = pull_suspects(database, leased).deliveries
    answer = store.Answer(one, leased.token, SENT, DELIVERED)
    store.settle(database, [answer], [store.InstallationState(ID, leased.token)], LEASE)
    assert [row.attempt for row in log(database)] == [1]


def test_the_log_is_in_the_order_of_the_answers(database: Database, partner: Engine) -> None:
    collect(database, partner, *(f"db_{number}" for number in range(9)))
    (leased,) = claim(database)
    refused = Outcome(OutcomeKind.UNAUTHORIZED, 401)
    answers = [store.Answer(leased.deliveries[4], leased.token, refused, Decision(Action.REFRESH), age=20.0)]
    answers += [
        store.Answer(one, leased.token, SENT, DELIVERED, age=10.0 - place)
        for place, one in enumerate(reversed(leased.deliveries))
    ]
    store.settle(database, answers, [store.InstallationState(ID, leased.token)], LEASE)
    rows = log(database)
    assert [row.subject_key for row in rows] == [answer.delivery.subject_key for answer in answers]
    assert [row.at for row in rows] == sorted(row.at for row in rows)
    assert [row.decision for row in rows] == ["refresh", *["delivered"] * 9]


def _superseded_after(database: Database, partner: Engine, change: Change) -> int:
    """Buries a delivery, delivers the next of the same subject, with a change while its request is in flight."""
    collect(database, partner, "db_1")
    settle(database, *claim(database), decision=REJECTED)
    collect(database, partner, "db_1")
    leased = claim(database)
    change(database, partner)
    superseded = settle(database, *leased).superseded
    with database.read() as connection:
        letters = connection.execute(sa.select(dead_letter.c.resolution).where(dead_letter.c.reason == "rejected"))
        assert letters.scalars().all() == (["superseded"] if superseded else [None])
    return superseded


@pytest.mark.parametrize(("change", "superseded"), [(nothing, 1), (collected, 0), (purged_and_collected, 0)])
def test_only_an_unchanged_delivery_supersedes_dead_letters(
    database: Database, partner: Engine, change: Change, superseded: int
) -> None:
    assert _superseded_after(database, partner, change) == superseded


def test_without_the_version_a_changed_delivery_supersedes_them_and_the_log_claims_its_new_events(
    database: Database, partner: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conclusion, "VERSION", ("subject_key",))
    assert _superseded_after(database, partner, collected) == 1
    assert [row.events for row in log(database)] == [1, 2]


@pytest.mark.varies
@on_postgresql
def test_successes_take_four_statements(database: Database, partner: Engine) -> None:
    """To lock, to move the deliveries to the log, to see what is left, and to give the lease back."""
    collect(database, partner, *(f"db_{number}" for number in range(9)))
    leased = claim(database)
    statements: list[str] = []

    def note(_connection: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    settle(database, *leased)
    event.remove(database.engine, "before_cursor_execute", note)
    assert (len(statements), count(database, attempt), count(database, delivery)) == (4, 9, 0)
