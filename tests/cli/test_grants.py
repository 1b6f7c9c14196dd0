"""`dispatcher grants`: its options. `contract/test_privileges.py` works with what it prints, on every database."""

import pytest

from dispatcher.inspection.grants import Users, grants
from tests.cli.conftest import Terminal

USERS = ("--application", "app", "--dispatcher", "my-dispatcher", "--migrator", "migrator")


def statements(text: str) -> list[str]:
    """Returns the statements without the remarks."""
    return [line.removesuffix(";") for line in text.splitlines() if not line.startswith("--")]


@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "mariadb"])
def test_it_prints_the_grants_in_two_steps(dispatcher: Terminal, dialect: str) -> None:
    expected = grants(dialect, Users("app", "my-dispatcher", "migrator"))
    both, before, after = (
        dispatcher("grants", *USERS, "--dialect", dialect, *step)
        for step in ((), ("--step", "before"), ("--step", "after"))
    )
    assert (both.code, both.err) == (0, "")
    assert both.out == before.out + after.out
    assert (statements(before.out), statements(after.out)) == (expected.before, expected.after)


def test_the_settings_name_database_and_schema(dispatcher: Terminal) -> None:
    ended = dispatcher("grants", *USERS, database_url="postgres://x@y/z", schema="vercel")
    assert "GRANT USAGE, CREATE ON SCHEMA vercel TO migrator;" in ended.out
    assert 'GRANT SELECT ON vercel.vercel_dispatcher_version TO "my-dispatcher";' in ended.out


def test_a_user_of_mysql_has_a_host(dispatcher: Terminal) -> None:
    users = ("--application", "app@10.%", "--dispatcher", "d@localhost", "--migrator", "m")
    ended = dispatcher("grants", *users, "--dialect", "mysql", "--schema", "partner")
    assert "ON `partner`.vercel_outbox TO 'app'@'10.%';" in ended.out
    assert "GRANT SELECT ON `partner`.vercel_dispatcher_version TO 'd'@'localhost';" in ended.out
    assert "GRANT ALL ON `partner`.vercel_outbox TO 'm';" in ended.out


@pytest.mark.parametrize(
    "options",
    [
        (*USERS, "--dialect", "sqlite"),
        USERS,
        (*USERS, "--dialect", "oracle"),
        (*USERS, "--dialect", "postgresql", "--schema", "a b"),
        (*USERS[:-1], "x'; DROP TABLE users; --", "--dialect", "mysql"),
        (*USERS[:-1], "", "--dialect", "postgresql"),
        (*USERS[:-2], "--dialect", "postgresql"),
    ],
)
def test_bad_input_is_refused(dispatcher: Terminal, options: tuple[str, ...]) -> None:
    ended = dispatcher("grants", *options)
    assert (ended.code, ended.out) == (2, "")
    assert ended.complaint
