"""PostgreSQL 13 and newer. Without session state and prepared statements, so that pgbouncer in transaction mode works too."""

import os
import socket
import ssl
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from sqlalchemy import URL, Connection, Engine, Executable, event
from sqlalchemy.exc import DBAPIError
from typing_extensions import override

from dispatcher.database.dialect import Dialect, MigrationUnderWay, remote_host
from dispatcher.database.postgresql_statements import ENGINE_DIALECT, PostgresqlStatements
from dispatcher.database_url.address import Address

if TYPE_CHECKING:
    from dispatcher.database.psycopg_connection import PsycopgConnection

_READ_ONLY_STATE = "25006"
_LOCK_TIMEOUT_STATE = "55P03"
_CANCELED_STATE = "57014"  # by statement_timeout
_TRANSIENT_STATES = {"40001", "40P01", _LOCK_TIMEOUT_STATE}  # serialization failure, deadlock, lock timeout

_VERIFYING_MODES = {"verify-full", "verify-ca"}
_DENIED_STATE = "42501"
_ISOLATION = "read committed"
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"

# Otherwise a temporary table would shadow the table of ours that has the same name.
_TEMPORARY_TABLES_LAST = (
    "SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), 'pg_temp'), true)"
)
_NEW_DATABASE = (
    "create a database with ENCODING 'UTF8' TEMPLATE template0, and move yours into it with pg_dump and pg_restore"
)
_ENCODINGS = (
    ("database", "server_encoding", _NEW_DATABASE),
    (
        "connection",
        "client_encoding",
        "unset PGCLIENTENCODING, the role's client_encoding, and that of DISPATCHER_DATABASE_URL",
    ),
)
_MIGRATION_LOCK = int.from_bytes(b"vercel")
_MIGRATION_HOLDER = f"""
SELECT pid, usename, application_name FROM pg_locks JOIN pg_stat_activity USING (pid) JOIN pg_database d ON d.oid = database
WHERE d.datname = current_database() AND locktype = 'advisory' AND objsubid = 1 AND granted
AND classid = {_MIGRATION_LOCK >> 32} AND objid = {_MIGRATION_LOCK & 0xFFFFFFFF}"""  # noqa: S608 (numbers of our own)


