"""The outbox of a partner's test: what the fixture `vercel_outbox` is."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from dispatcher.outbox.drivers import outbox_name
from dispatcher.outbox.events import Event
from dispatcher.outbox.schema import choose_schema
from dispatcher.testing.announcement import reading, require
from dispatcher.testing.steps import Plan, Steps, aperform, perform
from dispatcher.testing.tables import acreate_tables, create_tables

if TYPE_CHECKING:
    from dispatcher.testing.steps import AsyncDatabase, SyncDatabase


@dataclass(frozen=True, slots=True)
class Outbox:
    """The events that were announced since it was opened. Its database is any that `announced` or `aannounced` accepts."""

    database: Any
    schema: str | None
    last_id: int
    """That of the newest event before."""

    @classmethod
    def open(cls, database: "SyncDatabase", *, schema: str | None = None) -> Self:
        """Creates the dispatcher's tables if they are missing, as `create_tables` does."""
        create_tables(database, schema=schema)
        return cls(database, schema, perform(database, _last_id(schema)))

    @classmethod
    async def aopen(cls, database: "AsyncDatabase", *, schema: str | None = None) -> Self:
        """As `open`, for an async database, whose events `aannounced` and `aassert_announced` read."""
        await acreate_tables(database, schema=schema)
        return cls(database, schema, await aperform(database, _last_id(schema)))

    def announced(self) -> list[Event]:
        """Returns the events, oldest first: see `dispatcher.testing.announced`."""
        return perform(self.database, reading(self.schema, self.last_id))

    async def aannounced(self) -> list[Event]:
        """Returns the events, oldest first: see `dispatcher.testing.aannounced`."""
        return await aperform(self.database, reading(self.schema, self.last_id))

    def assert_announced(self, *events: Event) -> None:
        """Asserts that exactly these events were announced, in any order: see `dispatcher.testing.assert_announced`."""
        __tracebackhide__ = True
        require(events, self.announced())

    async def aassert_announced(self, *events: Event) -> None:
        """Asserts that exactly these events were announced, in any order: see `dispatcher.testing.aassert_announced`."""
        __tracebackhide__ = True
        require(events, await self.aannounced())


def _last_id(schema: str | None) -> Plan[int]:
    place = choose_schema(schema)

    def plan(dialect: str | None) -> Steps[int]:
        rows = yield f"SELECT max(id) FROM {outbox_name(dialect, place)}"  # noqa: S608 (names that were checked)
        return rows[0][0] or 0

    return plan
