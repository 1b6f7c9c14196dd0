"""The interface to one family of databases: everything in which PostgreSQL, MySQL/MariaDB and SQLite differ."""

from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from sqlalchemy import URL, Connection, Engine, Executable
from sqlalchemy.exc import DBAPIError

from dispatcher.database.statements import Statements
from dispatcher.database_url.address import Address
from dispatcher.policy.hosts import is_local


def remote_host(hosts: str) -> str | None:
    """Returns the first of these comma-separated hosts that is neither this machine nor the path of a socket."""
    return next((host for host in hosts.split(",") if host and host[0] not in "/@" and not is_local(host)), None)


class MigrationUnderWay(Exception):
    """Another program is migrating this database and did not finish within `Dialect.migration_seconds`."""

    def __init__(self, holder: str | None = None) -> None:
        """`holder` describes the session that holds the lock, if it is known."""
        super().__init__()
        self.holder = holder


class Dialect(Statements):
    """One family of databases. The class attributes are its limits."""

    name: ClassVar[str]
    driver: ClassVar[str]
    """SQLAlchemy's name of the driver."""
    how_to_verify: ClassVar[str] = ""
    """The URL parameter that makes the driver verify the server's certificate."""
    extra: ClassVar[str | None]
    """The extra of this package that installs the driver."""
    connect_seconds: ClassVar[int] = 5
    """Limit for opening a connection, unless the URL has a `connect_timeout`."""
    max_connect_seconds: ClassVar[int] = 30
    lock_seconds: ClassVar[int] = 2
    """Limit for waiting for a locked row or table; on SQLite, for the whole database."""
    statement_seconds: ClassVar[int] = 30
    """Limit for one statement, and for a pause within a transaction."""
    migration_seconds: ClassVar[float] = 29
    """Limit for waiting until another migration ends; must be less than `statement_seconds`."""
    rolls_back_ddl: ClassVar[bool] = True
    """Whether DDL is transactional: an interrupted migration leaves nothing behind."""
    writes_what_it_locks: ClassVar[bool] = False
    """Whether a row lock is effective only if the row is changed as well."""
    writes_in_parallel: ClassVar[bool] = True
    """Whether several connections can write at the same time."""
    chains_writes: ClassVar[bool] = False
    """Whether a statement can change rows and go on with them, for example insert elsewhere what it deletes."""
    max_collected: ClassVar[int] = 2_000
    """Events that one collection moves at most: a statement costs about the same for one row as for many."""
    max_claimed: ClassVar[int] = 512
    """Installations that one claim leases at most."""
    max_settled: ClassVar[int] = 2_000
    """Answers that one settlement writes at most."""

    @abstractmethod
    def engine_options(self, url: URL) -> dict[str, Any]:
        """Returns arguments of `create_engine`: isolation, time limits, and driver features that must be off."""

    def parameters(self, address: Address) -> dict[str, str]:
        """Returns the parameters of the address as they are to stand in SQLAlchemy's URL."""
        return dict(address.parameters)

    def connect(self, driver: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Returns a new connection of the driver with what SQLAlchemy took from its URL. Raises OSError if that names a bad file."""
        return driver.connect(*arguments, **options)

    def is_bad_parameter(self, error: BaseException) -> bool:
        """Whether the driver's error means that it does not know a parameter."""
        return False

    def connect_limit(self, url: URL) -> int:
        """Returns the limit for opening a connection, in seconds: ours, or that of the URL up to `max_connect_seconds`."""
        asked = url.query.get("connect_timeout")
        return min(int(str(asked or 0)), self.max_connect_seconds) or self.connect_seconds

    def defer(self, connection: Connection, statement: Executable, parameters: dict[str, Any]) -> None:
        """Executes a statement whose result nobody needs; where the driver can, together with the next one or the COMMIT, which then
        raises its error.
        """
        connection.execute(statement, parameters)

    @abstractmethod
    def prepare(self, engine: Engine) -> None:
        """Registers the listeners that set up each new connection or transaction."""

    def unverified_host(self, url: URL) -> str | None:
        """Returns the remote host that would be trusted without verifying its certificate, or None."""
        return None

    def missing_file(self, url: URL) -> str | None:
        """Returns the path of an embedded database that does not exist yet (connecting would create it), or None."""
        return None

    def check_isolation(self, connection: Connection) -> str | None:
        """Returns what is wrong with this connection's isolation level, or None."""
        return None

    def is_cluster(self, connection: Connection) -> bool:
        """Whether other nodes accept writes too: their row locks are invisible to this one."""
        return False

    def check_writes(self, connection: Connection) -> str | None:
        """Returns why this server is read-only, or None."""
        return None

    def check_durability(self, connection: Connection) -> str | None:
        """Returns what is wrong with the durability of commits, or None."""
        return None

    def check_encoding(self, connection: Connection, tables: Collection[str]) -> tuple[str, str] | None:
        """Returns what cannot hold every character (the database, these tables or the connection) and the remedy, or None."""
        return None

    def check_connection(self, connection: Any) -> str | None:
        """Returns why this new connection of the driver cannot be used, or None."""
        return None

    def is_denied(self, error: DBAPIError) -> bool:
        """Whether the error means that the database user lacks a privilege."""
        return False

    @abstractmethod
    def grant(self, connection: Connection, table: str, privileges: Sequence[str], schema: str | None) -> str:
        """Returns the SQL that the owner of the tables must run to give this connection's user the privileges."""

    def grant_to_create(self, connection: Connection, schema: str | None) -> str | None:
        """Returns the SQL that lets this user create tables, and the schema if it is missing; None if it may already, or if that is
        unknown.
        """
        return None

    def lacks_schema(self, connection: Connection, schema: str | None) -> bool:
        """Whether the database has no schema of this name."""
        return False

    @contextmanager
    def migration(self, connection: Connection) -> Iterator[None]:
        """Runs one migration at a time, in a transaction without the worker's time limits. Raises MigrationUnderWay."""
        with connection.begin():
            yield

    def is_overtaken(self, error: BaseException) -> bool:
        """Whether another session was in the way of a migration: the caller inspects the schema again, and continues."""
        return self.is_transient(error)

    @abstractmethod
    def is_transient(self, error: BaseException) -> bool:
        """Whether to retry the whole transaction: serialization failure, deadlock, lock timeout, busy."""

    def is_lock_timeout(self, error: BaseException) -> bool:
        """Whether the wait for a locked row or table exceeded `lock_seconds`."""
        return False

    @abstractmethod
    def is_timeout(self, error: BaseException) -> bool:
        """Whether a statement was ended because it took too long; its connection can still be used."""

    @abstractmethod
    def cut(self, connection: Any) -> None:
        """Interrupts whatever another thread is waiting for on this driver connection, which is unusable afterwards."""

    def is_read_only(self, error: BaseException) -> bool:
        """Whether this driver's error means that the server is read-only; after a failover the same address may lead to another."""
        return False
