"""The schema of the outbox: an argument of `publish`, or the application's own DISPATCHER_SCHEMA, on every kind of connection."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.schema import DropSchema

from dispatcher import apublish, insert_event, publish
from dispatcher.database.transactions import Database
from dispatcher.testing import aannounced, announced, create_tables
from tests.contract.test_async_drivers import Kind as AsyncKind
from tests.contract.test_async_drivers import execute, on_every_driver
from tests.contract.test_publisher import EVENTS, KINDS, Kind

APART = "Vercel_apart"
"""Its upper case must be kept."""


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> str:
    """The name of the database that the test runs on."""
    return str(request.param)


@pytest.fixture
def apart(bare_database: Database, plain_engine: Engine) -> Iterator[str]:
    """The schema of the tables. On PostgreSQL it is not on the search path; elsewhere it is the connection's own by its name."""
    is_postgresql = bare_database.dialect.name == "postgresql"
    names = {"postgresql": APART, "sqlite": "main", "mysql": str(plain_engine.url.database)}
    schema = names[bare_database.dialect.name]
    create_tables(plain_engine, schema=schema)
    yield schema
    with bare_database.engine.begin() as connection:
        if is_postgresql:
            connection.execute(DropSchema(schema, cascade=True))
        else:
            for name in sa.inspect(connection).get_table_names():
                connection.exec_driver_sql(f"DROP TABLE {name}")


@KINDS
def test_the_event_is_written_to_the_schema_that_is_named(plain_engine: Engine, apart: str, kind: Kind) -> None:
    with kind(plain_engine) as (opened, commit, rollback):
        publish(opened, EVENTS[1], schema=apart)
        rollback()
        publish(opened, *EVENTS, schema=apart)
        assert announced(opened, schema=apart) == list(EVENTS)
        commit()
    assert announced(plain_engine, schema=apart) == list(EVENTS)


@KINDS
def test_the_applications_own_setting_names_it(
    plain_engine: Engine, apart: str, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPATCHER_SCHEMA", apart)
    with kind(plain_engine) as (opened, commit, _):
        publish(opened, *EVENTS)
        assert announced(opened) == list(EVENTS)
        commit()
    assert announced(plain_engine, schema=apart) == list(EVENTS)


def test_it_may_stand_in_a_file_like_every_setting(
    plain_engine: Engine, apart: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "schema").write_text(apart + "\n")
    monkeypatch.setenv("DISPATCHER_SCHEMA_FILE", str(tmp_path / "schema"))
    with plain_engine.begin() as opened:
        publish(opened, *EVENTS)
    monkeypatch.setenv("DISPATCHER_SCHEMA_FILE", str(tmp_path / "missing"))
    with plain_engine.begin() as opened, pytest.raises(ValueError, match=r"^DISPATCHER_SCHEMA_FILE cannot be read"):
        publish(opened, *EVENTS)
    assert announced(plain_engine, schema=apart) == list(EVENTS)


def test_the_bare_statement_goes_there_too(plain_engine: Engine, apart: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with plain_engine.begin() as opened:
        opened.execute(insert_event(EVENTS[0], schema=apart))
        monkeypatch.setenv("DISPATCHER_SCHEMA", apart)
        opened.execute(insert_event(EVENTS[1]))
    assert announced(plain_engine) == list(EVENTS)


@on_every_driver
async def test_async_drivers_write_there_too(
    plain_engine: Engine, apart: str, kind: AsyncKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kind(plain_engine) as opened:
        await execute(opened, "BEGIN")
        await apublish(opened, EVENTS[0], schema=apart)
        monkeypatch.setenv("DISPATCHER_SCHEMA", apart)
        await apublish(opened, EVENTS[1])
        assert await aannounced(opened, schema=apart) == list(EVENTS)
        assert announced(plain_engine) == []
        await execute(opened, "COMMIT")
    assert announced(plain_engine) == list(EVENTS)


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
@pytest.mark.parametrize("kind", [AsyncConnection, AsyncSession])
async def test_sqlalchemys_async_kinds_write_there_too(
    plain_engine: Engine, apart: str, kind: type[AsyncConnection] | type[AsyncSession]
) -> None:
    engine = create_async_engine(plain_engine.url)
    async with kind(engine) as opened:
        await apublish(opened, *EVENTS, schema=apart)
        assert await aannounced(opened, schema=apart) == list(EVENTS)
        await opened.commit()
    assert await aannounced(engine, schema=apart) == list(EVENTS)
    await engine.dispose()


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_what_is_named_beats_the_setting_and_the_engines_own_translation(
    plain_engine: Engine, apart: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPATCHER_SCHEMA", "elsewhere")
    translating = plain_engine.execution_options(schema_translate_map={None: "elsewhere"})
    with translating.begin() as opened:
        publish(opened, EVENTS[0], schema=apart)
    assert announced(plain_engine, schema=apart) == [EVENTS[0]]


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_without_either_the_engines_own_translation_applies(plain_engine: Engine, apart: str) -> None:
    translating = plain_engine.execution_options(schema_translate_map={None: apart})
    with translating.begin() as opened:
        publish(opened, EVENTS[0])
    assert announced(plain_engine, schema=apart) == [EVENTS[0]]


@pytest.mark.parametrize("name", ["", "two words", 'x"; DROP TABLE y; --', "1st", "x" * 64])
@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
async def test_what_is_no_name_is_refused_before_anything_is_executed(
    plain_engine: Engine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with plain_engine.begin() as opened, pytest.raises(ValueError, match=r"^schema is not a schema name"):
        publish(opened, EVENTS[0], schema=name)
    with pytest.raises(ValueError, match=r"^schema is not a schema name"):
        announced(plain_engine, schema=name)
    monkeypatch.setenv("DISPATCHER_SCHEMA", name)
    with plain_engine.begin() as opened, pytest.raises(ValueError, match=r"^DISPATCHER_SCHEMA is not a schema name"):
        publish(opened, EVENTS[0])
    with pytest.raises(ValueError, match=r"^DISPATCHER_SCHEMA is not a schema name"):
        await apublish(object(), EVENTS[0])  # type: ignore[arg-type] # the name is checked first
