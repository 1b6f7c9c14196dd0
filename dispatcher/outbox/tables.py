"""The tables. Partner code writes `vercel_outbox`; the others belong to the dispatcher."""

from sqlalchemy import CheckConstraint, Column, Identity, Index, Integer, MetaData, SmallInteger, Table

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
    plain_timestamp,
    storage_parameters,
    text,
)
from dispatcher.outbox.events import (
    INSTALLATION_ID_LENGTH,
    INSTALLATION_REMOVED,
    INSTALLATION_UPDATED,
    PARTNER_ID_LENGTH,
    RESOURCE_UPDATED,
    TRACEPARENT_LENGTH,
)

VERSION_TABLE = "vercel_dispatcher_version"
SINCE_0002 = {"since": "0002"}
"""Marks a table or column that a later revision of this major version added: older tables lack it (`Database.has`)."""
# Queue tables are small and change all the time: vacuum after a number of dead rows, not after a share of the table.
QUEUE_VACUUM = {
    "autovacuum_vacuum_scale_factor": 0,
    "autovacuum_vacuum_threshold": 5_000,
    "autovacuum_vacuum_cost_delay": 0,
}


def _subject_columns() -> tuple[Column[str], ...]:
    return (
        Column("installation_id", text(INSTALLATION_ID_LENGTH), nullable=False),
        Column("type", text(32), nullable=False),
        Column("resource_id", text(PARTNER_ID_LENGTH)),
    )


def _outbox(metadata: MetaData, schema: str | None) -> Table:
    """Append-only. Without unique indexes, foreign keys and triggers, so writers never wait for each other or for the dispatcher."""
    return Table(
        "vercel_outbox",
        metadata,
        Column("id", identity(), Identity(always=True), primary_key=True),
        *_subject_columns(),
        Column("product_id", text(PARTNER_ID_LENGTH)),
        Column("billing_plan_id", text(PARTNER_ID_LENGTH)),
        Column("created_at", Timestamp(), nullable=False, server_default=now_default()),
        Column("traceparent", text(TRACEPARENT_LENGTH)),
        matches_installation_id("installation_id", "vercel_outbox_installation_id_is_valid"),
        is_one_of(
            "type", [RESOURCE_UPDATED, INSTALLATION_UPDATED, INSTALLATION_REMOVED], "vercel_outbox_type_is_known"
        ),
        # The next three constraints concern known types only, so that an unknown type is reported by the one above.
        CheckConstraint(
            f"(type <> '{RESOURCE_UPDATED}' OR resource_id IS NOT NULL)"
            f" AND (type NOT IN ('{INSTALLATION_UPDATED}', '{INSTALLATION_REMOVED}') OR resource_id IS NULL)",
            "vercel_outbox_resource_id_goes_with_resource_updated",
        ),
        CheckConstraint(
            f"product_id IS NULL OR type NOT IN ('{INSTALLATION_UPDATED}', '{INSTALLATION_REMOVED}')",
            "vercel_outbox_product_id_goes_with_resource_updated",
        ),
        CheckConstraint(
            f"billing_plan_id IS NULL OR type NOT IN ('{RESOURCE_UPDATED}', '{INSTALLATION_REMOVED}')",
            "vercel_outbox_billing_plan_id_goes_with_installation_updated",
        ),
        matches_partner_id("resource_id", PARTNER_ID_LENGTH, "vercel_outbox_resource_id_is_valid"),
        matches_partner_id("product_id", PARTNER_ID_LENGTH, "vercel_outbox_product_id_is_valid"),
        matches_partner_id("billing_plan_id", PARTNER_ID_LENGTH, "vercel_outbox_billing_plan_id_is_valid"),
        schema=schema,
        sqlite_autoincrement=True,
        **storage_parameters(**QUEUE_VACUUM),
        **STORAGE,
    )


def _delivery(metadata: MetaData, schema: str | None) -> Table:
    """The work: one row per subject to announce to Vercel.

    `first_created_at`: the time of its oldest undelivered event. `visible_at`: when its newest event is visible wherever the partner's
    API reads.
    """
    table = Table(
        "vercel_delivery",
        metadata,
        Column("subject_key", text(64), primary_key=True),
        *_subject_columns(),
        Column("product_id", text(PARTNER_ID_LENGTH)),
        Column("billing_plan_id", text(PARTNER_ID_LENGTH)),
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
        Column("traceparent", text(TRACEPARENT_LENGTH)),
        schema=schema,
        **storage_parameters(fillfactor=70, **QUEUE_VACUUM),
        **STORAGE,
    )
    Index("vercel_delivery_due", table.c.installation_id, table.c.due_at)
    return table


