"""Fills a database: a million deliveries wait, almost all for paused installations, and the log of attempts is long."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, FromClause

from dispatcher.database.transactions import Database
from dispatcher.outbox.events import RESOURCE_UPDATED
from dispatcher.outbox.tables import attempt, dead_letter, delivery, installation, outbox
from dispatcher.policy.decision import DeadLetterReason, PauseReason

DELIVERIES = 10**6
OF_ONE = DELIVERIES // 2
"""Half of the deliveries belong to one installation, `icfg_0`; the others are spread evenly."""
INSTALLATIONS = 10**5
NOT_PAUSED = 1_000
"""Installations from `icfg_0` on that are not paused: their deliveries wait for a retry."""
ATTEMPTS = 10**6
DEAD_LETTERS = 10**5
EVENTS = 10**5
EVENTS_OF_ONE = 4
"""Number of consecutive events for the same installation. None of these installations is paused."""

KEYS = {
    "postgresql": "md5(n::text) || md5('+' || n)",
    "mysql": "sha2(n, 256)",
    "sqlite": "printf('%064d', n * 387420489 % 1000000007)",
}


def crowd(database: Database) -> None:
    """Writes a million deliveries that cannot be sent now, their installations and history, and events that can be sent."""
    with unlimited(database) as connection:
        now = connection.execute(sa.select(database.dialect.clock())).scalar_one()
        key: ColumnElement[str] = sa.literal_column(KEYS[database.dialect.name], sa.String)
        fill(connection, installation, INSTALLATIONS, _installation(now))
        fill(connection, delivery, DELIVERIES, _delivery(now, key))
        fill(connection, attempt, ATTEMPTS, _attempt(now, key))
        fill(connection, dead_letter, DEAD_LETTERS, _dead_letter(now, key))
        fill(connection, outbox, EVENTS, _event())


def write_events(database: Database, events: int) -> None:
    """Writes the first `events` of the events that `crowd` writes, and nothing else."""
    with unlimited(database) as connection:
        fill(connection, outbox, events, _event())


@contextmanager
def unlimited(database: Database) -> Iterator[Connection]:
    """Opens a transaction without the dispatcher's timeouts."""
    engine = sa.create_engine(database.engine.url)
    with engine.execution_options(schema_translate_map={None: database.schema}).begin() as connection:
        yield connection
    engine.dispose()


def analyze(database: Database) -> None:
    """Updates the planner's statistics."""
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if database.dialect.name == "sqlite":
            connection.exec_driver_sql("ANALYZE")
        for table in (installation, delivery, attempt, dead_letter, outbox):
            if database.dialect.name == "postgresql":
                connection.exec_driver_sql(f"VACUUM ANALYZE {database.schema or 'public'}.{table.name}")
            if database.dialect.name == "mysql":
                connection.exec_driver_sql(f"ANALYZE TABLE {table.name}")


def forget_events(database: Database) -> None:
    """Makes the statistics those of a time at which every event had just been delivered; only PostgreSQL trusts them."""
    if database.dialect.name == "postgresql":
        with database.engine.begin() as connection:
            for table in (outbox, delivery):
                name = f"{database.schema or 'public'}.{table.name}"
                connection.exec_driver_sql(f"UPDATE pg_class SET reltuples = 0 WHERE oid = '{name}'::regclass")
                connection.exec_driver_sql(f"DELETE FROM pg_statistic WHERE starelid = '{name}'::regclass")


