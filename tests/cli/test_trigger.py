"""`dispatcher trigger`: its options and what it prints. `contract/test_trigger.py` and its neighbours run the SQL on every database."""

import pytest

from dispatcher.database.transactions import Database
from dispatcher.outbox.trigger import Column, Expression, UnusableName, Watched
from dispatcher.outbox.trigger.watched import read_command
from tests.cli.conftest import Terminal

COLUMNS = ("--installation-column", "installation", "--resource-column", "id")


def without_database(dispatcher: Terminal) -> dict[str, str]:
    """The environment of a command that knows of no database."""
    return {name: value for name, value in dispatcher.environ().items() if name != "DISPATCHER_DATABASE_URL"}


@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "mariadb", "sqlite"])
def test_it_prints_sql_and_nothing_else(dispatcher: Terminal, dialect: str) -> None:
    watched = ("--table", "databases", *COLUMNS, "--when-changed", "name, plan")
    ended = dispatcher.run_in(without_database(dispatcher), "trigger", "--dialect", dialect, *watched)
    assert (ended.code, ended.err) == (0, "")
    assert " TRIGGER " in ended.out
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
        ("--table", "t", "--product-column", 'a"b'),
        ("--table", "t", "--resource-expression", "NEW.x"),
        ("--table", "t", "--type", "installation.updated"),
        ("--table", "t", "--type", "resource.created"),
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


EXPRESSIONS = [
    "x",
    "NEWS.x",
    "NEW.x; DROP TABLE users",
    "NEW.x -- and the rest",
    "NEW.x /* and */",
    "NEW.x || $$",
    "NEW.x || $vercel$",
    "NEW.x || E'\\n'",
    "NEW.x\n",
]


@pytest.mark.parametrize("sql", EXPRESSIONS)
def test_an_expression_that_could_break_the_script_is_refused(dispatcher: Terminal, sql: str) -> None:
    names = ("--table", "t", "--installation-column", "i", "--resource-expression", sql)
    ended = dispatcher("trigger", "--dialect", "postgresql", *names)
    assert (ended.code, ended.out) == (2, "")
    assert "expression" in ended.complaint


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (("--resource-column", "id"), "--installation-column or --installation-expression"),
        (("--installation-column", "i"), "--resource-column or --resource-expression"),
        (("--type", "installation.updated"), "--installation-column or --installation-expression"),
    ],
)
def test_each_id_needs_a_source(dispatcher: Terminal, given: tuple[str, ...], missing: str) -> None:
    ended = dispatcher("trigger", "--dialect", "postgresql", "--table", "t", *given)
    assert ended.code == 2
    assert missing in ended.complaint


def test_an_installation_names_neither_resource_nor_product(dispatcher: Terminal) -> None:
    row = ("--dialect", "mysql", "--table", "t", "--type", "installation.updated", "--installation-column", "i")
    assert dispatcher("trigger", *row).code == 0
    for other in ("--resource-column", "--product-column"):
        assert dispatcher("trigger", *row, other, "c").code == 2


def test_without_a_database_it_needs_the_dialect(dispatcher: Terminal) -> None:
    ended = dispatcher.run_in(without_database(dispatcher), "trigger", "--table", "t", *COLUMNS)
    assert ended.code == 2
    assert "--dialect" in ended.complaint


