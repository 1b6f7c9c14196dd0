"""The privileges that the application, the dispatcher and the migration need, as SQL."""

import re
from dataclasses import dataclass

from sqlalchemy.dialects import postgresql

from dispatcher.inspection.checks.privileges import needed
from dispatcher.outbox.tables import outbox

_MYSQL_ACCOUNT = re.compile(r"([\w.$ -]+)(?:@([\w.%:/-]+))?")
_POSTGRESQL_ROLE = re.compile(r"[^\x00-\x1f\x7f]{1,63}")
_POSTGRESQL = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped


class UnusableUser(ValueError):
    """The name cannot be that of a user of this database. The message names it."""


@dataclass(frozen=True, slots=True)
class Users:
    """The names of the three database users; on MySQL also as `name@host`."""

    application: str
    """It writes events."""
    dispatcher: str
    """It runs `dispatcher run` and the operators' commands, and creates no tables."""
    migrator: str
    """It runs `dispatcher migrate`, and nothing else."""


@dataclass(frozen=True, slots=True)
class Grants:
    """Statements for an administrator, without a delimiter at their ends."""

    before: list[str]
    """Before the first `dispatcher migrate`."""
    after: list[str]
    """After it: they name the tables."""


def grants(dialect: str, users: Users, schema: str | None = None) -> Grants:
    """Returns the least privileges. `dialect`: postgresql, mysql or mariadb. `schema`: that of the tables, on MySQL their database.

    Raises UnusableUser.
    """
    is_postgresql = dialect == "postgresql"
    quote, account = (_POSTGRESQL.quote, _postgresql_role) if is_postgresql else (_mysql_name, _mysql_account)
    application, dispatcher, migrator = map(account, (users.application, users.dispatcher, users.migrator))
    prefix = f"{quote(schema)}." if schema else ""
    if is_postgresql:
        place = quote(schema or "public")
        before = [
            f"GRANT USAGE, CREATE ON SCHEMA {place} TO {migrator}",
            f"GRANT USAGE ON SCHEMA {place} TO {application}, {dispatcher}",
        ]
    else:
        before = [f"GRANT ALL ON {prefix}{table.name} TO {migrator}" for table in needed()]
    written = ", ".join(column.name for column in outbox.c if column.identity is None and column.server_default is None)
    after = [f"GRANT INSERT ({written}) ON {prefix}{outbox.name} TO {application}"]
    for table, privileges in needed().items():
        after.append(f"GRANT {', '.join(privileges)} ON {prefix}{table.name} TO {dispatcher}")
    return Grants(before, after)


def _postgresql_role(name: str) -> str:
    if not _POSTGRESQL_ROLE.fullmatch(name):
        raise UnusableUser(f"{name!r} is not the name of a user")
    return _POSTGRESQL.quote(name)


def _mysql_name(name: str) -> str:
    return f"`{name}`"


def _mysql_account(name: str) -> str:
    parts = _MYSQL_ACCOUNT.fullmatch(name)
    if parts is None:
        raise UnusableUser(f"{name!r} is not the name of a user: write NAME or NAME@HOST")
    return f"'{parts[1]}'" + (f"@'{parts[2]}'" if parts[2] else "")
