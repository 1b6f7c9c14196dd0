"""What an error of a database means, and how it is told."""

from sqlalchemy.exc import DBAPIError

from dispatcher.database.mysql import Mysql
from dispatcher.database.postgresql import Postgresql

_MYSQL_CLIENTS_OWN = range(2_000, 3_000)
"""The errors that a MySQL client finds by itself: whatever else PyMySQL numbers, the server has said."""


def is_unreachable(error: BaseException) -> bool:
    """Whether the database did not answer (as opposed to: it answered that something is wrong)."""
    if not isinstance(error, DBAPIError) or takes_no_writes(error):
        return False
    return error.connection_invalidated or _never_connected(error)


def takes_no_writes(error: DBAPIError) -> bool:
    """Whether the server that answered is read-only: a standby, or a primary until a moment ago."""
    return error.orig is not None and _says_read_only(error.orig)


def first_line(error: DBAPIError) -> str:
    """What the driver said; PyMySQL puts a number before it."""
    arguments = getattr(error.orig, "args", ())
    said = str(arguments[-1]).strip() if arguments else ""
    return said.splitlines()[0] if said else type(error.orig).__name__


def error_code(error: BaseException) -> str:
    """The database's code for an error, with the name of its class: no word that a query or a row could have put there."""
    cause = getattr(error, "orig", None) or error
    name = type(cause).__name__
    if sqlstate := getattr(cause, "sqlstate", None):  # PostgreSQL
        return f"SQLSTATE {sqlstate}, {name}"
    if result := getattr(cause, "sqlite_errorname", None):
        return f"{result}, {name}"
    number = next(iter(cause.args), None)
    return f"error {number}, {name}" if isinstance(number, int) else name  # PyMySQL keeps no SQLSTATE


def describe_error(error: BaseException) -> str:
    """One line for people; neither the statement nor its parameters, and no URL."""
    if is_unreachable(error):
        return summarize(error)
    said = error.orig if isinstance(error, DBAPIError) else error
    return f"{summarize(error)}: {next(iter(str(said).splitlines()), '')}"


def summarize(error: BaseException) -> str:
    """The same for where nobody may be named: what an error says can hold an id."""
    if is_unreachable(error):
        return "the database cannot be reached"
    if isinstance(error, DBAPIError) and takes_no_writes(error):
        return "the database takes no writes: it is a standby, or read-only for another reason"
    if isinstance(error, DBAPIError) and error.orig is not None:
        return f"the database refused ({type(error.orig).__name__})"
    return type(error).__name__


def _never_connected(error: DBAPIError) -> bool:
    """Not so for what a server says at COMMIT, which has no statement either."""
    orig = error.orig
    if error.statement is not None or getattr(orig, "sqlstate", None):
        return False
    if name := getattr(orig, "sqlite_errorname", None):
        return bool(name.startswith("SQLITE_CANTOPEN"))
    number = next(iter(getattr(orig, "args", ())), None)
    return number in _MYSQL_CLIENTS_OWN if isinstance(number, int) else True


def _says_read_only(error: BaseException) -> bool:
    """Whether a driver says by this that its server takes no writes."""
    return any(dialect.is_read_only(error) for dialect in (Postgresql(), Mysql()))
