"""Transactions: time limits and isolation take effect, and a conflict retries the whole transaction. Real conflicts, no mocks."""

import asyncio
import threading
from collections.abc import Iterator

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from dispatcher import store
from dispatcher.credentials.sources import StaticCredentials
from dispatcher.database.engine import open_engine
from dispatcher.database.errors import is_unreachable
from dispatcher.database.mysql import Mysql
from dispatcher.database.transactions import Database, UnusableIsolation
from dispatcher.outbox.tables import delivery, installation, outbox
from dispatcher.service.drain import drain
from dispatcher.settings.settings import Settings
from dispatcher.transport.portable import HttpxTransport
from dispatcher.vercel.client import Vercel
from dispatcher.worker.worker import Worker
from tests.contract.databases import on_mysql, on_postgresql, on_servers, on_sqlite
from tests.contract.steps import (
    DEADLINE_SECONDS,
    claim,
    count,
    in_background,
    is_waited_for_a_lock,
    until,
    write,
)

pytestmark = pytest.mark.varies

ENDLESS_SECONDS = 3_600
"""Longer than any test waits: a statement that ends earlier was cancelled."""


def limited(database: Database, monkeypatch: pytest.MonkeyPatch, limit: str, seconds: int) -> Database:
    """Opens the same database with this one limit shortened: with all of them short, a busy machine would exceed the others."""
    monkeypatch.setattr(type(database.dialect), limit, seconds)
    engine = open_engine(database.engine.url.render_as_string(hide_password=False), database.schema)
    return Database(engine, database.dialect, database.schema, max_tries=100)


@pytest.fixture
def hasty(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Waits only briefly for a lock."""
    opened = limited(database, monkeypatch, "lock_seconds", 1)
    yield opened
    opened.close()


@pytest.fixture
def brief(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Cancels a statement, or an idle transaction, soon."""
    opened = limited(database, monkeypatch, "statement_seconds", 4)
    yield opened
    opened.close()


def add_installations(database: Database, *ids: str) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.insert(installation), [{"installation_id": id_} for id_ in ids])


def touch(connection: Connection, id_: str) -> None:
    row = sa.update(installation).where(installation.c.installation_id == id_)
    connection.execute(row.values(failures=installation.c.failures + 1))


def failures(database: Database) -> dict[str, int]:
    with database.read() as connection:
        rows = connection.execute(sa.select(installation.c.installation_id, installation.c.failures))
        return {row.installation_id: row.failures for row in rows}


# time limits ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@on_servers
def test_a_statement_that_takes_too_long_is_ended(brief: Database) -> None:
    sleep = "pg_sleep" if brief.dialect.name == "postgresql" else "SLEEP"
    with pytest.raises(DBAPIError), brief.engine.begin() as connection:
        connection.exec_driver_sql(f"SELECT {sleep}({ENDLESS_SECONDS})")


def test_who_waits_for_a_row_gives_up(hasty: Database, database: Database, partner: Engine) -> None:
    hasty.max_tries = 2
    add_installations(database, "a")
    with partner.begin() as holder:
        touch(holder, "a")
        with (
            in_background(lambda: hasty.transact(lambda connection: touch(connection, "a"))) as waiting,
            pytest.raises(DBAPIError) as failed,
        ):
            waiting.result(DEADLINE_SECONDS)
    assert hasty.dialect.is_transient(failed.value)


@on_mysql
def test_who_waits_for_a_table_gives_up(hasty: Database, database: Database) -> None:
    """MySQL has a separate limit for table locks: a year by default."""
    with database.engine.begin() as holder:
        holder.execute(sa.select(outbox)).all()
        with pytest.raises(DBAPIError) as failed, hasty.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE vercel_outbox COMMENT 'x'")
    assert hasty.dialect.is_transient(failed.value)


@on_servers
def test_a_dispatcher_that_freezes_within_a_transaction_keeps_its_locks_for_a_limited_time(
    brief: Database, database: Database, partner: Engine
) -> None:
    add_installations(database, "a")
    with brief.engine.connect() as frozen:
        frozen.begin()
        touch(frozen, "a")
        with partner.begin() as waiting:  # without a limit
            touch(waiting, "a")
        frozen.invalidate()
    assert failures(database) == {"a": 1}


# isolation ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_service_is_content_with_the_isolation_that_it_asked_for(database: Database) -> None:
    database.check_isolation()


