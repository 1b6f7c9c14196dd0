"""The triggers of `dispatcher trigger`, as the database's catalog shows them.

Beside each trigger stands a note with the command that made it, which outlives the trigger: on PostgreSQL the comment of its function,
elsewhere a view. A trigger is gone if there is only its note.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy import Connection

from dispatcher.outbox.trigger import Watched, script
from dispatcher.outbox.trigger.watched import COMMAND, PREFIX, qualified, read_command

_NAMES = PREFIX.replace("_", "!_") + "%"
"""A pattern for LIKE … ESCAPE '!'."""
_NOTES = f"%{COMMAND} %"
_ROW_LEVEL_AFTER_ALL = 1 + 4 + 8 + 16
"""PostgreSQL's `tgtype` for AFTER INSERT OR DELETE OR UPDATE … FOR EACH ROW."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A trigger that `dispatcher trigger` made, or what is left of it."""

    command: str
    """The command that made it."""
    bodies: Mapping[str, str]
    """The text of each function (PostgreSQL) or trigger that is in place, by its name."""
    table: str | None
    """The table that it stands on now; None if it is gone. The command may name the same table without its schema."""
    is_disabled: bool
    dialect: str
    removal: str
    """SQL that removes the note, and what else is left if the trigger is gone."""
    search_path: str | None = None
    """Where its function looks for tables, on PostgreSQL."""

    @property
    def watched(self) -> Watched | None:
        """What it watches; None if another version of this program made it and this one cannot read the command."""
        try:
            return read_command(self.command)
        except ValueError:
            return None

    @property
    def is_whole(self) -> bool:
        """Whether every trigger of it is in place."""
        return self.bodies.keys() >= self.expected.keys()

    @property
    def is_current(self) -> bool:
        """Whether it is in place exactly as this version would make it."""
        return not self.is_disabled and all(
            _words(self.bodies.get(name, "")) == _words(body) for name, body in self.expected.items()
        )

    @property
    def expected(self) -> dict[str, str]:
        """What `bodies` would be if this version made it."""
        return {} if self.watched is None else script(self.dialect, self.watched).bodies


def installed(connection: Connection, dialect: str) -> list[Installed]:
    """Returns the triggers in this database, by their commands. Where they are not visible, all of them look gone."""
    return sorted(_READERS[dialect](connection), key=lambda one: one.command)


def are_visible(connection: Connection, dialect: str) -> bool:
    """Returns whether this user sees triggers: on MySQL and MariaDB the catalog hides them from a user without the privilege TRIGGER."""
    if dialect != "mysql":
        return True
    grants = " ".join(connection.exec_driver_sql("SHOW GRANTS").scalars())
    return "TRIGGER" in grants or "ALL PRIVILEGES" in grants


def _words(text: str) -> list[str]:
    return text.split()


_POSTGRESQL = sa.text("""
SELECT n.nspname, p.proname, p.prosrc, pg_catalog.obj_description(p.oid, 'pg_proc') AS command,
  t.oid IS NOT NULL AND t.tgtype = :tgtype AS is_whole, coalesce(t.tgenabled IN ('D', 'R'), false) AS is_disabled,
  (SELECT m.nspname || '.' || c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace m ON m.oid = c.relnamespace
    WHERE c.oid = t.tgrelid) AS place,
  (SELECT split_part(s, '=', 2) FROM unnest(p.proconfig) s WHERE s LIKE 'search_path=%') AS search_path
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
LEFT JOIN pg_catalog.pg_trigger t ON t.tgfoid = p.oid AND t.tgparentid = 0
WHERE p.proname LIKE :names ESCAPE '!' AND n.nspname NOT LIKE 'pg!_temp%' ESCAPE '!'
AND pg_catalog.obj_description(p.oid, 'pg_proc') LIKE :notes
""")


def _on_postgresql(connection: Connection) -> Iterator[Installed]:
    parameters = {"names": _NAMES, "notes": f"{COMMAND} %", "tgtype": _ROW_LEVEL_AFTER_ALL}
    for row in connection.execute(_POSTGRESQL, parameters):
        bodies = {row.proname: row.prosrc} if row.is_whole else {}
        function = qualified(row.nspname, row.proname, '"')
        removal = f"DROP FUNCTION {function}() CASCADE"
        yield Installed(row.command, bodies, row.place, row.is_disabled, "postgresql", removal, row.search_path)


_MYSQL_VIEWS = sa.text(
    "SELECT table_name FROM information_schema.views WHERE table_schema = DATABASE() AND table_name LIKE :names ESCAPE '!'"
    " AND view_definition LIKE :notes"
)
_MYSQL_TRIGGERS = sa.text(
    "SELECT trigger_schema, trigger_name, event_object_table, action_statement FROM information_schema.triggers"
    " WHERE trigger_name LIKE :names ESCAPE '!'"
)


def _on_mysql(connection: Connection) -> Iterator[Installed]:
    views = connection.execute(_MYSQL_VIEWS, {"names": _NAMES, "notes": _NOTES}).scalars().all()
    here = connection.exec_driver_sql("SELECT DATABASE()").scalar_one()
    found = [tuple(row) for row in connection.execute(_MYSQL_TRIGGERS, {"names": _NAMES})]
    for view in views:
        command, removal = _read_view(connection, qualified(None, view, "`"))
        one = Installed(command, {}, None, False, "mysql", removal)
        schema = one.watched and one.watched.schema
        there = {name: (table, body) for place, name, table, body in found if place == (schema or here)}
        yield _found(one, there, f"{schema}." if schema else "")


_SQLITE = sa.text(
    "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name LIKE :names ESCAPE '!'"
    " AND (type = 'trigger' OR type = 'view' AND sql LIKE :notes)"
)


def _on_sqlite(connection: Connection) -> Iterator[Installed]:
    found = connection.execute(_SQLITE, {"names": _NAMES, "notes": _NOTES}).all()
    there = {row.name: (row.tbl_name, _body(row.sql)) for row in found if row.type == "trigger"}
    for view in (row.name for row in found if row.type == "view"):
        command, removal = _read_view(connection, qualified(None, view, '"'))
        yield _found(Installed(command, {}, None, False, "sqlite", removal), there)


def _body(sql: str) -> str:
    return sql.partition("BEGIN\n")[2].rpartition("END")[0]


def _found(one: Installed, there: dict[str, tuple[str, str]], prefix: str = "") -> Installed:
    """Returns it with those triggers that are there: their tables and texts by their names."""
    mine = {name: there[name] for name in one.expected if name in there}
    table = next((prefix + table for table, _ in mine.values()), None)
    return replace(one, bodies={name: body for name, (_, body) in mine.items()}, table=table)


def _read_view(connection: Connection, view: str) -> tuple[str, str]:
    """Returns the command in a note, and the SQL that removes the note."""
    return connection.exec_driver_sql(f"SELECT made_by FROM {view}").scalar_one(), f"DROP VIEW {view}"  # noqa: S608 (a name of ours)


_READERS: dict[str, Callable[[Connection], Iterator[Installed]]] = {
    "postgresql": _on_postgresql,
    "mysql": _on_mysql,
    "sqlite": _on_sqlite,
}
