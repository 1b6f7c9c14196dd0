"""A database trigger on the partner's own table that writes the outbox row, so that no code path can omit it."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dispatcher.outbox.events import RESOURCE_UPDATED
from dispatcher.outbox.tables import metadata, outbox

_NAME = re.compile(r"[\w -]+")
_MAX_NAME_BYTES = 63
# Leaves room for the suffixes that `_mysql` and `_sqlite` append.
_MAX_TRIGGER_NAME_BYTES = 50


class UnusableName(ValueError):
    """No trigger can be made for this table or column; the message names it and the reason."""


@dataclass(frozen=True, slots=True)
class Watched:
    """The table to watch. Each row is one resource of one installation. Rows with a NULL id are ignored.

    Raises UnusableName.
    """

    table: str
    installation_column: str
    resource_column: str
    when_changed: Sequence[str] = ()
    """An update writes an event only if it changes one of these columns or an id; if this is empty, every update does."""
    outbox_schema: str | None = None
    """The schema of the outbox, on MySQL its database; None: that of the connection or of the table."""

    def __post_init__(self) -> None:
        parts = self.table.split(".")
        if len(parts) > 2:
            raise UnusableName(f"{self.table!r} is not a table name: write NAME or SCHEMA.NAME")
        schema = [self.outbox_schema] if self.outbox_schema is not None else []
        for name in (*parts, self.installation_column, self.resource_column, *self.when_changed, *schema):
            _check(name)
        if parts[-1].lower() in metadata.tables:
            raise UnusableName(f"{parts[-1]} is a table of the dispatcher's own: name the table of your resources")

    @property
    def trigger(self) -> str:
        """The trigger's name, unique to the table."""
        name = f"vercel_outbox_{self.table.replace('.', '_')}"
        if len(name.encode()) <= _MAX_TRIGGER_NAME_BYTES:
            return name
        return f"vercel_outbox_{hashlib.sha256(self.table.encode()).hexdigest()[:16]}"

    @property
    def ids(self) -> tuple[str, str]:
        """The columns that identify the subject."""
        return self.installation_column, self.resource_column


def trigger_sql(dialect: str, watched: Watched) -> str:
    """Returns SQL that creates or replaces the trigger. `dialect`: postgresql, mysql or sqlite."""
    return _PRINTERS[dialect](watched)


