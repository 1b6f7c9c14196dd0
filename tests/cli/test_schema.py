import pytest

from tests.cli.conftest import Terminal


def test_the_trigger_of_wakeup_is_printed_alone(dispatcher: Terminal) -> None:
    ended = dispatcher("schema", "--dialect", "postgresql", "--wakeup", "--schema", "Vercel")
    assert ended.code == 0
    assert "CREATE TABLE" not in ended.out
    assert 'AFTER INSERT ON "Vercel".vercel_outbox' in ended.out


def test_tables_can_be_printed_for_a_schema(dispatcher: Terminal) -> None:
    assert (
        "CREATE TABLE vercel.vercel_outbox" in dispatcher("schema", "--dialect", "postgresql", "--schema", "vercel").out
    )


@pytest.mark.parametrize(
    "options", [("mysql", "--wakeup"), ("sqlite", "--schema", "x"), ("postgresql", "--schema", "a; drop")]
)
def test_impossible_combinations_are_refused(dispatcher: Terminal, options: tuple[str, ...]) -> None:
    ended = dispatcher("schema", "--dialect", *options)
    assert (ended.code, ended.out) == (2, "")
    assert "--schema" in ended.complaint


def test_mariadb_has_the_tables_of_mysql(dispatcher: Terminal) -> None:
    on_mariadb, on_mysql = (dispatcher("schema", "--dialect", dialect).out for dialect in ("mariadb", "mysql"))
    assert on_mariadb == on_mysql
    assert "utf8mb4_bin" in on_mariadb
