"""A token is sent through every fault, and then searched for wherever a person could read it."""

import base64
import signal
import urllib.parse
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tests.processes.conftest import HTTP, Running, Stage, wait_until

pytestmark = pytest.mark.gate

CANARY = "canary-7Hs2kQ9zX4"
COMMANDS = [
    ("check", "--live"),
    ("status",),
    ("status", "--json"),
    ("dead-letters", "list"),
    ("dead-letters", "list", "--json"),
    ("dead-letters", "causes"),
    ("dead-letters", "show", "1"),
    ("installations", "list", "--json"),
    ("explain", "icfg_1"),
    ("explain", "db_echo", "--json"),
    ("drain",),
]
FAULTS: list[dict[str, object]] = [
    {
        "resource_id": "db_echo",
        "status": 400,
        "body": f'{{"error": {{"code": "{CANARY}", "message": "got {CANARY}"}}}}',
    },
    {"resource_id": "db_html", "status": 500, "body": f"<h1>{CANARY}</h1>", "headers": {"X-Vercel-Id": CANARY}},
    {"resource_id": "db_moved", "status": 307, "headers": {"Location": f"https://elsewhere.test/?token={CANARY}"}},
    {"resource_id": "db_base64", "status": 422, "body": base64.b64encode(CANARY.encode()).decode()},
    {"resource_id": "db_garbage", "garbage": True},
    {"resource_id": "db_cut", "cut": "after"},
    {"resource_id": "db_hang", "hang": True},
    {"installation_id": "icfg_2", "status": 401, "body": f'{{"error": {{"message": "bad token {CANARY}"}}}}'},
]


def forms(secret: str) -> set[str]:
    """Returns the secret itself and its encodings."""
    return {
        secret,
        base64.b64encode(secret.encode()).decode().rstrip("="),
        urllib.parse.quote(secret, safe=""),
    }


def tables(stage: Stage) -> Iterator[str]:
    """Yields every row of every table."""
    for name in sa.inspect(stage.partner).get_table_names():
        yield from (str(row) for row in stage.query(f"SELECT * FROM {name}"))


def run_through_every_fault(stage: Stage, **environment: str) -> list[str]:
    """Returns every text that a person can read afterwards."""
    for fault in FAULTS:
        stage.script(**fault)
    # Gives up the request that hangs.
    brief = {"DISPATCHER_REQUEST_TIMEOUT": "1s"}
    service = stage.start_service(DISPATCHER_LOG_LEVEL="debug", DISPATCHER_MAX_ATTEMPTS="2", **brief, **environment)
    stage.commit(*(str(fault["resource_id"]) for fault in FAULTS if "resource_id" in fault))
    with stage.partner.begin() as connection:
        insert = "INSERT INTO vercel_outbox (installation_id, type) VALUES ('icfg_2', 'installation.updated')"
        connection.exec_driver_sql(insert)
    return [*_read_meanwhile(stage, environment), *_end(service), *tables(stage)]


def _read_meanwhile(stage: Stage, environment: dict[str, str]) -> Iterator[str]:
    wait_until(lambda: stage.count("vercel_attempt") >= len(FAULTS))
    yield HTTP.get(f"http://127.0.0.1:{stage.ops_port}/metrics").text
    yield HTTP.get(f"http://127.0.0.1:{stage.ops_port}/readyz").text
    for command in COMMANDS:
        ended = stage.run(*command, **environment)
        yield ended.stdout + ended.stderr


def _end(service: Running) -> Iterator[str]:
    service.send_signal(signal.SIGTERM)
    service.wait(60)
    yield from (service.out, service.log)


def assert_nowhere(readable: list[str], secret: str) -> None:
    assert len("".join(readable)) > 5_000  # there was something to read
    leaks = [text for text in readable for form in forms(secret) if form in text]
    assert not leaks, leaks[0][:500]


def test_one_token_for_all_is_nowhere_to_be_read(stage: Stage) -> None:
    assert_nowhere(run_through_every_fault(stage, DISPATCHER_VERCEL_TOKEN=CANARY), CANARY)


