"""The tables as SQL, for whoever creates them by other means than migrations."""

from sqlalchemy import Index, MetaData, Table
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine.interfaces import Dialect as EngineDialect
from sqlalchemy.schema import CreateIndex, CreateTable

from dispatcher.outbox.columns import MYSQL
from dispatcher.outbox.tables import attach_tables

_DIALECTS: dict[str, EngineDialect] = {
    "postgresql": postgresql.dialect(),  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped
    **dict.fromkeys(MYSQL, mysql.dialect()),
    "sqlite": sqlite.dialect(),
}


def table_statements(dialect: str, schema: str | None = None) -> list[str]:
    """Returns the statements that create the tables and their indexes. `dialect`: postgresql, mysql, mariadb or sqlite."""
    metadata = MetaData()
    attach_tables(metadata, schema)
    target = _DIALECTS[dialect]
    statements = []
    for table in metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=target)).strip())
        statements += [str(CreateIndex(index).compile(dialect=target)).strip() for index in _sorted_indexes(table)]
    return statements


def _sorted_indexes(table: Table) -> list[Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))
