"""A deferred statement is executed with the next one or with the COMMIT, once or not at all; on PostgreSQL it takes no round trip."""

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import installation
from tests.contract.databases import on_postgresql
from tests.contract.proxy import proxy_before
from tests.contract.steps import count

INSERT = sa.insert(installation)
AWKWARD = """%s %(id)s :id '"\\; ROLLBACK"""


def defer(database: Database, connection: Connection, *ids: str, leased_by: str | None = None) -> None:
    for id_ in ids:
        database.dialect.defer(connection, INSERT, {"installation_id": id_, "leased_by": leased_by})


def known(connection: Connection) -> list[str]:
    return list(connection.execute(sa.select(installation.c.installation_id).order_by("installation_id")).scalars())


def test_the_next_statement_sees_its_effect(database: Database) -> None:
    with database.engine.begin() as connection:
        defer(database, connection, "icfg_1", "icfg_2", leased_by=AWKWARD)
        assert known(connection) == ["icfg_1", "icfg_2"]
        assert connection.execute(sa.select(installation.c.leased_by)).scalars().all() == [AWKWARD] * 2


def test_it_is_committed(database: Database) -> None:
    with database.engine.begin() as connection:
        defer(database, connection, "icfg_1")
    assert count(database, installation) == 1


def test_it_is_executed_before_a_statement_with_many_rows(database: Database) -> None:
    with database.engine.begin() as connection:
        defer(database, connection, "icfg_1")
        connection.execute(INSERT, [{"installation_id": "icfg_2"}, {"installation_id": "icfg_3"}])
    assert count(database, installation) == 3


@pytest.mark.parametrize("ends_by", ["commit", "statement"])
def test_its_error_is_raised_and_nothing_is_written(database: Database, ends_by: str) -> None:
    def step(connection: Connection) -> None:
        defer(database, connection, "icfg_1", "icfg_1", "icfg_2")
        if ends_by == "statement":
            known(connection)

    with pytest.raises(IntegrityError):
        database.transact(step)
    assert count(database, installation) == 0


def test_a_rollback_forgets_it(database: Database) -> None:
    with database.engine.begin() as connection:
        defer(database, connection, "icfg_1")
        connection.get_transaction().rollback()  # type: ignore[union-attr]  # it has begun
    assert count(database, installation) == 0


@on_postgresql
def test_begin_and_deferred_statements_take_no_round_trip(database: Database) -> None:
    with proxy_before(database.engine.url) as (proxy, url):
        behind = open_database(url.render_as_string(hide_password=False), database.schema)
        behind.now()  # connects
        before = proxy.round_trips

        def step(connection: Connection) -> None:
            defer(behind, connection, "icfg_1", "icfg_2")
            assert proxy.round_trips == before
            assert known(connection) == ["icfg_1", "icfg_2"]
            assert proxy.round_trips == before + 1
            defer(behind, connection, "icfg_3")

        behind.transact(step)
        assert proxy.round_trips == before + 2
        behind.transact(lambda _: None)
        assert proxy.round_trips == before + 2
        behind.close()
    assert count(database, installation) == 3
