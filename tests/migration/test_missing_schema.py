"""`dispatcher migrate` with a DISPATCHER_SCHEMA that the database does not have: created, or refused in one line with the remedy."""

import zlib
from collections.abc import Iterator

import pytest
from sqlalchemy.schema import DropSchema

from dispatcher.database import migration, revisions, schema
from dispatcher.database.transactions import Database, open_database
from dispatcher.inspection.checks.database import check_tables
from dispatcher.inspection.checks.finding import Level
from tests.contract.steps import deliver, write
from tests.migration.definitions import run_script

MISSING = "vercel_new"
PASSWORD = "s3cret of the test"

pytestmark = pytest.mark.parametrize("server", ["postgresql"], indirect=True)


@pytest.fixture
def elsewhere(bare_database: Database, database_url: str) -> Iterator[Database]:
    """The database as opened with a schema that it does not have."""
    opened = open_database(database_url, MISSING)
    yield opened
    opened.close()
    with bare_database.engine.begin() as connection:
        connection.execute(DropSchema(MISSING, cascade=True, if_exists=True))


@pytest.fixture
def limited(bare_database: Database, elsewhere: Database) -> Iterator[Database]:
    """The same as a user who may not create schemas."""
    user = f"schema_test_{zlib.crc32(str(bare_database.engine.url.database).encode()):08x}"
    url = elsewhere.engine.url.set(username=user, password=PASSWORD)
    with bare_database.engine.begin() as connection:
        connection.exec_driver_sql(f"DROP ROLE IF EXISTS {user}")
        connection.exec_driver_sql(f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'")
    opened = open_database(url.render_as_string(hide_password=False), MISSING)
    yield opened
    opened.close()
    with bare_database.engine.begin() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {user} CASCADE")
        connection.exec_driver_sql(f"DROP ROLE {user}")


def test_migrate_creates_it(elsewhere: Database) -> None:
    assert migration.migrate(elsewhere) == revisions.newest()
    schema.check(elsewhere)
    with elsewhere.engine.begin() as connection:
        write(connection, "db_1")
    assert deliver(elsewhere) == ["db_1"]
    assert migration.migrate(elsewhere) == revisions.newest()


def test_the_printed_migration_creates_it(elsewhere: Database) -> None:
    run_script(elsewhere, migration.migration_sql("postgresql", MISSING))
    schema.check(elsewhere)


def test_programs_that_need_it_name_it(elsewhere: Database) -> None:
    with pytest.raises(
        schema.UnusableSchema, match=f"no schema {MISSING}, which DISPATCHER_SCHEMA names.*`dispatcher migrate`"
    ):
        schema.check(elsewhere)
    (finding,) = check_tables(elsewhere)
    assert (finding.level, finding.check) == (Level.PROBLEM, "schema")


def test_a_user_who_may_not_create_it_is_told_what_an_administrator_can_do(limited: Database) -> None:
    with pytest.raises(schema.UnusableSchema, match=f"no schema {MISSING}.*may not create it") as refused:
        migration.migrate(limited)
    _, _, remedy = str(refused.value).rpartition("administrator can: ")
    missing, privilege = check_tables(limited)
    assert f"no schema {MISSING}" in missing.what
    assert privilege.what.endswith(remedy)


def test_what_the_administrator_is_told_to_do_is_enough(bare_database: Database, limited: Database) -> None:
    with pytest.raises(schema.UnusableSchema) as refused:
        migration.migrate(limited)
    _, _, remedy = str(refused.value).rpartition("administrator can: ")
    with bare_database.engine.begin() as connection:
        connection.exec_driver_sql(remedy)
    assert migration.migrate(limited) == revisions.newest()
    assert [one.level for one in check_tables(limited)] == [Level.OK]
