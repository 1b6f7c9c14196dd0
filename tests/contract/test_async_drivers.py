"""The producer's side on connections of async drivers: awaited, the event is part of the transaction; otherwise it is refused."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiomysql
import aiosqlite
import asyncmy
import asyncpg
import psycopg
import pytest
from sqlalchemy import Engine

from dispatcher import NoTransaction, apublish, publish
from tests.contract.test_publisher import EVENTS, PUBLISHED, published

Kind = Callable[[Engine], AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def of_psycopg(partner: Engine) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(postgresql_url(partner), autocommit=True) as opened:
        yield opened


@asynccontextmanager
async def of_asyncpg(partner: Engine) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(postgresql_url(partner), statement_cache_size=0)
    yield opened
    await opened.close()


@asynccontextmanager
async def of_asyncpgs_pool(partner: Engine) -> AsyncIterator[Any]:
    async with (
        asyncpg.create_pool(postgresql_url(partner), min_size=1, max_size=1, statement_cache_size=0) as pool,
        pool.acquire() as opened,
    ):
        yield opened


@asynccontextmanager
async def of_aiosqlite(partner: Engine) -> AsyncIterator[Any]:
    async with aiosqlite.connect(str(partner.url.database), isolation_level=None) as opened:
        yield opened


@asynccontextmanager
async def of_aiomysql(partner: Engine) -> AsyncIterator[Any]:
    async with aiomysql.connect(**mysql_options(partner)) as opened:
        yield opened


@asynccontextmanager
async def of_asyncmy(partner: Engine) -> AsyncIterator[Any]:
    async with asyncmy.connect(**mysql_options(partner)) as opened:
        yield opened


def postgresql_url(partner: Engine) -> str:
    return partner.url.set(drivername="postgresql").render_as_string(hide_password=False)


def mysql_options(partner: Engine) -> dict[str, Any]:
    url = partner.url
    return {
        "host": url.host,
        "port": url.port or 3306,
        "user": url.username,
        "password": url.password or "",
        "db": url.database,
        "autocommit": True,
    }


async def execute(opened: Any, statement: str) -> None:
    """Executes a statement of the partner's."""
    if isinstance(opened, aiomysql.Connection | asyncmy.Connection):
        async with opened.cursor() as cursor:
            await cursor.execute(statement)
    else:
        await opened.execute(statement)


# Each connection is in autocommit mode until BEGIN.
on_every_driver = pytest.mark.parametrize(
    ("server", "kind"),
    [
        pytest.param("sqlite", of_aiosqlite, id="aiosqlite"),
        pytest.param("postgresql", of_psycopg, id="psycopg"),
        pytest.param("postgresql", of_asyncpg, id="asyncpg"),
        pytest.param("postgresql", of_asyncpgs_pool, id="asyncpg's pool"),
        pytest.param("mysql", of_aiomysql, id="aiomysql"),
        pytest.param("mysql", of_asyncmy, id="asyncmy"),
    ],
    indirect=["server"],
)


@on_every_driver
async def test_an_awaited_event_is_part_of_the_transaction(partner: Engine, kind: Kind) -> None:
    async with kind(partner) as opened:
        await execute(opened, "BEGIN")
        await apublish(opened, *EVENTS)
        assert published(partner) == []
        await execute(opened, "ROLLBACK")
        assert published(partner) == []
        await execute(opened, "BEGIN")
        await apublish(opened, *EVENTS)
        await execute(opened, "COMMIT")
    assert published(partner) == PUBLISHED


@on_every_driver
async def test_a_connection_that_commits_each_statement_is_refused(partner: Engine, kind: Kind) -> None:
    async with kind(partner) as opened:
        with pytest.raises(NoTransaction, match="begin a transaction"):
            await apublish(opened, *EVENTS)
    assert published(partner) == []


@on_every_driver
async def test_without_await_nothing_would_be_inserted_so_it_is_refused_with_the_remedy(
    partner: Engine, kind: Kind
) -> None:
    async with kind(partner) as opened:
        await execute(opened, "BEGIN")
        with pytest.raises(TypeError, match=rf"{type(opened).__name__} is async.*await apublish"):
            publish(opened, *EVENTS)
        await execute(opened, "COMMIT")


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
async def test_a_partners_subclass_of_a_drivers_connection_is_accepted(partner: Engine) -> None:
    class Own(psycopg.AsyncConnection[Any]):
        pass

    async with await Own.connect(postgresql_url(partner)) as opened:
        await apublish(opened, *EVENTS)
    assert published(partner) == PUBLISHED


class Cursor:
    """The cursor of an unknown async driver."""

    async def execute(self, _statement: str, _values: object) -> None:
        raise AssertionError("must not be awaited")

    async def close(self) -> None:
        raise AssertionError("must not be awaited")


class UnknownConnection:
    """The connection of an unknown driver: its own methods do not reveal that they must be awaited."""

    autocommit = False

    def __init__(self, cursor: Any) -> None:
        self.cursor = cursor


async def later() -> None:
    raise AssertionError("must not be awaited")


@pytest.mark.parametrize("cursor", [Cursor, later], ids=["the cursor's execute", "the cursor"])
async def test_a_connection_that_returns_awaitables_is_refused(cursor: Any) -> None:
    with pytest.raises(TypeError, match=r"UnknownConnection is async.*await apublish"):
        publish(UnknownConnection(cursor), *EVENTS)  # type: ignore[arg-type] # it has no commit
    with pytest.raises(
        TypeError, match=r"psycopg .*, asyncpg, aiosqlite, aiomysql or asyncmy, not .*UnknownConnection"
    ):
        await apublish(UnknownConnection(cursor), *EVENTS)  # type: ignore[arg-type] # it has no close


async def test_a_type_checker_refuses_them(partner: Engine, server: str) -> None:
    """Strict mypy reports each `type: ignore` below that is not needed."""
    if server == "postgresql":
        async with await psycopg.AsyncConnection.connect(postgresql_url(partner)) as opened:
            with pytest.raises(TypeError, match=r"psycopg\.AsyncConnection is async"):
                publish(opened, *EVENTS)  # type: ignore[arg-type] # under test
    if server == "sqlite":
        async with aiosqlite.connect(str(partner.url.database)) as connection:
            with pytest.raises(TypeError, match=r"aiosqlite\.Connection is async"):
                publish(connection, *EVENTS)  # type: ignore[arg-type] # under test
