"""Errors of CREDENTIALS_QUERY on every database: the error code is shown, the database's message never is."""

import asyncio
import traceback
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from dispatcher.credentials.bearer_token import CredentialsUnavailable
from dispatcher.credentials.query import QueryCredentials
from dispatcher.database.transactions import Database, open_database
from dispatcher.inspection.checks.credentials import Tokens, check_credentials
from dispatcher.inspection.checks.finding import Level
from dispatcher.settings.settings import Settings
from dispatcher.transport import Network
from tests.contract.databases import on_mysql, on_postgresql, on_sqlite
from tests.contract.steps import DEADLINE_SECONDS

CANARY = "CANARYtok_9f8e7d6c5b4a"
KEY = "CANARYkey_1a2b3c"


@pytest.fixture
def partner(bare_database: Database) -> Iterator[Database]:
    """A database with a table of the partner's that contains one token."""
    with bare_database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS canary_partner")
        connection.exec_driver_sql("CREATE TABLE canary_partner (id VARCHAR(20), token VARCHAR(80))")
        connection.exec_driver_sql(f"INSERT INTO canary_partner VALUES ('icfg_1', '{CANARY}')")
    yield bare_database
    with bare_database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE canary_partner")


async def refusal(database: Database, query: str) -> str:
    opened = open_database(database.engine.url.render_as_string(hide_password=False), database.schema)
    query = f"{query} FROM canary_partner WHERE id = :installation_id"
    credentials = QueryCredentials(opened, query, 60.0, deadline=DEADLINE_SECONDS)
    with pytest.raises(CredentialsUnavailable) as refused:
        await credentials.token("icfg_1")
    await credentials.aclose()
    shown = "".join(traceback.format_exception(refused.value))
    assert "CANARY" not in shown
    return str(refused.value)


CODE = {"sqlite": "SQLITE_ERROR, ", "postgresql": "SQLSTATE 42P01, UndefinedTable", "mysql": "SQLSTATE 42S02, "}
QUOTE = {"sqlite": "'", "postgresql": "'", "mysql": '"'}


async def test_the_code_is_named_and_no_word_of_the_databases_own(partner: Database) -> None:
    message = await refusal(partner, f"SELECT (SELECT '{KEY}' FROM nothing_of_this_name)")
    assert f"DISPATCHER_CREDENTIALS_QUERY failed ({CODE[partner.dialect.name]}" in message
    assert "nothing_of_this_name" not in message


async def test_a_forgotten_quotation_mark_shows_no_key(partner: Database) -> None:
    await refusal(partner, f"SELECT coalesce(token, {QUOTE[partner.dialect.name]}{KEY})")


@pytest.mark.parametrize(
    ("condition", "is_warned"),
    [
        ("id = :installation_id", False),
        ("lower(id) = lower(:installation_id)", True),
        pytest.param("id = :installation_id AND BINARY id = :installation_id", False, id="as for mysql"),
    ],
)
def test_a_query_that_finds_the_token_of_another_in_upper_case_is_a_warning(
    partner: Database, condition: str, is_warned: bool
) -> None:
    if partner.dialect.name != "mysql":
        condition = condition.replace("BINARY ", "")
    elif "BINARY" not in condition:
        is_warned = True  # its default collation ignores case
    settings = Settings(
        database_url=SecretStr(partner.engine.url.render_as_string(hide_password=False)),
        credentials_query=f"SELECT token FROM canary_partner WHERE {condition}",
    )
    found = asyncio.run(check_credentials(settings, partner, Network(), Tokens("icfg_1"), usable=True))
    assert [one.level for one in found] == [Level.OK, Level.WARNING][: 1 + is_warned]
    assert ("ICFG_1" in found[-1].what) is is_warned


@on_postgresql
@pytest.mark.parametrize(
    ("expression", "code"),
    [
        ("token::uuid::text", "SQLSTATE 22P02, InvalidTextRepresentation"),
        ("token::int", "SQLSTATE 22P02, InvalidTextRepresentation"),
        ("current_setting(token)", "SQLSTATE 42704, UndefinedObject"),
    ],
)
async def test_a_value_that_the_database_complains_about_is_not_shown_by_postgresql(
    partner: Database, expression: str, code: str
) -> None:
    assert f"DISPATCHER_CREDENTIALS_QUERY failed ({code})" in await refusal(partner, f"SELECT {expression}")


@on_mysql
async def test_a_value_that_the_database_complains_about_is_not_shown_by_mysql(partner: Database) -> None:
    with partner.engine.begin() as connection:
        connection.exec_driver_sql("DROP FUNCTION IF EXISTS canary_refuse")
        connection.exec_driver_sql(
            "CREATE FUNCTION canary_refuse(value VARCHAR(80)) RETURNS INT DETERMINISTIC NO SQL"
            " BEGIN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = value; RETURN 1; END"
        )
    message = await refusal(partner, "SELECT canary_refuse(token)")
    with partner.engine.begin() as connection:
        connection.exec_driver_sql("DROP FUNCTION canary_refuse")
    assert "DISPATCHER_CREDENTIALS_QUERY failed (SQLSTATE 45000, " in message


@on_sqlite
async def test_a_value_that_the_database_complains_about_is_not_shown_by_sqlite(partner: Database) -> None:
    not_utf8 = f"CAST(X'{CANARY.encode().hex()}FF' AS TEXT)"
    assert "DISPATCHER_CREDENTIALS_QUERY failed (OperationalError)" in await refusal(partner, f"SELECT {not_utf8}")
