"""The commands and snippets in the documents work as described."""

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")


def snippets(language: str) -> list[str]:
    """Returns the README's code blocks in this language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def bash(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script as a reader would. Stops at the first failure, and ends its background processes."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    return subprocess.run(
        ["bash", "-ec", f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"],
        check=False,
        cwd=directory,
        env=environment | {"PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=90,
    )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_command_exists(document: str) -> None:
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / document).read_text(), re.MULTILINE)):
        done = bash(f"make --dry-run {target}", ROOT)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_exists(document: str) -> None:
    commands = set(re.findall(r"`dispatcher ([a-z][a-z-]*)", (ROOT / document).read_text()))
    shown = bash("dispatcher --help", ROOT).stdout
    assert {command for command in commands if not re.search(rf"\b{command}\b", shown)} == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_exists(document: str) -> None:
    named = re.findall(r"`([\w.-]+(?:/[\w.-]*)+|[\w-]+\.(?:py|md|toml|txt))`", (ROOT / document).read_text())
    made = ("dist/", "build/")  # created by make
    assert named
    places = ("", "dispatcher", "tests", "tests/contract", "deploy")
    assert [
        name
        for name in named
        if not name.startswith(made) and not any((ROOT / place / name).exists() for place in places)
    ] == []


def test_every_threat_has_its_tests() -> None:
    """That they exist, the test above checks."""
    model = (ROOT / "SECURITY.md").read_text().partition("## Threat model\n")[2]
    rows = [line.strip("|").split("|") for line in model.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 5
    assert [threat for threat, *_, tests in rows if not re.search(r"`tests/\w+/test_\w+\.py`", tests)] == []


@pytest.mark.gate
def test_the_commands_deliver_an_event(tmp_path: Path) -> None:
    (_, block) = snippets("sh")
    done = bash(block, tmp_path)
    assert done.returncode == 0, done.stderr
    (shown,) = snippets("text")
    assert without_times(done.stdout).endswith(without_times(shown))


def without_times(text: str) -> str:
    """Returns the text without the parts that differ between runs."""
    return re.sub(r"[\d-]{10} [\d:]{8}|\d+ ms|sandbox::[\w-]+", "…", text)


@pytest.mark.gate
@pytest.mark.parametrize("language", ["python", "sql"])
def test_the_snippets_put_an_event_into_the_outbox(tmp_path: Path, language: str) -> None:
    assert bash("DISPATCHER_DATABASE_URL=sqlite:///dispatcher.db dispatcher migrate", tmp_path).returncode == 0
    (snippet,) = snippets(language)
    with closing(sqlite3.connect(tmp_path / "dispatcher.db")) as connection:
        if language == "sql":
            connection.executescript(snippet)
        else:
            ran = subprocess.run(
                [BIN / "python", "-c", snippet], check=False, cwd=tmp_path, capture_output=True, text=True
            )
            assert ran.returncode == 0, ran.stderr
        rows = connection.execute("SELECT installation_id, type, resource_id FROM vercel_outbox").fetchall()
    assert rows == [("icfg_1", "resource.updated", "db_1")]
