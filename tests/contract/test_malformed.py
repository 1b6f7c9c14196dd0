"""A malformed row that slips past the constraints is buried alone; its neighbours are delivered."""

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import dead_letter, delivery, outbox
from tests.contract.databases import on_mysql, on_postgresql, on_servers, on_sqlite

TYPE = "resource.updated"
ANCIENT = ["0001-01-01 00:00:00", "0044-03-15 12:00:00", "0999-12-31 23:59:59"]


def drop_constraints(connection: Connection) -> None:
    """Drops the constraints, as in a database whose tables the partner created without them."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
        return
    for constraint in outbox.constraints:
        if isinstance(constraint, sa.CheckConstraint):
            connection.exec_driver_sql(f"ALTER TABLE vercel_outbox DROP CONSTRAINT IF EXISTS {constraint.name}")


def insert(connection: Connection, installation_id: str, type_: str, resource_id: object, **others: object) -> None:
    row = {"installation_id": installation_id, "type": type_, "resource_id": resource_id, **others}
    columns, values = ", ".join(row), ", ".join(f":{name}" for name in row)
    connection.execute(sa.text(f"INSERT INTO vercel_outbox ({columns}) VALUES ({values})"), row)


def collected(database: Database) -> tuple[list[str], list[str]]:
    """Returns the resources with a delivery, and the explanations of the malformed rows."""
    with database.read() as connection:
        resources = connection.execute(sa.select(delivery.c.resource_id).order_by(delivery.c.first_event_id))
        reasons = connection.execute(sa.select(dead_letter.c.last_error).where(dead_letter.c.reason == "malformed"))
        return list(resources.scalars()), list(reasons.scalars())


BAD = [
    pytest.param(("icfg 1", TYPE, "db"), "installation_id", id="installation id"),
    pytest.param(("", TYPE, "db"), "installation_id", id="empty installation id"),
    pytest.param(("icfg_1", "resource.deleted", "db"), "type must be", id="unknown type"),
    pytest.param(("icfg_1", TYPE, None), "resource_id", id="no resource id"),
    pytest.param(("icfg_1", TYPE, ""), "resource_id", id="empty resource id"),
    pytest.param(("icfg_1", TYPE, "a\nb"), "control characters", id="line break"),
    pytest.param(
        ("icfg_1", "installation.updated", "db"), "go with resource.updated only", id="superfluous resource id"
    ),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_malformed_row_is_buried_alone(
    database: Database, partner: Engine, row: tuple[str, str, object], message: str
) -> None:
    with partner.begin() as connection:
        drop_constraints(connection)
        insert(connection, "icfg_1", TYPE, "before")
        insert(connection, *row)
        insert(connection, "icfg_1", TYPE, "after")
    assert len(store.collect(database, 100).malformed) == 1
    resources, (reason,) = collected(database)
    assert resources == ["before", "after"]
    assert message in reason


ODD = [
    pytest.param(b"\xff\xfe", "not UTF-8", id="not UTF-8"),
    pytest.param("a\0b", "control characters", id="NUL"),
    pytest.param("x" * 10_000_000, "at most 255 characters", id="10 MB"),
    pytest.param("é" * 5_000, "at most 255 characters", id="many characters of two bytes"),
    pytest.param("水" * 5_000, "at most 255 characters", id="many characters of three bytes"),
]


@on_sqlite
@pytest.mark.parametrize(("value", "message"), ODD)
def test_no_value_that_sqlite_stores_stops_the_batch(
    database: Database, partner: Engine, value: object, message: str
) -> None:
    with partner.begin() as connection:
        drop_constraints(connection)
        insert(connection, "icfg_1", TYPE, "before")
        insert(connection, "icfg_1", TYPE, value)
        insert(connection, "icfg_1", TYPE, "after")
    assert len(store.collect(database, 100).malformed) == 1
    resources, (reason,) = collected(database)
    assert resources == ["before", "after"]
    assert message in reason


@pytest.mark.parametrize("created_at", ANCIENT)
def test_an_ancient_created_at_is_stored_unchanged(database: Database, partner: Engine, created_at: str) -> None:
    if database.dialect.name == "postgresql":
        created_at += "+00"
    with partner.begin() as connection:
        insert(connection, "icfg_1", TYPE, "db_1", created_at=created_at)
    assert len(store.collect(database, 100).malformed) == 0
    with database.read() as connection:
        first = connection.execute(sa.select(delivery.c.first_created_at)).scalar_one()
    assert first.strftime("%m-%d %H:%M:%S") == created_at[5:19]
    assert first.year == int(created_at[:4])


INVALID_TIMES: dict[str, list[object]] = {
    "sqlite": ["", "yesterday", b"\xff", 12, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"],
    "postgresql": ["infinity", "-infinity", "290000-01-01+00", "4713-01-01+00 BC"],
    "mysql": ["0000-00-00", "2026-00-00"],
}


@pytest.mark.varies
def test_an_invalid_created_at_stops_nothing(database: Database, partner: Engine) -> None:
    values = INVALID_TIMES[database.dialect.name]
    with partner.begin() as connection:
        if database.dialect.name == "mysql":
            connection.exec_driver_sql("SET SESSION sql_mode = ''")
        for n, value in enumerate(values):
            insert(connection, "icfg_1", TYPE, f"db_{n}", created_at=value, traceparent="garbage")
    assert len(store.collect(database, 100).malformed) == 0
    assert len(collected(database)[0]) == len(values)


@on_sqlite
def test_an_invalid_traceparent_is_left_out(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        drop_constraints(connection)
        insert(connection, "icfg_1", TYPE, "db_1", traceparent=b"\xff")
    assert len(store.collect(database, 100).malformed) == 0
    assert collected(database) == (["db_1"], [])


def test_a_collection_of_malformed_rows_only_makes_no_delivery(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        drop_constraints(connection)
        insert(connection, "icfg_1", "resource.deleted", "db_1")
    moved = store.collect(database, 100)
    assert (moved.events, len(moved.subject_keys), len(moved.malformed)) == (1, 0, 1)
    assert collected(database)[0] == []


WIDEN = {
    "postgresql": "ALTER TABLE vercel_outbox ALTER COLUMN resource_id TYPE text",
    "mysql": "ALTER TABLE vercel_outbox MODIFY resource_id LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
}
WIDE = [
    pytest.param("a\x1bb", "control characters", id="control character"),
    pytest.param("x" * 10_000_000, "at most 255 characters", id="10 MB"),
    pytest.param("水" * 5_000, "at most 255 characters", id="many characters of three bytes"),
]


@pytest.mark.varies
@on_servers
@pytest.mark.parametrize(("value", "message"), WIDE)
def test_columns_that_a_partner_made_wider_stop_nothing(
    database: Database, partner: Engine, value: object, message: str
) -> None:
    with partner.begin() as connection:
        drop_constraints(connection)
        connection.exec_driver_sql(WIDEN[database.dialect.name])
        insert(connection, "icfg_1", TYPE, "before")
        insert(connection, "icfg_1", TYPE, value)
        insert(connection, "icfg_1", TYPE, "after")
    assert len(store.collect(database, 100).malformed) == 1
    resources, (reason,) = collected(database)
    assert resources == ["before", "after"]
    assert message in reason


@on_mysql
def test_a_nul_byte_that_mysql_can_hold_is_buried_alone(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        drop_constraints(connection)
        for resource in ("before", "a\0b", "after"):
            insert(connection, "icfg_1", TYPE, resource)
    assert len(store.collect(database, 100).malformed) == 1
    resources, (reason,) = collected(database)
    assert resources == ["before", "after"]
    assert "control characters" in reason


@on_mysql
def test_mysql_itself_refuses_or_cuts_bytes_that_are_not_utf_8(database: Database, partner: Engine) -> None:
    values = "(installation_id, type, resource_id) VALUES ('icfg_1', 'resource.updated', 0x64625FFF31)"
    with pytest.raises(DBAPIError, match="Incorrect string value"), partner.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO vercel_outbox {values}")
    with partner.begin() as connection:
        connection.exec_driver_sql("SET SESSION sql_mode = ''")
        connection.exec_driver_sql(f"INSERT IGNORE INTO vercel_outbox {values}")
        insert(connection, "icfg_1", TYPE, "after")
    assert len(store.collect(database, 100).malformed) == 0
    assert collected(database)[0][-1] == "after"


@pytest.mark.varies
@on_postgresql
def test_postgresql_refuses_nul_and_bytes_that_are_not_utf_8(database: Database, partner: Engine) -> None:
    for value in ("convert_from('\\x6100', 'UTF8')", "convert_from('\\x61ff', 'UTF8')"):
        with pytest.raises(DBAPIError, match="invalid byte sequence"), partner.begin() as connection:
            connection.exec_driver_sql(
                f"INSERT INTO vercel_outbox (installation_id, type, resource_id) VALUES ('icfg_1', '{TYPE}', {value})"
            )
    assert store.collect(database, 100).events == 0
