"""The database's schema: migrates it to the newest revision, prints it, and rejects one that this program cannot work with.

A revision has four digits: two of a major and two of a minor number. Minor revisions only add, and the program works on any of its own
major version: without what an older one lacks, and without using what a newer one added. Another major version is rejected.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateSchema, DropTable
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from dispatcher.database.dialect import MigrationUnderWay
from dispatcher.database.transactions import MAX_TRIES, Database
from dispatcher.outbox.ddl import table_statements
from dispatcher.outbox.tables import VERSION_TABLE, metadata

if TYPE_CHECKING:
    from alembic.config import Config  # imported lazily: most commands do not need its memory

_PACKAGE = Path(__file__).parents[1]
_FOREIGN = "the tables were not created by `dispatcher migrate`: upgrade them by the means that created them, such as your own migrations"


MAJOR_DIGITS = 2
_OVERTAKEN_PAUSE = wait_random_exponential(multiplier=0.1, max=2)
LOCKED_PAUSE_SECONDS = 2.0
"""Between two attempts to lock a table, so that the writes that queued behind the first one go through."""


class UnusableSchema(Exception):
    """The database's schema is missing, or of another major version. The message says what to do."""


class _Overtaken(Exception):
    """Another migration was quicker, where none can exclude all others."""


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema that this program can work with."""

    revision: str | None
    """None: the tables were created by other means than `migrate`."""
    lacking: frozenset[sa.Column[Any]] = frozenset()
    """The columns that later revisions add."""

    @property
    def is_newer(self) -> bool:
        """Whether the program is older than the schema."""
        return self.revision is not None and self.revision > newest()

    @property
    def warning(self) -> str | None:
        """What does not work because the schema is older than the program, and what to do; None if it is not older."""
        names = sorted({column.table.name if is_addition(column.table) else str(column) for column in self.lacking})
        lacking = ", ".join(names) or "what later revisions add"
        if self.revision is not None and self.revision < newest():
            return (
                f"the database is at schema {self.revision}, this program knows {newest()}: everything works that does not need {lacking}."
                " Run `dispatcher migrate`"
            )
        return f"the tables lack {lacking}, without which everything else works: {_FOREIGN}" if names else None


def migrate(database: Database) -> str:
    """Migrates the database to the newest revision; returns the one it is at, which is newer if a newer program has migrated it.

    Safe to run concurrently: only one call migrates. On MySQL and MariaDB, where each DDL statement commits by itself, it completes an
    interrupted migration. A statement that has to wait for a table yields to the partners' writes, and is tried again.

    Raises UnusableSchema if the database is at a revision of a newer major version, if its tables were not created by `migrate` or lack
    columns, if another migration does not finish in time, or if another session does not let go of a table.
    """
    retrying = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, _Overtaken) or database.dialect.is_overtaken(error)),
        stop=stop_after_attempt(MAX_TRIES),
        wait=lambda state: _pause(database, state),
        reraise=True,
    )
    try:
        revision: str = retrying(_migrate, database)
    except MigrationUnderWay as under_way:
        holder = f" ({under_way.holder})" if under_way.holder else ""
        raise UnusableSchema(
            f"another program is migrating this database, or holds the migration lock{holder}: wait until it has finished, or stop it,"
            " then try again"
        ) from None
    except DBAPIError as error:
        if database.dialect.is_transient(error):
            raise UnusableSchema(
                "a transaction of another session keeps a table locked that has to change: end that transaction, then try again"
            ) from None
        raise
    return revision


def _pause(database: Database, state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if error is not None and database.dialect.is_lock_timeout(error):
        return LOCKED_PAUSE_SECONDS
    return _OVERTAKEN_PAUSE(state)


def _migrate(database: Database) -> str:
    from alembic import command
    from alembic.util import CommandError

    with database.engine.connect() as connection, database.dialect.migration(connection):
        revision = _revision(connection, database.schema)
        if revision is not None and revision not in _known():
            if _is_newer_minor(revision):
                return revision
            raise UnusableSchema(_unknown(revision))
        if revision is None and _has_tables(connection, database.schema) and not _was_interrupted(connection, database):
            raise UnusableSchema(f"nothing is changed: {_FOREIGN}")
        if revision is not None and _major(revision) == _major(newest()):
            _refuse_changed_tables(connection, database)
        _ensure_schema(connection, database)
        try:
            command.upgrade(_config(connection=connection, schema=database.schema), "head")
        except CommandError as refused:
            if _revision(connection, database.schema) != revision:
                raise _Overtaken from None
            raise UnusableSchema(str(refused)) from None
    return newest()


def _refuse_changed_tables(connection: sa.Connection, database: Database) -> None:
    """Raises UnusableSchema before a migration that could not make the tables usable, while the old release still runs."""
    if needed := _needed(_missing_columns(connection, database)):
        raise UnusableSchema(f"nothing is changed: {describe_changed_tables(database, needed)}")


def describe_changed_tables(database: Database, missing: Sequence[sa.Column[Any]]) -> str:
    """Returns the message for tables that lack columns which no migration adds."""
    return (
        f"the tables lack {', '.join(map(str, missing))}: something else has changed them, or an unreleased version made them; `dispatcher"
        f" schema --dialect {database.dialect.name}` prints them as they should be"
    )


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


def refuse_missing_file(database: Database) -> None:
    """Raises UnusableSchema if the database is a file that does not exist; connecting would create it."""
    if (path := database.dialect.missing_file(database.engine.url)) is not None:
        raise UnusableSchema(
            f"there is no database file {path}: run `dispatcher migrate`, or correct DISPATCHER_DATABASE_URL"
        )


def check(database: Database) -> Schema:
    """Returns the database's schema if this program can work with it, and notes in `database` what it lacks.

    Raises UnusableSchema otherwise.
    """
    with database.read() as connection:
        schema = _read(connection, database)
    database.lacking = schema.lacking
    return schema


def _read(connection: sa.Connection, database: Database) -> Schema:
    revision = _revision(connection, database.schema)
    if revision is not None and revision not in _known():
        if _is_newer_minor(revision):
            return Schema(revision)
        raise UnusableSchema(_unknown(revision))
    if revision == newest():
        return Schema(revision)
    if revision is not None and _major(revision) != _major(newest()):
        raise UnusableSchema(
            f"the database is at schema {revision}, this program needs {newest()}: run `dispatcher migrate`"
        )
    if revision is None and _has_tables(connection, database.schema) and _was_interrupted(connection, database):
        raise UnusableSchema(
            "a migration of this database was interrupted: run `dispatcher migrate` again, which completes it"
        )
    missing = _missing_columns(connection, database)
    if needed := _needed(missing):
        raise UnusableSchema(
            _why_missing(connection, database, needed[0])
            if revision is None
            else describe_changed_tables(database, needed)
        )
    return Schema(revision, frozenset(missing))


def _why_missing(connection: sa.Connection, database: Database, first: sa.Column[Any]) -> str:
    if database.dialect.lacks_schema(connection, database.schema):
        return f"{_missing(str(database.schema))}: correct it, or run `dispatcher migrate`, which creates it"
    if _has_tables(connection, database.schema):
        return f"{first} is missing, and {_FOREIGN}"
    return "the dispatcher's tables are missing: run `dispatcher migrate`"


def missing_columns(database: Database) -> list[sa.Column[Any]]:
    """Returns the columns that the database lacks; as text they are `table.column`."""
    with database.read() as connection:
        return _missing_columns(connection, database)


def is_addition(what: sa.Column[Any] | sa.Table) -> bool:
    """Whether a later revision of this major version added the column or table: programs work without it."""
    return "since" in what.info or (isinstance(what, sa.Column) and "since" in what.table.info)


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


def _major(revision: str) -> str:
    return revision[:MAJOR_DIGITS]


def _is_newer_minor(revision: str) -> bool:
    return _major(revision) == _major(newest()) and revision > newest()


def _unknown(revision: str) -> str:
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
    # A migration that was overtaken may have left an earlier revision beside the newest.
    return connection.execute(sa.select(sa.func.max(version.c.version_num))).scalar()


def _has_tables(connection: sa.Connection, schema: str | None) -> bool:
    return not metadata.tables.keys().isdisjoint(sa.inspect(connection).get_table_names(schema))


def _missing_columns(connection: sa.Connection, database: Database) -> list[sa.Column[Any]]:
    inspector = sa.inspect(connection)
    missing: list[sa.Column[Any]] = []
    for table in metadata.sorted_tables:
        present = _present_columns(inspector, table, database)
        missing += (column for column in table.c if column.name not in present)
    return missing


def _present_columns(inspector: sa.Inspector, table: sa.Table, database: Database) -> set[str]:
    """Returns the names of the table's columns; none if it does not exist."""
    try:
        if not inspector.has_table(table.name, schema=database.schema):
            return set()
    except DBAPIError as error:
        # MySQL and MariaDB deny even the question to a user without a privilege on the table, which an older release did not need.
        if database.dialect.is_denied(error) and is_addition(table):
            return set()
        raise
    return {column["name"] for column in inspector.get_columns(table.name, database.schema)}


def _needed(missing: list[sa.Column[Any]]) -> list[sa.Column[Any]]:
    """Returns those of the missing columns that no program works without."""
    return [column for column in missing if not is_addition(column)]
