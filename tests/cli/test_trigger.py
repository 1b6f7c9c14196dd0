"""`dispatcher trigger`: which names are allowed, and what is printed. `contract/test_trigger.py` runs the SQL on every database."""

import pytest

from dispatcher.outbox.trigger import Watched
from tests.cli.conftest import Terminal

COLUMNS = ("--installation-column", "installation", "--resource-column", "id")


@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "sqlite"])
def test_it_prints_sql_and_nothing_else(dispatcher: Terminal, dialect: str) -> None:
    ended = dispatcher(
        "trigger", "--dialect", dialect, "--table", "databases", *COLUMNS, "--when-changed", "name, plan"
    )
    assert (ended.code, ended.err) == (0, "")
    assert "CREATE TRIGGER" in ended.out
    assert "plan" in ended.out


@pytest.mark.parametrize(
    "names",
    [
        ("--table", 'a"; DROP TABLE users; --'),
        ("--table", "a`b"),
        ("--table", "a.b.c"),
        ("--table", ""),
        ("--table", "."),
        ("--table", "x" * 64),
        ("--table", "vercel_outbox"),
        ("--table", "app.vercel_delivery"),
        ("--table", "t", "--when-changed", "a,,b"),
        ("--table", "t", "--when-changed", "a'b"),
        ("--table", "t", "--schema", "$vercel$"),
    ],
)
def test_invalid_names_are_refused(dispatcher: Terminal, names: tuple[str, ...]) -> None:
    ended = dispatcher("trigger", "--dialect", "postgresql", *names, *COLUMNS)
    assert (ended.code, ended.out) == (2, "")
    assert ended.complaint


def test_sqlite_has_no_schema(dispatcher: Terminal) -> None:
    ended = dispatcher("trigger", "--dialect", "sqlite", "--table", "t", *COLUMNS, "--schema", "x")
    assert ended.code == 2
    assert "SQLite" in ended.complaint


def test_the_names_of_triggers_on_long_tables_stay_short_and_different() -> None:
    one, other = (Watched("t" * 60 + end, "i", "r").trigger for end in ("_a", "_b"))
    assert one != other
    assert len(one) <= 50