n: ColumnElement[int] = sa.literal_column("n", sa.Integer)
_OWNER = sa.case((n < OF_ONE, 0), else_=(n - OF_ONE) // ((DELIVERIES - OF_ONE) // INSTALLATIONS))


def _installation(now: datetime) -> Mapping[str, Any]:
    tomorrow, paused = _time(now + timedelta(days=1)), n >= NOT_PAUSED
    return {
        "installation_id": named("icfg_", n),
        "due_at": tomorrow,
        "paused_until": sa.case((paused, tomorrow)),
        "paused_since": sa.case((paused, _time(now))),
        "pause_reason": sa.case((paused, PauseReason.UNAUTHORIZED.value)),
    }


def _subject(key: ColumnElement[str]) -> dict[str, Any]:
    return {
        "subject_key": key,
        "installation_id": named("icfg_", _OWNER),
        "type": sa.literal(RESOURCE_UPDATED),
        "resource_id": named("db_", n),
        "events": sa.literal(1),
        "first_event_id": n,
        "last_event_id": n,
    }


def _delivery(now: datetime, key: ColumnElement[str]) -> Mapping[str, Any]:
    then, tomorrow = _time(now - timedelta(minutes=1)), _time(now + timedelta(days=1))
    due_at = sa.case((_OWNER < NOT_PAUSED, tomorrow), else_=then)
    others = {"version": sa.literal("v" * 36), "visible_at": then, "due_at": due_at, "attempts": sa.literal(1)}
    return {**_subject(key), "first_created_at": then, **others}


def _attempt(now: datetime, key: ColumnElement[str]) -> Mapping[str, Any]:
    fields = {"attempt": 1, "outcome": "delivered", "duration_ms": 12, "decision": "delivered"}
    return {
        **_subject(key),
        "first_created_at": _time(now),
        "at": _time(now),
        **{name: sa.literal(value) for name, value in fields.items()},
    }


def _dead_letter(now: datetime, key: ColumnElement[str]) -> Mapping[str, Any]:
    then = _time(now)
    reason = sa.literal(DeadLetterReason.EXHAUSTED.value)
    return {**_subject(key), "died_at": then, "reason": reason, "first_created_at": then, "attempts": sa.literal(20)}


def _event() -> Mapping[str, Any]:
    return {
        "installation_id": named("icfg_", n // EVENTS_OF_ONE % NOT_PAUSED),
        "type": sa.literal(RESOURCE_UPDATED),
        "resource_id": named("new_", n),
    }


def fill(connection: Connection, table: sa.Table, rows: int, values: Mapping[str, Any]) -> None:
    """Inserts the rows in key order and creates the indexes afterwards, which takes a third of the time."""
    with without_indexes(connection, table):
        insert(connection, table, rows, values)


@contextmanager
def without_indexes(connection: Connection, table: sa.Table) -> Iterator[None]:
    """Drops the table's indexes, and creates them at the end of the block."""
    for index in table.indexes:
        index.drop(connection)
    yield
    for index in table.indexes:
        index.create(connection)


def insert(connection: Connection, table: sa.Table, rows: int, values: Mapping[str, Any], first: int = 0) -> None:
    """Inserts rows whose values depend on their number `n`, from `first` on. `rows` must be a power of ten."""
    numbered = numbers(rows)
    if first:
        numbered = sa.select((numbered.c.n + first).label("n")).subquery("numbers")
    selected = sa.select(*(value.label(name) for name, value in values.items())).select_from(numbered)
    ordered = selected.order_by("subject_key" if table is delivery else "n")
    connection.execute(sa.insert(table).from_select(list(values), ordered))


def numbers(rows: int) -> FromClause:
    """Returns a subquery with the numbers `n` from 0 up to `rows`, which must be a power of ten."""
    digit = " UNION ALL ".join(f"SELECT {value} AS d" for value in range(10))
    places = range(len(str(rows)) - 1)
    number = " + ".join(f"{10**place} * t{place}.d" for place in places)
    tables = ", ".join(f"({digit}) AS t{place}" for place in places)
    return sa.text(f"SELECT {number} AS n FROM {tables}").columns(n=sa.Integer).subquery("numbers")


def named(prefix: str, number: ColumnElement[int]) -> ColumnElement[str]:
    return sa.literal(prefix).concat(sa.cast(number, sa.String(16)))


def _time(value: datetime) -> ColumnElement[datetime]:
    return sa.literal(value, installation.c.due_at.type)
