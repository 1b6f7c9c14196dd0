"""What a partner's own tests use, on every database: the tables, the events that were announced, and the difference to those expected."""

from collections.abc import AsyncIterator, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from dispatcher import ResourceUpdated, apublish, publish
from dispatcher.database import migration
from dispatcher.database.transactions import Database
from dispatcher.testing import (
    Outbox,
    aannounced,
    aassert_announced,
    acreate_tables,
    announced,
    assert_announced,
    create_tables,
)
from tests.contract.steps import deliver
from tests.contract.test_async_drivers import Kind as AsyncKind
from tests.contract.test_async_drivers import execute, on_every_driver
from tests.contract.test_publisher import EVENTS, KINDS, Kind
from tests.migration.definitions import Definitions, definitions

EXPECTED = ResourceUpdated(installation_id="icfg_1", resource_id="db_1", product_id="pg")
WITHOUT_PRODUCT = ResourceUpdated(installation_id="icfg_1", resource_id="db_1")


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> str:
    """The name of the database that the test runs on."""
    return str(request.param)


@pytest.fixture
def migrated(bare_database: Database) -> Definitions:
    """The tables that `dispatcher migrate` makes; they are gone again."""
    migration.migrate(bare_database)
    made = definitions(bare_database)
    migration.downgrade(bare_database)
    return made


@pytest.fixture
def bare(bare_database: Database, plain_engine: Engine) -> Iterator[Engine]:
    """The partner's engine on a database without our tables, which are dropped afterwards."""
    yield plain_engine
    with bare_database.engine.begin() as connection:
        for name in definitions(bare_database):
            connection.exec_driver_sql(f"DROP TABLE {name}")


@KINDS
def test_the_tables_are_those_of_migrate_and_made_once(
    bare_database: Database, migrated: Definitions, bare: Engine, kind: Kind
) -> None:
    with kind(bare) as (opened, commit, _):
        create_tables(opened)
        create_tables(opened)
        publish(opened, *EVENTS)
        assert announced(opened) == list(EVENTS)
        commit()
    create_tables(bare)
    assert definitions(bare_database) == migrated
    assert sorted(map(str, deliver(bare_database))) == ["None", "db_1"]


@on_every_driver
async def test_the_tables_are_made_by_async_drivers_too(
    bare_database: Database, migrated: Definitions, bare: Engine, kind: AsyncKind
) -> None:
    async with kind(bare) as opened:
        await acreate_tables(opened)
        await acreate_tables(opened)
        await execute(opened, "BEGIN")
        await apublish(opened, *EVENTS)
        await aassert_announced(opened, *EVENTS)
        assert announced(bare) == []
        await execute(opened, "ROLLBACK")
        await aassert_announced(opened)
    assert definitions(bare_database) == migrated


def test_an_engine_sees_what_is_committed_since_the_outbox_was_opened(partner: Engine) -> None:
    with Session(partner) as session, session.begin():
        publish(session, *EVENTS)
    outbox = Outbox.open(partner)
    outbox.assert_announced()
    with Session(partner) as session:
        publish(session, EXPECTED)
        session.flush()
        assert outbox.announced() == []
        session.commit()
    outbox.assert_announced(EXPECTED)
    assert announced(partner) == [*EVENTS, EXPECTED]


def test_a_session_also_sees_its_own_transaction(partner: Engine) -> None:
    with Session(partner) as session:
        outbox = Outbox.open(session)
        publish(session, *EVENTS)
        outbox.assert_announced(*reversed(EVENTS))
        session.rollback()
        outbox.assert_announced()


def test_the_difference_is_in_the_message(partner: Engine) -> None:
    with Session(partner) as session:
        publish(session, WITHOUT_PRODUCT)
        with pytest.raises(AssertionError, match="product_id is None, expected 'pg'"):
            assert_announced(session, EXPECTED)
        assert_announced(session, WITHOUT_PRODUCT)


@pytest.fixture
async def engine(partner: Engine, server: str) -> AsyncIterator[AsyncEngine]:
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "mysql": "mysql+aiomysql"}
    made = create_async_engine(partner.url.set(drivername=drivers[server]))
    yield made
    await made.dispose()


async def test_async_engines_and_sessions(engine: AsyncEngine, partner: Engine) -> None:
    with partner.begin() as connection:
        publish(connection, *EVENTS)
    outbox = await Outbox.aopen(engine)
    async with AsyncSession(engine) as session:
        await apublish(session, EXPECTED)
        assert await outbox.aannounced() == []
        assert await aannounced(session) == [*EVENTS, EXPECTED]
        await session.commit()
    await outbox.aassert_announced(EXPECTED)
    with pytest.raises(AssertionError, match="expected no event, 1 in the outbox"):
        await outbox.aassert_announced()


@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
async def test_an_async_object_is_named_with_the_remedy(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, engine.connect() as connection:
        for one in (engine, session, connection):
            with pytest.raises(TypeError, match=f"{type(one).__name__} is async: await the function"):
                announced(one)  # type: ignore[arg-type] # under test
    with pytest.raises(TypeError, match=r"expected an AsyncSession.* not object"):
        await aannounced(object())  # type: ignore[arg-type] # under test


@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
def test_tables_need_a_driver_whose_database_is_known(partner: Engine) -> None:
    class Unknown:
        """A driver's connection that is known to nobody."""

        def __init__(self) -> None:
            self.cursor = partner.raw_connection().driver_connection.cursor  # type: ignore[union-attr]

        def commit(self) -> None:
            """Nothing to commit."""

    unknown = Unknown()
    assert announced(unknown) == []
    with pytest.raises(TypeError, match="create the tables with SQLAlchemy"):
        create_tables(unknown)


def test_a_percent_sign_is_no_parameter(bare: Engine) -> None:
    """On SQLite the default of a column has some."""
    create_tables(bare)
    with bare.begin() as connection:
        publish(connection, EXPECTED)
        assert connection.execute(sa.text("SELECT created_at IS NOT NULL FROM vercel_outbox")).scalar_one()
