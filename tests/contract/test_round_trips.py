"""How many round trips to the server each step takes, however much it moves: counts, not times, so that they are the same everywhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, event

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import attempt
from tests.contract.steps import claim, count, settle, write

TAKEN = {
    "postgresql": {"collect": 7, "claim": 4, "settle": 6},
    "mysql": {"collect": 6, "claim": 4, "settle": 7},
    "sqlite": {"collect": 8, "claim": 6, "settle": 9},
}
"""BEGIN, unless the driver implies it, and COMMIT included. In SQLite, which has no server, these are statements."""


@contextmanager
def counting(database: Database) -> Iterator[list[str]]:
    """Notes the statements of the block, and its commits."""
    sent: list[str] = []

    def execute(_connection: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        sent.append(statement)

    def commit(_connection: Connection) -> None:
        sent.append("COMMIT")

    listeners: tuple[tuple[str, Callable[..., None]], ...] = (("before_cursor_execute", execute), ("commit", commit))
    for name, listener in listeners:
        event.listen(database.engine, name, listener)
    yield sent
    for name, listener in listeners:
        event.remove(database.engine, name, listener)


@pytest.mark.parametrize("subjects", [1, 200])
def test_each_step_takes_a_few_round_trips(database: Database, partner: Engine, subjects: int) -> None:
    with partner.begin() as connection:
        write(connection, *(f"db_{number}" for number in range(subjects)))
    with counting(database) as collecting:
        store.collect(database, subjects, store.LOWEST_ID, timedelta())
    with counting(database) as claiming:
        leased = claim(database)
    with counting(database) as settling:
        settle(database, *leased)
    assert count(database, attempt) == subjects
    taken = {"collect": len(collecting), "claim": len(claiming), "settle": len(settling)}
    assert taken == TAKEN[database.dialect.name]
