"""The bell: on PostgreSQL, a partner's commit can wake a dispatcher that sleeps. Nothing rests on it: polling goes on underneath.

NOTIFY in every commit would make all writers queue for one lock of the server. So a dispatcher that sleeps holds an advisory lock,
which the trigger on the outbox only tries, until its transaction ends; it notifies if it cannot have it, that is, while somebody
sleeps. Who could have it was not noticed as a sleeper is: that dispatcher looks once more after it has armed the notifier.
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
ANSWER_SECONDS = 5.0
"""Seconds for one statement; after that the connection counts as broken."""

# The lock has two keys: this, and the oid of the outbox, so that dispatchers of different schemas do not mix.
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
  -- A dispatcher that sleeps holds this lock. While none does, nobody is notified, which would make commits queue.
  IF NOT pg_catalog.pg_try_advisory_xact_lock_shared({lock}, TG_RELID::pg_catalog.int4) THEN
    PERFORM pg_catalog.pg_notify('vercel_outbox_' || TG_RELID::pg_catalog.text, '');
  END IF;
  RETURN NULL;
END
$wakeup$;
DROP TRIGGER IF EXISTS {trigger} ON {prefix}{table};
CREATE TRIGGER {trigger} AFTER INSERT ON {prefix}{table}
  FOR EACH STATEMENT EXECUTE FUNCTION {prefix}{trigger}();
"""


class NotifierUnavailable(Exception):
    """There is no notifier, or it broke. The text is one line that says why and what to do; it holds no secret."""


def trigger_sql(schema: str | None = None) -> str:
    """The trigger that rings, for PostgreSQL 13 and newer."""
    prefix = f'"{schema}".' if schema else ""
    return _SQL.format(prefix=prefix, trigger=TRIGGER, lock=_LOCK, table=outbox.name)


class Notifier:
    """One connection that listens. Its methods raise NotifierUnavailable; then it can only be closed."""

    def __init__(self, connection: "AsyncConnection[Any]", table: str, oid: int) -> None:
        self._connection = connection
        self._table = table
        self._oid = oid
        self.armed = False
        """Whether we hold the lock: whoever commits now rings."""

    @classmethod
    async def connect(cls, database: Database) -> "Notifier":
        """Listens from now on. Raises NotifierUnavailable also if there is no trigger, or something between us and the database."""
        from psycopg import AsyncConnection

        _, arguments = database.engine.dialect.create_connect_args(database.engine.url)
        options = database.dialect.engine_options(database.engine.url)["connect_args"]
        with _broken():
            connection = await AsyncConnection.connect(**{**arguments, **options})
        table = f'"{database.schema}".{outbox.name}' if database.schema else outbox.name
        try:
            return await cls._listen(connection, table)
        except BaseException:
            await connection.close()
            raise

    @classmethod
    async def _listen(cls, connection: "AsyncConnection[Any]", table: str) -> "Notifier":
        notifier = cls(connection, table, 0)
        backend, oid, has_trigger = await notifier._ask(_LOOK, table, TRIGGER, table)
        if backend != connection.info.backend_pid:
            raise NotifierUnavailable(
                "a pooler such as pgbouncer stands before the database, and notifications do not come through it: "
                "connect directly, or set DISPATCHER_WAKEUP=poll"
            )
        if not has_trigger:
            raise NotifierUnavailable(
                f"the outbox has no trigger {TRIGGER}: run what `dispatcher schema --dialect postgresql --wakeup` prints"
            )
        notifier._oid = oid
        with _broken():
            async with asyncio.timeout(ANSWER_SECONDS):
                await connection.execute(f"LISTEN vercel_outbox_{oid}")
        return notifier

    async def arm(self) -> bool:
        """Whether it worked: it does not while a transaction that has inserted events is open, or while another sleeps."""
        (self.armed,) = await self._ask(_ARM, self._oid)
        return self.armed

    async def is_armed_by_another(self) -> bool:
        """Whether another dispatcher sleeps. Then we are woken as well, and until it sleeps again it is awake."""
        (armed,) = await self._ask(_IS_ARMED, self._oid)
        return bool(armed)

    async def disarm(self) -> None:
        """We are awake, nobody need ring."""
        if self.armed:
            self.armed = False
            await self._ask(_DISARM, self._oid)

    async def wait(self, seconds: float) -> bool:
        """Whether it rings within so many seconds; returns as soon as it does."""
        with _broken():
            async with aclosing(self._connection.notifies(timeout=seconds, stop_after=1)) as notifications:
                async for _ in notifications:
                    return True
        # A connection that broke without a word would stay silent for ever; and the tables may have been made anew.
        (oid,) = await self._ask(f"SELECT {_TABLE}", self._table)
        if oid != self._oid:
            raise NotifierUnavailable("the outbox is not the table that it was")
        return False

    async def close(self) -> None:
        """Whoever commits afterwards does not ring for us."""
        await self._connection.close()

    async def _ask(self, statement: str, *parameters: object) -> tuple[Any, ...]:
        with _broken():
            async with asyncio.timeout(ANSWER_SECONDS):
                # Encoded, for psycopg takes a str only if it is a literal; ours are put together from constants.
                row = await (await self._connection.execute(statement.encode(), parameters)).fetchone()
        return row or ()


@contextmanager
def _broken() -> Iterator[None]:
    """The one map of what can go wrong on the connection."""
    from psycopg import Error

    try:
        yield
    except TimeoutError:
        raise NotifierUnavailable("the database did not answer in time") from None
    except (Error, OSError) as error:
        raise NotifierUnavailable(next(iter(str(error).splitlines()), type(error).__name__)) from None
