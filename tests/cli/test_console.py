"""`dispatcher console` as a command."""

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.cli.conftest import COMMAND, Terminal

TOKEN = "t" * 40
HTTP = httpx.Client(trust_env=False, timeout=30)


@contextmanager
def running(dispatcher: Terminal, *arguments: str, **settings: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A console on a free port, and the line that it prints."""
    environ = dispatcher.environ(console_port="0", **settings)
    command = [str(COMMAND), "console", *arguments]
    with subprocess.Popen(
        command, cwd=dispatcher.directory, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline()
        finally:
            process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_a_link_that_logs_in_and_stops_on_a_signal(dispatcher: Terminal, number: signal.Signals) -> None:
    with running(dispatcher) as (process, line):
        found = re.fullmatch(r"the console \(read-only\) is at (http://127\.0\.0\.1:\d+)/login\?token=(\S+)\n", line)
        assert found, line
        url, token = found.groups()
        page = HTTP.get(f"{url}/login?token={token}", follow_redirects=True)
        assert "<h1>" in page.text
        assert HTTP.post(f"{url}/login", data={"token": "wrong"}, headers={"origin": url}).status_code == 403
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert [json.loads(one)["event"] for one in err.splitlines()] == ["refused by the console"]
    assert token not in err


def test_its_health_can_be_asked_also_while_the_database_is_away(dispatcher: Terminal) -> None:
    with running(dispatcher) as (_, line):
        port = line.partition("127.0.0.1:")[2].partition("/")[0]
        (dispatcher.directory / "dispatcher.db").unlink()
        assert dispatcher.in_process(dispatcher.environ(ops_port=port), "health").out == "healthy\n"


def test_each_start_makes_another_token(dispatcher: Terminal) -> None:
    with running(dispatcher) as (_, first), running(dispatcher, "--write") as (_, second):
        assert first.partition("token=")[2] != second.partition("token=")[2]
        assert len(second.partition("token=")[2]) > 40
        assert "(with actions)" in second


def test_a_token_that_is_a_setting_is_not_printed(dispatcher: Terminal) -> None:
    (dispatcher.directory / "token").write_text(TOKEN)
    settings = {"console_token_file": "token", "console_url": "https://console.example.com/tools/"}
    with running(dispatcher, **settings) as (_, line):
        assert line == "the console (read-only) is at https://console.example.com/tools/\n"


def test_it_listens_on_other_addresses_if_it_is_made_for_that(dispatcher: Terminal) -> None:
    settings = {"console_host": "0.0.0.0", "console_token": TOKEN, "console_url": "http://console.example.com"}  # noqa: S104 (for a moment)
    with running(dispatcher, **settings) as (_, line):
        assert line == "the console (read-only) is at http://console.example.com/\n"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"console_host": "0.0.0.0"}, "set DISPATCHER_CONSOLE_TOKEN_FILE or DISPATCHER_CONSOLE_USER_HEADER"),  # noqa: S104
        ({"console_host": "::", "console_url": "https://a"}, "set DISPATCHER_CONSOLE_TOKEN_FILE or"),
        ({"console_host": "0.0.0.0", "console_token": TOKEN}, "set DISPATCHER_CONSOLE_URL to the address"),  # noqa: S104
        (
            {"console_host": "host.example", "console_user_header": "X-User"},
            "set DISPATCHER_CONSOLE_URL to the address",
        ),
        ({"console_token": TOKEN, "console_user_header": "X-User"}, "are two ways to enter: keep one of them"),
        ({"console_operators": "anna"}, "DISPATCHER_CONSOLE_OPERATORS goes with DISPATCHER_CONSOLE_USER_HEADER"),
        ({"console_token": "short"}, "DISPATCHER_CONSOLE_TOKEN is shorter than 32 characters"),
    ],
)
def test_it_refuses_to_start_where_others_could_reach_it(
    dispatcher: Terminal, settings: dict[str, str], complaint: str
) -> None:
    ended = dispatcher("console", **settings)
    assert (ended.code, ended.out) == (2, "")
    assert complaint in ended.complaint
    assert TOKEN not in ended.err


def test_a_port_in_use_is_one_line(dispatcher: Terminal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = dispatcher("console", console_port=str(taken.getsockname()[1]))
    assert ended.code == 1
    assert "set DISPATCHER_CONSOLE_PORT to another one, or to 0" in ended.complaint


def test_it_starts_before_the_tables_exist(dispatcher: Terminal) -> None:
    (dispatcher.directory / "dispatcher.db").unlink()
    with running(dispatcher) as (process, line):
        url = line.split()[-1]
        page = HTTP.get(url, follow_redirects=True)
        assert page.status_code == 503
        assert "run `dispatcher migrate`" in page.text
        assert process.poll() is None


def test_with_write_it_does_what_a_person_confirms_and_logs_who_and_why(dispatcher: Terminal) -> None:
    dispatcher("publish", "--installation", "icfg_1", "--resource", "db_1")
    with running(dispatcher, "--write") as (process, line), httpx.Client(trust_env=False, timeout=30) as browser:
        url, _, token = line.split()[-1].partition("/login?token=")
        browser.get(f"{url}/login?token={token}", follow_redirects=True)
        named = browser.post(f"{url}/name", data={"name": "anna"}, headers={"origin": url})
        assert named.status_code == 303
        plan = browser.get(f"{url}/actions/pause?installation=icfg_1")
        (token,) = re.findall(r'name="plan" value="([^"]+)"', plan.text)
        form = {"plan": token, "note": "moves"}
        started = browser.post(f"{url}/actions/pause?installation=icfg_1", data=form, headers={"origin": url})
        assert started.status_code == 303
        while "Stop after this chunk" in browser.get(f"{url}/operations/1").text:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    logged = [json.loads(one) for one in err.splitlines()]
    assert [(one["event"], one["action"], one["by"], one["note"], one["state"]) for one in logged] == [
        ("operator action", "pause", "anna", "moves", state) for state in ("waiting", "done")
    ]
    (row,) = dispatcher("installations", "list", "--json").rows
    assert (row["pause_reason"], row["paused_by"]) == ("operator", "anna")
