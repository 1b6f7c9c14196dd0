"""`dispatcher check --live` against a stand-in for Vercel."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import installation
from dispatcher.sandbox import Fault, Sandbox
from tests.cli.conftest import Ended, Terminal

TOKEN = "t0ken-of-the-test"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(tokens=frozenset({TOKEN})) as running:
        yield running


@pytest.fixture
def terminal(dispatcher: Terminal, sandbox: Sandbox) -> Terminal:
    settings = {"vercel_base_url": sandbox.url, "allow_insecure_base_url": "true", "vercel_token": TOKEN}
    return replace(dispatcher, settings=settings)


async def check(terminal: Terminal, *arguments: str, **settings: str) -> Ended:
    return await asyncio.to_thread(terminal, "check", "--json", *arguments, **settings)


def live(ended: Ended) -> list[tuple[str, str]]:
    """The level and the text of what Vercel said."""
    return [(row["level"], row["what"]) for row in ended.rows if row.get("check") == "live"]


def know(database: Database, *idle: str, due: str | None = None) -> None:
    rows: list[dict[str, object]] = [{"installation_id": one, "due_at": None} for one in idle]
    rows += [{"installation_id": due, "due_at": database.now()}] if due else []
    with database.engine.begin() as connection:
        connection.execute(sa.insert(installation), rows)


async def test_vercel_accepts_the_token_and_nothing_changes(terminal: Terminal, sandbox: Sandbox) -> None:
    ended = await check(terminal, "--live", "--installation", "icfg_1")
    assert ended.code == 0
    assert live(ended) == [("ok", "Vercel accepts the token of icfg_1")]
    assert [(one.method, one.path) for one in sandbox.requests] == [("GET", "/v1/installations/icfg_1/account")]


async def test_without_the_option_nothing_is_sent(terminal: Terminal, sandbox: Sandbox) -> None:
    ended = await check(terminal, "--installation", "icfg_1")
    assert (ended.code, live(ended), sandbox.requests) == (0, [], [])


async def test_a_token_that_vercel_refuses_is_a_problem(terminal: Terminal, sandbox: Sandbox) -> None:
    ended = await check(terminal, "--live", "--installation", "icfg_1", vercel_token="an0ther-t0ken")
    ((level, what),) = live(ended)
    assert (ended.code, level) == (1, "problem")
    expected = (
        f"(401, The bearer token is not valid., x-vercel-id {sandbox.requests[0].vercel_id}): store a working token"
    )
    assert what.startswith(f"Vercel refuses the token of icfg_1 {expected}")
    assert "an0ther-t0ken" not in ended.out + ended.err


async def test_known_installations_are_asked_about_those_with_events_first(
    terminal: Terminal, sandbox: Sandbox, database: Database
) -> None:
    know(database, *(f"icfg_{number}" for number in range(9)), due="icfg_due")
    ended = await check(terminal, "--live")
    asked = [one.installation_id for one in sandbox.requests]
    assert ended.code == 0
    assert (len(asked), "icfg_due" in asked) == (5, True)
    assert live(ended)[0] == ("ok", "Vercel accepts the token of icfg_due")


async def test_where_no_installation_is_known_vercel_is_not_asked(terminal: Terminal, sandbox: Sandbox) -> None:
    ended = await check(terminal, "--live")
    ((level, what),) = live(ended)
    assert (ended.code, level, sandbox.requests) == (0, "warning", [])
    assert "`--installation ID` names one" in what


@pytest.mark.parametrize(
    ("due", "refused", "code", "expected"),
    [
        (None, ["icfg_a"], 0, [("warning", "refuses the token of icfg_a"), ("ok", "accepts the token of icfg_b")]),
        ("icfg_a", ["icfg_a"], 1, [("problem", "refuses the token of icfg_a"), ("ok", "accepts the token of icfg_b")]),
        (None, ["icfg_a", "icfg_b"], 1, [("problem", "refuses the token of icfg_a, icfg_b")]),
    ],
)
async def test_a_refusal_of_an_idle_installation_is_a_problem_only_if_none_is_accepted(
    terminal: Terminal,
    sandbox: Sandbox,
    database: Database,
    tmp_path: Path,
    due: str | None,
    refused: list[str],
    code: int,
    expected: list[tuple[str, str]],
) -> None:
    know(database, *(one for one in ("icfg_a", "icfg_b") if one != due), due=due)
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    for name in ("icfg_a", "icfg_b"):
        (tokens / name).write_text("revoked" if name in refused else TOKEN)
    settings = {name: value for name, value in terminal.settings.items() if name != "vercel_token"}
    ended = await check(replace(terminal, settings=settings), "--live", credentials_dir=str(tokens))
    assert ended.code == code
    assert [level for level, _ in live(ended)] == [level for level, _ in expected]
    assert all(text in what for (_, what), (_, text) in zip(live(ended), expected, strict=True)), live(ended)
    assert len(sandbox.requests) == 2


@pytest.mark.parametrize(
    ("fault", "level", "text"),
    [
        (Fault(status=404), "problem", "Vercel does not know icfg_1 (404"),
        (
            Fault(status=403, error_code="integration_configuration_disabled"),
            "warning",
            "the configuration of icfg_1 is disabled at Vercel (403",
        ),
        (Fault(status=429), "warning", "Vercel's rate limit left the question about icfg_1 open (429"),
        (Fault(status=503), "problem", "Vercel could not be asked about icfg_1 (503"),
        (Fault(status=307, headers={"Location": "/x"}), "problem", "Vercel could not be asked about icfg_1 (307"),
        (Fault(cut="before"), "problem", "Vercel could not be asked about icfg_1 (the connection to 127.0.0.1 broke"),
    ],
)
async def test_every_other_answer_is_told_apart(
    terminal: Terminal, sandbox: Sandbox, fault: Fault, level: str, text: str
) -> None:
    sandbox.script(fault)
    ended = await check(terminal, "--live", "--installation", "icfg_1")
    assert ended.code == (1 if level == "problem" else 0)
    ((told, what),) = live(ended)
    assert (told, what[: len(text)]) == (level, text)


async def test_an_answer_that_repeats_the_token_does_not_show_it(terminal: Terminal, sandbox: Sandbox) -> None:
    sandbox.script(Fault(status=403, body=f'{{"error": {{"message": "bad token {TOKEN}"}}}}'))
    ended = await check(terminal, "--live", "--installation", "icfg_1")
    assert "[redacted]" in live(ended)[0][1]
    assert TOKEN not in ended.out + ended.err


async def test_without_a_token_vercel_is_not_asked(terminal: Terminal, sandbox: Sandbox, tmp_path: Path) -> None:
    settings = {name: value for name, value in terminal.settings.items() if name != "vercel_token"}
    ended = await check(
        replace(terminal, settings=settings), "--live", "--installation", "icfg_1", credentials_dir=str(tmp_path)
    )
    assert (ended.code, [level for level, _ in live(ended)], sandbox.requests) == (1, ["warning"], [])