class Postgresql(PostgresqlStatements, Dialect):
    name = "postgresql"
    driver = "postgresql+psycopg"
    extra = "postgres"
    how_to_verify = "sslmode=verify-full&sslrootcert=system (or, for a private authority, its file instead of system)"
    chains_writes = True

    @override
    def engine_options(self, url: URL) -> dict[str, Any]:
        return {
            "connect_args": {
                "autocommit": True,  # the driver must not begin transactions: see _begin
                "connect_timeout": self.connect_limit(url),
                "prepare_threshold": None,
                "application_name": "dispatcher",
                "keepalives_idle": 15,
                "tcp_user_timeout": self.statement_seconds * 1000,
            },
        }

    @override
    def parameters(self, address: Address) -> dict[str, str]:
        parameters = super().parameters(address)
        if parameters.get("sslrootcert") == "system" and (store := ssl.get_default_verify_paths().cafile):
            # The OpenSSL in the driver's wheel looks for the system's authorities where no system has them.
            parameters["sslrootcert"] = store
        return parameters

    @override
    def connect(self, driver: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        from dispatcher.database.psycopg_connection import PsycopgConnection, PsycopgCursor

        return PsycopgConnection.connect(*arguments, cursor_factory=PsycopgCursor, **options)

    @override
    def is_bad_parameter(self, error: BaseException) -> bool:
        return getattr(error, "sqlstate", None) is None  # a libpq older than the parameter

    @override
    def prepare(self, engine: Engine) -> None:
        event.listen(engine, "begin", self._begin)

    def _begin(self, connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("single_statement"):
            return
        # SET LOCAL: through pgbouncer, settings of the session would leak to the next client.
        settings = {
            # Settings of the database or the role could give times a form, or a year, that the driver cannot parse.
            "TimeZone": "UTC",
            "DateStyle": "ISO",
            "statement_timeout": f"{options.get('statement_seconds', self.statement_seconds)}s",
            "lock_timeout": f"{self.lock_seconds}s",
            "idle_in_transaction_session_timeout": f"{self.statement_seconds}s",
            "jit": "off",  # compiling one of our short statements takes 100 times as long as running it
        }
        if not options.get("reads_only"):
            # Statements that write find their rows by an index. If the queue was empty when statistics were collected, the
            # planner would consider a scan and a sort cheap.
            settings |= {"enable_seqscan": "off", "enable_bitmapscan": "off"}
        if options.get("not_durable"):
            settings["synchronous_commit"] = "off"
        begin = [] if "isolation_level" in options else [_BEGIN]  # with a level of its own, the driver begins
        begin += ["SET TRANSACTION READ ONLY"] if options.get("refuses_writes") else []
        local = [f"SET LOCAL {name} = '{value}'" for name, value in settings.items()]
        statement = "; ".join([*begin, *local, _TEMPORARY_TABLES_LAST])
        if options.get("begins_late"):
            _driver_connection(connection).begin(statement)
        else:
            connection.exec_driver_sql(statement)

    @override
    def defer(self, connection: Connection, statement: Executable, parameters: dict[str, Any]) -> None:
        with _driver_connection(connection).deferring():
            connection.execute(statement, parameters)

    @override
    def unverified_host(self, url: URL) -> str | None:
        options = _driver_options(url)
        if options.get("sslmode", os.environ.get("PGSSLMODE", "")) in _VERIFYING_MODES:
            return None
        return remote_host(options.get("hostaddr") or options.get("host") or os.environ.get("PGHOST", ""))

    @override
    @contextmanager
    def migration(self, connection: Connection) -> Iterator[None]:
        with connection.begin():
            # The lock ends with the transaction. DDL that cannot lock its table in time yields to the partners' writes, which queue up
            # behind it. The limit exceeds deadlock_timeout (1 s), after which a vacuum in the way is cancelled.
            connection.exec_driver_sql(
                f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{self.migration_seconds}s'"
            )
            _lock_migration(connection)
            connection.exec_driver_sql("SET LOCAL lock_timeout = '1500ms'")
            yield

    @override
    def check_isolation(self, connection: Connection) -> str | None:
        level = connection.exec_driver_sql("SHOW transaction_isolation").scalar_one()
        if level == _ISOLATION:
            return None
        return (
            f"the database runs our transactions at {level} although {_ISOLATION} was asked for:"
            " look at the proxy before the database"
        )

    @override
    def check_writes(self, connection: Connection) -> str | None:
        if connection.execute(sa.select(sa.func.pg_is_in_recovery())).scalar_one():
            return "it is a standby"
        read_only = connection.exec_driver_sql("SHOW default_transaction_read_only").scalar_one() == "on"
        return "default_transaction_read_only is on" if read_only else None

    @override
    def check_encoding(self, connection: Connection, tables: Collection[str]) -> tuple[str, str] | None:
        for whose, setting, cure in _ENCODINGS:
            encoding = connection.execute(sa.select(sa.func.current_setting(setting))).scalar_one()
            if encoding != "UTF8":
                return f"the encoding of the {whose} is {encoding}, not UTF8", cure
        return None

    @override
    def check_connection(self, connection: Any) -> str | None:
        if connection.info.encoding != "ascii":
            return None
        return (
            f"the encoding of the database {connection.info.dbname} is SQL_ASCII, which does not define how its text is encoded, so"
            f" the driver cannot read it: {_NEW_DATABASE}, and correct DISPATCHER_DATABASE_URL"
        )

    @override
    def is_denied(self, error: DBAPIError) -> bool:
        return getattr(error.orig, "sqlstate", None) == _DENIED_STATE

    @override
    def grant(self, connection: Connection, table: str, privileges: Sequence[str], schema: str | None) -> str:
        quote, user = _account(connection)
        if schema and not _may(connection, schema, "USAGE"):
            return f"GRANT USAGE ON SCHEMA {quote(schema)} TO {user};"
        return f"GRANT {', '.join(privileges)} ON {quote(schema) + '.' if schema else ''}{table} TO {user};"

    @override
    def grant_to_create(self, connection: Connection, schema: str | None) -> str | None:
        if schema and self.lacks_schema(connection, schema):
            return _grant_to_create_schema(connection, schema)
        # Since PostgreSQL 15 not every user may create tables in `public`.
        target = schema or connection.exec_driver_sql("SELECT current_schema()").scalar_one() or "public"
        if _may(connection, target, "CREATE"):
            return None
        quote, user = _account(connection)
        return f"GRANT USAGE, CREATE ON SCHEMA {quote(target)} TO {user};"

    @override
    def lacks_schema(self, connection: Connection, schema: str | None) -> bool:
        return schema is not None and not sa.inspect(connection).has_schema(schema)

    @override
    def is_transient(self, error: BaseException) -> bool:
        return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _TRANSIENT_STATES

    @override
    def is_lock_timeout(self, error: BaseException) -> bool:
        return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == _LOCK_TIMEOUT_STATE

    @override
    def is_timeout(self, error: BaseException) -> bool:
        return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == _CANCELED_STATE

    @override
    def cut(self, connection: Any) -> None:
        with socket.socket(fileno=os.dup(connection.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)

    @override
    def is_read_only(self, error: BaseException) -> bool:
        return getattr(error, "sqlstate", None) == _READ_ONLY_STATE


def _driver_connection(connection: Connection) -> "PsycopgConnection":
    return cast("PsycopgConnection", connection.connection.driver_connection)


def _driver_options(url: URL) -> dict[str, str]:
    """Returns the URL as SQLAlchemy passes it to psycopg: with several hosts, for example."""
    return {name: str(value) for name, value in ENGINE_DIALECT.create_connect_args(url)[1].items()}


def _account(connection: Connection) -> tuple[Callable[[str], str], str]:
    """Returns the function that quotes names, and the quoted name of the current user."""
    quote = connection.dialect.identifier_preparer.quote
    return quote, quote(connection.exec_driver_sql("SELECT current_user").scalar_one())


def _lock_migration(connection: Connection) -> None:
    try:
        with connection.begin_nested():  # so that the holder of the lock can be queried afterwards
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _LOCK_TIMEOUT_STATE:
            raise MigrationUnderWay(_migration_holder(connection)) from None
        raise


def _migration_holder(connection: Connection) -> str | None:
    """Describes the session that holds the migration lock, if this user may see it."""
    held = connection.exec_driver_sql(_MIGRATION_HOLDER).first()
    return f"process {held.pid} of the user {held.usename}, application {held.application_name!r}" if held else None


def _grant_to_create_schema(connection: Connection, schema: str) -> str | None:
    may = sa.func.has_database_privilege(sa.func.current_database(), "CREATE")
    if connection.execute(sa.select(may)).scalar_one():
        return None
    quote, user = _account(connection)
    return f"CREATE SCHEMA {quote(schema)} AUTHORIZATION {user};"


def _may(connection: Connection, schema: str, privilege: str) -> bool:
    query = sa.select(sa.func.has_schema_privilege(schema, privilege))
    return bool(connection.execute(query).scalar_one())
