"""Gets the plans of statements when they are executed, with their real parameters and in their real transaction."""

import itertools
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import Connection, event

from dispatcher.database.transactions import Database

_ONE_ROW = "vercel_collector"
_MAX_HUNDREDS = 100_000
"""A SQLite statement is interrupted after this many hundreds of instructions."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of one executed statement."""

    statement: str
    scans: list[str]
    """Tables of the dispatcher that it read completely."""
    rows_read: int
    """The rows read by all its steps. For SQLite, which does not count rows, hundreds of its instructions."""
    text: str


@contextmanager
def explaining(database: Database) -> Iterator[list[Plan]]:
    """Records the plan of every statement on the dispatcher's tables but DESCRIBE, just before it is executed."""
    explain = {"postgresql": _explain_on_postgresql, "mysql": _explain_on_mysql, "sqlite": _explain_on_sqlite}
    plans: list[Plan] = []

    def before(connection: Connection, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if "vercel_" in statement and not statement.startswith("DESCRIBE"):
            raw: Any = connection.connection.dbapi_connection
            plans.extend(explain[database.dialect.name](raw, statement, parameters))

    event.listen(database.engine, "before_cursor_execute", before)
    yield plans
    event.remove(database.engine, "before_cursor_execute", before)


def _explain_on_postgresql(raw: Any, statement: str, parameters: dict[str, Any]) -> Iterator[Plan]:
    """Yields the plan for these parameters, and the generic plan that a prepared statement may get after its first executions."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
    numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", statement).replace("%%", "%")
    analyze = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) "
    execute = f"{analyze} EXECUTE explained" + (f"({', '.join(f'%({name})s' for name in names)})" if names else "")
    with _executing_at_once(raw), raw.cursor() as cursor, psycopg.ClientCursor(raw) as literal, _transaction(raw):
        cursor.execute("SAVEPOINT explained")
        yield _plan_of_postgresql(statement, cursor.execute(analyze + statement, parameters).fetchone()[0])
        cursor.execute("ROLLBACK TO SAVEPOINT explained")
        cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        cursor.execute(f"PREPARE explained AS {numbered}")
        yield _plan_of_postgresql(statement, literal.execute(execute, parameters).fetchone()[0])  # type: ignore[index]
        cursor.execute("DEALLOCATE explained")
        cursor.execute("ROLLBACK TO SAVEPOINT explained")


@contextmanager
def _executing_at_once(raw: Any) -> Iterator[None]:
    """Executes what the connection has deferred, and defers nothing in the block."""
    deferring, raw._defers = raw._defers, False
    raw.execute("SELECT 1")
    yield
    raw._defers = deferring


@contextmanager
def _transaction(raw: Any) -> Iterator[None]:
    """Opens a transaction unless the statement is already executed in one."""
    alone = raw.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    if alone:
        raw.execute("BEGIN")
    yield
    if alone:
        raw.execute("ROLLBACK")


def _plan_of_postgresql(statement: str, plan: Any) -> Plan:
    steps = list(_nodes(plan, "Node Type"))
    scans = [step["Relation Name"] for step in steps if step["Node Type"] == "Seq Scan"]
    read = sum(
        (step["Actual Rows"] + step.get("Rows Removed by Filter", 0) + step.get("Rows Removed by Index Recheck", 0))
        * step["Actual Loops"]
        for step in steps
        if "Scan" in step["Node Type"]
    )
    return Plan(statement, [name for name in scans if name != _ONE_ROW], round(read), json.dumps(plan, indent=1))


def _explain_on_mysql(raw: Any, statement: str, parameters: dict[str, Any]) -> Iterator[Plan]:
    with raw.cursor() as cursor:
        cursor.execute("SAVEPOINT explained")
        cursor.execute("ANALYZE FORMAT=JSON " + statement, parameters)
        (text,) = cursor.fetchone()
        cursor.execute("ROLLBACK TO SAVEPOINT explained")
    steps = [step for step in _nodes(json.loads(text), "table_name") if step["table_name"] != "r"]
    scans = [
        step["table_name"] for step in steps if step["access_type"] == "ALL" and not step["table_name"].startswith("<")
    ]
    read = sum((step.get("r_rows") or 0) * (step.get("r_loops") or 0) for step in steps)
    yield Plan(statement, [name for name in scans if name != _ONE_ROW], round(read), text)


def _explain_on_sqlite(raw: Any, statement: str, parameters: Any) -> Iterator[Plan]:
    lines = [row[3] for row in raw.execute("EXPLAIN QUERY PLAN " + statement, parameters)]
    scans = [
        line
        for line in lines
        if re.match(r"SCAN (?!r\b|grouped\b|json_each|\(|CONSTANT|vercel_collector)|.*AUTOMATIC", line)
    ]
    hundreds = itertools.count()
    raw.execute("SAVEPOINT explained")
    raw.set_progress_handler(lambda: next(hundreds) > _MAX_HUNDREDS, 100)
    with suppress(sqlite3.OperationalError):  # interrupted
        raw.execute(statement, parameters).fetchall()
    raw.set_progress_handler(None, 100)
    raw.execute("ROLLBACK TO explained")
    yield Plan(statement, scans, next(hundreds), "\n".join(lines))


def _nodes(tree: Any, mark: str) -> Iterator[dict[str, Any]]:
    """Yields all objects in the tree that have the key `mark`."""
    if isinstance(tree, dict):
        if mark in tree:
            yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            yield from _nodes(branch, mark)
