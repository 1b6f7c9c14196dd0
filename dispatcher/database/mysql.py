"""MariaDB 10.6 and newer, MySQL 8."""

import socket
import ssl
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from typing_extensions import override

from dispatcher.database.dialect import Dialect, MigrationUnderWay, remote_host
from dispatcher.database.mysql_statements import CHARSET, MysqlStatements
from dispatcher.database_url.mysql import MODES
from dispatcher.database_url.tls import Tls

_LOCK_TIMEOUT_ERROR = 1205
_TRANSIENT_ERRORS = {_LOCK_TIMEOUT_ERROR, 1213}  # and deadlock
# --read-only, a read-only transaction, the server's read-only mode, a Galera node outside the cluster's majority
_READ_ONLY_ERRORS = {1290, 1792, 1836, 1047}
_TIMEOUT_ERRORS = {1969, 3024}  # of MariaDB, of MySQL
_DENIED_ERRORS = {1142, 1143}  # on a table, on a column
# A table, a column, an index or a row exists already, or another session is altering the table
_OVERTAKEN_ERRORS = {1050, 1060, 1061, 1062, 1684}
MIGRATION_LOCK = "concat('vercel_dispatcher_migration ', md5(database()))"
"""SQL for the name of the lock that a migration holds. Names of locks are the server's, and a server may have several databases."""
_ISOLATION = "READ-COMMITTED"
_VERIFYING_MODES = {MODES[Tls.AUTHORITY], MODES[Tls.HOST]}
_OTHER_CHARSETS = sa.text(
    "SELECT table_name, min(character_set_name) FROM information_schema.columns WHERE table_schema = DATABASE()"
    " AND table_name IN :tables AND character_set_name <> :charset GROUP BY table_name ORDER BY table_name"
).bindparams(sa.bindparam("tables", expanding=True))


