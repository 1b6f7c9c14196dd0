"""`dispatcher demo`, run to its end, with a console, and interrupted."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.processes.conftest import DISPATCHER, HTTP, wait_until

DEMO = (str(DISPATCHER), "demo")
ENDLESS = """
from dispatcher.sandbox import demo_application
demo_application.CHANGES = 10**9
from dispatcher.__main__ import main
main()
"""
"""A demo that does not reach its end by itself, however late the test interrupts it."""
WITHOUT_JINJA = """
import sys
sys.modules["jinja2"] = None
from dispatcher.__main__ import main
main()
"""
INTERRUPTED = 130

pytestmark = pytest.mark.gate


@contextmanager
def demo(temporary: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """Runs the demo, with its database somewhere below this directory."""
    temporary.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    environment["TMPDIR"] = str(temporary)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=temporary.parent, env=environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def find(pattern: str, lines: Iterable[str]) -> str:
    """Reads the lines up to one with this pattern; returns its group."""
    return next(match[1] for line in lines if (match := re.search(pattern, line)))


def test_the_law_holds_and_the_database_is_kept_for_inspection(tmp_path: Path) -> None:
    with demo(tmp_path / "temporary", *DEMO) as process:
        account, story = process.communicate(timeout=100)
    assert process.returncode == 0, account + story
    assert "The law held" in account
    assert "dead letter (gone)" in account
    assert "installation paused (unauthorized)" in account
    (directory,) = (tmp_path / "temporary").iterdir()
    assert f"export DISPATCHER_DATABASE_URL=sqlite:///{directory}/demo.db" in account
    assert f"rm -r {directory}" in account


def test_with_a_console_it_goes_on_until_it_is_stopped_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with demo(tmp_path / "temporary", *DEMO, "--console") as process, httpx.Client(trust_env=False, timeout=30) as me:
        assert process.stdout is not None
        assert process.stderr is not None
        stand_in = find(r"stand-in listens on (\S+);", process.stderr)
        console, token = find(r"the console is at (\S+)", process.stderr).split("login?token=")
        find("(The law held)", process.stdout)
        me.get(f"{console}login", params={"token": token}, follow_redirects=True).raise_for_status()
        me.delete(find(r"curl --request DELETE (\S+)", process.stderr)).raise_for_status()
        plan = me.get(f"{console}actions/replay?reason=gone").text
        (signed,) = re.findall(r'name="plan" value="([^"]+)"', plan)
        origin = {"origin": console.rstrip("/")}
        done = me.post(f"{console}actions/replay?reason=gone", data={"plan": signed}, headers=origin)
        assert done.status_code == 303
        wait_until(lambda: is_delivered(stand_in, "db_unknown"))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()
        assert "rm -r" not in process.stdout.read()
    assert list((tmp_path / "temporary").iterdir()) == []


def is_delivered(stand_in: str, resource: str) -> bool:
    """Whether the stand-in has accepted a request about the resource."""
    requests = HTTP.get(f"{stand_in}/requests").json()
    return any(one["status"] == 201 and one["body"]["event"]["resourceId"] == resource for one in requests)


def test_a_console_without_its_package_is_one_line_that_says_what_to_install(tmp_path: Path) -> None:
    with demo(tmp_path / "temporary", sys.executable, "-c", WITHOUT_JINJA, "demo", "--console") as process:
        out, complaint = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert re.fullmatch(
        r"dispatcher: the package jinja2 is not installed: .* with its extra \[service\], .*\n", complaint
    )
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", ["the database is", "changes committed"])
@pytest.mark.parametrize("options", [(), ("--console",)], ids=["plain", "console"])
def test_an_interrupted_demo_leaves_nothing_behind(
    tmp_path: Path, ending: signal.Signals, after: str, options: tuple[str, ...]
) -> None:
    with demo(tmp_path / "temporary", sys.executable, "-c", ENDLESS, "demo", *options) as process:
        assert process.stderr is not None
        find(f"({after})", process.stderr)
        process.send_signal(ending)
        assert process.wait(60) == INTERRUPTED
        assert "Traceback" not in process.stderr.read()
    assert list((tmp_path / "temporary").iterdir()) == []
