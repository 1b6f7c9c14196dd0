"""The tables of the first release.

A frozen copy of `dispatcher/outbox/tables.py` and of everything it needs. It imports nothing from `dispatcher`, because the code
changes and this revision must not.

Revision: 0001
"""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import context, op
from alembic.autogenerate import produce_migrations
from alembic.operations.ops import CreateIndexOp, CreateTableOp, MigrateOperation, ModifyTableOps
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import CheckConstraint, Column, Identity, Index, Integer, MetaData, SmallInteger, Table, TextClause
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.schema import CreateIndex, CreateTable, DropTable
from sqlalchemy.types import TypeEngine

revision = "0001"
down_revision = None

# Queue tables are small and change constantly: vacuum after a fixed number of dead rows, not after a share of the table.
QUEUE_VACUUM = {
    "autovacuum_vacuum_scale_factor": 0,
    "autovacuum_vacuum_threshold": 5_000,
    "autovacuum_vacuum_cost_delay": 0,
}
STORAGE: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
TIMESTAMP = (
    sa.DateTime()
    .with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
    .with_variant(mysql.DATETIME(fsp=6), "mysql")
)
LONG_TEXT = sa.Text().with_variant(mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql")
IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite generates only INTEGER keys


def text(length: int) -> TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql")


def partial(condition: str) -> dict[str, Any]:
    """Returns the options of an index on only the rows that meet the condition. MySQL has no partial indexes and indexes every row."""
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


def in_dialect(**sql: str) -> TextClause:
    """Returns the SQL for the database of this run."""
    return sa.text(sql[op.get_context().dialect.name])


def now() -> TextClause:
    return in_dialect(
        postgresql="clock_timestamp()",
        mysql="(utc_timestamp(6))",
        sqlite="(strftime('%Y-%m-%d %H:%M:%f000', 'now'))",
    )


def matches_installation_id() -> CheckConstraint:
    allowed = in_dialect(
        postgresql="installation_id ~ '^[A-Za-z0-9_-]+$'",
        mysql="installation_id NOT REGEXP '[^A-Za-z0-9_-]' AND char_length(installation_id) BETWEEN 1 AND 128",
        sqlite="typeof(installation_id) = 'text' AND instr(installation_id, char(0)) = 0"
        " AND installation_id NOT GLOB '*[^A-Za-z0-9_-]*' AND length(installation_id) BETWEEN 1 AND 128",
    )
    return CheckConstraint(allowed, "vercel_outbox_installation_id_is_valid")


def is_known_type() -> CheckConstraint:
    known = "type IN ('resource.updated', 'installation.updated')"
    return CheckConstraint(
        in_dialect(postgresql=known, mysql=f"{known} AND type NOT REGEXP ' '", sqlite=known),
        "vercel_outbox_type_is_known",
    )


def matches_partner_id(column: str) -> CheckConstraint:
    """Returns the check that a value is NULL, or has 1 to 255 characters and no control characters."""
    first, last = "char(0xC2A0 USING utf8mb4)", "char(0xF48FBFBF USING utf8mb4)"
    allowed = in_dialect(
        postgresql=rf"{column} ~ '^[ -~]+$' OR {column} ~ '^[^\x01-\x1f\x7f]+$'"
        rf" AND ({column} !~ '[\x80-\x9f]' OR getdatabaseencoding() ~ '^(WIN|KOI|SQL)')",
        mysql=f"char_length({column}) BETWEEN 1 AND 255"
        f" AND {column} NOT REGEXP concat('[^ -~', {first}, '-', {last}, ']')",
        sqlite=f"{column} IS NULL OR typeof({column}) = 'text' AND instr({column}, char(0)) = 0"
        f" AND length({column}) BETWEEN 1 AND 255"
        f" AND {column} NOT GLOB '*[^ -~' || char(160) || '-' || char(1114111) || ']*'",
    )
    return CheckConstraint(allowed, f"vercel_outbox_{column}_is_valid")


def _subject_columns() -> tuple[Column[Any], ...]:
    return (
        Column("installation_id", text(128), nullable=False),
        Column("type", text(32), nullable=False),
        Column("resource_id", text(255)),
    )


def _outbox(metadata: MetaData, schema: str | None) -> Table:
    return Table(
        "vercel_outbox",
        metadata,
        Column("id", IDENTITY, Identity(always=True), primary_key=True),
        *_subject_columns(),
        Column("product_id", text(255)),
        Column("billing_plan_id", text(255)),
        Column("created_at", TIMESTAMP, nullable=False, server_default=now()),
        Column("traceparent", text(55)),
        matches_installation_id(),
        is_known_type(),
        CheckConstraint(
            "(type <> 'resource.updated' OR resource_id IS NOT NULL)"
            " AND (type <> 'installation.updated' OR resource_id IS NULL)",
            "vercel_outbox_resource_id_goes_with_resource_updated",
        ),
        CheckConstraint(
            "product_id IS NULL OR type <> 'installation.updated'",
            "vercel_outbox_product_id_goes_with_resource_updated",
        ),
        CheckConstraint(
            "billing_plan_id IS NULL OR type <> 'resource.updated'",
            "vercel_outbox_billing_plan_id_goes_with_installation_updated",
        ),
        matches_partner_id("resource_id"),
        matches_partner_id("product_id"),
        matches_partner_id("billing_plan_id"),
        schema=schema,
        sqlite_autoincrement=True,
        postgresql_with=QUEUE_VACUUM,
        **STORAGE,
    )


def _delivery(metadata: MetaData, schema: str | None) -> Table:
    table = Table(
        "vercel_delivery",
        metadata,
        Column("subject_key", text(64), primary_key=True),
        *_subject_columns(),
        Column("product_id", text(255)),
        Column("billing_plan_id", text(255)),
        Column("version", text(36), nullable=False),
        Column("events", sa.BigInteger, nullable=False),
        Column("first_event_id", sa.BigInteger, nullable=False),
        Column("last_event_id", sa.BigInteger, nullable=False),
        Column("first_created_at", TIMESTAMP, nullable=False),
        Column("attempts", Integer, nullable=False, server_default="0"),
        Column("gone", SmallInteger, nullable=False, server_default="0"),
        Column("due_at", TIMESTAMP, nullable=False),
        Column("visible_at", TIMESTAMP, nullable=False),
        Column("last_status", SmallInteger),
        Column("last_error", LONG_TEXT),
        Column("traceparent", text(55)),
        schema=schema,
        postgresql_with={"fillfactor": 70, **QUEUE_VACUUM},
        **STORAGE,
    )
    Index("vercel_delivery_due", table.c.installation_id, table.c.due_at)
    return table


def _installation(metadata: MetaData, schema: str | None) -> Table:
    table = Table(
        "vercel_installation",
        metadata,
        Column("installation_id", text(128), primary_key=True),
        Column("due_at", TIMESTAMP),
        Column("lease_token", text(36)),
        Column("leased_until", TIMESTAMP),
        Column("leased_by", text(255)),
        Column("paused_until", TIMESTAMP),
        Column("pause_reason", text(32)),
        Column("paused_since", TIMESTAMP),
        Column("throttled_until", TIMESTAMP),
        Column("rate_window", LONG_TEXT),
        Column("failures", Integer, nullable=False, server_default="0"),
        Column("faults", Integer, nullable=False, server_default="0"),
        Column("suspects", Integer, nullable=False, server_default="0"),
        Column("last_delivered_at", TIMESTAMP),
        Column("collections", sa.BigInteger, nullable=False, server_default="0"),
        CheckConstraint("(lease_token IS NULL) = (leased_until IS NULL)", "vercel_installation_lease_is_whole"),
        CheckConstraint(
            "(pause_reason IS NULL) = (paused_until IS NULL) AND (pause_reason IS NULL) = (paused_since IS NULL)",
            "vercel_installation_pause_is_whole",
        ),
        schema=schema,
        postgresql_with={"fillfactor": 70, **QUEUE_VACUUM},
        **STORAGE,
    )
    Index("vercel_installation_due", table.c.due_at, **partial("due_at IS NOT NULL"))
    Index("vercel_installation_paused", table.c.pause_reason, **partial("pause_reason IS NOT NULL"))
    Index("vercel_installation_faulty", table.c.faults, **partial("faults > 0"))
    return table


def _collector(metadata: MetaData, schema: str | None) -> Table:
    return Table(
        "vercel_collector",
        metadata,
        Column("id", SmallInteger, primary_key=True, autoincrement=False),
        CheckConstraint("id = 1", "vercel_collector_is_one_row"),
        schema=schema,
        **STORAGE,
    )


def _attempt(metadata: MetaData, schema: str | None) -> Table:
    table = Table(
        "vercel_attempt",
        metadata,
        Column("id", IDENTITY, Identity(always=True), primary_key=True),
        Column("at", TIMESTAMP, nullable=False),
        Column("subject_key", text(64), nullable=False),
        *_subject_columns(),
        Column("product_id", text(255)),
        Column("attempt", Integer, nullable=False),
        Column("events", sa.BigInteger, nullable=False),
        Column("first_event_id", sa.BigInteger, nullable=False),
        Column("last_event_id", sa.BigInteger, nullable=False),
        Column("first_created_at", TIMESTAMP, nullable=False),
        Column("outcome", text(32), nullable=False),
        Column("status", SmallInteger),
        Column("error_code", text(255)),
        Column("error", LONG_TEXT),
        Column("duration_ms", Integer, nullable=False),
        Column("vercel_id", text(255)),
        Column("decision", text(32), nullable=False),
        Column("reason", text(32)),
        Column("next_due_at", TIMESTAMP),
        schema=schema,
        sqlite_autoincrement=True,
        **STORAGE,
    )
    Index("vercel_attempt_installation", table.c.installation_id, table.c.id)
    Index("vercel_attempt_resource", table.c.resource_id, table.c.installation_id, table.c.id)
    Index("vercel_attempt_at", table.c.at)
    return table


def _dead_letter(metadata: MetaData, schema: str | None) -> Table:
    table = Table(
        "vercel_dead_letter",
        metadata,
        Column("id", IDENTITY, Identity(always=True), primary_key=True),
        Column("died_at", TIMESTAMP, nullable=False),
        Column("reason", text(32), nullable=False),
        Column("subject_key", text(64)),
        Column("installation_id", text(128)),
        Column("type", text(32)),
        Column("resource_id", text(255)),
        Column("product_id", text(255)),
        Column("billing_plan_id", text(255)),
        Column("events", sa.BigInteger, nullable=False),
        Column("first_event_id", sa.BigInteger, nullable=False),
        Column("last_event_id", sa.BigInteger, nullable=False),
        Column("first_created_at", TIMESTAMP, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("last_status", SmallInteger),
        Column("last_error", LONG_TEXT),
        Column("resolved_at", TIMESTAMP),
        Column("resolution", text(32)),
        Column("resolved_by", text(255)),
        Column("note", LONG_TEXT),
        CheckConstraint("(resolved_at IS NULL) = (resolution IS NULL)", "vercel_dead_letter_resolution_is_whole"),
        schema=schema,
        sqlite_autoincrement=True,
        **STORAGE,
    )
    Index("vercel_dead_letter_unresolved", table.c.subject_key, **partial("resolved_at IS NULL"))
    Index("vercel_dead_letter_resolved_at", table.c.resolved_at, table.c.id, **partial("resolved_at IS NOT NULL"))
    Index("vercel_dead_letter_installation", table.c.installation_id, table.c.id)
    Index("vercel_dead_letter_resource", table.c.resource_id, table.c.id)
    return table


def tables() -> list[Table]:
    """Returns all tables, in the schema of this run."""
    metadata = MetaData()
    schema = context.config.attributes.get("schema")
    return [
        table(metadata, schema) for table in (_outbox, _delivery, _installation, _collector, _attempt, _dead_letter)
    ]


def upgrade() -> None:
    """Creates the tables. Where each statement commits by itself, it continues where an earlier run was interrupted."""
    made = _already_made()
    for table in tables():
        if table.name not in made:
            op.execute(CreateTable(table))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            if index.name not in made:
                op.execute(CreateIndex(index))
        if table.name == "vercel_collector":
            op.execute(sa.insert(table).prefix_with("IGNORE", dialect="mysql").values(id=1))


def _already_made() -> set[str]:
    """Returns the names of the tables and indexes that an earlier run created before it was interrupted.

    Raises CommandError if one of the tables has another shape: then another program may have made it.
    """
    if context.is_offline_mode() or op.get_context().impl.transactional_ddl:
        return set()
    wanted = {str(table.name): table for table in tables()}
    made = {*wanted, *(str(index.name) for table in wanted.values() for index in table.indexes)}
    for difference in _differences(wanted):
        match difference:
            case CreateTableOp():
                made.discard(difference.table_name)
            case CreateIndexOp():
                made.discard(str(difference.index_name))
            case _:
                table = getattr(difference, "table_name", "one of the tables")
                raise CommandError(
                    f"nothing is changed: {table} is not as `dispatcher migrate` makes it: undo what changed it, or move that table"
                    " out of the way, then run `dispatcher migrate` again"
                )
    return made


def _differences(wanted: dict[str, Table]) -> Iterator[MigrateOperation]:
    """Yields the operations that would turn the database's tables of these names into the wanted ones."""
    options = {"include_name": lambda name, kind, _: kind != "table" or name in wanted}
    comparison = MigrationContext.configure(op.get_bind(), opts=options)
    (metadata,) = {table.metadata for table in wanted.values()}
    for operation in produce_migrations(comparison, metadata).upgrade_ops_list[0].ops:
        yield from operation.ops if isinstance(operation, ModifyTableOps) else [operation]


def downgrade() -> None:
    """Drops the tables, including all undelivered events."""
    for table in tables():
        op.execute(DropTable(table, if_exists=True))