class Mysql(MysqlStatements, Dialect):
    name = "mysql"
    driver = "mysql+pymysql"
    extra = "mysql"
    how_to_verify = "ssl-mode=VERIFY_IDENTITY (and, for a private authority, ssl-ca=FILE with its certificate)"
    rolls_back_ddl = False
    # On Galera a row lock is local to its node; only a write is certified on all nodes.
    writes_what_it_locks = True

    @override
    def engine_options(self, url: URL) -> dict[str, Any]:
        return {
            # At REPEATABLE READ the worker's gap locks would block the partners' INSERTs.
            "isolation_level": "READ COMMITTED",
            "connect_args": {
                "charset": CHARSET,
                "connect_timeout": self.connect_limit(url),
                "read_timeout": self.statement_seconds,
                "write_timeout": self.statement_seconds,
                "init_command": self._session(),
            },
        }

    @override
    def connect(self, driver: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return driver.connect(*arguments, **self._driver_options(dict(options)))

    def _driver_options(self, options: dict[str, Any]) -> dict[str, Any]:
        # SQLAlchemy gathers the files in `ssl`.
        mode, password, files = (
            options.pop("ssl_mode", None),
            options.pop("ssl_key_password", None),
            options.pop("ssl", {}),
        )
        if mode == MODES[Tls.OFF]:
            return {**options, "ssl_disabled": True}
        if mode in (None, MODES[Tls.PREFERRED]):
            return options
        return {**options, "ssl": _tls_context(mode, files, password)}

    def _session(self) -> str:
        variables = {
            "innodb_lock_wait_timeout": self.lock_seconds,
            # For a table's lock, which a migration takes: by default MySQL waits a year, with the partners' writes queued behind.
            "lock_wait_timeout": self.lock_seconds,
            # Otherwise a dispatcher that freezes within a transaction would keep its locks for hours.
            "wait_timeout": self.statement_seconds,
            "time_zone": "'+00:00'",
        }
        settings = ", ".join(f"{name} = {value}" for name, value in variables.items())
        # Only MariaDB executes this comment: MySQL's max_execution_time applies to SELECT only.
        return f"SET SESSION {settings} /*M! , max_statement_time = {self.statement_seconds} */"

    @override
    def prepare(self, engine: Engine) -> None:
        event.listen(engine, "begin", _begin)

    @override
    def unverified_host(self, url: URL) -> str | None:
        if url.query.get("ssl_mode") in _VERIFYING_MODES or "unix_socket" in url.query:
            return None
        return remote_host(url.host or "")

    @override
    def check_isolation(self, connection: Connection) -> str | None:
        levels: dict[str, str] = dict(
            connection.exec_driver_sql(
                "SHOW VARIABLES WHERE Variable_name IN ('tx_isolation', 'transaction_isolation')"
            ).all()
        )
        wrong = sorted(set(levels.values()) - {_ISOLATION})
        if not wrong:
            return None
        return (
            f"the database runs our transactions at {wrong[0]} although {_ISOLATION} was asked for:"
            " partners would wait for the dispatcher. Look at the proxy before the database, or its init_connect"
        )

    @override
    @contextmanager
    def migration(self, connection: Connection) -> Iterator[None]:
        # DDL commits implicitly here, so the lock belongs to the session and is held until the revision is committed.
        with connection.begin():
            lock = f"SELECT GET_LOCK({MIGRATION_LOCK}, {self.migration_seconds})"
            if connection.exec_driver_sql(lock).scalar() != 1:
                raise MigrationUnderWay
        try:
            with self._unlimited(connection), connection.begin():
                yield
        finally:
            with connection.begin():
                connection.exec_driver_sql(f"SELECT RELEASE_LOCK({MIGRATION_LOCK})")
                connection.exec_driver_sql(self._session())

    @contextmanager
    def _unlimited(self, connection: Connection) -> Iterator[None]:
        """Statements take as long as they need: to change a CHECK, the server copies the table. The wait for its lock stays limited."""
        driver: Any = connection.connection.driver_connection
        read_timeout, driver._read_timeout = driver._read_timeout, None  # PyMySQL offers no public way
        try:
            with connection.begin():
                connection.exec_driver_sql(
                    f"SET SESSION lock_wait_timeout = {self.lock_seconds} /*M! , max_statement_time = 0 */"
                )
            yield
        finally:
            driver._read_timeout = read_timeout

    @override
    def check_writes(self, connection: Connection) -> str | None:
        names = ("read_only", "innodb_read_only", "super_read_only", "wsrep_ready")
        query = f"SHOW GLOBAL VARIABLES WHERE Variable_name IN {names[:3]}"
        read_only = [name for name, value in connection.exec_driver_sql(query).all() if value == "ON"]
        status = connection.exec_driver_sql(f"SHOW GLOBAL STATUS LIKE '{names[3]}'").all()
        if any(value == "OFF" for _, value in status) and self.is_cluster(connection):
            return "this node of the cluster is not ready (wsrep_ready is OFF)"
        return f"{read_only[0]} is on" if read_only else None

    @override
    def check_encoding(self, connection: Connection, tables: Collection[str]) -> tuple[str, str] | None:
        narrow = connection.execute(_OTHER_CHARSETS, {"tables": sorted(tables), "charset": CHARSET}).all()
        if narrow:
            listed = ", ".join(f"{table} ({charset})" for table, charset in narrow)
            convert = f"CONVERT TO CHARACTER SET {CHARSET} COLLATE {CHARSET}_bin"
            cure = " ".join(f"ALTER TABLE {table} {convert};" for table, _ in narrow)
            return f"the character set of these tables is not {CHARSET}: {listed}", f"run {cure}"
        charsets = connection.exec_driver_sql("SELECT @@character_set_client, @@character_set_results").one()
        if set(charsets) == {CHARSET}:
            return None
        return (
            f"the connection's character sets are {' and '.join(charsets)}, although {CHARSET} was asked for",
            "look at the server's init_connect and skip-character-set-client-handshake, and at the proxy before it",
        )

    @override
    def is_cluster(self, connection: Connection) -> bool:
        variables = connection.exec_driver_sql("SHOW VARIABLES LIKE 'wsrep_on'").all()
        return any(value == "ON" for _, value in variables)

    @override
    def is_denied(self, error: DBAPIError) -> bool:
        return _number(error) in _DENIED_ERRORS

    @override
    def grant(self, connection: Connection, table: str, privileges: Sequence[str], schema: str | None) -> str:
        database, account = connection.exec_driver_sql("SELECT DATABASE(), CURRENT_USER()").one()
        user, _, host = account.rpartition("@")
        return f"GRANT {', '.join(privileges)} ON `{database}`.{table} TO '{user}'@'{host}';"

    @override
    def is_overtaken(self, error: BaseException) -> bool:
        # The migration lock is local to one node of a cluster.
        return super().is_overtaken(error) or _number(error) in _OVERTAKEN_ERRORS

    @override
    def is_transient(self, error: BaseException) -> bool:
        return _number(error) in _TRANSIENT_ERRORS

    @override
    def is_lock_timeout(self, error: BaseException) -> bool:
        return _number(error) == _LOCK_TIMEOUT_ERROR

    @override
    def is_timeout(self, error: BaseException) -> bool:
        return _number(error) in _TIMEOUT_ERRORS

    @override
    def cut(self, connection: Any) -> None:
        connection._sock.shutdown(socket.SHUT_RDWR)  # PyMySQL offers no public way

    @override
    def is_read_only(self, error: BaseException) -> bool:
        return bool(error.args) and error.args[0] in _READ_ONLY_ERRORS


def _number(error: BaseException) -> object:
    """Returns the server's error number, or None."""
    arguments = error.orig.args if isinstance(error, DBAPIError) and error.orig else ()
    return next(iter(arguments), None)


def _tls_context(mode: str, files: dict[str, str], key_password: str | None) -> ssl.SSLContext:
    """Returns a context for PyMySQL, whose own parameters cannot verify a host against the authorities that this machine trusts."""
    context = ssl.create_default_context(cafile=files.get("ca"), capath=files.get("capath"))
    # The certificates that MySQL makes for itself do not pass this; Python has it on since 3.13.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = mode == MODES[Tls.HOST]
    if mode not in _VERIFYING_MODES:
        context.verify_mode = ssl.CERT_NONE
    if "cert" in files:
        context.load_cert_chain(files["cert"], files.get("key"), key_password)
    if "cipher" in files:
        context.set_ciphers(files["cipher"])
    return context


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if (seconds := options.get("statement_seconds")) is not None:
        # MariaDB executes the first comment only, MySQL the second, whose limit is in milliseconds and applies to SELECT only.
        limits = f"/*M! , max_statement_time = {seconds} */ /*!80000 , max_execution_time = {1_000 * seconds} */"
        connection.exec_driver_sql(f"SET SESSION time_zone = '+00:00' {limits}")
    if options.get("refuses_writes"):
        connection.exec_driver_sql("START TRANSACTION READ ONLY")
