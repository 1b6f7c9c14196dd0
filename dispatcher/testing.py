"""For your own tests: the events that a change announced.

rename(session, "db_1", "second")
assert announced(session) == [ResourceUpdated(installation_id="icfg_1", resource_id="db_1")]
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection

from dispatcher.outbox.drivers import DBAPIConnection
from dispatcher.outbox.events import Event, parse_event
from dispatcher.outbox.publisher import connection_of
from dispatcher.outbox.tables import outbox

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_COLUMNS = ("installation_id", "type", "resource_id", "product_id", "billing_plan_id")
_ROWS = sa.select(*(outbox.c[name] for name in _COLUMNS)).order_by(outbox.c.id)


def announced(connection: "Session | Connection | DBAPIConnection") -> list[Event]:
    """Returns the events in the outbox that the current transaction of `connection` sees, oldest first, without trace contexts.

    `connection` is one that `publish` accepts; with an async session or connection: `await session.run_sync(announced)`. Nothing is
    written. A dispatcher that runs on the same database removes the rows. Raises ValueError for a row that could not be delivered.
    """
    own = connection_of(connection)
    rows = _read_by_driver(connection) if own is None else own.execute(_ROWS).all()
    return [parse_event(*row) for row in rows]


def _read_by_driver(connection: Any) -> Sequence[Sequence[Any]]:
    cursor = connection.cursor()
    try:
        cursor.execute(str(_ROWS))
        # Some drivers can be configured to return each row as a dictionary.
        return [tuple(row.values()) if isinstance(row, dict) else row for row in cursor.fetchall()]
    finally:
        cursor.close()
