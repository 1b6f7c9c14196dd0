"""The users who may change the watched table. On PostgreSQL a trigger works as one of them, with that user's privileges."""

import sqlalchemy as sa
from sqlalchemy import Connection

from dispatcher.outbox.tables import outbox
from dispatcher.outbox.trigger import Watched
from dispatcher.outbox.trigger.watched import qualified, quoted

_MAX_NAMED_USERS = 5
_WITHOUT_OUTBOX = sa.text("""
SELECT r.rolname FROM pg_catalog.pg_roles r,
  (SELECT CAST(:watched AS pg_catalog.regclass) AS watched, CAST(:outbox AS pg_catalog.regclass) AS outbox) t
WHERE r.rolcanlogin AND NOT r.rolsuper
AND (has_any_column_privilege(r.oid, t.watched, 'INSERT, UPDATE') OR has_table_privilege(r.oid, t.watched, 'DELETE'))
AND NOT has_column_privilege(r.oid, t.outbox, 'installation_id', 'INSERT')
ORDER BY r.rolname LIMIT :limit
""")


def writers_without_outbox(connection: Connection, watched: Watched) -> str | None:
    """Returns a sentence that names users whose changes of the table the trigger makes fail; None if there are none."""
    if connection.dialect.name != "postgresql":
        return None
    place = qualified(watched.outbox_schema, outbox.name, '"') if watched.outbox_schema else outbox.name
    parameters = {"watched": quoted(watched.table, '"'), "outbox": place, "limit": _MAX_NAMED_USERS}
    names = connection.execute(_WITHOUT_OUTBOX, parameters).scalars().all()
    if not names:
        return None
    return (
        f"{', '.join(names)} may change {watched.table} but not write {outbox.name}, so that the trigger makes these changes fail:"
        " run what `dispatcher grants` prints for the application"
    )
