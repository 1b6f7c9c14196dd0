"""Session settings of a database, a role or a pooler have no effect; a session on a read-only server is invalidated."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from dispatcher import store
from dispatcher.database.errors import is_unreachable, summarize
from dispatcher.database.transactions import Database, open_database
from dispatcher.outbox.tables import delivery, outbox
from tests.contract.databases import on_postgresql, on_servers
from tests.contract.steps import count, deliver, write

READ_ONLY = {"postgresql": "SET default_transaction_read_only = on", "mysql": "SET SESSION TRANSACTION READ ONLY"}


@pytest.fixture
def settings_of_the_database(plain_engine: Engine, request: pytest.FixtureRequest) -> Iterator[None]:
    """Sets them for every session that starts from now on."""
    name, value = request.param
    with plain_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        database = connection.exec_driver_sql("SELECT current_database()").scalar_one()
        connection.exec_driver_sql(f"ALTER DATABASE {database} SET {name} = '{value}'")
        yield
        connection.exec_driver_sql(f"ALTER DATABASE {database} RESET {name}")


@pytest.mark.varies
@on_postgresql
@pytest.mark.parametrize(
    "settings_of_the_database",
    [("TimeZone", "America/New_York"), ("TimeZone", "Pacific/Kiritimati"), ("DateStyle", "German, DMY")],
    ids=["west", "east", "German dates"],
    indirect=True,
)
@pytest.mark.usefixtures("settings_of_the_database")
@pytest.mark.parametrize("at", ["0001-01-01 00:00:00+00", "9999-12-31 23:59:59+00"])
def test_times_at_the_ends_of_the_calendar_stop_nothing(database: Database, partner: Engine, at: str) -> None:
    """They are Go's and .NET's zero values. In a time zone west of UTC they would fall before the year 1."""
    fresh = open_database(database.engine.url.render_as_string(hide_password=False), database.schema)
    with partner.begin() as connection:
        write(connection, "db_odd")
        connection.exec_driver_sql(f"UPDATE vercel_outbox SET created_at = '{at}'")
        write(connection, "db_1", installation_id="icfg_2")
    assert sorted(map(str, deliver(fresh))) == ["db_1", "db_odd"]
    fresh.close()


@on_postgresql
def test_a_temporary_table_does_not_take_the_place_of_the_outbox(database: Database, partner: Engine) -> None:
    """Behind a pooler in transaction mode, sessions are shared with the application."""
    with partner.begin() as connection:
        write(connection, "db_1")
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CREATE TEMPORARY TABLE vercel_outbox (id bigint)")
        collected = store.collect(database, 500)
        connection.exec_driver_sql("DROP TABLE pg_temp.vercel_outbox")  # the next test may reuse this session
    assert collected.events == 1


@pytest.mark.varies
@on_servers
def test_a_session_that_has_become_read_only_is_given_up(database: Database, partner: Engine) -> None:
    """As after a failover: the old primary still answers, and a new connection reaches the new primary."""
    with partner.begin() as connection:
        write(connection, "db_1")
    with database.engine.connect() as connection:
        connection.exec_driver_sql(READ_ONLY[database.dialect.name])
        connection.commit()
    with pytest.raises(DBAPIError) as failed:
        store.collect(database, 500)
    assert not is_unreachable(failed.value)
    assert "takes no writes" in summarize(failed.value)
    assert store.collect(database, 500).events == 1
    assert count(database, outbox) == 0


@pytest.mark.parametrize("server", ["mysql"], indirect=True)
def test_few_statements_serve_any_number_of_installations(database: Database) -> None:
    """Each statement is built once and cached."""
    statements = {id(database.dialect.first_due(delivery, (), number)) for number in range(1, 513)}
    assert len(statements) == 10


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_what_the_server_says_at_commit_is_an_answer(partner: Engine) -> None:
    """Like a connection error, it has no statement."""
    with partner.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TEMPORARY TABLE late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO late VALUES (1)"
        )
    with pytest.raises(DBAPIError) as failed, partner.begin() as connection:
        connection.exec_driver_sql("INSERT INTO late VALUES (1)")
    assert failed.value.statement is None
    assert not is_unreachable(failed.value)
    assert "reported an error (UniqueViolation)" in summarize(failed.value)
