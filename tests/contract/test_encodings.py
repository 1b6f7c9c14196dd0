"""`dispatcher check` on databases that cannot hold every character."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import make_url

from dispatcher.database import migration, schema
from dispatcher.database.engine import UnusableDatabaseUrl
from dispatcher.database.transactions import Database, open_database
from dispatcher.inspection.checks import Level, examine
from dispatcher.inspection.checks.database import check_encoding
from dispatcher.settings.settings import Settings
from tests.contract.servers import narrow_database


@contextmanager
def migrated(url: str) -> Iterator[Database]:
    database = open_database(url)
    migration.migrate(database)
    yield database
    database.close()


def findings(url: str) -> dict[str, tuple[Level, str]]:
    settings = Settings(
        database_url=SecretStr(url),
        vercel_token=SecretStr("t0ken"),
        vercel_base_url="http://127.0.0.1:1",
        allow_insecure_base_url=True,
    )
    return {one.check: (one.level, one.what) for one in examine(settings)}


def in_utf8(url: str) -> str:
    return make_url(url).update_query_dict({"client_encoding": "utf8"}).render_as_string(hide_password=False)


@pytest.mark.varies
def test_a_database_that_holds_every_character_is_not_mentioned(database: Database) -> None:
    assert list(check_encoding(database)) == []


def test_a_postgresql_database_in_another_encoding_is_a_warning(postgresql_url: str) -> None:
    with narrow_database(postgresql_url, "LATIN1") as url, migrated(url):
        found = findings(url)
    level, what = found["encoding"]
    assert level is Level.WARNING
    assert what.startswith("the encoding of the database is LATIN1, not UTF8: ")
    assert "pg_dump" in what
    assert found["schema"][0] is Level.OK


def test_a_postgresql_connection_in_another_encoding_is_a_warning(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    database = open_database(postgresql_url)
    (one,) = check_encoding(database)
    database.close()
    assert one.level is Level.WARNING
    assert one.what.startswith("the encoding of the connection is LATIN1, not UTF8: ")
    assert "unset PGCLIENTENCODING" in one.what


def test_a_postgresql_database_of_no_encoding_is_refused_in_one_line(postgresql_url: str) -> None:
    with narrow_database(postgresql_url, "SQL_ASCII") as url:
        level, what = findings(url)["settings"]
        refused = open_database(url)
        with pytest.raises(UnusableDatabaseUrl, match="SQL_ASCII") as refusal:
            migration.migrate(refused)
        refused.close()
        with migrated(in_utf8(url)) as told_what_it_means:
            (one,) = check_encoding(told_what_it_means)
    assert (level, what) == (Level.PROBLEM, str(refusal.value))
    assert "ENCODING 'UTF8'" in what
    assert one.level is Level.WARNING


def test_a_mysql_table_in_another_character_set_is_a_warning_whose_cure_works(mysql_url: str) -> None:
    with narrow_database(mysql_url, "latin1") as url, migrated(url) as database:
        assert list(check_encoding(database)) == []  # the tables specify their own
        with database.engine.begin() as connection:
            for table in ("vercel_attempt", "vercel_delivery"):
                connection.exec_driver_sql(f"ALTER TABLE {table} CONVERT TO CHARACTER SET latin1")
        (one,) = check_encoding(database)
        with database.engine.begin() as connection:
            for statement in one.what.partition("To fix it, run ")[2].rstrip(";").split(";"):
                connection.exec_driver_sql(statement)
        assert list(check_encoding(database)) == []
        assert schema.missing_columns(database) == []
    assert one.level is Level.WARNING
    assert "vercel_attempt (latin1), vercel_delivery (latin1)" in one.what


def test_a_mysql_connection_in_another_character_set_is_a_warning(mysql_url: str) -> None:
    database = open_database(mysql_url)
    # Like init_connect or a proxy.
    sa.event.listen(database.engine, "connect", lambda connection, _: connection.query("SET NAMES latin1"))
    (one,) = check_encoding(database)
    database.close()
    assert one.level is Level.WARNING
    assert one.what.startswith("the connection's character sets are latin1 and latin1")
