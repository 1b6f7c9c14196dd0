"""The revisions of the schema. A revision has four digits: two of a major and two of a minor number. Minor revisions only add."""

from pathlib import Path

import sqlalchemy as sa

from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import VERSION_TABLE

MAJOR_DIGITS = 2
_PACKAGE = Path(__file__).parents[1]


def newest() -> str:
    """Returns the newest revision that this program knows."""
    return max(known())


def scripts() -> Path:
    """Returns the directory of the migrations: in the wheel, or in a checkout."""
    packaged = _PACKAGE / "migrations"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "migrations"


def known() -> set[str]:
    """Returns the revisions: the prefixes of the file names, which sort in order."""
    return {path.name.partition("_")[0] for path in (scripts() / "versions").glob("[0-9]*.py")}


def major(revision: str) -> str:
    """Returns the digits of the revision's major version."""
    return revision[:MAJOR_DIGITS]


def is_newer_minor(revision: str) -> bool:
    """Whether a newer release of this major version made the revision."""
    return major(revision) == major(newest()) and revision > newest()


def read(connection: sa.Connection, schema: str | None) -> str | None:
    """Returns the revision of the database; None without one, such as that of tables which `migrate` did not create."""
    if not sa.inspect(connection).has_table(VERSION_TABLE, schema=schema):
        return None
    version = sa.table(VERSION_TABLE, sa.column("version_num", sa.String), schema=schema)
    # A migration that was overtaken may have left an earlier revision beside the newest.
    return connection.execute(sa.select(sa.func.max(version.c.version_num))).scalar()


def was_interrupted(connection: sa.Connection, database: Database) -> bool:
    """Whether tables without a revision come from an interrupted migration: it creates the version table first and its row last."""
    return not database.dialect.rolls_back_ddl and sa.inspect(connection).has_table(
        VERSION_TABLE, schema=database.schema
    )


def describe_unknown(revision: str) -> str:
    """Returns the message for a revision of a newer major version, or of none that is known."""
    return f"the database is at schema {revision}, which this program does not know: it is older than the database, upgrade it"