@on_mysql
async def test_the_service_refuses_to_start_at_another_isolation(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a proxy that resets the session's settings."""
    options = Mysql().engine_options(database.engine.url)
    repeatable = {**options, "isolation_level": "REPEATABLE READ"}
    monkeypatch.setattr(Mysql, "engine_options", lambda *_: repeatable)
    url = SecretStr(database.engine.url.render_as_string(hide_password=False))
    settings = Settings(database_url=url, vercel_token=SecretStr("t0ken"))
    with pytest.raises(UnusableIsolation, match="REPEATABLE-READ although READ-COMMITTED"):
        await drain(settings)


# connections ──────────────────────────────────────────────────────────────────────────────────────────────────────────

SESSION = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}
END = {"postgresql": "SELECT pg_terminate_backend({})", "mysql": "KILL {}"}
SESSIONS = {
    "postgresql": "SELECT 1 FROM pg_stat_activity WHERE pid = {}",
    "mysql": "SELECT 1 FROM information_schema.processlist WHERE id = {}",
}


@pytest.mark.parametrize("server", ["postgresql", "mysql"], indirect=True)
@pytest.mark.parametrize("idle_seconds", [0.0, 3_600.0])
def test_a_connection_that_the_server_closed_while_it_was_idle_is_replaced(
    database: Database, partner: Engine, idle_seconds: float
) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    database = Database(open_engine(url, database.schema, idle_seconds=idle_seconds), database.dialect, database.schema)
    with database.read() as connection:
        session = connection.exec_driver_sql(SESSION[database.dialect.name]).scalar_one()
    end, is_there = (said[database.dialect.name].format(session) for said in (END, SESSIONS))

    def has_ended() -> bool:
        with partner.connect() as connection:
            return connection.exec_driver_sql(is_there).first() is None

    with partner.connect() as connection:
        connection.exec_driver_sql(end)
    until(has_ended)
    if idle_seconds:  # not pinged: the first use fails, the next gets a new connection
        with pytest.raises(DBAPIError) as raised:
            database.now()
        assert is_unreachable(raised.value)
    assert database.now().year > 2000
    database.close()


# conflicts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def code_of(error: BaseException) -> object:
    """Returns the database's own code of an error."""
    original = getattr(error, "orig", None)
    number = original.args[0] if original is not None else None
    if isinstance(number, int):
        return number
    return getattr(original, "sqlstate", None) or getattr(original, "sqlite_errorname", None)


@pytest.fixture
def refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Collects the codes of the errors that `transact` judged."""
    codes: list[object] = []
    is_transient = type(database.dialect).is_transient

    def watch(_dialect: object, error: BaseException) -> bool:
        codes.append(code_of(error))
        return is_transient(database.dialect, error)

    monkeypatch.setattr(type(database.dialect), "is_transient", watch)
    return codes


@on_servers
def test_the_victim_of_a_deadlock_tries_its_whole_transaction_again(
    database: Database, partner: Engine, refused: list[object]
) -> None:
    add_installations(database, "a", "b", *"cdefgh")
    has_a = threading.Event()

    def step(connection: Connection) -> None:
        touch(connection, "a")
        has_a.set()
        if not refused:
            until(lambda: is_waited_for_a_lock(database))
        touch(connection, "b")  # completes the cycle

    with partner.begin() as other:
        if (
            database.dialect.name == "postgresql"
        ):  # PostgreSQL cancels the session that looks for a cycle, so only the victim may look
            other.exec_driver_sql("SET LOCAL deadlock_timeout = '1h'")
        for id_ in "bcdefgh":  # MySQL cancels the transaction that has written less
            touch(other, id_)
        with in_background(lambda: database.transact(step)) as victim:
            assert has_a.wait(DEADLINE_SECONDS)
            touch(other, "a")
            other.commit()
            victim.result(DEADLINE_SECONDS)
    assert refused == ["40P01" if database.dialect.name == "postgresql" else 1213]
    assert (failures(database)["a"], failures(database)["b"]) == (2, 2)


@on_servers
def test_a_lock_that_came_too_late_is_waited_for_again_with_the_whole_transaction(
    hasty: Database, database: Database, partner: Engine, refused: list[object]
) -> None:
    add_installations(database, "a", "b")

    def step(connection: Connection) -> None:
        touch(connection, "a")
        touch(connection, "b")

    with partner.begin() as holder:
        touch(holder, "b")
        with in_background(lambda: hasty.transact(step)) as waiting:
            until(lambda: refused)
            holder.commit()
            waiting.result(DEADLINE_SECONDS)
    assert set(refused) == {"55P03" if database.dialect.name == "postgresql" else 1205}
    assert failures(database) == {"a": 1, "b": 2}


@on_postgresql
def test_a_serialization_failure_is_tried_again(database: Database, refused: list[object]) -> None:
    """Not possible at READ COMMITTED, but some databases with PostgreSQL's protocol offer no other level than SERIALIZABLE."""
    add_installations(database, "a")
    engine = database.engine.execution_options(isolation_level="REPEATABLE READ")
    tries: list[int] = []

    def step(connection: Connection) -> None:
        connection.execute(sa.select(installation)).all()
        if not tries:
            with database.engine.begin() as other:
                touch(other, "a")
        tries.append(1)
        touch(connection, "a")

    Database(engine, database.dialect, database.schema).transact(step)
    assert (refused, len(tries)) == (["40001"], 2)
    assert failures(database) == {"a": 2}


