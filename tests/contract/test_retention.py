"""Which rows are pruned, in bounded chunks by the database's clock, and which are never pruned."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.inspection.dead_letters import plan
from dispatcher.outbox.tables import attempt, dead_letter
from dispatcher.store import dead_letters
from dispatcher.store.dead_letters import Filter, Signature
from tests.contract.steps import DELIVERED, REJECTED, claim, count, settle, write

DAY = timedelta(days=1)
NEVER = 10_000 * DAY


def die(database: Database, partner: Engine, *resources: str) -> None:
    with partner.begin() as connection:
        write(connection, *resources)
    store.collect(database, 500)
    settle(database, *claim(database), decision=REJECTED)


def discard(database: Database) -> None:
    until = plan(database, Filter()).last_id
    dead_letters.discard(database, Filter(), until, Signature("ann"), lambda _: None)


def make_older(database: Database, column: sa.Column[object], ages: Sequence[timedelta]) -> None:
    """Sets the rows to these ages, in the order of their ids."""
    now, table = database.now(), column.table
    with database.engine.begin() as connection:
        ids = connection.execute(sa.select(table.c.id).order_by(table.c.id)).scalars().all()
        for id_, age in zip(ids, ages, strict=True):
            connection.execute(sa.update(table).where(table.c.id == id_).values({column: now - age}))


def prune_all(database: Database, attempts_for: timedelta, resolved_for: timedelta) -> int:
    """Prunes chunk by chunk, like the service; returns the number of rows."""
    pruned = 0
    while chunk := store.prune(database, attempts_for, resolved_for, chunk=2):
        pruned += chunk
    return pruned


@pytest.mark.parametrize("old", [2, 3])
def test_old_attempts_are_pruned_chunk_by_chunk_and_recent_ones_stay(
    database: Database, partner: Engine, old: int
) -> None:
    with partner.begin() as connection:
        write(connection, *(f"db_{number}" for number in range(old + 1)))
    store.collect(database, 500)
    settle(database, *claim(database), decision=DELIVERED)
    make_older(database, attempt.c.at, [*[2 * DAY] * old, timedelta(hours=23)])
    assert prune_all(database, DAY, NEVER) == old
    assert count(database, attempt) == 1
    assert store.prune(database, DAY, NEVER) == 0


@pytest.mark.parametrize("old", [2, 3])
def test_resolved_dead_letters_are_pruned_by_the_time_of_their_resolution(
    database: Database, partner: Engine, old: int
) -> None:
    die(database, partner, *(f"db_{number}" for number in range(old + 1)))
    discard(database)
    make_older(database, dead_letter.c.died_at, [NEVER] * (old + 1))
    make_older(database, dead_letter.c.resolved_at, [*[2 * DAY] * old, timedelta(hours=23)])
    assert prune_all(database, NEVER, DAY) == old
    assert count(database, dead_letter) == 1


def test_an_unresolved_dead_letter_stays_forever(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1")
    make_older(database, dead_letter.c.died_at, [NEVER])
    assert store.prune(database, NEVER, timedelta(0)) == 0
    assert count(database, dead_letter) == 1
    discard(database)
    assert store.prune(database, NEVER, timedelta(0)) == 1


@pytest.mark.varies
def test_each_table_is_kept_for_its_own_time(database: Database, partner: Engine) -> None:
    die(database, partner, "db_1")
    discard(database)
    assert store.prune(database, DAY, timedelta(0)) == 1
    assert (count(database, attempt), count(database, dead_letter)) == (1, 0)
    assert store.prune(database, timedelta(0), DAY) == 1
    assert count(database, attempt) == 0


def test_the_clock_of_this_machine_does_not_matter(
    database: Database, partner: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 0.0)
    die(database, partner, "db_1")
    assert store.prune(database, timedelta(hours=1), NEVER) == 0
