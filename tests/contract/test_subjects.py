"""Subjects are compared byte for byte on every database, independent of the settings of the partner's tables and connections."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, make_url

from dispatcher import store
from dispatcher.database import migration
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import attempt, dead_letter, delivery, outbox
from tests.contract.steps import DELIVERED, REJECTED, claim, count, settle

COMPOSED, DECOMPOSED = "db_\u00e9", "db_e\u0301"
IDS = ["db_1", "DB_1", "db_1 ", COMPOSED, DECOMPOSED]
INSERT = sa.text(
    "INSERT INTO vercel_outbox (installation_id, type, resource_id, product_id) VALUES (:i, 'resource.updated', :r, :p)"
)


def write(connection: Connection, resource: str, installation_id: str = "icfg_1", product: str | None = None) -> None:
    connection.execute(INSERT, {"i": installation_id, "r": resource, "p": product})


def events(database: Database) -> dict[tuple[str, str | None], int]:
    """Claims the due deliveries and returns the number of events of each, by installation and resource."""
    found = [one for lease in claim(database) for one in lease.deliveries]
    return {(one.subject.installation_id, one.subject.resource_id): one.events for one in found}


def products(database: Database) -> list[tuple[str | None, int]]:
    """Claims the due deliveries and returns the product and the number of events of each."""
    return [(one.product_id, one.events) for lease in claim(database) for one in lease.deliveries]


@pytest.mark.varies
def test_ids_that_only_look_alike_are_different_subjects(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        for resource in IDS * 2:
            write(connection, resource)
        write(connection, "db_1", installation_id="ICFG_1")
    store.collect(database, 100)
    expected: dict[tuple[str, str | None], int] = {("icfg_1", resource): 2 for resource in IDS}
    assert events(database) == expected | {("ICFG_1", "db_1"): 1}


ONE_COLLECTION_OR_MORE = pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])


@ONE_COLLECTION_OR_MORE
@pytest.mark.parametrize(
    ("written", "sent"),
    [
        (["pg", "mysql"], "mysql"),
        (["pg", "mysql", "pg"], "pg"),
        (["pg", None], "pg"),
        ([None, "pg", None], "pg"),
        (["pg", "PG "], "PG "),
    ],
)
def test_a_resource_is_one_subject_whatever_its_product_and_the_newest_wins(
    database: Database, partner: Engine, written: list[str | None], sent: str, apart: bool
) -> None:
    for product in written:
        with partner.begin() as connection:
            write(connection, "db_1", product=product)
        if apart:
            store.collect(database, 100)
    store.collect(database, 100)
    assert products(database) == [(sent, len(written))]


def test_a_dead_letter_is_superseded_whatever_its_product(database: Database, partner: Engine) -> None:
    for product, decision in (("pg", REJECTED), (None, REJECTED), ("mysql", DELIVERED)):
        with partner.begin() as connection:
            write(connection, "db_1", product=product)
        store.collect(database, 100)
        settled = settle(database, *claim(database), decision=decision)
    assert (settled.buried, settled.superseded) == (0, 2)
    with database.read() as connection:
        columns = dead_letter.c.product_id, dead_letter.c.resolution
        rows = connection.execute(sa.select(*columns).order_by(dead_letter.c.id)).all()
        logged = connection.execute(sa.select(attempt.c.product_id).order_by(attempt.c.id)).scalars().all()
    assert [tuple(row) for row in rows] == [("pg", "superseded"), (None, "superseded")]
    assert logged == ["pg", None, "mysql"]


def test_the_answer_for_one_subject_leaves_the_others(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        for resource in IDS:
            write(connection, resource)
    store.collect(database, 100)
    (leased,) = claim(database)
    only = tuple(one for one in leased.deliveries if one.subject.resource_id == "db_1")
    settle(database, replace(leased, deliveries=only))
    with database.read() as connection:
        left = connection.execute(sa.select(delivery.c.resource_id).order_by(delivery.c.first_event_id)).scalars()
        assert list(left) == IDS[1:]


@pytest.fixture(params=["latin1_swedish_ci", "utf8mb4_unicode_ci"])
def folding(request: pytest.FixtureRequest, mysql_url: str) -> Iterator[Database]:
    """A MySQL database whose default collation does not distinguish `DB_É` and `db_e`."""
    url = make_url(mysql_url)
    name = f"{url.database}_folding"
    server = open_database(mysql_url)
    with server.engine.begin() as connection:
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")
        charset = str(request.param).partition("_")[0]
        connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET {charset} COLLATE {request.param}")
    database = open_database(url.set(database=name).render_as_string(hide_password=False))
    migration.migrate(database)
    yield database
    database.close()
    with server.engine.begin() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name}")
    server.close()


@pytest.mark.parametrize("charset", ["latin1", "utf8mb4"])
def test_neither_the_default_collation_nor_a_partners_charset_matters(folding: Database, charset: str) -> None:
    url = folding.engine.url
    partner = sa.create_engine(url.update_query_dict({"charset": charset}))
    other = sa.create_engine(url.update_query_dict({"charset": "utf8mb4"}))
    in_latin1 = [resource for resource in IDS if resource != DECOMPOSED]
    with partner.begin() as connection:
        for resource in in_latin1:
            write(connection, resource)
    with other.begin() as connection:
        for resource in IDS:
            write(connection, resource)
    partner.dispose()
    other.dispose()
    store.collect(folding, 100)
    expected: dict[tuple[str, str | None], int] = {("icfg_1", resource): 2 for resource in in_latin1}
    assert events(folding) == expected | {("icfg_1", DECOMPOSED): 1}
    assert count(folding, outbox) == 0
