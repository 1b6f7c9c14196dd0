"""The database's schema: migrates it to the newest revision, prints it, and rejects an unknown revision."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.schema import CreateSchema, DropTable
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from dispatcher.database.dialect import MigrationUnderWay
from dispatcher.database.transactions import MAX_TRIES, Database
from dispatcher.outbox.ddl import table_statements
from dispatcher.outbox.tables import VERSION_TABLE, metadata

if TYPE_CHECKING:
    from alembic.config import Config  # imported lazily: most commands do not need its memory

_PACKAGE = Path(__file__).parents[1]
_FOREIGN = "the tables were not created by `dispatcher migrate`: upgrade them by the means that created them, such as your own migrations"


class UnusableSchema(Exception):
    """The database's schema is missing, older or newer than this program. The message says what to do."""


def migrate(database: Database) -> str:
    """Migrates the database to the newest revision and returns it. Safe to run concurrently: only one call migrates. On MySQL and
    MariaDB, where each DDL statement commits by itself, it completes an interrupted migration.

    Raises UnusableSchema, and changes nothing, if the database is at an unknown revision, if its tables were not created by `migrate`,
    or if another migration does not finish in time.
    """
    retrying = Retrying(
        retry=retry_if_exception(database.dialect.is_overtaken),
        stop=stop_after_attempt(MAX_TRIES),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        reraise=True,
    )
    try:
        retrying(_migrate, database)
    except MigrationUnderWay as under_way:
        holder = f" ({under_way.holder})" if under_way.holder else ""
        raise UnusableSchema(
            f"another program is migrating this database, or holds the migration lock{holder}: wait until it has finished, or stop it,"
            " then try again"
        ) from None
    return newest()


def _migrate(database: Database) -> None:
    from alembic import command
    from alembic.util import CommandError

    with database.engine.connect() as connection, database.dialect.migration(connection):
        revision = _revision(connection, database.schema)
        if revision is not None and revision not in _known():
            raise UnusableSchema(_newer(revision))
        if revision is None and _has_tables(connection, database.schema) and not _was_interrupted(connection, database):
            raise UnusableSchema(f"nothing is changed: {_FOREIGN}")
        _ensure_schema(connection, database)
        try:
            command.upgrade(_config(connection=connection, schema=database.schema), "head")
        except CommandError as refused:
            raise UnusableSchema(str(refused)) from None


def _ensure_schema(connection: sa.Connection, database: Database) -> None:
    """Creates the PostgreSQL schema of the setting if it is missing. Raises UnusableSchema if this user may not."""
    if database.schema is None or not database.dialect.lacks_schema(connection, database.schema):
        return
    if grant := database.dialect.grant_to_create(connection, database.schema):
        raise UnusableSchema(
            f"{_missing(database.schema)}, and this user may not create it. An administrator can: {grant}"
        )
    connection.execute(CreateSchema(database.schema))


def _missing(schema: str) -> str:
    return f"the database has no schema {schema}, which DISPATCHER_SCHEMA names"


def downgrade(database: Database, revision: str = "base") -> None:
    """Migrates back to an older revision (`base`: no tables). Undelivered events may be lost with the tables."""
    from alembic import command

    with database.engine.connect() as connection, database.dialect.migration(connection):
        command.downgrade(_config(connection=connection, schema=database.schema), revision)
        if revision == "base":
            connection.execute(
                DropTable(sa.Table(VERSION_TABLE, sa.MetaData(), schema=database.schema), if_exists=True)
            )


def check(database: Database) -> None:
    """Raises UnusableSchema unless the database has the schema of this program."""
    with database.read() as connection:
        revision = _revision(connection, database.schema)
        missing = _missing_columns(connection, database.schema) if revision is None else []
        is_empty = not _has_tables(connection, database.schema)
        lacks_schema = database.dialect.lacks_schema(connection, database.schema)
        was_interrupted = revision is None and not is_empty and _was_interrupted(connection, database)
    if was_interrupted:
        raise UnusableSchema(
            "a migration of this database was interrupted: run `dispatcher migrate` again, which completes it"
        )
    if revision == newest() or (revision is None and not missing):
        return
    if lacks_schema:
        raise UnusableSchema(
            f"{_missing(str(database.schema))}: correct it, or run `dispatcher migrate`, which creates it"
        )
    if revision is None and is_empty:
        raise UnusableSchema("the dispatcher's tables are missing: run `dispatcher migrate`")
    if revision is None:
        raise UnusableSchema(f"{missing[0]} is missing, and {_FOREIGN}")
    if revision in _known():
        raise UnusableSchema(
            f"the database is at schema {revision}, this program needs {newest()}: run `dispatcher migrate`"
        )
    raise UnusableSchema(_newer(revision))


def missing_columns(database: Database) -> list[str]:
    """Returns the columns that the database lacks, as `table.column`."""
    with database.read() as connection:
        return _missing_columns(connection, database.schema)


def newest() -> str:
    """Returns the newest revision that this program knows."""
    return max(_known())


def migration_sql(dialect: str, schema: str | None = None) -> str:
    """Returns the SQL that `migrate` runs on an empty database."""
    from alembic import command

    output = io.StringIO()
    if schema:
        output.write(f"{CreateSchema(schema, if_not_exists=True)};\n\n")
    command.upgrade(_config(output=output, dialect=dialect, schema=schema), "head", sql=True)
    return output.getvalue()


def ddl(dialect: str, schema: str | None = None) -> str:
    """Returns the newest schema as SQL, for partners who create the tables themselves. `dialect`: postgresql, mysql or sqlite."""
    return "\n".join(f"{statement};" for statement in table_statements(dialect, schema))


def _config(output: io.StringIO | None = None, **attributes: object) -> "Config":
    from alembic.config import Config

    config = Config(output_buffer=output, attributes=attributes)
    config.set_main_option("script_location", str(_migrations()))
    config.set_main_option("path_separator", "os")
    return config


def _migrations() -> Path:
    packaged = _PACKAGE / "migrations"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "migrations"


def _known() -> set[str]:
    """Returns the revisions: the prefixes of the file names, which sort in order."""
    return {path.name.partition("_")[0] for path in (_migrations() / "versions").glob("[0-9]*.py")}


def _newer(revision: str) -> str:
    return f"the database is at schema {revision}, which this program does not know: it is older than the database, upgrade it"


def _was_interrupted(connection: sa.Connection, database: Database) -> bool:
    """Whether tables without a revision come from an interrupted migration: it creates the version table first and its row last."""
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
        present = (
            {column["name"] for column in inspector.get_columns(table.name, schema)}
            if inspector.has_table(table.name, schema)
            else set()
        )
        missing += [f"{table.name}.{column.name}" for column in table.c if column.name not in present]
    return missing
