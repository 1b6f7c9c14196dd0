"""Tokens from a query on the partner's table."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from dispatcher.credentials.bearer_token import CredentialsUnavailable, NoCredential
from dispatcher.credentials.query import QueryCredentials
from dispatcher.database.transactions import open_database
from dispatcher.settings.settings import SettingsError
from tests.unit.raw_server import DEADLINE_SECONDS


async def test_a_query_is_kept_until_refreshed(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/partner.db")
    engine = database.engine
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id TEXT, token TEXT)")
        connection.exec_driver_sql("INSERT INTO t VALUES ('a', 'one'), ('n', NULL), ('d', 'x'), ('d', 'y')")
    credentials = QueryCredentials(
        database, "SELECT token FROM t WHERE id = :installation_id", 60.0, deadline=DEADLINE_SECONDS
    )
    assert not credentials.is_at_hand("a")
    assert (await credentials.token("a")).get_secret_value() == "one"
    assert credentials.is_at_hand("a")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE t SET token = 'two' WHERE id = 'a'")
    assert (await credentials.token("a")).get_secret_value() == "one"
    assert (await credentials.token("a", refused=SecretStr("one"))).get_secret_value() == "two"
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE t SET token = 'three' WHERE id = 'a'")
    # The refusal of an older request must not cause another look-up.
    assert (await credentials.token("a", refused=SecretStr("one"))).get_secret_value() == "two"
    for installation in ("none", "n", "d"):
        with pytest.raises(NoCredential):
            await credentials.token(installation)
    wrong = QueryCredentials(
        database, "SELECT x FROM nowhere WHERE id = :installation_id", 1.0, deadline=DEADLINE_SECONDS
    )
    with pytest.raises(CredentialsUnavailable):
        await wrong.token("a")
    await wrong.aclose()
    await credentials.aclose()


def test_a_colon_within_a_literal_does_not_show_the_literal() -> None:
    database = open_database("sqlite:///never-opened.db")
    with pytest.raises(SettingsError, match="uses a : within quotes, but"):
        QueryCredentials(database, "SELECT d(token, 'a :KEY') FROM t WHERE id = :installation_id", 1.0, deadline=1.0)
    query = "SELECT token FROM t WHERE id = :installation_id AND t = :tenant"
    with pytest.raises(SettingsError, match="uses :tenant, but"):
        QueryCredentials(database, query, 1.0, deadline=1.0)
    database.close()
