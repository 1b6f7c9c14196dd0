"""What a person sees of a secret setting: nothing."""

from collections.abc import Mapping

import pytest

from dispatcher.settings.settings import SettingsError, describe
from tests.unit.loading import CANARY, load


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///dispatcher.db", "sqlite:///dispatcher.db"),
        ("postgresql://db/app", "postgresql://db/app"),
        ("postgresql://app@db/app", "postgresql://app@db/app"),
        (f"mysql://app:{CANARY}@db/app", "mysql://app:***@db/app"),
        (f"mysql://app:{CANARY}/{CANARY}@db/app", "mysql://app:***@db/app"),
        (f"mysql://app:{CANARY}:{CANARY}@db/app", "mysql://app:***@db/app"),
        (f"mysql://:{CANARY}@db/app", "mysql://:***@db/app"),
        ("mysql://db:3306/app", "mysql://db:3306/app"),
    ],
)
def test_a_database_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert describe(load({"DATABASE_URL": url}))[0].value == shown


PASSWORD_CHARACTERS = [
    *map(chr, range(0x21, 0x7F)),
    *("ä", "??", "?&", "/?", "?/", "%40", "@?", "?@", "&a=", "://"),
]


@pytest.mark.parametrize(
    "url",
    [
        "postgres://app:{}@db/app",
        "mysql://app:{}@db/app?ssl_ca=x",
        "postgres://us/er:{}@db/app",
        "postgres://db/app?user=app&password={}",
        "postgres://db/app?sslpassword={}&sslmode=verify-full",
        "sqlite://app:{}@db/app",
        "mysql://app:{}",
    ],
)
def test_no_part_of_a_password_is_shown_whatever_characters_it_holds(url: str) -> None:
    for characters in PASSWORD_CHARACTERS:
        shown = shown_of({"DATABASE_URL": url.format(f"CANARY{characters}HALF{characters}END")})
        assert not [part for part in ("CANARY", "HALF", "END") if part in shown], characters


def shown_of(environ: Mapping[str, str]) -> str:
    """Returns everything that a person is shown of these settings."""
    try:
        settings = load(environ)
    except SettingsError as refusal:
        return str(refusal)
    return f"{settings!r} {describe(settings)}"


@pytest.mark.parametrize(
    "query",
    [
        *("'{}'", '"{}"', "'a''{}'", "'\\'{}'", "E'\\'' || '{}'", "$${}$$", "$k${}$k$", "0x{}", "12{}", "'{}"),
        *("-- it's\n'{}'", "/* ' */ '{}'", "# it's\n'{}'", "`'` || '{}'", "1--'\n'{}'"),
    ],
)
def test_no_literal_of_a_query_is_shown(query: str) -> None:
    literal = query.format("0123456789abcdef")
    shown = shown_of({"CREDENTIALS_QUERY": f"SELECT decrypt(token, {literal}) FROM t WHERE id = :installation_id"})
    assert "SELECT decrypt(token, " in shown
    assert "456789abcdef" not in shown


def test_a_query_is_shown_without_its_literals() -> None:
    settings = load({"CREDENTIALS_QUERY": "SELECT d(token, 'KEY') FROM \"t\" WHERE id = :installation_id AND n2 > 3"})
    lines = {line.name: line.value for line in describe(settings)}
    assert lines["DISPATCHER_CREDENTIALS_QUERY"] == (
        "SELECT d(token, '***') FROM \"***\" WHERE id = :installation_id AND n2 > ***"
    )
