"""The producer's side on every kind of connection: the event is part of the partner's transaction, or it is refused."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from psycopg.rows import dict_row, tuple_row
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from dispatcher import InstallationUpdated, NoTransaction, ResourceUpdated, apublish, insert_event, publish
from dispatcher.outbox.tables import outbox
from dispatcher.testing import announced
from tests.contract.databases import POSTGRESQL, on_postgresql
from tests.contract.test_malformed import drop_constraints

EVENTS = (
    ResourceUpdated(installation_id="icfg_1", resource_id="db_1", product_id="pg"),
    InstallationUpdated(installation_id="icfg_1", billing_plan_id="pro"),
)
PUBLISHED = [
    ("icfg_1", "resource.updated", "db_1", "pg", None),
    ("icfg_1", "installation.updated", None, None, "pro"),
]
READ = "SELECT installation_id, type, resource_id, product_id, billing_plan_id FROM vercel_outbox ORDER BY id"


def published(partner: Engine) -> list[tuple[Any, ...]]:
    """Returns the rows that another connection sees."""
    with partner.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(READ)]


# Each of these yields a connection on which no transaction was begun explicitly, and the functions that commit and roll back.
Opened = tuple[Any, Callable[[], object], Callable[[], object]]


@contextmanager
def connection(partner: Engine) -> Iterator[Opened]:
    with partner.connect() as opened:
        yield opened, opened.commit, opened.rollback


@contextmanager
def session(partner: Engine) -> Iterator[Opened]:
    with Session(partner) as opened:
        yield opened, opened.commit, opened.rollback


@contextmanager
def registry(partner: Engine) -> Iterator[Opened]:
    opened = scoped_session(sessionmaker(partner))
    yield opened, opened.commit, opened.rollback
    opened.remove()


@contextmanager
def driver(partner: Engine) -> Iterator[Opened]:
    opened = partner.raw_connection()
    yield opened.driver_connection, opened.commit, opened.rollback
    opened.close()


KINDS = pytest.mark.parametrize("kind", [connection, session, registry, driver])
Kind = Callable[[Engine], AbstractContextManager[Opened]]


@pytest.mark.varies
@KINDS
def test_the_event_is_committed_with_the_partners_transaction_and_not_before(partner: Engine, kind: Kind) -> None:
    with kind(partner) as (opened, commit, _):
        publish(opened, *EVENTS)
        assert published(partner) == []
        commit()
    assert published(partner) == PUBLISHED


@KINDS
def test_the_event_is_rolled_back_with_the_partners_transaction(partner: Engine, kind: Kind) -> None:
    with kind(partner) as (opened, commit, rollback):
        publish(opened, *EVENTS)
        rollback()
        publish(opened, EVENTS[0])
        commit()
    assert published(partner) == PUBLISHED[:1]


@pytest.mark.varies
@KINDS
def test_a_partners_test_reads_what_its_own_transaction_announced(partner: Engine, kind: Kind) -> None:
    with kind(partner) as (opened, _, rollback):
        assert announced(opened) == []
        publish(opened, *EVENTS)
        assert announced(opened) == list(EVENTS)
        rollback()
        assert announced(opened) == []


def test_a_partners_test_fails_on_a_row_that_could_not_be_delivered(partner: Engine) -> None:
    with partner.begin() as opened:
        drop_constraints(opened)
        row = {"installation_id": "icfg_1", "type": "resource.updated", "resource_id": "db\n1"}
        opened.execute(sa.insert(outbox).values(row).inline())
        with pytest.raises(ValueError, match="control characters"):
            announced(opened)


@on_postgresql
def test_a_partners_test_reads_through_a_driver_that_gives_dictionaries(partner: Engine) -> None:
    with partner.connect() as borrowed:
        opened: Any = borrowed.connection.driver_connection
        opened.row_factory = dict_row
        publish(opened, *EVENTS)
        assert announced(opened) == list(EVENTS)
        opened.row_factory = tuple_row


def test_the_bare_statement_is_the_same_insert(partner: Engine) -> None:
    with partner.begin() as opened:
        for event in EVENTS:
            opened.execute(insert_event(event))
    assert published(partner) == PUBLISHED


def test_a_connection_that_commits_each_statement_is_refused(partner: Engine) -> None:
    with (
        partner.connect().execution_options(isolation_level="AUTOCOMMIT") as opened,
        pytest.raises(NoTransaction, match="begin a transaction"),
    ):
        publish(opened, *EVENTS)
    assert published(partner) == []


def test_a_session_that_commits_each_statement_is_refused(partner: Engine) -> None:
    with (
        Session(partner.execution_options(isolation_level="AUTOCOMMIT")) as opened,
        pytest.raises(NoTransaction, match="begin a transaction"),
    ):
        publish(opened, *EVENTS)
    assert published(partner) == []


@pytest.mark.varies
def test_a_drivers_connection_that_commits_each_statement_is_refused_unless_a_transaction_was_begun(
    partner: Engine,
) -> None:
    with partner.connect().execution_options(isolation_level="AUTOCOMMIT") as borrowed:
        opened = borrowed.connection.driver_connection
        assert opened is not None
        with pytest.raises(NoTransaction, match="begin a transaction"):
            publish(opened, *EVENTS)
        assert published(partner) == []
        opened.cursor().execute("BEGIN")
        publish(opened, *EVENTS)
        opened.cursor().execute("COMMIT")
    assert published(partner) == PUBLISHED


class Base(DeclarativeBase):
    """The base of the partner's own tables."""


