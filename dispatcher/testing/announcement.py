"""The events in the outbox, compared with those that a test expects."""

from typing import TYPE_CHECKING

from dispatcher.outbox.drivers import outbox_name
from dispatcher.outbox.events import Event, parse_event
from dispatcher.outbox.schema import choose_schema
from dispatcher.testing.difference import describe_difference
from dispatcher.testing.steps import Plan, Steps, aperform, perform

if TYPE_CHECKING:
    from dispatcher.testing.steps import AsyncDatabase, SyncDatabase

_COLUMNS = "installation_id, type, resource_id, product_id, billing_plan_id"


def announced(database: "SyncDatabase", *, schema: str | None = None) -> list[Event]:
    """Returns the events in the outbox that the current transaction sees, oldest first, without trace contexts.

    `database` is a session or connection that `publish` accepts, or an engine, which sees what is committed. `schema` is as in
    `publish`. Nothing is written. A dispatcher that runs on the same database removes the rows. Raises ValueError for a row that could
    not be delivered, and TypeError for an async object: await `aannounced`.
    """
    return perform(database, reading(schema))


async def aannounced(database: "AsyncDatabase", *, schema: str | None = None) -> list[Event]:
    """As `announced`, on what `apublish` accepts, and on async engines."""
    return await aperform(database, reading(schema))


def assert_announced(database: "SyncDatabase", *events: Event, schema: str | None = None) -> None:
    """Asserts that exactly these events are in the outbox, in any order; without events: that there are none.

    The other arguments are those of `announced`. Trace contexts are not compared. Raises AssertionError with the difference.
    """
    __tracebackhide__ = True
    require(events, announced(database, schema=schema))


async def aassert_announced(database: "AsyncDatabase", *events: Event, schema: str | None = None) -> None:
    """As `assert_announced`, on what `apublish` accepts, and on async engines."""
    __tracebackhide__ = True
    require(events, await aannounced(database, schema=schema))


def require(expected: tuple[Event, ...], found: list[Event]) -> None:
    """Raises AssertionError with the difference, if there is one."""
    __tracebackhide__ = True
    difference = describe_difference(expected, found)
    if difference is not None:
        raise AssertionError(difference)


def reading(schema: str | None, after: int = 0) -> Plan[list[Event]]:
    """Returns the plan that reads the events with a higher id than `after`."""
    place = choose_schema(schema)

    def plan(dialect: str | None) -> Steps[list[Event]]:
        table = outbox_name(dialect, place)
        rows = yield f"SELECT {_COLUMNS} FROM {table} WHERE id > {after:d} ORDER BY id"  # noqa: S608 (names that were checked)
        return [parse_event(*row) for row in rows]

    return plan