@on_postgresql
def test_a_collection_that_had_to_be_repeated_says_so(
    database: Database, partner: Engine, refused: list[object]
) -> None:
    """As on Galera, where another node commits in between."""
    with partner.begin() as connection:
        write(connection, "db_1", installation_id="a")
    assert not store.collect(database, 9).contended
    with partner.begin() as connection:
        write(connection, "db_1", installation_id="a")
    engine = database.engine.execution_options(isolation_level="REPEATABLE READ")

    def interfere(_conn: object, _cursor: object, statement: str, *_others: object) -> None:
        if "INSERT INTO" in statement and installation.name in statement and not refused:
            with database.engine.begin() as other:
                touch(other, "a")

    sa.event.listen(database.engine, "before_cursor_execute", interfere)
    collected = store.collect(Database(engine, database.dialect, database.schema), 9)
    sa.event.remove(database.engine, "before_cursor_execute", interfere)
    assert (collected.events, collected.contended, refused) == (1, True, ["40001"])


@on_sqlite
def test_a_busy_database_is_asked_again(hasty: Database, database: Database, refused: list[object]) -> None:
    add_installations(database, "a")
    with database.engine.begin() as holder:
        touch(holder, "a")
        with in_background(lambda: hasty.transact(lambda connection: touch(connection, "a"))) as waiting:
            until(lambda: refused)
            holder.commit()
            waiting.result(DEADLINE_SECONDS)
    assert set(refused) == {"SQLITE_BUSY"}
    assert failures(database) == {"a": 2}


def test_what_is_no_conflict_is_not_tried_again(database: Database, refused: list[object]) -> None:
    tries = []

    def step(connection: Connection) -> None:
        tries.append(1)
        connection.execute(sa.insert(installation).values(installation_id=None))

    with pytest.raises(DBAPIError):
        database.transact(step)
    assert (len(tries), len(refused)) == (1, 1)


# requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

ALONE = {
    "postgresql": ["LOCK TABLE {0}vercel_outbox, {0}vercel_delivery, {0}vercel_installation NOWAIT"],
    "mysql": [
        "SET SESSION lock_wait_timeout = 1",
        "LOCK TABLES vercel_outbox WRITE, vercel_delivery WRITE, vercel_installation WRITE",
        "UNLOCK TABLES",
    ],
    "sqlite": ["PRAGMA busy_timeout = 100", "BEGIN EXCLUSIVE"],
}
"""Succeeds only while no open transaction has touched the tables."""


async def test_no_request_is_made_inside_a_transaction(database: Database, partner: Engine) -> None:
    with partner.begin() as connection:
        write(connection, "db_1", "db_2")
    alone = []

    async def receive(_request: httpx.Request) -> httpx.Response:
        with partner.connect() as connection:
            for statement in ALONE[database.dialect.name]:
                connection.exec_driver_sql(statement.format(f"{database.schema}." if database.schema else ""))
            connection.rollback()
        alone.append(database.engine.pool.checkedout())  # type: ignore[attr-defined]  # QueuePool has it
        return httpx.Response(201)

    settings = Settings(vercel_token=SecretStr("t0ken"))
    vercel = Vercel("https://vercel.test", HttpxTransport(httpx.MockTransport(receive)), settings.request_timeout)
    token = StaticCredentials(SecretStr("t0ken"))
    worker = Worker(database, vercel, token, settings, lambda _report: None, name="one")
    await worker.tick()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(alone) < 2:
            await asyncio.sleep(0.01)
    await worker.stop(DEADLINE_SECONDS)
    worker.close()
    assert alone == [0, 0]
    assert [count(database, table) for table in (outbox, delivery)] == [0, 0]
    assert claim(database) == ()


@on_postgresql
def test_no_statement_is_compiled(database: Database) -> None:
    """A plan that must avoid scans has a cost above the threshold for JIT compilation, which takes 100 times as long as the query."""
    with database.read() as reading, database.engine.begin() as writing:
        assert [one.exec_driver_sql("SHOW jit").scalar_one() for one in (reading, writing)] == ["off", "off"]
