"""Creates or replaces a trigger on the partner's table, after it has been tried out on a copy of some rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from dispatcher.database.errors import first_line, is_unreachable
from dispatcher.database.transactions import Database
from dispatcher.database.triggers.catalog import installed
from dispatcher.database.triggers.table import UnusableTrigger, locate
from dispatcher.database.triggers.trial import COPY, execute, try_out
from dispatcher.database.triggers.writers import writers_without_outbox
from dispatcher.outbox.trigger import Watched, script
from dispatcher.outbox.trigger.watched import quoted


@dataclass(frozen=True, slots=True)
class Created:
    """A trigger that is in place now."""

    watched: Watched
    """With the schema of its table, where the database has schemas."""
    tried_rows: int | None
    """The number of the table's rows that it was tried on; None if it was in place already."""
    warning: str | None = None
    """A sentence about users whose changes will fail, see `writers_without_outbox`."""


def create(database: Database, watched: Watched) -> Created:
    """Creates the trigger, replaces an older one without a gap, or leaves one alone that is the same already.

    Before that, the trigger fires for the insertion, update and deletion of copies of some rows of the table, and everything that it
    did is rolled back: a trigger that fails would make every write of the partner's fail. Raises UnusableTrigger.
    """
    if database.dialect.rolls_back_ddl:
        with _explained(database, watched, "nothing was changed"):
            return database.transact(lambda connection: _create(connection, database, watched))
    with _explained(database, watched, "nothing was changed"):
        dialect, located, tried_rows = _try_out_step_by_step(database, watched)
    if tried_rows is not None:
        with _explained(database, watched, "some of the triggers may be missing, so run this again"):
            statements = script(dialect, located).statements
            database.transact(lambda connection: execute(connection, statements))
    return Created(located, tried_rows)


def _create(connection: Connection, database: Database, watched: Watched) -> Created:
    located = locate(connection, database.dialect, watched)
    if _is_in_place(connection, database, located):
        return Created(located, None)
    is_postgresql = database.dialect.name == "postgresql"
    copy = replace(located, table=f"pg_temp.{COPY}" if is_postgresql else COPY)
    trial = connection.begin_nested()
    try:
        tried_rows = try_out(connection, located, copy, script(database.dialect.name, copy))
    finally:
        trial.rollback()
    execute(connection, script(database.dialect.name, located).statements)
    return Created(located, tried_rows, writers_without_outbox(connection, located))


def _try_out_step_by_step(database: Database, watched: Watched) -> tuple[str, Watched, int | None]:
    """The first half of the same where each DDL statement commits by itself. Returns the name of the script's dialect as well."""
    with database.engine.connect() as connection:
        dialect = script_dialect(connection)
        located = locate(connection, database.dialect, watched)
        if _is_in_place(connection, database, located):
            return dialect, located, None
        number = connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one()
        copy = replace(located, table=".".join(filter(None, (located.schema, f"{COPY}_{number}"))))
        try:
            return dialect, located, try_out(connection, located, copy, script(dialect, copy))
        finally:
            connection.rollback()
            execute(connection, [f"DROP TABLE IF EXISTS {quoted(copy.table, '`')}"])


def _is_in_place(connection: Connection, database: Database, watched: Watched) -> bool:
    existing = installed(connection, database.dialect.name)
    return any(one.command == watched.command and one.is_current for one in existing)


def script_dialect(connection: Connection) -> str:
    """Returns the dialect of the scripts for this server: MariaDB has statements that MySQL lacks."""
    return "mariadb" if getattr(connection.dialect, "is_mariadb", False) else connection.dialect.name


@contextmanager
def _explained(database: Database, watched: Watched, state: str) -> Iterator[None]:
    """Turns an error of the database into UnusableTrigger, unless the database is away."""
    try:
        yield
    except DBAPIError as error:
        if is_unreachable(error):
            raise
        if database.dialect.is_lock_timeout(error):
            raise UnusableTrigger(
                f"{state}: another transaction keeps {watched.table} locked. Wait until it has ended, then try again"
            ) from None
        raise UnusableTrigger(
            f"{state}: the database refuses the trigger on {watched.table} ({first_line(error)})"
        ) from None
