"""Database users with exactly the privileges that `dispatcher grants` prints."""

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from sqlalchemy.exc import DBAPIError

from dispatcher.database import migration
from dispatcher.database.transactions import Database, open_database
from dispatcher.inspection import grants
from dispatcher.outbox.tables import VERSION_TABLE

ROLES = ("application", "dispatcher", "migrator")
PASSWORD = "s3cret of the test"


@dataclass(frozen=True)
class Users:
    """The database as opened by the administrator and by each of the three users."""

    administrator: Database
    application: Database
    dispatcher: Database
    migrator: Database
    granted: grants.Grants

    def execute(self, *statements: str) -> None:
        """Executes statements as the administrator, in the schema of the tables. The users get names that no real database has."""
        with self.administrator.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if self.administrator.schema:
                connection.exec_driver_sql(f"SET search_path = {self.administrator.schema}")
            for statement in statements:
                connection.exec_driver_sql(in_test(statement, self.administrator))


def in_test(statement: str, database: Database) -> str:
    """Returns the statement with the names of the test's users."""
    return re.sub(rf"\b({'|'.join(ROLES)})\b", lambda role: user_of(role[0], database), statement)


def user_of(role: str, database: Database) -> str:
    """Returns the test's user in this role. A server's databases share its users, so the name is different for each database.

    MySQL's names have at most 32 characters.
    """
    return f"outbox_test_{role}_{zlib.crc32(str(database.engine.url.database).encode()):08x}"


@contextmanager
def users_of(administrator: Database) -> Iterator[Users]:
    """The three users, with what `dispatcher grants` gives them, in a database without our tables; `migrator` makes these."""
    url = administrator.engine.url.set(password=PASSWORD)
    opened = {
        role: open_database(
            url.set(username=user_of(role, administrator)).render_as_string(hide_password=False), administrator.schema
        )
        for role in ROLES
    }
    names = grants.Users(*(user_of(role, administrator) for role in ROLES))
    printed = grants.grants(administrator.dialect.name, names, administrator.schema)
    users = Users(administrator, **opened, granted=printed)
    _drop(users)
    is_mysql = administrator.dialect.name == "mysql"
    # Leftovers of an earlier test would not belong to the migrator.
    users.execute(f"DROP TABLE IF EXISTS {VERSION_TABLE}")
    if not is_mysql:
        users.execute("DROP FUNCTION IF EXISTS vercel_outbox_wakeup CASCADE")
    create = "CREATE USER {} IDENTIFIED BY '{}'" if is_mysql else "CREATE ROLE {} LOGIN PASSWORD '{}'"
    users.execute(*(create.format(role, PASSWORD) for role in ROLES), *printed.before)
    migration.migrate(users.migrator)
    users.execute(*printed.after)
    try:
        yield users
    finally:
        migration.downgrade(administrator)
        for one in opened.values():
            one.close()
        _drop(users)


def _drop(users: Users) -> None:
    for role in ROLES:
        if users.administrator.dialect.name == "mysql":
            users.execute(f"DROP USER IF EXISTS {role}")
            continue
        with users.administrator.read() as connection:
            user = user_of(role, users.administrator)
            exists = connection.exec_driver_sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{user}'").first()
        if exists:
            users.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def assert_refused(database: Database, *statements: str) -> None:
    """Asserts that the database denies each statement to its user."""
    for statement in statements:
        with database.engine.connect() as connection:
            if database.schema:
                connection.exec_driver_sql(f"SET search_path = {database.schema}")
            with pytest.raises(DBAPIError) as raised:
                connection.exec_driver_sql(statement)
        assert database.dialect.is_denied(raised.value), (statement, raised.value)