@pytest.fixture
def resources(dispatcher: Terminal, database: Database) -> Terminal:
    """Commands on a database with a table of resources, which the settings name."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE resources (id text, installation text, name text)")
        connection.exec_driver_sql("INSERT INTO resources VALUES ('db_1', 'icfg_1', 'a')")
    return Terminal(dispatcher.directory, {"database_url": "sqlite:///dispatcher.db"})


@pytest.mark.parametrize("dialect", [(), ("--dialect", "sqlite")])
def test_with_a_database_the_columns_are_checked(resources: Terminal, dialect: tuple[str, ...]) -> None:
    good = resources("trigger", "--table", "resources", *COLUMNS, *dialect)
    assert (good.code, good.err) == (0, "")
    assert "CREATE TRIGGER" in good.out
    bad = resources("trigger", "--table", "resources", *COLUMNS, *dialect, "--when-changed", "names")
    assert (bad.code, bad.out) == (2, "")
    assert "did you mean name?" in bad.complaint


def test_a_script_for_another_database_is_only_printed(resources: Terminal) -> None:
    ended = resources("trigger", "--table", "nothing", *COLUMNS, "--dialect", "mysql")
    assert ended.code == 0


def test_it_is_created_and_left_alone_and_checked(resources: Terminal, database: Database) -> None:
    create = ("trigger", "--table", "resources", *COLUMNS, "--apply")
    assert "is in place, after a trial with 1 row" in resources(*create).out
    assert "was in place already" in resources(*create, "--dialect", "sqlite").out
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE resources SET name = 'b'")
        assert connection.exec_driver_sql("SELECT resource_id FROM vercel_outbox").all() == [("db_1",)]
        connection.exec_driver_sql("DROP TRIGGER vercel_outbox_resources_update")
    ended = resources(
        "check", vercel_token="t0ken", vercel_base_url="http://127.0.0.1:1", allow_insecure_base_url="true"
    )
    assert ended.code == 1
    assert "the trigger on resources is gone" in ended.out


def test_what_cannot_be_created_is_refused(resources: Terminal) -> None:
    create = ("trigger", "--apply", "--table", "resources", "--resource-column", "id", "--installation-column")
    misspelt = resources(*create, "install")
    assert (misspelt.code, misspelt.out) == (2, "")
    assert "did you mean installation?" in misspelt.complaint
    elsewhere = resources(*create, "installation", "--dialect", "postgresql")
    assert (elsewhere.code, elsewhere.out) == (2, "")
    in_schema = resources(*create, "installation", "--schema", "vercel")
    assert (in_schema.code, in_schema.out) == (2, "")
    failing = resources(
        "trigger",
        "--apply",
        "--table",
        "resources",
        "--resource-column",
        "id",
        "--installation-expression",
        "NEW.name || ' '",
    )
    assert (failing.code, failing.out) == (1, "")
    assert "nothing was changed" in failing.complaint


def watched(table: str = "t") -> Watched:
    return Watched(table, Column("i"), Column("r"))


def test_the_names_of_triggers_on_long_tables_stay_short_and_different() -> None:
    one, other = (watched("t" * 60 + end).trigger for end in ("_a", "_b"))
    assert one != other
    assert len(one) <= 50


def test_no_table_takes_the_name_of_our_own_trigger() -> None:
    assert watched("wakeup").trigger != "vercel_outbox_wakeup"


@pytest.mark.parametrize(
    "one",
    [
        watched("a b.c-d"),
        Watched(
            "t", Expression("(SELECT 'it''s' || a.i FROM a WHERE a.id = NEW.a)"), Column("r"), Column("p"), ("a", "b c")
        ),
        Watched("t", Column("i"), None, None, ("a",), "schema"),
    ],
    ids=lambda one: one.command,
)
def test_the_command_of_a_trigger_makes_the_same_trigger(one: Watched) -> None:
    assert read_command(one.command) == one


@pytest.mark.parametrize(
    "command",
    [
        "dispatcher publish",
        "dispatcher trigger --table t",
        "dispatcher trigger --table t --resource-column r --installation-column",
        "dispatcher trigger --table t --resource-column r --installation-column i --later 1",
        "dispatcher trigger --table t --resource-column ' --installation-column i",
    ],
)
def test_a_command_that_makes_no_trigger_is_not_read(command: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_command(command)


def test_an_installation_of_a_product_makes_no_sense() -> None:
    with pytest.raises(UnusableName):
        Watched("t", Column("i"), None, Column("p"))
