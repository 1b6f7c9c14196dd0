"""Runs the migrations on the connection, or prints them for the dialect, that `dispatcher.database.migration` passes; for Alembic's own
command, on the database of the DISPATCHER_… settings.
"""

from typing import Any

import sqlalchemy as sa
from alembic import context
from sqlalchemy import Connection

from dispatcher.database.transactions import open_database
from dispatcher.outbox.tables import VERSION_TABLE, metadata
from dispatcher.settings.settings import load_settings

attributes = context.config.attributes


def configure(**options: Any) -> None:
    """Runs the migrations with the options that every way of running them shares."""
    context.configure(
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        version_table_schema=attributes.get("schema"),
        include_name=lambda name, kind, _: (kind, name) != ("table", VERSION_TABLE),
        **options,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_on(connection: Connection) -> None:
    if connection.dialect.name == "mysql" and sa.inspect(connection).has_table(VERSION_TABLE):
        forget_overtaken(connection)
    configure(connection=connection)


def forget_overtaken(connection: Connection) -> None:
    """Keeps the newest revision. Where nothing excludes other migrations, one that was overtaken may have inserted an earlier one."""
    version = sa.table(VERSION_TABLE, sa.column("version_num"))
    newest = connection.execute(sa.select(sa.func.max(version.c.version_num))).scalar()
    if newest is not None:
        connection.execute(sa.delete(version).where(version.c.version_num < newest))


def write_sql(dialect: str) -> None:
    configure(dialect_name=dialect, literal_binds=True)


if "connection" in attributes:
    run_on(attributes["connection"])
elif "dialect" in attributes:
    write_sql(attributes["dialect"])
else:
    settings = load_settings()
    attributes["schema"] = settings.database_schema
    database = open_database(settings.database_url.get_secret_value(), settings.database_schema)
    if context.is_offline_mode():
        write_sql(database.dialect.name)
    else:
        with database.engine.connect() as own, database.dialect.migration(own):
            if database.schema:  # with it, `alembic check` resolves unqualified names
                own.exec_driver_sql(f"SET LOCAL search_path = {own.dialect.identifier_preparer.quote(database.schema)}")
            run_on(own)
    database.close()
