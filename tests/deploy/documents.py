"""What the tests of `deploy/` read: its documents, their code blocks, the alerts, the dashboard, and YAML of any kind."""

import contextlib
import io
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import yaml

from dispatcher.cli import app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
IMAGE = "vercel-outbox-dispatcher"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@dataclass(frozen=True)
class Section:
    """A heading of a document, the text below it, and the anchor that leads there."""

    title: str
    text: str

    @property
    def anchor(self) -> str:
        """As GitHub makes it."""
        return re.sub(r"[^\w -]", "", self.title.lower()).replace(" ", "-")


def sections(document: str) -> list[Section]:
    """Of every level, each with its own text only."""
    text = re.sub(r"(?ms)^( *)```.*?^\1```$", lambda block: block[0].replace("\n#", "\n\\#"), read(document))
    parts = re.split(r"(?m)^#+ (.*)\n", text)
    return [Section(title, text) for title, text in zip(parts[1::2], parts[2::2], strict=True)]


def blocks(document: str, language: str) -> list[str]:
    """The code blocks in this language, also those in lists."""
    found = re.findall(rf"(?ms)^( *)```{language}\n(.*?)^\1```$", read(document))
    return ["".join(line.removeprefix(indent) for line in text.splitlines(True)) for indent, text in found]


def commands(document: str) -> list[list[str]]:
    """The command lines of its shell blocks and those in its tables, as words."""
    lines = "".join(blocks(document, "sh")).replace("\\\n", " ").splitlines()
    lines += re.findall(r"(?m)^\| `(kubectl .*?)` \|", read(document))
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def table(document: str, heading: str) -> dict[str, list[str]]:
    """The rows below a heading by their first cell, without the backticks."""
    (section,) = (one for one in sections(document) if one.title == heading)
    rows = [line.strip("|").split("|") for line in section.text.splitlines() if line.startswith("|")][2:]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in rows}


def read(document: str) -> str:
    """Its text."""
    return (DEPLOY / document).read_text()


def read_yaml(path: Path) -> Any:
    """The only document of the file."""
    return yaml.safe_load(path.read_text())


def alerts() -> dict[str, Any]:
    """The rules of Prometheus by the alert's name."""
    return {rule["alert"]: rule for group in read_yaml(ALERTS)["groups"] for rule in group["rules"]}


def panels() -> Iterator[dict[str, Any]]:
    """The panels of the dashboard, without the headings of its rows."""
    return (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def console_paths() -> dict[str, list[str]]:
    """The pages of the console that each section of the runbook names."""
    return {one.title: re.findall(r"In\s+the\s+console:\s+`([^`]+)`", one.text) for one in sections("runbook.md")}


def is_command(arguments: list[str]) -> bool:
    """Whether `dispatcher` takes these arguments; it is asked for its help on them."""
    command = typer.main.get_command(app)
    with contextlib.redirect_stdout(io.StringIO()):
        return bool(command.main([*arguments, "--help"], prog_name="dispatcher", standalone_mode=False) == 0)
