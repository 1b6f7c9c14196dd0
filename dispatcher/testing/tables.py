"""The dispatcher's tables, created in the database of a partner's test."""

from typing import TYPE_CHECKING

from dispatcher.outbox.ddl import table_statements
from dispatcher.outbox.drivers import outbox_name
from dispatcher.outbox.schema import choose_schema
from dispatcher.outbox.tables import outbox
from dispatcher.testing.steps import Plan, Steps, aperform, perform

if TYPE_CHECKING:
    from dispatcher.testing.steps import AsyncDatabase, SyncDatabase


def create_tables(database: "SyncDatabase", *, schema: str | None = None) -> None:
    """Creates the dispatcher's tables, and on PostgreSQL their schema, unless the outbox is there. For tests: elsewhere use
    `dispatcher migrate`, which also upgrades them.

    An engine commits at once; with a connection or session the tables are part of its transaction, which MySQL commits.
    `database` and `schema` are as in `announced`. Raises TypeError for an async object (await `acreate_tables`) and for a driver whose
    database is not known.
    """
    perform(database, _creation(schema))


async def acreate_tables(database: "AsyncDatabase", *, schema: str | None = None) -> None:
    """As `create_tables`, on what `apublish` accepts, and on async engines."""
    await aperform(database, _creation(schema))


def _creation(schema: str | None) -> Plan[None]:
    place = choose_schema(schema)

    def plan(dialect: str | None) -> Steps[None]:
        if dialect is None:
            raise TypeError("the database of this driver is not known: create the tables with SQLAlchemy's engine")
        (count,) = (yield _count_outboxes(dialect, place))[0]
        if count:
            return
        if place is not None and dialect == "postgresql":
            (count,) = (yield f"SELECT count(*) FROM pg_namespace WHERE nspname = '{place}'")[0]  # noqa: S608 (a name that was checked)
            if not count:
                yield f'CREATE SCHEMA "{place}"'
        for statement in table_statements(dialect, place):  # noqa: UP028 (a list takes no rows)
            yield statement

    return plan


def _count_outboxes(dialect: str, schema: str | None) -> str:
    match dialect:
        case "postgresql":
            return f"SELECT count(to_regclass('{outbox_name(dialect, schema)}'))"
        case "mysql":
            where = f"'{schema}'" if schema else "database()"
            return f"SELECT count(*) FROM information_schema.tables WHERE table_name = '{outbox.name}' AND table_schema = {where}"  # noqa: S608 (as above)
    catalogue = f'"{schema}".sqlite_master' if schema else "sqlite_master"
    return f"SELECT count(*) FROM {catalogue} WHERE name = '{outbox.name}'"  # noqa: S608 (as above)
