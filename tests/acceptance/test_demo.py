"""`dispatcher demo`, run to its end, and interrupted."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DEMO = [str(Path(sys.executable).with_name("dispatcher")), "demo"]
INTERRUPTED = 130

pytestmark = pytest.mark.gate


@contextmanager
def demo(temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """Runs the demo, with its database somewhere below this directory."""
    temporary.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    environment["TMPDIR"] = str(temporary)
    pipe = subprocess.PIPE
    with subprocess.Popen(DEMO, cwd=temporary.parent, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_law_holds_and_the_database_is_kept_for_inspection(tmp_path: Path) -> None:
    with demo(tmp_path / "temporary") as process:
        account, story = process.communicate(timeout=100)
    assert process.returncode == 0, account + story
    assert "The law held" in account
    assert "dead letter (gone)" in account
    assert "installation paused (unauthorized)" in account
    (directory,) = (tmp_path / "temporary").iterdir()
    assert f"export DISPATCHER_DATABASE_URL=sqlite:///{directory}/demo.db" in account
    assert f"rm -r {directory}" in account


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", ["the database is", "changes committed"])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, ending: signal.Signals, after: str) -> None:
    with demo(tmp_path / "temporary") as process:
        assert process.stderr is not None
        assert any(after in line for line in process.stderr)
        process.send_signal(ending)
        assert process.wait(60) == INTERRUPTED
        assert "Traceback" not in process.stderr.read()
    assert list((tmp_path / "temporary").iterdir()) == []
