"""The databases of the contract tests: each test runs on every one of them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from dispatcher import schema
from dispatcher.database import Database, open_database

URLS = {"sqlite": "", "postgresql": "DISPATCHER_TEST_POSTGRES_URL", "mysql": "DISPATCHER_TEST_MYSQL_URL"}


@pytest.fixture(params=list(URLS))
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """The dispatcher's own view of a database with fresh tables."""
    url = os.environ.get(URLS[request.param]) if URLS[request.param] else f"sqlite:///{tmp_path}/test.db"
    if url is None:
        assert not os.environ.get("CI"), f"{URLS[request.param]} is not set: in CI every database is tested"
        pytest.skip(f"NOT TESTED: set {URLS[request.param]} to test on this database too")
    database = open_database(url)
    schema.migrate(database)
    schema.downgrade(database)  # whatever an interrupted run left
    schema.migrate(database)
    yield database
    schema.downgrade(database)
    database.close()


@pytest.fixture
def partner(database: Database) -> Iterator[Engine]:
    """A partner's plain engine: the database's own default isolation, none of the dispatcher's settings."""
    engine = sa.create_engine(
        database.engine.url, connect_args={"timeout": 5} if database.dialect.name == "sqlite" else {}
    )
    yield engine
    engine.dispose()
