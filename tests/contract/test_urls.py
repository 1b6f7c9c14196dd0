"""Partners' URLs connect as they are written; we choose the driver."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import make_url
from sqlalchemy.pool import QueuePool

from dispatcher.database.engine import KEPT_CONNECTIONS
from dispatcher.database.transactions import Database, open_database

WRITTEN_AS = {
    "sqlite": ["sqlite", "sqlite+aiosqlite"],
    "postgresql": ["postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg2"],
    "mysql": ["mysql", "mariadb", "mysql+asyncmy", "mariadb+mysqlconnector"],
}


@pytest.mark.parametrize("server", ["sqlite", "postgresql", "mysql"], indirect=True)
def test_every_way_to_write_the_scheme_connects(database_url: str, server: str) -> None:
    for scheme in WRITTEN_AS[server]:
        rest = make_url(database_url).render_as_string(hide_password=False).partition("://")[2]
        database = open_database(f"{scheme}://{rest}")
        with database.read() as connection:
            assert connection.execute(sa.select(sa.literal(1))).scalar_one() == 1
            assert connection.dialect.name == database.dialect.name == server
        database.close()


def test_connections_beyond_two_are_closed_after_use(bare_database: Database) -> None:
    everybody = threading.Barrier(5)

    def hold() -> None:
        with bare_database.read():
            everybody.wait(60)

    threads = [threading.Thread(target=hold) for _ in range(everybody.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    pool = bare_database.engine.pool
    assert isinstance(pool, QueuePool)
    assert (pool.checkedout(), pool.checkedin()) == (0, KEPT_CONNECTIONS)


@pytest.mark.varies
def test_the_databases_clock_is_read_in_utc(bare_database: Database) -> None:
    with bare_database.read() as connection:
        now = connection.execute(sa.select(bare_database.dialect.clock())).scalar_one()
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=10)  # a wrong time zone differs by more
