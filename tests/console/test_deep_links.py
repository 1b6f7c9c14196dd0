"""The links that lead into the console from elsewhere: from the alerts, the dashboard, the runbook and the log."""

import re
import shlex
from html import unescape
from urllib.parse import parse_qsl

import pytest
import structlog

from dispatcher import ResourceUpdated, publish
from dispatcher.database.transactions import Database
from dispatcher.policy.decision import Action, DeadLetterReason, Decision, PauseReason
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.telemetry import Answered, InstallationPaused, Log
from tests.console.conftest import Console, words
from tests.deploy.documents import alerts, console_paths, panels
from tests.unit.answered import answer

COMMANDS = {
    "": "dispatcher status",
    "dead-letters": "dispatcher dead-letters",
    "installations": "dispatcher installations list",
    "requests": "dispatcher requests",
    "system": "dispatcher check --all",
}
LABELS = {"dead-letters": DeadLetterReason.REJECTED, "installations": PauseReason.UNAUTHORIZED}
"""The label `reason` of an alert or a series that leads to this page."""

STRANGE = "a b/#?&=%2F+ü'\""
"""The id of a resource; ids are the partner's own."""


def option(name: str, value: str) -> str:
    """The option of the page's command that stands for this field of its URL."""
    match name, value:
        case "outcome", "failing":
            return "--failed"
        case "show", "all":
            return "--resolved"
        case "show", _:
            return f"--{value}"
    return shlex.join([f"--{name}", value])


async def check(console: Console, path: str) -> None:
    """The path leads to the page that it names, with its whole filter: the page's command has it too."""
    page = await console.get(path[1:])
    assert page.status_code == 200, path
    place, _, query = path[1:].partition("?")
    command = unescape(re.findall(r'data-copy="([^"]+)"', page.text)[-1])
    assert command.startswith(COMMANDS[place])
    for name, value in parse_qsl(query, strict_parsing=bool(query)):
        assert option(name, value) in command, path


def filled_in(path: str) -> str:
    """The path as it is for one alert or one series."""
    reason = LABELS.get(path[1:].partition("?")[0], "")
    values = {
        "{{ $labels.reason }}": reason,
        "${__field.labels.reason}": reason,
        "${__field.labels.outcome}": OutcomeKind.THROTTLED,
        "${__from:date:iso}": "2026-11-30T08:46:20.123Z",
        "${__to:date:iso}": "2026-11-30T14:46:20.123Z",
    }
    for name, value in values.items():
        path = path.replace(name, value)
    assert "$" not in path
    return path


@pytest.mark.parametrize("alert", alerts())
async def test_each_alert_leads_to_the_page_with_its_trouble(console: Console, alert: str) -> None:
    await check(console, filled_in(alerts()[alert]["annotations"]["console_path"]))


@pytest.mark.parametrize("url", sorted({panel["fieldConfig"]["defaults"]["links"][0]["url"] for panel in panels()}))
async def test_each_panel_leads_to_a_page_with_its_filter(console: Console, url: str) -> None:
    await check(console, filled_in(url.removeprefix("${console:raw}")))


@pytest.mark.parametrize("path", sorted({path for paths in console_paths().values() for path in paths}))
async def test_each_entry_of_the_runbook_leads_to_a_page_with_its_filter(console: Console, path: str) -> None:
    await check(console, path)


async def test_the_log_leads_to_the_page_of_the_installation_and_to_the_history(
    console: Console, trouble: Database
) -> None:
    with trouble.engine.begin() as connection:
        publish(connection, ResourceUpdated(installation_id="icfg_1", resource_id=STRANGE))
    paused = InstallationPaused("icfg_2", PauseReason.UNAUTHORIZED)
    rejected = Decision(Action.BURY, DeadLetterReason.REJECTED)
    died = Answered([answer(Outcome(OutcomeKind.REJECTED, 400), rejected, ids=("icfg_1", STRANGE))])
    with structlog.testing.capture_logs() as lines:
        log = Log(console.url.rstrip("/"))
        log(paused)
        log(died)
    of_installation, of_resource = [await console.browser.get(line["console"]) for line in lines]
    assert (of_installation.status_code, of_resource.status_code) == (200, 200)
    assert "icfg_2" in words(of_installation.text)
    assert STRANGE in unescape(words(of_resource.text))
    assert "was written" in words(of_resource.text)


async def test_a_link_survives_the_login(console: Console) -> None:
    path = filled_in(alerts()["DispatcherInstallationsPaused"]["annotations"]["console_path"])
    console.browser.cookies.clear()
    asked = await console.get(path[1:])
    assert asked.url.path == "/login"
    page = await console.browser.get(f"{asked.url}&token={console.token}")
    assert str(page.url) == console.at(path[1:])
