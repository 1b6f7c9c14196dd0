"""The database recognizes, groups and merges a batch of events as the rules of `outbox_rows` would."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.events import INSTALLATION_REMOVED, INSTALLATION_UPDATED, RESOURCE_UPDATED, Subject
from dispatcher.outbox.tables import dead_letter, delivery, outbox
from dispatcher.store.batch import committed
from dispatcher.store.outbox_rows import find_removals, group
from tests.contract.crowd import analyze, write_events
from tests.contract.databases import on_servers
from tests.contract.plans import explaining
from tests.contract.steps import count, standing, write
from tests.contract.test_malformed import ANCIENT, INVALID_TIMES, drop_constraints, insert

BATCH = 400
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
OTHER = f"00-{'0123456789abcdef' * 2}-{'c' * 16}-00"
INSTALLATIONS = [*["icfg_1", "ICFG_1", "icfg-2", "x" * 128] * 4, "icfg 1", "", "icfg_1 ", "icfg_é"]
TYPES = [
    *[RESOURCE_UPDATED] * 12,
    *[INSTALLATION_UPDATED] * 6,
    INSTALLATION_REMOVED,
    "resource.deleted",
    "Resource.Updated",
    "resource.updated ",
]
RESOURCES = [*["db_1", "DB_1", "db_1 ", " db_1", "~!'\"\\%_:-", "x" * 255, "-", "2:db"] * 2]
RESOURCES += ["db_\u00e9", "db_e\u0301", "水", "\N{GRINNING FACE}" * 255, "\u00a0", "a\nb", "a\x7fb", "a\x85b", ""]
NAMES = [*["pg", "PG ", "my-sql"] * 2, "plän", "a\tb", ""]
INVALID_TRACES = [
    "garbage",
    TRACE.upper(),
    TRACE[:-1] + "g",
    TRACE[:-1] + "é",
    TRACE[:-1] + "-",
    "0" * 55,
    TRACE[:-1],
    "",
]
TIMES = ["2026-01-02 03:04:05.678901", "2026-02-28 23:59:59", "2096-01-01 00:00:00", *ANCIENT]
ONLY: dict[str, dict[str, list[object]]] = {
    "sqlite": {
        "resource_id": [b"db_1", b"\xff", "a\0b", b"x" * 2_000],
        "traceparent": [TRACE.encode(), b"\xff", TRACE + "\0"],
        "created_at": ["2026-01-02T12:30:00Z", "2026-01-02T12:30:00.5+02:00", "20260102T1230", "2026-01-02", "now"],
    },
    "postgresql": {"created_at": ["2026-01-02 12:30:00.5+02"]},
    "mysql": {"created_at": ["2026-02-30 12:00:00", "2024-02-29 12:00:00", "2026-04-31", "2026-12-00"]},
}
"""Values that only this database can hold, beside its `INVALID_TIMES`."""


def times(name: str) -> list[object]:
    zone = "+00" if name == "postgresql" else ""
    return [*(time + zone for time in TIMES), *INVALID_TIMES[name], *ONLY[name]["created_at"]]


def write_at_random(connection: Connection, rows: int, seed: int) -> None:
    """Writes rows of which most are well-formed, and most of the subjects are announced more than once."""
    choose = random.Random(seed)  # noqa: S311 (test data)
    name = connection.dialect.name
    values = {column: [*others] for column, others in ONLY[name].items()}
    resources = [*RESOURCES, *values.get("resource_id", [])]
    traces = [*[None, TRACE, OTHER] * 4, *INVALID_TRACES, *values.get("traceparent", [])]
    for _ in range(rows):
        type_ = choose.choice(TYPES)
        of_resource, of_installation = type_.lower().startswith(RESOURCE_UPDATED), type_ == INSTALLATION_UPDATED
        strays = choose.random() < 0.05
        insert(
            connection,
            choose.choice(INSTALLATIONS),
            type_,
            choose.choice(resources) if of_resource != strays else None,
            product_id=choose.choice(NAMES) if of_resource != strays and choose.random() < 0.5 else None,
            billing_plan_id=choose.choice(NAMES) if of_installation != strays and choose.random() < 0.5 else None,
            created_at=choose.choice(times(name)),
            traceparent=choose.choice(traces),
        )


def read(database: Database, statement: Any, **parameters: object) -> list[Any]:
    with database.read() as connection:
        return list(connection.execute(statement, parameters))


MERGED = [delivery.c[name] for name in store.READ if name not in ("version", "attempts", "gone", "visible_at")]


def expected(rows: list[Any], now: datetime) -> tuple[set[tuple[Any, ...]], list[tuple[Any, ...]], list[int]]:
    """Returns the deliveries, the malformed rows and the ids of the rows that stay, by the rules of `outbox_rows`."""
    changes, malformed = group(rows, now)
    deliveries = {
        (
            one.subject_key,
            *one.subject,
            one.product_id,
            one.billing_plan_id,
            one.events,
            one.first_event_id,
            one.last_event_id,
            one.first_created_at,
            one.traceparent,
        )
        for one in changes
    }
    letters = [(one.event_id, one.why, one.created_at, *one.values.values()) for one in malformed]
    return deliveries, letters, [one.event_id for one in find_removals(rows, now)]


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_of_any_rows_is_merged_by_the_rules(database: Database, partner: Engine, seed: int) -> None:
    with partner.begin() as connection:
        drop_constraints(connection)
        if connection.dialect.name == "mysql":
            connection.exec_driver_sql("SET SESSION sql_mode = 'ALLOW_INVALID_DATES'")
        write_at_random(connection, BATCH, seed)
    still = standing(database)
    rows = read(still, committed(still.dialect), low_water=store.LOWEST_ID, limit=BATCH)
    deliveries, letters, staying = expected(rows, still.now())
    assert (len(deliveries) > BATCH / 10, len(letters) > 5, len(staying) > 5) == (True, True, True)
    collected = store.collect(still, BATCH)
    assert {tuple(row) for row in read(database, sa.select(*MERGED))} == deliveries
    columns = ("first_event_id", "last_error", "first_created_at", "installation_id", "type")
    ids = ("resource_id", "product_id", "billing_plan_id")
    written = sa.select(*(dead_letter.c[name] for name in (*columns, *ids))).order_by(dead_letter.c.first_event_id)
    assert [tuple(row) for row in read(database, written)] == letters
    assert [row.id for row in read(database, sa.select(outbox.c.id).order_by(outbox.c.id))] == staying
    assert [one.event_id for one in collected.removals] == staying
    assert (collected.events, collected.left, collected.full) == (BATCH - len(staying), len(staying), True)
    assert len(collected.subject_keys) == len(deliveries)
    assert collected.installation_ids == {row[1] for row in deliveries}


def test_the_keys_of_many_ids_are_those_of_their_subjects(database: Database, partner: Engine) -> None:
    choose = random.Random(0)  # noqa: S311 (test data)
    alphabet = [*map(chr, range(0x20, 0x7F)), *"é水ß\u017f\u212a\u0301\u00a0", "\N{GRINNING FACE}"]
    ids = {"".join(choose.choices(alphabet, k=choose.randint(1, 255))) for _ in range(300)}
    with partner.begin() as connection:
        write(connection, *sorted(ids), *alphabet)
        insert(connection, "icfg_1", INSTALLATION_UPDATED, None)
    while store.collect(database, 500).events:
        pass
    subjects = {Subject("icfg_1", RESOURCE_UPDATED, id_) for id_ in ids | set(alphabet)}
    subjects.add(Subject("icfg_1", INSTALLATION_UPDATED))
    columns = (delivery.c.subject_key, delivery.c.installation_id, delivery.c.type, delivery.c.resource_id)
    stored = {key: Subject(*parts) for key, *parts in read(database, sa.select(*columns))}
    assert stored == {subject.key: subject for subject in subjects}


@contextmanager
def statements(database: Database) -> Iterator[list[tuple[str, str]]]:
    """Records the statements on our tables, and their parameters."""
    executed: list[tuple[str, str]] = []

    def before(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        if "vercel_" in statement:
            executed.append((statement, str(parameters)))

    sa.event.listen(database.engine, "before_cursor_execute", before)
    yield executed
    sa.event.remove(database.engine, "before_cursor_execute", before)


def test_only_the_rows_that_the_database_does_not_recognize_are_read(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1", "db_2 ~", "x" * 255)
        insert(connection, "icfg_1", RESOURCE_UPDATED, "db_1", product_id="pg", traceparent="garbage")
        insert(connection, "icfg_1", INSTALLATION_UPDATED, None, billing_plan_id="pro")
    with statements(database) as plain:
        assert store.collect(database, 9).events == 5
    with partner.begin() as connection:
        write(connection, "db_1", "db_é")
    (_, other) = read(database, sa.select(outbox.c.id).order_by(outbox.c.id))
    with statements(database) as mixed:
        assert store.collect(database, 9).events == 2
    assert (len(plain), len(mixed)) == (5, 6)
    assert f'[{{"id":{other.id}}}]' in mixed[2][1]


@on_servers
@pytest.mark.parametrize("table", ["INTO vercel_installation", "INTO vercel_delivery", "FROM vercel_outbox"])
def test_a_row_that_is_committed_in_between_is_left_for_the_next_collection(
    database: Database, partner: Engine, table: str
) -> None:
    """Its id lies between those of the batch."""
    with partner.connect() as slow, slow.begin() as open_transaction:
        with partner.begin() as quick:
            write(quick, "db_1")
        write(slow, "db_1")
        with partner.begin() as quick:
            write(quick, "db_1")
        with before(database, table, open_transaction.commit):
            first = store.collect(database, 9)
    assert not open_transaction.is_active
    assert (first.events, count(database, outbox)) == (2, 1)
    assert [row.events for row in read(database, sa.select(delivery.c.events))] == [2]
    assert store.collect(database, 9).events == 1
    assert [row.events for row in read(database, sa.select(delivery.c.events))] == [3]


@contextmanager
def before(database: Database, part: str, step: Callable[[], None]) -> Iterator[None]:
    """Takes the step before the first statement that writes, and has this part."""
    steps = [step]

    def listen(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if steps and part in statement and statement.startswith(("INSERT", "DELETE")):
            steps.pop()()

    sa.event.listen(database.engine, "before_cursor_execute", listen)
    yield
    sa.event.remove(database.engine, "before_cursor_execute", listen)


def test_each_statement_finds_its_rows_by_an_index(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_é")
    write_events(database, 20_000)
    analyze(database)
    with explaining(database) as plans:
        assert store.collect(database, 100).events == 100
    assert len(plans) >= 6
    assert [plan for plan in plans if plan.scans or plan.rows_read > 1_000] == []
