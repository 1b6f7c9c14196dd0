"""`dispatcher sandbox` as a process."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

COMMAND = [str(Path(sys.executable).with_name("dispatcher")), "sandbox"]
HTTP = httpx.Client(trust_env=False, timeout=60, limits=httpx.Limits(max_keepalive_connections=0))
EVENT = {"event": {"type": "installation.updated"}}


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yields the process, and the URL that it prints in one line at its start."""
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        announced = re.search(r"DISPATCHER_VERCEL_BASE_URL=(\S+) DISPATCHER_ALLOW_INSECURE_BASE_URL=true\n", line)
        assert announced, line
        yield process, announced[1]
    finally:
        process.kill()
        process.communicate()


def post(url: str, token: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"}
    return HTTP.post(f"{url}/v1/installations/icfg_1/events", json=EVENT, headers=headers)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_how_to_use_it_and_ends_at_a_signal(ending: signal.Signals) -> None:
    arguments = ("--port", "0", "--token", "one", "--token", "two", "--rate-limit", "1/1m")
    with running(*arguments) as (process, url):
        assert [post(url, token).status_code for token in ("one", "two", "three")] == [201, 429, 401]
        assert [one["status"] for one in HTTP.get(f"{url}/requests").json()] == [201, 429, 401]
        HTTP.post(f"{url}/faults", json={"hang": True})
        with pytest.raises(httpx.ReadTimeout):
            HTTP.post(f"{url}/v1/installations/icfg_1/events", timeout=httpx.Timeout(60, read=0.2))
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port or 0)):
            process.send_signal(ending)
            assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0


def test_tokens_of_a_file_are_valid_too(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("two\n\nthree\n")
    with running("--port", "0", "--token", "one", "--token-file", str(tmp_path / "tokens")) as (_, url):
        assert [post(url, token).status_code for token in ("one", "two", "three", "four")] == [201, 201, 201, 401]


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"one\ntwo t0kens\n", b"\xff\n"])
def test_a_file_without_tokens_is_refused_in_one_line_that_shows_none(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    command = [*COMMAND, "--port", "0", "--token-file", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"dispatcher: --token-file [^\n]*\n", ended.stderr)
    assert "t0kens" not in ended.stderr


def test_the_rate_limit_can_be_switched_off() -> None:
    with running("--port", "0", "--rate-limit", "off") as (_, url):
        assert "x-ratelimit-limit" not in post(url, "any").headers


def test_a_port_in_use_is_named_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run([*COMMAND, "--port", port], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(rf"dispatcher: [^\n]*127\.0\.0\.1[^\n]*{port}[^\n]*--port[^\n]*\n", ended.stderr)


@pytest.mark.parametrize(
    "arguments",
    [("--rate-limit", "sixty"), ("--rate-limit", "0/60s"), ("--token", "a b"), ("--token", ""), ("--port", "65536")],
)
def test_what_makes_no_sense_is_refused_in_one_line(arguments: tuple[str, str]) -> None:
    ended = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("dispatcher: ")
    assert ended.stderr.count("\n") == 1
    assert arguments[0] in ended.stderr
