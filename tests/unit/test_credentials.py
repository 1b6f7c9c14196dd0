"""Where tokens come from, and what is said when there is none."""

import asyncio
import os
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from dispatcher.credentials.oauth import Grant
from dispatcher.credentials.sources import (
    CredentialsUnavailable,
    DirectoryCredentials,
    NoCredential,
    OAuthCredentials,
    QueryCredentials,
    StaticCredentials,
)
from dispatcher.database.transactions import open_database
from dispatcher.settings.settings import SettingsError
from dispatcher.transport.portable import HttpxTransport

LONGEST = 60.0
"""Seconds until something that an idle machine does at once must have happened on a busy one."""


async def test_a_static_token_is_read_again_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("new\n")
    credentials = StaticCredentials(SecretStr("old"), path)
    assert (await credentials.token("i")).get_secret_value() == "old"
    assert (await credentials.token("i", refused=SecretStr("old"))).get_secret_value() == "new"


async def test_a_file_per_installation_follows_a_swapped_link(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "icfg_1").write_text(f"{version}\n")
    (tmp_path / "data").symlink_to("one")
    credentials = DirectoryCredentials(tmp_path / "data")
    assert (await credentials.token("icfg_1")).get_secret_value() == "one"
    (tmp_path / "next").symlink_to("two")
    os.replace(tmp_path / "next", tmp_path / "data")
    assert (await credentials.token("icfg_1")).get_secret_value() == "two"


@pytest.mark.parametrize("name", ["..", "../secret", "a/b", "", "missing"])
async def test_no_file_outside_the_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("s")
    (tmp_path / "dir").mkdir()
    with pytest.raises(NoCredential):
        await DirectoryCredentials(tmp_path / "dir").token(name)


async def test_a_missing_directory_is_no_installations_fault(tmp_path: Path) -> None:
    with pytest.raises(CredentialsUnavailable):
        await DirectoryCredentials(tmp_path / "gone").token("icfg_1")


async def test_a_query_is_kept_until_refreshed(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/partner.db")
    engine = database.engine
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id TEXT, token TEXT)")
        connection.exec_driver_sql("INSERT INTO t VALUES ('a', 'one'), ('n', NULL), ('d', 'x'), ('d', 'y')")
    credentials = QueryCredentials(database, "SELECT token FROM t WHERE id = :installation_id", 60.0, deadline=LONGEST)
    assert not credentials.is_at_hand("a")
    assert (await credentials.token("a")).get_secret_value() == "one"
    assert credentials.is_at_hand("a")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE t SET token = 'two' WHERE id = 'a'")
    assert (await credentials.token("a")).get_secret_value() == "one"
    assert (await credentials.token("a", refused=SecretStr("one"))).get_secret_value() == "two"
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE t SET token = 'three' WHERE id = 'a'")
    # The answer to a request from before the token was read again is no news.
    assert (await credentials.token("a", refused=SecretStr("one"))).get_secret_value() == "two"
    for installation in ("none", "n", "d"):
        with pytest.raises(NoCredential):
            await credentials.token(installation)
    wrong = QueryCredentials(database, "SELECT x FROM nowhere WHERE id = :installation_id", 1.0, deadline=LONGEST)
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


def open_oauth(*statuses: int) -> tuple[OAuthCredentials, list[bytes]]:
    asked: list[bytes] = []

    def reply(request: httpx.Request) -> httpx.Response:
        asked.append(request.content)
        status = statuses[min(len(asked), len(statuses)) - 1]
        return httpx.Response(
            status, json={"access_token": f"t{len(asked)}", "expires_in": 3600, "error": "invalid_grant"}
        )

    grant = Grant("https://auth.example/token", "id", SecretStr("hush"), {"installation": "{installation_id}"})

    async def sleep(_seconds: float) -> None:
        pass

    return OAuthCredentials(HttpxTransport(httpx.MockTransport(reply)), grant, timeout=5, ttl=60, sleep=sleep), asked


async def test_oauth_asks_once_for_all_that_wait() -> None:
    credentials, asked = open_oauth(200)
    tokens = await asyncio.gather(*(credentials.token("icfg_1") for _ in range(20)))
    assert {token.get_secret_value() for token in tokens} == {"t1"}
    assert len(asked) == 1
    assert b"installation=icfg_1" in asked[0]
    assert (await credentials.token("icfg_1", refused=SecretStr("t1"))).get_secret_value() == "t2"


async def test_oauth_retries_failures_and_blames_the_endpoint() -> None:
    credentials, asked = open_oauth(503, 200)
    assert (await credentials.token("i")).get_secret_value() == "t2"
    credentials, asked = open_oauth(503)
    with pytest.raises(CredentialsUnavailable) as failed:
        await credentials.token("i")
    assert len(asked) == 3
    assert "hush" not in str(failed.value)
    with pytest.raises(NoCredential):
        await open_oauth(400)[0].token("i")
