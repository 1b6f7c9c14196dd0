"""Makes and drops the tables faster than `migrate` does. `migration/test_definitions.py` shows that the tables are the same."""

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from dispatcher.database import revisions
from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import VERSION_TABLE, collector, metadata

VERSION = sa.Table(
    VERSION_TABLE, sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True, nullable=False)
)
"""Alembic's table."""


def create_tables(database: Database) -> None:
    """Makes the tables of the newest revision, unless they are there."""

    def create(connection: Connection) -> None:
        if sa.inspect(connection).has_table(VERSION.name, schema=database.schema):
            return
        metadata.create_all(connection)
        VERSION.create(connection)
        connection.execute(sa.insert(collector).values(id=1))
        connection.execute(sa.insert(VERSION).values(version_num=revisions.newest()))

    database.transact(create, durable=False)


@retry(retry=retry_if_exception_type(OperationalError), stop=stop_after_delay(60), wait=wait_fixed(0.1), reraise=True)
def drop_tables(database: Database) -> None:
    """Drops the tables that are there. Retries while an autovacuum or an ending session holds a lock."""

    def drop(connection: Connection) -> None:
        VERSION.drop(connection, checkfirst=True)
        metadata.drop_all(connection)

    database.transact(drop, durable=False)
