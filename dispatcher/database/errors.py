"""Classifies and describes database errors."""

import re

from sqlalchemy.exc import DBAPIError

from dispatcher.database.mysql import Mysql
from dispatcher.database.postgresql import Postgresql

_MYSQL_CLIENT_ERRORS = range(2_000, 3_000)
"""The error numbers that a MySQL client raises itself; all others come from the server."""
_CAUSES = {
    "connection refused": r"refused|no such file",  # of a socket
    "its host name is unknown": r"resolve|name or service|nodename|getaddrinfo|temporary failure in name",
    "it refuses the user or the password": r"password|authentication|access denied|pg_hba|role .* does not exist",
    "TLS failed": r"\bssl\b|\btls\b|certificate",
    "it takes no connections at present": r"starting up|shutting down|recovery|not currently accepting|too many",
    "there is no such database": r"does not exist|unknown database",
    "its file cannot be opened": r"unable to open",
    "it does not answer": r"timed? ?out|timeout",
    "the connection was lost": r"lost|closed|terminat|broken pipe|reset by peer|gone away",
}
"""What the messages of the drivers look like, by the cause. The first one that fits counts."""


def is_unreachable(error: BaseException) -> bool:
    """Whether the database did not answer, as opposed to answering with an error."""
    if not isinstance(error, DBAPIError) or is_read_only(error):
        return False
    return error.connection_invalidated or _never_connected(error)


def is_read_only(error: DBAPIError) -> bool:
    """Whether the server that answered is read-only: a standby, or a primary that has just been demoted."""
    cause = error.orig
    return cause is not None and any(dialect.is_read_only(cause) for dialect in (Postgresql(), Mysql()))


def first_line(error: DBAPIError) -> str:
    """Returns the first line of the driver's message, without the number that PyMySQL puts first."""
    arguments = getattr(error.orig, "args", ())
    message = str(arguments[-1]).strip() if arguments else ""
    return message.splitlines()[0] if message else type(error.orig).__name__


def error_code(error: BaseException) -> str:
    """Returns the database's code for an error and the name of its class: no text that could come from a query or a row."""
    cause = getattr(error, "orig", None) or error
    name = type(cause).__name__
    if sqlstate := getattr(cause, "sqlstate", None):  # PostgreSQL
        return f"SQLSTATE {sqlstate}, {name}"
    if result := getattr(cause, "sqlite_errorname", None):
        return f"{result}, {name}"
    number = next(iter(cause.args), None)
    return f"error {number}, {name}" if isinstance(number, int) else name  # PyMySQL keeps no SQLSTATE


def describe_error(error: BaseException) -> str:
    """Returns one line for people, without the statement, its parameters or a URL."""
    if isinstance(error, DBAPIError) and is_unreachable(error):
        return f"the database cannot be reached: {first_line(error)}"
    cause = error.orig if isinstance(error, DBAPIError) else error
    return f"{summarize(error)}: {next(iter(str(cause).splitlines()), '')}"


def summarize(error: BaseException) -> str:
    """Returns one line without the database's own message, which can contain an id, a host or a user."""
    if isinstance(error, DBAPIError) and is_unreachable(error):
        message = first_line(error)
        why = next((cause for cause, words in _CAUSES.items() if re.search(words, message, re.IGNORECASE)), None)
        return "the database cannot be reached" + (f": {why}" if why else "")
    if isinstance(error, DBAPIError) and is_read_only(error):
        return "the database takes no writes: it is a standby, or read-only for another reason"
    if isinstance(error, DBAPIError) and error.orig is not None:
        return f"the database reported an error ({type(error.orig).__name__})"
    return type(error).__name__


def _never_connected(error: DBAPIError) -> bool:
    """Whether the connection failed. An error of the server at COMMIT has no statement either, but is an answer."""
    orig = error.orig
    if error.statement is not None or getattr(orig, "sqlstate", None):
        return False
    if name := getattr(orig, "sqlite_errorname", None):
        return bool(name.startswith("SQLITE_CANTOPEN"))
    number = next(iter(getattr(orig, "args", ())), None)
    return number in _MYSQL_CLIENT_ERRORS if isinstance(number, int) else True
