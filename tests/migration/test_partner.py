"""A partner with Alembic migrations of their own, which may ignore our tables or manage them."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import Column, Engine, Integer, MetaData, Table

from dispatcher.database import migration, schema
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import attach_tables, metadata
from tests.contract.steps import deliver, write
from tests.migration.definitions import definitions

ENVIRONMENT = """
from alembic import context
{hook}

attributes = context.config.attributes
with attributes["engine"].connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=attributes["metadata"],
        {option}
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
"""
TEMPLATE = """
import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}

def upgrade():
    ${upgrades if upgrades else "pass"}

def downgrade():
    ${downgrades if downgrades else "pass"}
"""
Environment = Callable[..., Config]
pytestmark = pytest.mark.parametrize("server", ["sqlite", "postgresql", "mysql"], indirect=True)


def application() -> MetaData:
    """Returns metadata with the partner's own table."""
    tables = MetaData()
    Table("resources", tables, Column("id", Integer, primary_key=True))
    return tables


@pytest.fixture
def environment(tmp_path: Path, bare_database: Database) -> Iterator[Environment]:
    """Makes Alembic environments, with our hook or without."""
    engine = sa.create_engine(bare_database.engine.url)

    def make(tables: MetaData, *, hook: bool) -> Config:
        (tmp_path / "partner" / "versions").mkdir(parents=True)
        imported = "from dispatcher.outbox.tables import include_object" if hook else ""
        option = "include_object=include_object," if hook else ""
        (tmp_path / "partner" / "env.py").write_text(ENVIRONMENT.format(hook=imported, option=option))
        (tmp_path / "partner" / "script.py.mako").write_text(TEMPLATE)
        config = Config(attributes={"engine": engine, "metadata": tables})
        config.set_main_option("script_location", str(tmp_path / "partner"))
        config.set_main_option("path_separator", "os")
        return config

    yield make
    engine.dispose()


def migrate(config: Config) -> str:
    """Runs autogenerate and the revision it writes; returns the text of the revision."""
    command.revision(config, "next", autogenerate=True)
    command.upgrade(config, "head")
    (written,) = Path(config.get_main_option("script_location") or "", "versions").glob("*.py")
    return written.read_text()


def clear(config: Config) -> None:
    command.downgrade(config, "base")
    engine: Engine = config.attributes["engine"]
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE alembic_version"))


def test_his_autogenerate_leaves_our_tables_alone(database: Database, environment: Environment) -> None:
    config = environment(application(), hook=True)
    assert "vercel_" not in migrate(config)
    command.check(config)
    schema.check(database)
    clear(config)


def test_without_the_hook_it_would_drop_them(database: Database, environment: Environment) -> None:
    config = environment(application(), hook=False)
    command.revision(config, "next", autogenerate=True)
    (written,) = Path(config.get_main_option("script_location") or "", "versions").glob("*.py")
    assert "op.drop_table('vercel_outbox'" in written.read_text()
    schema.check(database)


def test_his_migrations_may_own_our_tables(bare_database: Database, environment: Environment) -> None:
    migration.migrate(bare_database)
    ours = definitions(bare_database)
    migration.downgrade(bare_database)
    tables = application()
    attach_tables(tables)
    config = environment(tables, hook=False)
    assert "import dispatcher" not in migrate(config), "his migration depends on our code"
    assert definitions(bare_database) == ours
    command.check(config)
    schema.check(bare_database)
    with bare_database.engine.begin() as connection:
        write(connection, "db_1")
    assert deliver(bare_database) == ["db_1"]
    with pytest.raises(
        schema.UnusableSchema, match="nothing is changed: the tables were not created by `dispatcher migrate`"
    ):
        migration.migrate(bare_database)
    clear(config)


def test_create_all_makes_the_same_tables_also_for_a_url_that_begins_with_mariadb(bare_database: Database) -> None:
    migration.migrate(bare_database)
    ours = definitions(bare_database)
    migration.downgrade(bare_database)
    tables = MetaData()
    attach_tables(tables)
    url = bare_database.engine.url
    engine = sa.create_engine(url.set(drivername=re.sub("^mysql", "mariadb", url.drivername)))
    tables.create_all(engine)
    try:
        assert definitions(bare_database) == ours
        schema.check(bare_database)
    finally:
        tables.drop_all(engine)
        engine.dispose()


def test_tables_of_his_that_fell_behind_are_refused(bare_database: Database) -> None:
    with bare_database.engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(sa.text("ALTER TABLE vercel_delivery DROP COLUMN last_error"))
    with pytest.raises(
        schema.UnusableSchema, match=r"vercel_delivery.last_error is missing, and the tables were not created by"
    ):
        schema.check(bare_database)
    with bare_database.engine.begin() as connection:
        metadata.drop_all(connection)
