"""Migrates the database to the newest revision or back, and prints what that would run."""

import io
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateSchema, DropTable
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from dispatcher.database import revisions
from dispatcher.database.dialect import MigrationUnderWay
from dispatcher.database.schema import (
    FOREIGN,
    UnusableSchema,
    describe_changed_tables,
    describe_missing_schema,
    find_missing_columns,
    has_tables,
    leave_additions_out,
)
from dispatcher.database.transactions import MAX_TRIES, Database
from dispatcher.outbox.tables import VERSION_TABLE

if TYPE_CHECKING:
    from alembic.config import Config  # imported lazily: most commands do not need its memory

_OVERTAKEN_PAUSE = wait_random_exponential(multiplier=0.1, max=2)
LOCKED_PAUSE_SECONDS = 2.0
"""Between two attempts to lock a table, so that the writes that queued behind the first one go through."""


class _Overtaken(Exception):
    """Another migration was quicker, where none can exclude all others."""


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
        revision = revisions.read(connection, database.schema)
        if revision is not None and revision not in revisions.known():
            if revisions.is_newer_minor(revision):
                return revision
            raise UnusableSchema(revisions.describe_unknown(revision))
        if (
            revision is None
            and has_tables(connection, database.schema)
            and not revisions.was_interrupted(connection, database)
        ):
            raise UnusableSchema(f"nothing is changed: {FOREIGN}")
        if revision is not None and revisions.major(revision) == revisions.major(revisions.newest()):
            _refuse_changed_tables(connection, database)
        _ensure_schema(connection, database)
        try:
            command.upgrade(_config(connection=connection, schema=database.schema), "head")
        except CommandError as refused:
            if revisions.read(connection, database.schema) != revision:
                raise _Overtaken from None
            raise UnusableSchema(str(refused)) from None
    return revisions.newest()


def _refuse_changed_tables(connection: sa.Connection, database: Database) -> None:
    """Raises UnusableSchema before a migration that could not make the tables usable, while the old release still runs."""
    if needed := leave_additions_out(find_missing_columns(connection, database)):
        raise UnusableSchema(f"nothing is changed: {describe_changed_tables(database, needed)}")


def _ensure_schema(connection: sa.Connection, database: Database) -> None:
    """Creates the PostgreSQL schema of the setting if it is missing. Raises UnusableSchema if this user may not."""
    if database.schema is None or not database.dialect.lacks_schema(connection, database.schema):
        return
    if grant := database.dialect.grant_to_create(connection, database.schema):
        raise UnusableSchema(
            f"{describe_missing_schema(database.schema)}, and this user may not create it. An administrator can: {grant}"
        )
    connection.execute(CreateSchema(database.schema))


def downgrade(database: Database, revision: str = "base") -> None:
    """Migrates back to an older revision (`base`: no tables). Undelivered events may be lost with the tables."""
    from alembic import command

    with database.engine.connect() as connection, database.dialect.migration(connection):
        command.downgrade(_config(connection=connection, schema=database.schema), revision)
        if revision == "base":
            connection.execute(
                DropTable(sa.Table(VERSION_TABLE, sa.MetaData(), schema=database.schema), if_exists=True)
            )


def migration_sql(dialect: str, schema: str | None = None) -> str:
    """Returns the SQL that `migrate` runs on an empty database."""
    from alembic import command

    output = io.StringIO()
    if schema:
        output.write(f"{CreateSchema(schema, if_not_exists=True)};\n\n")
    command.upgrade(_config(output=output, dialect=dialect, schema=schema), "head", sql=True)
    return output.getvalue()


def _config(output: io.StringIO | None = None, **attributes: object) -> "Config":
    from alembic.config import Config

    config = Config(output_buffer=output, attributes=attributes)
    config.set_main_option("script_location", str(revisions.scripts()))
    config.set_main_option("path_separator", "os")
    return config
