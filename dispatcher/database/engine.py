"""Opens a SQLAlchemy engine for a partner's URL: the right dialect, our driver, isolation and time limits."""

import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import URL, Engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.engine.interfaces import Dialect as EngineDialect
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from dispatcher.database.dialect import Dialect
from dispatcher.database.mysql import Mysql
from dispatcher.database.postgresql import Postgresql
from dispatcher.database.sqlite import Sqlite
from dispatcher.database_url.address import FAMILIES, family_of, read_address

_OF_FAMILY: dict[str, type[Dialect]] = {dialect.name: dialect for dialect in (Sqlite, Postgresql, Mysql)}

IDLE_SECONDS = 5.0
"""Seconds after which an idle connection is pinged before use. Pinging every time would cost as much as a short transaction."""

KEPT_CONNECTIONS = 2
"""Connections that stay open when idle: one for the worker, one for the housekeeping beside it."""
MAX_FURTHER_CONNECTIONS = 13
"""Connections that are opened in addition while all are in use, and closed after use."""


class UnusableDatabaseUrl(ValueError):
    """The database URL cannot be used. The message says why and what to write, and never contains the URL."""


def dialect_of(url: str) -> Dialect:
    """Returns the dialect of a partner's URL. A driver named in the URL (`mysql+asyncmy://`) is ignored.

    Raises UnusableDatabaseUrl.
    """
    family = family_of(url)
    if family is None:
        known = ", ".join(f"{name}://" for name in FAMILIES)
        raise UnusableDatabaseUrl(f"the database URL must begin with one of {known}")
    return _OF_FAMILY[family]()


def open_engine(url: str, schema: str | None = None, *, idle_seconds: float = IDLE_SECONDS) -> Engine:
    """Returns an engine for a plain partner URL (`postgres://…`, `mysql://…`, `sqlite:///…`). Does not connect yet.

    `schema` is the PostgreSQL schema that holds the tables. Raises UnusableDatabaseUrl.
    """
    dialect = dialect_of(url)
    engine = _create(_translate(url, dialect), dialect)
    _translate_errors(engine, dialect)
    dialect.prepare(engine)
    _ping_after_idling(engine, idle_seconds)
    _invalidate_read_only(engine, dialect)
    return engine.execution_options(schema_translate_map={None: schema}) if schema else engine


def _translate(url: str, dialect: Dialect) -> URL:
    """Returns the URL with our driver and its parameters."""
    try:
        address = read_address(url)
    except ValueError as error:
        raise UnusableDatabaseUrl(f"the database URL {error}") from None
    if address.family == "sqlite":
        return make_url(url).set(drivername=dialect.driver)
    name = address.database or None
    parameters = dialect.parameters(address)
    if len(address.hosts) == 1 and not address.hosts[0].is_socket:
        return URL.create(dialect.driver, address.user, address.password, *address.hosts[0], name, parameters)
    # The host part of SQLAlchemy's URL cannot hold several hosts, or the directory of a socket.
    hosts = {
        "host": ",".join(host.name for host in address.hosts),
        "port": ",".join(str(host.port or "") for host in address.hosts),
    }
    query = parameters | {parameter: value for parameter, value in hosts.items() if value.strip(",")}
    return URL.create(dialect.driver, address.user, address.password, database=name, query=query)


def _create(url: URL, dialect: Dialect) -> Engine:
    try:
        return sa.create_engine(
            url,
            hide_parameters=True,
            pool_size=KEPT_CONNECTIONS,
            max_overflow=MAX_FURTHER_CONNECTIONS,
            **dialect.engine_options(url),
        )
    except ModuleNotFoundError as missing:
        raise UnusableDatabaseUrl(
            f"the driver {missing.name} is not installed: install the wheel with its extra [{dialect.extra}], as deploy/README.md shows"
        ) from None
    except (ArgumentError, TypeError, ValueError) as error:
        raise UnusableDatabaseUrl(_describe(error, dialect)) from None


def _translate_errors(engine: Engine, dialect: Dialect) -> None:
    """Raises UnusableDatabaseUrl where the driver, which checks a URL only when it connects, raises various exceptions."""

    def connect(
        connecting: EngineDialect, _record: object, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> DBAPIConnection:
        try:
            connection: DBAPIConnection = dialect.connect(connecting.loaded_dbapi, arguments, options)
        except (AttributeError, LookupError, OSError, TypeError, ValueError) as error:
            raise UnusableDatabaseUrl(_describe(error, dialect)) from None
        except connecting.loaded_dbapi.ProgrammingError as error:
            if not dialect.is_bad_parameter(error):
                raise
            raise UnusableDatabaseUrl(_describe(error, dialect)) from None
        if (refusal := dialect.check_connection(connection)) is not None:
            connection.close()
            raise UnusableDatabaseUrl(refusal)
        return connection

    event.listen(engine, "do_connect", connect)


def _describe(error: Exception, dialect: Dialect) -> str:
    """Returns the message for a driver's error, without the driver's own words: they can repeat the password."""
    if isinstance(error, OSError):
        return f"a file that the database URL names cannot be read: {error.strerror}"
    if isinstance(error, UnicodeError):
        return "the database URL has a character that the driver cannot send: keep the password within Latin-1"
    return f"the database URL has a parameter after the ? that {dialect.driver.partition('+')[2]} does not take"


def _ping_after_idling(engine: Engine, idle_seconds: float) -> None:
    """Replaces a connection that the server or a firewall closed while it was idle: that is not an error."""

    def note(_connection: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        entry.info["idle_since"] = time.monotonic()

    def ping(connection: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: object) -> None:
        if time.monotonic() - entry.info.get("idle_since", time.monotonic()) < idle_seconds:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error:
            raise DisconnectionError from None

    event.listen(engine, "checkin", note)
    event.listen(engine, "checkout", ping)


def _invalidate_read_only(engine: Engine, dialect: Dialect) -> None:
    """After a failover an existing connection may lead to the old primary; a new one reaches the new primary."""

    def note(context: ExceptionContext) -> None:
        if dialect.is_read_only(context.original_exception):
            context.is_disconnect = True

    event.listen(engine, "handle_error", note)
