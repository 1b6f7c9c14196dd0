"""The notifier: on PostgreSQL, a partner's commit can wake a sleeping dispatcher. An optimization only: polling continues regardless.

NOTIFY in every commit would serialize all writers on one lock of the server. So a dispatcher holds an advisory lock while it sleeps,
and the trigger on the outbox tries to take the same lock until the end of its transaction. It notifies only if that fails, which means
that a dispatcher is asleep. If the trigger gets the lock, no dispatcher sleeps, and none is notified. A dispatcher about to sleep may have
missed that commit, so it looks once more after taking the lock.
"""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import outbox

if TYPE_CHECKING:
    from psycopg import AsyncConnection

TRIGGER = "vercel_outbox_wakeup"
_CHANNEL = "vercel_outbox_"
"""Prefix of the channel; the oid of the outbox follows."""
ANSWER_SECONDS = 5.0

# The lock has two keys: this, and the oid of the outbox, so that dispatchers of different schemas do not interfere.
_LOCK = int.from_bytes(b"verc")
_TABLE = "pg_catalog.to_regclass(%s)::oid"
_ARM = f"SELECT pg_catalog.pg_try_advisory_lock({_LOCK}, %s::oid::int4)"
_DISARM = f"SELECT pg_catalog.pg_advisory_unlock({_LOCK}, %s::oid::int4)"
_IS_ARMED = f"""
SELECT EXISTS (SELECT FROM pg_catalog.pg_locks JOIN pg_catalog.pg_database d ON d.oid = database
WHERE d.datname = current_database() AND locktype = 'advisory' AND classid = {_LOCK} AND objid = %s::oid
AND objsubid = 2 AND mode = 'ExclusiveLock' AND granted)"""  # noqa: S608 (a number of our own)
_LOOK = f"SELECT pg_backend_pid(), {_TABLE}, EXISTS (SELECT FROM pg_trigger WHERE tgname = %s AND tgrelid = {_TABLE})"  # noqa: S608 (our own)

_SQL = """\
-- Wakes a dispatcher that runs with DISPATCHER_WAKEUP=notify when a transaction that inserted events commits.
-- Not for applications that use PREPARE TRANSACTION: PostgreSQL refuses it to a transaction that notifies.
CREATE OR REPLACE FUNCTION {prefix}{trigger}() RETURNS trigger LANGUAGE plpgsql AS $wakeup$
BEGIN
  -- A dispatcher that sleeps holds this lock. If none does, no notification is sent: it would make commits queue.
  IF NOT pg_catalog.pg_try_advisory_xact_lock_shared({lock}, TG_RELID::pg_catalog.int4) THEN
    PERFORM pg_catalog.pg_notify('{channel}' || TG_RELID::pg_catalog.text, '');
  END IF;
  RETURN NULL;
END
$wakeup$;
DROP TRIGGER IF EXISTS {trigger} ON {prefix}{table};
CREATE TRIGGER {trigger} AFTER INSERT ON {prefix}{table}
  FOR EACH STATEMENT EXECUTE FUNCTION {prefix}{trigger}();
"""


class NotifierUnavailable(Exception):
    """The notifier cannot be set up, or it broke. The message is one line that says why and what to do, without secrets."""


def trigger_sql(schema: str | None = None) -> str:
    """Returns the SQL of the trigger that notifies, for PostgreSQL 13 and newer."""
    prefix = f'"{schema}".' if schema else ""
    return _SQL.format(prefix=prefix, trigger=TRIGGER, channel=_CHANNEL, lock=_LOCK, table=outbox.name)


class Notifier:
    """One connection that listens. After a method has raised NotifierUnavailable, it can only be closed."""

    def __init__(self, connection: "AsyncConnection[Any]", table: str, answer_seconds: float) -> None:
        self._connection = connection
        self._answer_seconds = answer_seconds
        self._table = table
        self._oid = 0
        self.armed = False
        """Whether we hold the lock, so that commits notify us."""

    @classmethod
    async def connect(cls, database: Database, answer_seconds: float = ANSWER_SECONDS) -> "Notifier":
        """Connects and starts to listen. A connection that takes longer than `answer_seconds` for a statement counts as broken.

        Raises NotifierUnavailable also if the trigger is missing, or if a pooler is in between.
        """
        from psycopg import AsyncConnection

        _, arguments = database.engine.dialect.create_connect_args(database.engine.url)
        options = database.dialect.engine_options(database.engine.url)["connect_args"]
        with _translated_errors():
            connection = await AsyncConnection.connect(**{**arguments, **options})
        table = f'"{database.schema}".{outbox.name}' if database.schema else outbox.name
        try:
            return await cls._listen(connection, table, answer_seconds)
        except BaseException:
            await connection.close()
            raise

    @classmethod
    async def _listen(cls, connection: "AsyncConnection[Any]", table: str, answer_seconds: float) -> "Notifier":
        notifier = cls(connection, table, answer_seconds)
        backend, oid, has_trigger = await notifier._fetch(_LOOK, table, TRIGGER, table)
        if backend != connection.info.backend_pid:
            raise NotifierUnavailable(
                "a pooler such as pgbouncer is in front of the database, and does not pass notifications through: "
                "connect directly, or set DISPATCHER_WAKEUP=poll"
            )
        if not has_trigger:
            raise NotifierUnavailable(
                f"the outbox has no trigger {TRIGGER}: run what `dispatcher schema --dialect postgresql --wakeup` prints"
            )
        notifier._oid = oid
        with _translated_errors():
            async with asyncio.timeout(answer_seconds):
                await connection.execute(f"LISTEN {_CHANNEL}{oid}")
        return notifier

    async def arm(self) -> bool:
        """Tries to take the lock; returns whether it succeeded.

        It fails while a transaction that has inserted events is open, and while another dispatcher sleeps.
        """
        (self.armed,) = await self._fetch(_ARM, self._oid)
        return self.armed

    async def is_armed_by_another(self) -> bool:
        """Whether another dispatcher sleeps. While it holds the lock, commits notify us as well."""
        (armed,) = await self._fetch(_IS_ARMED, self._oid)
        return bool(armed)

    async def disarm(self) -> None:
        """Releases the lock: we are awake, commits need not notify."""
        if self.armed:
            self.armed = False
            await self._fetch(_DISARM, self._oid)

    async def wait(self, seconds: float) -> bool:
        """Waits for a notification; returns whether one arrived within this many seconds."""
        with _translated_errors():
            async with aclosing(self._connection.notifies(timeout=seconds, stop_after=1)) as notifications:
                async for _ in notifications:
                    return True
        # A silently broken connection would stay silent forever; and the tables may have been recreated.
        (oid,) = await self._fetch(f"SELECT {_TABLE}", self._table)
        if oid != self._oid:
            raise NotifierUnavailable("the outbox table was dropped and created again")
        return False

    async def close(self) -> None:
        """Closes the connection, which releases the lock: later commits do not notify us."""
        await self._connection.close()

    async def _fetch(self, statement: str, *parameters: object) -> tuple[Any, ...]:
        with _translated_errors():
            async with asyncio.timeout(self._answer_seconds):
                # Encoded, because psycopg's types accept a str only if it is a literal, and ours are built from constants.
                row = await (await self._connection.execute(statement.encode(), parameters)).fetchone()
        return row or ()


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Translates every error of the connection."""
    from psycopg import Error

    try:
        yield
    except TimeoutError:
        raise NotifierUnavailable("the database did not answer in time") from None
    except (Error, OSError) as error:
        raise NotifierUnavailable(next(iter(str(error).splitlines()), type(error).__name__)) from None