def _installation(metadata: MetaData, schema: str | None) -> Table:
    """Dispatch state of an installation. No index contains the lease, so taking it updates the row in place."""
    table = Table(
        "vercel_installation",
        metadata,
        Column("installation_id", text(INSTALLATION_ID_LENGTH), primary_key=True),
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
        Column("paused_by", text(255), info=SINCE_0002),
        Column("pause_note", long_text(), info=SINCE_0002),
        CheckConstraint("(lease_token IS NULL) = (leased_until IS NULL)", "vercel_installation_lease_is_whole"),
        CheckConstraint(
            "(pause_reason IS NULL) = (paused_until IS NULL) AND (pause_reason IS NULL) = (paused_since IS NULL)",
            "vercel_installation_pause_is_whole",
        ),
        schema=schema,
        **storage_parameters(fillfactor=70, **QUEUE_VACUUM),
        **STORAGE,
    )
    Index("vercel_installation_due", table.c.due_at, **partial("due_at IS NOT NULL"))
    Index("vercel_installation_paused", table.c.pause_reason, **partial("pause_reason IS NOT NULL"))
    Index("vercel_installation_faulty", table.c.faults, **partial("faults > 0"))
    return table


def _collector(metadata: MetaData, schema: str | None) -> Table:
    """A single row that collectors lock to exclude one another. It is never updated."""
    return Table(
        "vercel_collector",
        metadata,
        Column("id", SmallInteger, primary_key=True, autoincrement=False),
        CheckConstraint("id = 1", "vercel_collector_is_one_row"),
        schema=schema,
        **STORAGE,
    )


def _attempt(metadata: MetaData, schema: str | None) -> Table:
    """Append-only log of all requests."""
    table = Table(
        "vercel_attempt",
        metadata,
        Column("id", identity(), Identity(always=True), primary_key=True),
        Column("at", Timestamp(), nullable=False),
        Column("subject_key", text(64), nullable=False),
        *_subject_columns(),
        Column("product_id", text(PARTNER_ID_LENGTH)),
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
    """Deliveries and rows that need a person. The ids of a malformed row are NULL where they cannot be displayed."""
    table = Table(
        "vercel_dead_letter",
        metadata,
        Column("id", identity(), Identity(always=True), primary_key=True),
        Column("died_at", Timestamp(), nullable=False),
        Column("reason", text(32), nullable=False),
        Column("subject_key", text(64)),
        Column("installation_id", text(INSTALLATION_ID_LENGTH)),
        Column("type", text(32)),
        Column("resource_id", text(PARTNER_ID_LENGTH)),
        Column("product_id", text(PARTNER_ID_LENGTH)),
        Column("billing_plan_id", text(PARTNER_ID_LENGTH)),
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


def _dispatcher(metadata: MetaData, schema: str | None) -> Table:
    """One row per running dispatcher. `outage`: since when Vercel has been unavailable by its own requests."""
    return Table(
        "vercel_dispatcher",
        metadata,
        Column("name", text(255), primary_key=True),
        Column("version", text(64), nullable=False),
        Column("started_at", Timestamp(), nullable=False),
        Column("seen_at", Timestamp(), nullable=False),
        Column("in_flight", Integer, nullable=False, server_default="0"),
        Column("outage", Timestamp()),
        schema=schema,
        info=SINCE_0002,
        **STORAGE,
    )


_TABLES = (_outbox, _delivery, _installation, _collector, _attempt, _dead_letter, _dispatcher)


def attach_tables(metadata: MetaData, schema: str | None = None) -> None:
    """Adds the dispatcher's tables to your metadata, so that your own Alembic migrations create them.

    `schema` is the PostgreSQL schema to put them in. Without this call, `dispatcher migrate` creates the tables. SQLAlchemy before 2.1
    leaves out their storage parameters on PostgreSQL, which tune vacuum: `dispatcher schema --dialect postgresql` prints them.
    """
    for table in _TABLES:
        for column in table(metadata, schema).columns:
            if isinstance(column.type, Timestamp):
                column.type = plain_timestamp()


def include_object(_object: object, name: str | None, type_: str, *_rest: object) -> bool:
    """Keeps Alembic's autogenerate from dropping the dispatcher's tables: `context.configure(include_object=include_object)`."""
    return not (type_ == "table" and name is not None and name in _NAMES)


metadata = MetaData()
for _table in _TABLES:
    _table(metadata, None)
_NAMES = frozenset(metadata.tables) | {VERSION_TABLE}

outbox = metadata.tables["vercel_outbox"]
delivery = metadata.tables["vercel_delivery"]
installation = metadata.tables["vercel_installation"]
collector = metadata.tables["vercel_collector"]
attempt = metadata.tables["vercel_attempt"]
dead_letter = metadata.tables["vercel_dead_letter"]
dispatcher = metadata.tables["vercel_dispatcher"]
