"""The schema that holds the outbox: the one a caller names, else that of the setting DISPATCHER_SCHEMA, else the connection's own."""

import os
import re
from functools import lru_cache
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import TableClause

from dispatcher.outbox.tables import outbox

VARIABLE = "DISPATCHER_SCHEMA"
FILE_VARIABLE = "DISPATCHER_SCHEMA_FILE"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


def parse_name(text: str) -> str:
    """Returns the name of a schema. Raises ValueError with a predicate."""
    if not _NAME.fullmatch(text):
        raise ValueError(
            "is not a schema name: write at most 63 letters, digits and underscores, not beginning with a digit"
        )
    return text


def choose_schema(schema: str | None) -> str | None:
    """Returns `schema`, else that of DISPATCHER_SCHEMA or of the file that DISPATCHER_SCHEMA_FILE names, else None.

    Raises ValueError if it is no name of a schema, or if the file cannot be read.
    """
    if schema is not None:
        source, text = "schema", schema
    elif VARIABLE in os.environ:
        source, text = VARIABLE, os.environ[VARIABLE]
    elif FILE_VARIABLE in os.environ:
        source, text = FILE_VARIABLE, _read_file(os.environ[FILE_VARIABLE])
    else:
        return None
    try:
        return parse_name(text)
    except ValueError as problem:
        raise ValueError(f"{source} {problem}") from None


@lru_cache
def _read_file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{FILE_VARIABLE} cannot be read: put the path of a readable text file there") from None


@lru_cache
def outbox_in(schema: str | None) -> TableClause:
    """Returns the outbox in this schema, for statements."""
    if schema is None:
        return outbox
    return sa.table(outbox.name, *(sa.column(column.name, column.type) for column in outbox.c), schema=schema)
