"""Runs the migrations: on the connection that `dispatcher.schema` hands over, as SQL text, or (from `alembic`) on the ini file's URL."""

from typing import Any

from alembic import context
from sqlalchemy import Connection

from dispatcher.dialects import dialect_of, open_engine
from dispatcher.tables import VERSION_TABLE, metadata


def configure(**options: Any) -> None:
    """One set of options for every way to run."""
    schema = context.config.attributes.get("schema")
    context.configure(
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        version_table_schema=schema,
        **options,
    )


def run_on(connection: Connection) -> None:
    """Online."""
    configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    configure(dialect_name=context.config.attributes["dialect"], literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
elif (handed_over := context.config.attributes.get("connection")) is not None:
    run_on(handed_over)
else:
    url = context.config.get_main_option("sqlalchemy.url") or ""
    with open_engine(url).connect() as own, dialect_of(url).migration(own):
        run_on(own)