@pytest.mark.parametrize(
    "ending", ["", "\nX-Injected: 1", *(pytest.param(ending, marks=pytest.mark.nightly) for ending in (" b", "é"))]
)
def test_a_tokens_file_is_nowhere_to_be_read_even_if_it_is_damaged(stage: Stage, ending: str) -> None:
    directory = stage.directory / "tokens"
    directory.mkdir()
    for installation in ("icfg_1", "icfg_2"):
        (directory / installation).write_text(CANARY + ending)
    del stage.environment["DISPATCHER_VERCEL_TOKEN"]
    if ending:
        service = stage.start_service(DISPATCHER_CREDENTIALS_DIR=str(directory), DISPATCHER_LOG_LEVEL="debug")
        stage.commit("db_1")
        wait_until(lambda: stage.query("SELECT 1 FROM vercel_installation WHERE pause_reason = 'no_credential'"))
        checked = stage.run("check", DISPATCHER_CREDENTIALS_DIR=str(directory))
        readable = [checked.stdout, checked.stderr, *_end(service), *tables(stage), "." * 5_000]
    else:
        readable = run_through_every_fault(stage, DISPATCHER_CREDENTIALS_DIR=str(directory))
    assert_nowhere(readable, CANARY)


def test_a_query_that_fails_shows_no_token(stage: Stage) -> None:
    with stage.partner.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE partner (id TEXT, token TEXT)")
        connection.exec_driver_sql(f"INSERT INTO partner VALUES ('icfg_1', '{CANARY}'), ('icfg_2', '{CANARY}')")
    del stage.environment["DISPATCHER_VERCEL_TOKEN"]
    query = "SELECT token FROM partner WHERE id = :installation_id"
    readable = [
        text
        for text in run_through_every_fault(stage, DISPATCHER_CREDENTIALS_QUERY=query)
        if not text.startswith("('icfg_")  # the partner's own table
    ]
    assert_nowhere(readable, CANARY)


def test_a_clients_secret_is_nowhere_to_be_read(stage: Stage) -> None:
    del stage.environment["DISPATCHER_VERCEL_TOKEN"]
    oauth = {
        "DISPATCHER_OAUTH_TOKEN_URL": f"{stage.sandbox_url}/no-token-here",
        "DISPATCHER_OAUTH_CLIENT_ID": "partner",
        "DISPATCHER_OAUTH_CLIENT_SECRET": CANARY,
        "DISPATCHER_LOG_LEVEL": "debug",
    }
    service = stage.start_service(**oauth)
    stage.commit("db_1")
    wait_until(lambda: stage.query("SELECT 1 FROM vercel_attempt WHERE outcome = 'credentials_unavailable'"))
    checked = stage.run("check", **oauth)
    readable = [checked.stdout, checked.stderr, *_end(service), *tables(stage), "." * 5_000]
    assert_nowhere(readable, CANARY)


def test_the_secret_of_a_token_service_is_nowhere_to_be_read(stage: Stage) -> None:
    del stage.environment["DISPATCHER_VERCEL_TOKEN"]
    service_settings = {
        # The sandbox answers a GET there with 405.
        "DISPATCHER_CREDENTIALS_URL": f"{stage.sandbox_url}/v1/installations/{{installation_id}}/events?key={CANARY}",
        "DISPATCHER_CREDENTIALS_URL_TOKEN": CANARY,
        "DISPATCHER_LOG_LEVEL": "debug",
    }
    service = stage.start_service(**service_settings)
    stage.commit("db_1")
    wait_until(lambda: stage.query("SELECT 1 FROM vercel_attempt WHERE outcome = 'credentials_unavailable'"))
    checked = stage.run("check", "--live", "--all", **service_settings)
    readable = [checked.stdout, checked.stderr, *_end(service), *tables(stage), "." * 5_000]
    assert_nowhere(readable, CANARY)
