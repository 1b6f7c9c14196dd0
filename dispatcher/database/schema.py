"""The database's schema: bring it to the newest revision, print it, and refuse one that this program does not know."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable, DropTable
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from dispatcher.database.dialect import MigrationUnderWay
from dispatcher.database.engine import dialect_of
from dispatcher.database.transactions import TRIES, Database
from dispatcher.outbox.tables import VERSION_TABLE, attach_tables, metadata

if TYPE_CHECKING:
    from alembic.config import Config  # where it is not needed it need not fill the memory

_HERE = Path(__file__).parents[1]
_FOREIGN = "the tables are not of `dispatcher migrate`: what made them, such as your own migrations, must bring them up to date"


class UnusableSchema(Exception):
    """The database's schema is missing, older or newer than this program; says what to do."""


def migrate(database: Database) -> str:
    """Brings the database to the newest revision and returns it. Any number of these at once migrate once. On MySQL and MariaDB, where
    each statement commits by itself, a migration that broke off is completed.

    Raises UnusableSchema, and changes nothing, if the database is at a revision that this program does not know, if its tables were
    made by other means, or if somebody else does not end migrating it.
    """
    retrying = Retrying(
        retry=retry_if_exception(database.dialect.is_overtaken),
        stop=stop_after_attempt(TRIES),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        reraise=True,
    )
    try:
        retrying(_migrate, database)
    except MigrationUnderWay as under_way:
        holder = f" ({under_way.holder})" if under_way.holder else ""
        raise UnusableSchema(
            f"another program is migrating this database, or holds the lock of migrations{holder}: wait until it has ended, or end it,"
            " then try again"
        ) from None
    return newest()


def _migrate(database: Database) -> None:
    from alembic import command
    from alembic.util import CommandError

    with database.engine.connect() as connection, database.dialect.migration(connection):
        found = _revision(connection, database.schema)
        if found is not None and found not in _known():
            raise UnusableSchema(_newer(found))
        if found is None and _has_tables(connection, database.schema) and not _has_broken_off(connection, database):
            raise UnusableSchema(f"nothing is changed: {_FOREIGN}")
        try:
            command.upgrade(_config(connection=connection, schema=database.schema), "head")
        except CommandError as refused:
            raise UnusableSchema(str(refused)) from None


def downgrade(database: Database, revision: str = "base") -> None:
    """Back to an older revision (`base`: no tables at all). What is not delivered yet may be lost with the tables."""
    from alembic import command

    with database.engine.connect() as connection, database.dialect.migration(connection):
        command.downgrade(_config(connection=connection, schema=database.schema), revision)
        if revision == "base":
            connection.execute(
                DropTable(sa.Table(VERSION_TABLE, sa.MetaData(), schema=database.schema), if_exists=True)
            )


def check(database: Database) -> None:
    """Raises UnusableSchema unless the database holds the tables that this program was written for."""
    with database.read() as connection:
        found = _revision(connection, database.schema)
        missing = _missing_columns(connection, database.schema) if found is None else []
        is_empty = not _has_tables(connection, database.schema)
        has_broken_off = found is None and not is_empty and _has_broken_off(connection, database)
    if has_broken_off:
        raise UnusableSchema(
            "a migration of this database has broken off: run `dispatcher migrate` again, which completes it"
        )
    if found == newest() or (found is None and not missing):
        return
    if found is None and is_empty:
        raise UnusableSchema(f"the database has no schema yet ({missing[0]} is missing): run `dispatcher migrate`")
    if found is None:
        raise UnusableSchema(f"{missing[0]} is missing, and {_FOREIGN}")
    if found in _known():
        raise UnusableSchema(
            f"the database is at schema {found}, this program needs {newest()}: run `dispatcher migrate`"
        )
    raise UnusableSchema(_newer(found))


def missing_columns(database: Database) -> list[str]:
    """Those that this program knows and the database lacks, as `table.column`."""
    with database.read() as connection:
        return _missing_columns(connection, database.schema)


def newest() -> str:
    """The revision that this program was written for."""
    return max(_known())


def migration_sql(dialect: str, schema: str | None = None) -> str:
    """What `migrate` would run on an empty database, as SQL."""
    from alembic import command

    output = io.StringIO()
    command.upgrade(_config(output=output, dialect=dialect, schema=schema), "head", sql=True)
    return output.getvalue()


def ddl(dialect: str, schema: str | None = None) -> str:
    """The newest schema as SQL, for partners who create the tables themselves. `dialect`: postgresql, mysql or sqlite."""
    tables = sa.MetaData()
    attach_tables(tables, schema)
    engine = sa.create_mock_engine(f"{dialect_of(dialect).driver}://", lambda *_: None)
    statements: list[str] = []
    for table in tables.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=engine.dialect)))
        statements += [str(CreateIndex(index).compile(dialect=engine.dialect)) for index in _in_order(table)]
    return "\n".join(f"{statement.strip()};" for statement in statements)


def _in_order(table: sa.Table) -> list[sa.Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


def _config(output: io.StringIO | None = None, **attributes: object) -> "Config":
    from alembic.config import Config

    config = Config(output_buffer=output, attributes=attributes)
    config.set_main_option("script_location", str(_migrations()))
    config.set_main_option("path_separator", "os")
    return config


def _migrations() -> Path:
    packaged = _HERE / "migrations"
    return packaged if packaged.is_dir() else _HERE.parent / "migrations"


def _known() -> set[str]:
    """The revisions, in whose files' names they stand first; so they also sort."""
    return {path.name.partition("_")[0] for path in (_migrations() / "versions").glob("[0-9]*.py")}


def _newer(found: str) -> str:
    return f"the database is at schema {found}, which this program does not know: it is older than the database, upgrade it"


def _has_broken_off(connection: sa.Connection, database: Database) -> bool:
    """Whether tables without a revision are those of a migration that has not ended: it makes the version table first, its row last."""
    return not database.dialect.rolls_back_ddl and sa.inspect(connection).has_table(
        VERSION_TABLE, schema=database.schema
    )


def _revision(connection: sa.Connection, schema: str | None) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE, schema=schema):
        return None
    version = sa.table(VERSION_TABLE, sa.column("version_num", sa.String), schema=schema)
    return connection.execute(sa.select(version.c.version_num)).scalar()


def _has_tables(connection: sa.Connection, schema: str | None) -> bool:
    return not metadata.tables.keys().isdisjoint(sa.inspect(connection).get_table_names(schema))


def _missing_columns(connection: sa.Connection, schema: str | None) -> list[str]:
    inspector = sa.inspect(connection)
    missing = []
    for table in metadata.sorted_tables:
        found = (
            {column["name"] for column in inspector.get_columns(table.name, schema)}
            if inspector.has_table(table.name, schema)
            else set()
        )
        missing += [f"{table.name}.{column.name}" for column in table.c if column.name not in found]
    return missing
