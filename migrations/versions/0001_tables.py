"""The tables of the first release. A copy, on purpose: `dispatcher/outbox/tables.py` goes on, this revision does not.

Revision: 0001
"""

from typing import Any

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy import CheckConstraint, Column, Identity, Index, Integer, MetaData, SmallInteger, Table
from sqlalchemy.schema import CreateIndex, CreateTable, DropTable

from dispatcher.database.schema import already_made
from dispatcher.outbox.columns import (
    STORAGE,
    Timestamp,
    counter,
    identity,
    is_one_of,
    long_text,
    matches_installation_id,
    matches_partner_id,
    now_default,
    partial,
    text,
)

revision = "0001"
down_revision = None

# Queue tables are small and change all the time: vacuum by a count of dead rows, not by a share of the table.
QUEUE_VACUUM = {
    "autovacuum_vacuum_scale_factor": 0,
    "autovacuum_vacuum_threshold": 5_000,
    "autovacuum_vacuum_cost_delay": 0,
}


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
        Column("id", identity(), Identity(always=True), primary_key=True),
        *_subject_columns(),
        Column("product_id", text(255)),
        Column("billing_plan_id", text(255)),
        Column("created_at", Timestamp(), nullable=False, server_default=now_default()),
        Column("traceparent", text(55)),
        matches_installation_id("installation_id", "vercel_outbox_installation_id_is_valid"),
        is_one_of("type", ["resource.updated", "installation.updated"], "vercel_outbox_type_is_known"),
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
        matches_partner_id("resource_id", 255, "vercel_outbox_resource_id_is_valid"),
        matches_partner_id("product_id", 255, "vercel_outbox_product_id_is_valid"),
        matches_partner_id("billing_plan_id", 255, "vercel_outbox_billing_plan_id_is_valid"),
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
        Column("events", counter(), nullable=False),
        Column("first_event_id", counter(), nullable=False),
        Column("last_event_id", counter(), nullable=False),
        Column("first_created_at", Timestamp(), nullable=False),
        Column("attempts", Integer, nullable=False, server_default="0"),
        Column("gone", SmallInteger, nullable=False, server_default="0"),
        Column("due_at", Timestamp(), nullable=False),
        Column("visible_at", Timestamp(), nullable=False),
        Column("last_status", SmallInteger),
        Column("last_error", long_text()),
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
        Column("due_at", Timestamp()),
        Column("lease_token", text(36)),
        Column("leased_until", Timestamp()),
        Column("leased_by", text(255)),
        Column("paused_until", Timestamp()),
        Column("pause_reason", text(32)),
        Column("paused_since", Timestamp()),
        Column("throttled_until", Timestamp()),
        Column("rate_window", long_text()),
        Column("failures", Integer, nullable=False, server_default="0"),
        Column("faults", Integer, nullable=False, server_default="0"),
        Column("suspects", Integer, nullable=False, server_default="0"),
        Column("last_delivered_at", Timestamp()),
        Column("collections", counter(), nullable=False, server_default="0"),
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
        Column("id", identity(), Identity(always=True), primary_key=True),
        Column("at", Timestamp(), nullable=False),
        Column("subject_key", text(64), nullable=False),
        *_subject_columns(),
        Column("product_id", text(255)),
        Column("attempt", Integer, nullable=False),
        Column("events", counter(), nullable=False),
        Column("first_event_id", counter(), nullable=False),
        Column("last_event_id", counter(), nullable=False),
        Column("first_created_at", Timestamp(), nullable=False),
        Column("outcome", text(32), nullable=False),
        Column("status", SmallInteger),
        Column("error_code", text(255)),
        Column("error", long_text()),
        Column("duration_ms", Integer, nullable=False),
        Column("vercel_id", text(255)),
        Column("decision", text(32), nullable=False),
        Column("reason", text(32)),
        Column("next_due_at", Timestamp()),
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
        Column("id", identity(), Identity(always=True), primary_key=True),
        Column("died_at", Timestamp(), nullable=False),
        Column("reason", text(32), nullable=False),
        Column("subject_key", text(64)),
        Column("installation_id", text(128)),
        Column("type", text(32)),
        Column("resource_id", text(255)),
        Column("product_id", text(255)),
        Column("billing_plan_id", text(255)),
        Column("events", counter(), nullable=False),
        Column("first_event_id", counter(), nullable=False),
        Column("last_event_id", counter(), nullable=False),
        Column("first_created_at", Timestamp(), nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("last_status", SmallInteger),
        Column("last_error", long_text()),
        Column("resolved_at", Timestamp()),
        Column("resolution", text(32)),
        Column("resolved_by", text(255)),
        Column("note", long_text()),
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
    """All of them, in the schema that this run is for."""
    metadata = MetaData()
    schema = context.config.attributes.get("schema")
    return [
        table(metadata, schema) for table in (_outbox, _delivery, _installation, _collector, _attempt, _dead_letter)
    ]


def upgrade() -> None:
    """To this revision. Where each statement commits by itself, this goes on from where another run has broken off."""
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
    if context.is_offline_mode() or op.get_context().impl.transactional_ddl:
        return set()
    return already_made(op.get_bind(), tables()[0].metadata)


def downgrade() -> None:
    """Back to nothing: what is not delivered yet is dropped with the tables."""
    for table in tables():
        op.execute(DropTable(table, if_exists=True))
