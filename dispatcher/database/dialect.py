"""What the worker needs of a database, whichever it is.

Its statements are set-based: they take a whole batch as one JSON parameter (`:rows`), which each database unfolds into a table
`r`. So a batch costs one round trip, and the text of a statement never changes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import URL, Column, ColumnElement, Connection, Engine, Executable, Select, Subquery, Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from dispatcher.database.hosts import is_local
from dispatcher.outbox.columns import Timestamp

Assignments = Callable[[Any], dict[str, ColumnElement[Any]]]


def remote_host(hosts: str) -> str | None:
    """The first of these hosts, separated by commas, that is neither this machine nor a socket's path."""
    return next((host for host in hosts.split(",") if host and host[0] not in "/@" and not is_local(host)), None)


class MigrationUnderWay(Exception):
    """Another program has been migrating this database for as long as one waits."""

    def __init__(self, holder: str | None = None) -> None:
        """`holder`: the session that keeps the others waiting, if it is known."""
        super().__init__()
        self.holder = holder


class Dialect(ABC):
    """One subclass for each family of databases."""

    name: ClassVar[str]
    driver: ClassVar[str]
    """SQLAlchemy's name of the driver."""
    how_to_verify: ClassVar[str] = ""
    """The parameter of the URL that makes the driver verify the server's certificate."""
    extra: ClassVar[str | None]
    """The extra of this package that installs the driver."""
    connect_seconds: ClassVar[int] = 5
    """How long opening a connection may take."""
    lock_seconds: ClassVar[int] = 2
    """How long a step waits for a locked row or table; on SQLite, for the whole database."""
    statement_seconds: ClassVar[int] = 30
    """How long one statement, or a pause within a transaction, may take."""
    migration_seconds: ClassVar[float] = 29
    """How long a migration waits for another to end: less than one statement may take."""
    rolls_back_ddl: ClassVar[bool] = True
    """Whether a migration that breaks off leaves nothing behind."""
    writes_what_it_locks: ClassVar[bool] = False
    """Whether a row lock binds others only together with a change of the row."""
    max_collected: ClassVar[int] = 2_000
    """Events that one collection moves at most: a statement costs the same for many."""
    max_claimed: ClassVar[int] = 512
    """Installations that one claim leases at most."""
    max_settled: ClassVar[int] = 2_000
    """Answers that one settlement writes at most."""
    now: str
    """SQL for the database's clock. Constant within a statement, so that an index can serve a comparison with it."""

    def clock(self) -> ColumnElement[datetime]:
        """The database's clock as an expression."""
        return sa.literal_column(self.now, Timestamp())

    @abstractmethod
    def engine_options(self, url: URL) -> dict[str, Any]:
        """Arguments of `create_engine`: isolation, time limits, and what the driver must not do behind our back."""

    @abstractmethod
    def prepare(self, engine: Engine) -> None:
        """Listens on the engine for what each connection or transaction needs first."""

    def unverified_host(self, url: URL) -> str | None:
        """The host that a connection leaves this machine for without verifying the server's certificate; None if there is none."""
        return None

    def missing_file(self, url: URL) -> str | None:
        """The path of an embedded database that does not exist yet: whoever connects creates it."""
        return None

    def check_isolation(self, connection: Connection) -> str | None:
        """What is wrong with this connection's isolation level, or None."""
        return None

    def is_cluster(self, connection: Connection) -> bool:
        """Whether other nodes take writes as well, whose row locks this one does not see."""
        return False

    def check_writes(self, connection: Connection) -> str | None:
        """Why this server takes no writes, or None."""
        return None

    def check_durability(self, connection: Connection) -> str | None:
        """What is wrong with how this database keeps commits, or None."""
        return None

    def check_encoding(self, connection: Connection, tables: Collection[str]) -> tuple[str, str] | None:
        """What cannot hold every character (the database, some of these tables or the connection), and the cure; None if all can."""
        return None

    def check_connection(self, connection: Any) -> str | None:
        """Why this driver's new connection is of no use, or None."""
        return None

    def is_denied(self, error: DBAPIError) -> bool:
        """Whether the database's user lacks a privilege."""
        return False

    @abstractmethod
    def grant(self, connection: Connection, table: str, privileges: Sequence[str], schema: str | None) -> str:
        """What to run, as the tables' owner, so that this connection's user has the privileges."""

    def grant_to_create(self, connection: Connection, schema: str | None) -> str | None:
        """The same so that it may create tables; None if it may, or if nobody can tell."""
        return None

    @contextmanager
    def migration(self, connection: Connection) -> Iterator[None]:
        """One migration at a time, in a transaction without the worker's time limits. Raises MigrationUnderWay."""
        with connection.begin():
            yield

    def is_overtaken(self, error: BaseException) -> bool:
        """Whether another migration has just made what this one was about to make: so look again what there is."""
        return False

    @abstractmethod
    def is_transient(self, error: BaseException) -> bool:
        """Whether the whole transaction may be tried again: serialization failure, deadlock, lock timeout, busy."""

    def is_lock_timeout(self, error: BaseException) -> bool:
        """Whether somebody kept a row or a table locked for longer than one waits."""
        return False

    @abstractmethod
    def cut(self, connection: Any) -> None:
        """Ends what another thread waits for on this driver's connection, which is of no use afterwards."""

    def is_read_only(self, error: BaseException) -> bool:
        """Whether the driver says by this that the server takes no writes, at least no more: another may, behind the same address."""
        return False

    def instant(self, value: datetime) -> str:
        """A time as it stands in the JSON of `:rows`."""
        # Not strftime: it writes the year 44 as `44`, which databases read as 2044 or refuse.
        return value.astimezone(UTC).isoformat(" ", "microseconds")[: -len("+00:00")]

    def encode(self, rows: list[dict[str, Any]]) -> dict[str, str]:
        """The parameter `:rows`."""
        import orjson

        return {"rows": orjson.dumps(rows, self.instant, orjson.OPT_PASSTHROUGH_DATETIME).decode()}

    def rows(self, *columns: Column[Any]) -> Subquery:
        """`:rows` as a table `r` with the names and types of these columns."""
        types = {column.name: column.type for column in columns}
        return sa.text(self.unfold(types)).columns(**types).subquery("r")

    @abstractmethod
    def unfold(self, types: dict[str, TypeEngine[Any]]) -> str:
        """SELECT that turns the JSON of `:rows`, an array of objects, into a table."""

    @abstractmethod
    def latest(self, *values: ColumnElement[Any]) -> ColumnElement[Any]:
        """The last of some times, none of which is NULL."""

    def raw(self, column: Column[Any], max_characters: int) -> ColumnElement[Any]:
        """A partner-written column such that no value in it makes the whole batch fail; little more than `max_characters`."""
        return column

    @abstractmethod
    def raw_time(self, column: Column[Any]) -> ColumnElement[Any]:
        """A partner-written time as text in UTC, or NULL."""

    @abstractmethod
    def upsert(self, table: Table, source: Select[Any], assignments: Assignments) -> Executable:
        """INSERT … SELECT; a row whose key exists gets the assignments, which see the new row as their argument.

        One that they leave as it is, is locked all the same, but no new version of it is written.
        """

    @abstractmethod
    def update(
        self,
        table: Table,
        on: Sequence[Column[Any]],
        columns: Sequence[Column[Any]],
        copies: Sequence[tuple[Column[Any], Column[Any]]] = (),
    ) -> Executable:
        """Sets the columns from `:rows` where the `on` columns are equal; of `copies`, the first from the second of the same row."""

    @abstractmethod
    def delete(self, table: Table, on: Sequence[Column[Any]]) -> Executable:
        """Deletes the rows whose `on` columns are equal to those of a row in `:rows`."""

    @abstractmethod
    def first_due(self, delivery: Table, names: Sequence[str], installations: int) -> Executable:
        """These columns of the `:limit` deliveries that have been due longest, of each of so many installations."""

    @abstractmethod
    def first_due_parameters(self, installation_ids: Sequence[str]) -> dict[str, Any]:
        """What `first_due` is told about the installations."""