class Resource(Base):
    """Has no table in the database, so a flush would fail."""

    __tablename__ = "no_such_table"
    id: Mapped[int] = mapped_column(primary_key=True)


def test_it_does_not_flush(partner: Engine) -> None:
    with Session(partner) as opened:
        opened.add(Resource(id=1))
        publish(opened, EVENTS[0])
        assert list(opened.new)


@pytest.mark.parametrize("unfit", [None, "connection", object()])
async def test_an_argument_that_is_no_connection_is_named(unfit: Any) -> None:
    with pytest.raises(TypeError, match=f"not {type(unfit).__name__}"):
        publish(unfit, EVENTS[0])
    with pytest.raises(TypeError, match=f"not {type(unfit).__name__}"):
        await apublish(unfit, EVENTS[0])


# async ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

# With psycopg and aiosqlite; `test_async_drivers.py` has the drivers without SQLAlchemy.
on_async = pytest.mark.parametrize("server", ["sqlite", *POSTGRESQL], indirect=True)


@pytest.fixture
async def engine(partner: Engine, server: str) -> AsyncIterator[AsyncEngine]:
    url = partner.url.set(drivername="sqlite+aiosqlite") if server == "sqlite" else partner.url
    arguments: dict[str, Any] = {"timeout": 5} if server == "sqlite" else {"prepare_threshold": None}
    if server == "postgresql-schema":
        arguments["options"] = "-c search_path=vercel"
    made = create_async_engine(url, connect_args=arguments)
    yield made
    await made.dispose()


@pytest.mark.varies
@on_async
@pytest.mark.parametrize("kind", [AsyncConnection, AsyncSession])
async def test_async_the_event_is_part_of_the_transaction(
    partner: Engine, engine: AsyncEngine, kind: Callable[[AsyncEngine], Any]
) -> None:
    async with kind(engine) as opened:
        await apublish(opened, *EVENTS)
        assert published(partner) == []
        await opened.rollback()
        await apublish(opened, *EVENTS)
        assert await opened.run_sync(announced) == list(EVENTS)
        await opened.commit()
    assert published(partner) == PUBLISHED


@pytest.mark.varies
@on_async
@pytest.mark.parametrize("kind", [AsyncConnection, AsyncSession])
async def test_async_a_connection_that_commits_each_statement_is_refused(
    partner: Engine, engine: AsyncEngine, kind: Callable[[AsyncEngine], Any]
) -> None:
    async with kind(engine.execution_options(isolation_level="AUTOCOMMIT")) as opened:
        with pytest.raises(NoTransaction, match="begin a transaction"):
            await apublish(opened, *EVENTS)
    assert published(partner) == []


@on_async
async def test_sync_and_async_connections_are_distinguished(engine: AsyncEngine, partner: Engine) -> None:
    async with engine.connect() as awaited:
        with pytest.raises(TypeError, match="await apublish"):
            publish(awaited, EVENTS[0])  # type: ignore[arg-type] # under test
    with partner.connect() as plain, pytest.raises(TypeError, match=r"use publish\(…\)"):
        await apublish(plain, EVENTS[0])  # type: ignore[arg-type] # under test


def test_fields_that_were_not_given_are_null(partner: Engine) -> None:
    with partner.begin() as opened:
        publish(opened, ResourceUpdated(installation_id="icfg_1", resource_id="db_1"))
        row = opened.execute(sa.text("SELECT product_id, billing_plan_id, traceparent FROM vercel_outbox")).one()
    assert tuple(row) == (None, None, None)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ((), "there is no event"),
        ((list(EVENTS),), r"not in a list: publish\(connection, \*events\)"),
        ((EVENTS,), r"not in a tuple: publish\(connection, \*events\)"),
        (({"installation_id": "icfg_1"},), r"an event is ResourceUpdated\(installation_id=….*, not dict"),
        (("icfg_1", "db_1"), r"an event is ResourceUpdated\(installation_id=….*, not str"),
        ((EVENTS[0], None), "not NoneType"),
    ],
    ids=["none", "list", "tuple", "dict", "positional", "one of them"],
)
async def test_an_argument_that_is_no_event_is_named_and_nothing_is_inserted(
    partner: Engine, events: Any, message: str
) -> None:
    with partner.begin() as opened, pytest.raises(TypeError, match=message):
        publish(opened, *events)
    with pytest.raises(TypeError, match=message):
        await apublish(object(), *events)  # type: ignore[arg-type] # the events are checked first
    assert published(partner) == []


def test_swapped_ids_are_pointed_out(partner: Engine) -> None:
    swapped = ResourceUpdated(installation_id="db_1", resource_id="icfg_1")
    with partner.begin() as opened, pytest.warns(UserWarning, match="are they swapped") as warned:
        publish(opened, swapped)
    assert [one.filename for one in warned] == [__file__]
    assert [row[:3] for row in published(partner)] == [("db_1", "resource.updated", "icfg_1")]
