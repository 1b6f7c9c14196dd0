"""Every way to create the tables creates the same tables."""

import pytest
import sqlalchemy as sa

from dispatcher.database import migration, revisions, schema
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import VERSION_TABLE, metadata
from tests.contract.databases import on_postgresql
from tests.contract.steps import ID, deliver, write
from tests.migration.definitions import Definitions, definitions, run_script

pytestmark = pytest.mark.varies

QUEUES = ("vercel_outbox", "vercel_delivery", "vercel_installation")


def drop_everything(database: Database) -> None:
    """Drops the tables, including those that no migration created."""
    with database.engine.begin() as connection:
        metadata.drop_all(connection)
        connection.execute(sa.schema.DropTable(sa.Table(VERSION_TABLE, sa.MetaData()), if_exists=True))


@pytest.fixture
def migrated(bare_database: Database) -> Definitions:
    """The definitions that `dispatcher migrate` creates; the database is bare again."""
    migration.migrate(bare_database)
    found = definitions(bare_database)
    assert found.keys() == metadata.tables.keys()
    drop_everything(bare_database)
    assert definitions(bare_database) == {}
    return found


def deliver_one(database: Database) -> None:
    """Checks the schema and delivers one event with it."""
    schema.check(database)
    with database.engine.begin() as connection:
        write(connection, "db_1", installation_id=ID)
    assert deliver(database) == ["db_1"]


def test_migrate_prints_the_tables_that_it_makes(bare_database: Database, migrated: Definitions) -> None:
    run_script(bare_database, migration.migration_sql(bare_database.dialect.name, bare_database.schema))
    assert definitions(bare_database) == migrated
    deliver_one(bare_database)
    assert migration.migrate(bare_database) == revisions.newest()
    drop_everything(bare_database)


def test_schema_prints_the_tables_that_migrate_makes(bare_database: Database, migrated: Definitions) -> None:
    run_script(bare_database, schema.ddl(bare_database.dialect.name, bare_database.schema))
    assert definitions(bare_database) == migrated
    deliver_one(bare_database)
    drop_everything(bare_database)


def test_the_metadata_makes_the_tables_that_migrate_makes(bare_database: Database, migrated: Definitions) -> None:
    with bare_database.engine.begin() as connection:
        metadata.create_all(connection)
    assert definitions(bare_database) == migrated
    deliver_one(bare_database)
    drop_everything(bare_database)


@on_postgresql
def test_queue_tables_are_vacuumed_by_a_count_and_leave_room_for_updates(migrated: Definitions) -> None:
    for name in QUEUES:
        assert "autovacuum_vacuum_scale_factor=0" in migrated[name]
        assert "autovacuum_vacuum_threshold=5000" in migrated[name]
    for name in QUEUES[1:]:
        assert "fillfactor=70" in migrated[name]