def _check(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UnusableName(
            f"{name!r} is not a usable name: use letters, digits, _, - and spaces, as the database shows it"
        )
    if len(name.encode()) > _MAX_NAME_BYTES:
        raise UnusableName(f"{name!r} is longer than {_MAX_NAME_BYTES} bytes")


def _quoted(name: str, mark: str = '"') -> str:
    """Quotes the name; `_check` has refused quotation marks."""
    return ".".join(f"{mark}{part}{mark}" for part in name.split("."))


def _outbox(watched: Watched, mark: str = '"') -> str:
    return f"{_quoted(watched.outbox_schema, mark)}.{outbox.name}" if watched.outbox_schema else outbox.name


_COLUMNS = "(installation_id, type, resource_id)"


# PostgreSQL ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _postgresql(watched: Watched) -> str:
    schema, _, _ = watched.table.rpartition(".")
    name, table = _quoted(watched.trigger), _quoted(watched.table)
    function = f"{_quoted(schema)}.{name}" if schema else name

    def insert(version: str, indent: str, condition: str = "") -> str:
        installation, resource = (f"{version}.{_quoted(column)}" for column in watched.ids)
        return (
            f"{indent}IF {installation} IS NOT NULL AND {resource} IS NOT NULL{condition} THEN\n"  # noqa: S608 (names that were checked)
            f"{indent}  INSERT INTO {_outbox(watched)} {_COLUMNS}\n"
            f"{indent}    VALUES ({installation}, '{RESOURCE_UPDATED}', {resource});\n"
            f"{indent}END IF;"
        )

    def same(columns: Sequence[str]) -> str:
        old, new = (", ".join(f"{version}.{_quoted(column)}" for column in columns) for version in ("OLD", "NEW"))
        # *= compares bytes: some types, such as json, have no =.
        return f"ROW({old})::record OPERATOR(pg_catalog.*=) ROW({new})::record"

    skip = ""
    if watched.when_changed:
        skip = f"\n    IF {same((*watched.ids, *watched.when_changed))} THEN\n      RETURN NULL;\n    END IF;"
    return f"""\
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $vercel$
BEGIN
  IF TG_OP = 'UPDATE' THEN{skip}
{insert("OLD", "    ", f" AND NOT ({same(watched.ids)})")}
  ELSIF TG_OP = 'DELETE' THEN
{insert("OLD", "    ")}
    RETURN NULL;
  END IF;
{insert("NEW", "  ")}
  RETURN NULL;
END
$vercel$;
{"" if watched.outbox_schema else _pinned(function)}DROP TRIGGER IF EXISTS {name} ON {table};
CREATE TRIGGER {name} AFTER INSERT OR UPDATE OR DELETE ON {table}
  FOR EACH ROW EXECUTE FUNCTION {function}();
"""


def _pinned(function: str) -> str:
    """Binds the function to the outbox that is visible now: a session's search_path or temporary tables could redirect it."""
    return f"""\
DO $vercel$
BEGIN
  EXECUTE 'ALTER FUNCTION {function}() SET search_path = ' || (
    SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = '{outbox.name}'::pg_catalog.regclass
  ) || ', pg_temp';
END
$vercel$;
"""  # noqa: S608 (names that were checked)


# MySQL, MariaDB ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _mysql(watched: Watched) -> str:
    schema, _, _ = watched.table.rpartition(".")

    def column(version: str, name: str) -> str:
        return f"{version}.{_quoted(name, '`')}"

    def insert(version: str, condition: str = "") -> str:
        installation, resource = (column(version, name) for name in watched.ids)
        # Not INSERT … SELECT … WHERE, which would lock the whole table for the duration of the partner's statement.
        return (
            f"  IF {installation} IS NOT NULL AND {resource} IS NOT NULL{condition} THEN\n"  # noqa: S608 (names that were checked)
            f"    INSERT INTO {_outbox(watched, '`')} {_COLUMNS}\n"
            f"      VALUES ({installation}, '{RESOURCE_UPDATED}', {resource});\n"
            "  END IF;\n"
        )

    def changed(names: Sequence[str]) -> str:
        # Compared as bytes: most collations do not distinguish `a` and `A`.
        pairs = ((column("OLD", name), column("NEW", name)) for name in names)
        return " OR ".join(f"NOT (CAST({old} AS BINARY) <=> CAST({new} AS BINARY))" for old, new in pairs)

    def statement(event: str, *body: str) -> str:
        name = _quoted(f"{watched.trigger}_{event.lower()}", "`")
        name = f"{_quoted(schema, '`')}.{name}" if schema else name
        return (
            f"DROP TRIGGER IF EXISTS {name}$$\n"
            f"CREATE TRIGGER {name} AFTER {event} ON {_quoted(watched.table, '`')} FOR EACH ROW\n"
            f"BEGIN\n{''.join(body)}END$$\n"
        )

    if_changed = f" AND ({changed((*watched.ids, *watched.when_changed))})" if watched.when_changed else ""
    return (
        "-- For the mysql or mariadb client. Rows that a foreign key changes or deletes (CASCADE) fire no trigger here.\n"
        "DELIMITER $$\n"
        + statement("INSERT", insert("NEW"))
        + statement("UPDATE", insert("OLD", f" AND ({changed(watched.ids)})"), insert("NEW", if_changed))
        + statement("DELETE", insert("OLD"))
        + "DELIMITER ;\n"
    )


# SQLite ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _sqlite(watched: Watched) -> str:
    schema, _, table = watched.table.rpartition(".")

    def column(version: str, name: str) -> str:
        return f"{version}.{_quoted(name)}"

    def insert(version: str, condition: str = "") -> str:
        installation, resource = (column(version, name) for name in watched.ids)
        return (
            f"  INSERT INTO {outbox.name} {_COLUMNS}\n"
            f"    SELECT {installation}, '{RESOURCE_UPDATED}', {resource}\n"
            f"    WHERE {installation} IS NOT NULL AND {resource} IS NOT NULL{condition};\n"
        )

    def changed(names: Sequence[str]) -> str:
        return " OR ".join(f"{column('OLD', name)} IS NOT {column('NEW', name)} COLLATE BINARY" for name in names)

    def statement(event: str, *body: str) -> str:
        name = _quoted(f"{watched.trigger}_{event.lower()}")
        name = f"{_quoted(schema)}.{name}" if schema else name
        return (
            f"DROP TRIGGER IF EXISTS {name};\n"
            f"CREATE TRIGGER {name} AFTER {event} ON {_quoted(table)} FOR EACH ROW\nBEGIN\n{''.join(body)}END;\n"
        )

    if_changed = f" AND ({changed((*watched.ids, *watched.when_changed))})" if watched.when_changed else ""
    return (
        statement("INSERT", insert("NEW"))
        + statement("UPDATE", insert("OLD", f" AND ({changed(watched.ids)})"), insert("NEW", if_changed))
        + statement("DELETE", insert("OLD"))
    )


_PRINTERS: dict[str, Callable[[Watched], str]] = {"postgresql": _postgresql, "mysql": _mysql, "sqlite": _sqlite}
