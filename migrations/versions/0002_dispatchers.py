"""Running dispatchers, who paused an installation and why, and events that say that an installation is gone.

It only adds and allows more: programs of revision 0001 continue to work. Like every revision, it imports nothing from `dispatcher`.

Revision: 0002
"""

from typing import Any

import sqlalchemy as sa
from alembic import context, op
from alembic.util import CommandError
from sqlalchemy import Column, Integer, MetaData, Table
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.schema import CreateTable, DropTable
from sqlalchemy.types import TypeEngine

revision = "0002"
down_revision = "0001"

STORAGE: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
TIMESTAMP = (
    sa.DateTime()
    .with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
    .with_variant(mysql.DATETIME(fsp=6), "mysql")
)
LONG_TEXT = sa.Text().with_variant(mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql")

Checks = dict[str, str]
"""The conditions of the outbox's CHECK constraints that concern the type, by the ends of their names."""
CHECKS: Checks = {
    "type_is_known": "type IN ('resource.updated', 'installation.updated', 'installation.removed')",
    "resource_id_goes_with_resource_updated": "(type <> 'resource.updated' OR resource_id IS NOT NULL)"
    " AND (type NOT IN ('installation.updated', 'installation.removed') OR resource_id IS NULL)",
    "product_id_goes_with_resource_updated": "product_id IS NULL"
    " OR type NOT IN ('installation.updated', 'installation.removed')",
    "billing_plan_id_goes_with_installation_updated": "billing_plan_id IS NULL"
    " OR type NOT IN ('resource.updated', 'installation.removed')",
}
EARLIER_CHECKS: Checks = {
    "type_is_known": "type IN ('resource.updated', 'installation.updated')",
    "resource_id_goes_with_resource_updated": "(type <> 'resource.updated' OR resource_id IS NOT NULL)"
    " AND (type <> 'installation.updated' OR resource_id IS NULL)",
    "product_id_goes_with_resource_updated": "product_id IS NULL OR type <> 'installation.updated'",
    "billing_plan_id_goes_with_installation_updated": "billing_plan_id IS NULL OR type <> 'resource.updated'",
}
TAKE_OUTBOX_ROWS = (
    "CREATE TEMPORARY TABLE vercel_outbox_rows AS SELECT * FROM main.vercel_outbox",
    "CREATE TEMPORARY TABLE vercel_outbox_last AS SELECT * FROM main.sqlite_sequence WHERE name = 'vercel_outbox'",
    "DROP TABLE main.vercel_outbox",
)
RESTORE_OUTBOX_ROWS = (
    # A row that a partner wrote while checks were switched off must not stop the migration.
    "PRAGMA ignore_check_constraints = ON",
    "INSERT INTO main.vercel_outbox SELECT * FROM temp.vercel_outbox_rows",
    "PRAGMA ignore_check_constraints = OFF",
    "DELETE FROM main.sqlite_sequence WHERE name = 'vercel_outbox'",
    "INSERT INTO main.sqlite_sequence SELECT * FROM temp.vercel_outbox_last",
    "DROP TABLE temp.vercel_outbox_rows",
    "DROP TABLE temp.vercel_outbox_last",
)
SQLITE_OUTBOX = """CREATE TABLE vercel_outbox (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    installation_id VARCHAR(128) NOT NULL,
    type VARCHAR(32) NOT NULL,
    resource_id VARCHAR(255),
    product_id VARCHAR(255),
    billing_plan_id VARCHAR(255),
    created_at DATETIME DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    traceparent VARCHAR(55),
    CONSTRAINT vercel_outbox_installation_id_is_valid CHECK (typeof(installation_id) = 'text'\
 AND instr(installation_id, char(0)) = 0 AND installation_id NOT GLOB '*[^A-Za-z0-9_-]*'\
 AND length(installation_id) BETWEEN 1 AND 128),
    {checks}
)"""


def text(length: int) -> TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql")


def pause_columns() -> dict[str, TypeEngine[str]]:
    return {"paused_by": text(255), "pause_note": LONG_TEXT}


def dispatcher() -> Table:
    """Returns the table of running dispatchers, in the schema of this run."""
    return Table(
        "vercel_dispatcher",
        MetaData(),
        Column("name", text(255), primary_key=True),
        Column("version", text(64), nullable=False),
        Column("started_at", TIMESTAMP, nullable=False),
        Column("seen_at", TIMESTAMP, nullable=False),
        Column("in_flight", Integer, nullable=False, server_default="0"),
        Column("outage", TIMESTAMP),
        schema=_schema(),
        **STORAGE,
    )


def upgrade() -> None:
    """Adds what is missing: where each statement commits by itself, an earlier run may have been interrupted."""
    _create_dispatcher()
    # In the order in which a collection locks the two tables, so that they do not wait for each other.
    _replace_checks(CHECKS)
    _add_pause_columns()


def downgrade() -> None:
    """Removes the additions, including events of type installation.removed."""
    op.execute(DropTable(dispatcher(), if_exists=True))
    if _exists("vercel_outbox"):
        op.execute(f"DELETE FROM {_qualified('vercel_outbox')} WHERE type = 'installation.removed'")  # noqa: S608 (our own)
        _replace_checks(EARLIER_CHECKS)
    if _exists("vercel_installation"):
        _alter("vercel_installation", *(f"DROP COLUMN {name}" for name in pause_columns()))


def _create_dispatcher() -> None:
    wanted = dispatcher()
    if not _may_be_interrupted() or not _exists(wanted.name):
        op.execute(CreateTable(wanted))
    elif _columns(wanted.name) != {column.name for column in wanted.c}:
        raise CommandError(
            f"{wanted.name} is not as `dispatcher migrate` makes it: move that table out of the way, then run `dispatcher migrate` again"
        )


def _add_pause_columns() -> None:
    present = _columns("vercel_installation") if _may_be_interrupted() else set()
    dialect = op.get_context().dialect
    missing = {name: type_ for name, type_ in pause_columns().items() if name not in present}
    if missing:
        _alter(
            "vercel_installation", *(f"ADD COLUMN {name} {type_.compile(dialect)}" for name, type_ in missing.items())
        )


def _alter(table: str, *changes: str) -> None:
    """Makes the changes in one statement, where the database can: then they cannot be interrupted in the middle."""
    groups = changes if _is("sqlite") else [", ".join(changes)]
    for group in groups:
        op.execute(f"ALTER TABLE {_qualified(table)} {group}")


def _replace_checks(checks: Checks) -> None:
    if _is("sqlite"):
        _rebuild_outbox(checks)
        return
    named = {f"vercel_outbox_{name}": condition for name, condition in checks.items()}
    if _is("mysql"):
        named["vercel_outbox_type_is_known"] += " AND type NOT REGEXP ' '"  # MySQL ignores trailing spaces
    changes = [
        f"DROP CONSTRAINT {name}, ADD CONSTRAINT {name} CHECK ({condition})"
        for name, condition in named.items()
        if _has_check(name)
    ]
    if changes:
        _alter("vercel_outbox", *changes)


def _has_check(name: str) -> bool:
    """Whether the constraint is there: one that a partner has dropped stays away."""
    if context.is_offline_mode():
        return True
    found = sa.inspect(op.get_bind()).get_check_constraints("vercel_outbox", schema=_schema())
    return name in {one["name"] for one in found}


def _rebuild_outbox(checks: Checks) -> None:
    """SQLite cannot change a CHECK. The rows and the last id wait in temporary tables while the table is made anew.

    Not by renaming: that would rewrite, or refuse, the triggers and views that name the outbox. Those on the outbox itself are dropped
    with it, and are restored.
    """
    dropped_with_it = [] if context.is_offline_mode() else _indexes_and_triggers_of_outbox()
    for statement in (*TAKE_OUTBOX_ROWS, _sqlite_outbox(checks), *RESTORE_OUTBOX_ROWS):
        op.execute(statement)
    for statement in dropped_with_it:
        op.get_bind().exec_driver_sql(statement)


def _indexes_and_triggers_of_outbox() -> list[str]:
    query = (
        "SELECT sql FROM main.sqlite_master WHERE tbl_name = 'vercel_outbox' AND type <> 'table' AND sql IS NOT NULL"
    )
    return list(op.get_bind().execute(sa.text(query)).scalars())


def _sqlite_outbox(checks: Checks) -> str:
    ids = ("resource_id", "product_id", "billing_plan_id")
    named = checks | {f"{column}_is_valid": _is_partner_id(column) for column in ids}
    lines = (f"CONSTRAINT vercel_outbox_{name} CHECK ({condition})" for name, condition in named.items())
    return SQLITE_OUTBOX.format(checks=",\n    ".join(lines))


def _is_partner_id(column: str) -> str:
    return (
        f"{column} IS NULL OR typeof({column}) = 'text' AND instr({column}, char(0)) = 0 AND length({column}) BETWEEN 1 AND 255"
        f" AND {column} NOT GLOB '*[^ -~' || char(160) || '-' || char(1114111) || ']*'"
    )


def _is(name: str) -> bool:
    return op.get_context().dialect.name == name


def _may_be_interrupted() -> bool:
    """Whether some of the additions may exist: on MySQL and MariaDB each statement commits by itself."""
    return _is("mysql") and not context.is_offline_mode()


def _exists(table: str) -> bool:
    """Whether there is a table of this name; while the SQL is only printed, all exist."""
    return context.is_offline_mode() or sa.inspect(op.get_bind()).has_table(table, schema=_schema())


def _columns(table: str) -> set[str]:
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table, schema=_schema())}


def _qualified(table: str) -> str:
    return op.get_context().dialect.identifier_preparer.format_table(sa.table(table, schema=_schema()))


def _schema() -> str | None:
    schema: str | None = context.config.attributes.get("schema")
    return schema
