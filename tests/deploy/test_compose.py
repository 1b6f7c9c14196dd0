"""`compose.yaml`: its services, their settings and their order; and the tour it promises, with its own commands as processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatcher.settings.settings import Settings, load_settings
from tests.contract.servers import own_postgresql
from tests.deploy.documents import DEPLOY, IMAGE, VERSION, is_command, read, read_yaml
from tests.processes.conftest import HTTP, free_port, wait_until

SERVICES: dict[str, Any] = read_yaml(DEPLOY / "compose.yaml")["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith(IMAGE)}
DISPATCHER = Path(sys.executable).with_name("dispatcher")


def test_what_runs() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {
        "application",
        "database",
        "dispatcher",
        "migrate",
        "sandbox",
    }
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {"console": ["console"], "grafana": ["monitoring"], "prometheus": ["monitoring"]}


def test_a_service_waits_for_what_exists_and_says_when_it_is_ready() -> None:
    for service in SERVICES.values():
        for name, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                assert SERVICES[name]["healthcheck"]["test"]


def test_every_mounted_file_exists() -> None:
    mounted = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert mounted
    assert all((DEPLOY / path).exists() for path in mounted)


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_this_release_and_may_as_little_as_possible(name: str) -> None:
    service = OURS[name]
    assert service["image"] == f"{IMAGE}:{VERSION}"
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    if "command" in service:
        assert is_command(service["command"])


@pytest.mark.parametrize("name", ["console", "dispatcher", "migrate"])
def test_the_settings_are_accepted(name: str) -> None:
    environment = OURS[name]["environment"]
    assert load_settings(environment).database_url.get_secret_value() == environment["DISPATCHER_DATABASE_URL"]


def test_prometheus_reaches_the_port_that_it_scrapes() -> None:
    (job,) = read_yaml(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    settings = load_settings(OURS["dispatcher"]["environment"])
    assert job["static_configs"] == [{"targets": [f"dispatcher:{settings.ops_port}"]}]
    assert settings.ops_host == "0.0.0.0"  # noqa: S104 (what it has to be, not bound)


def test_the_dispatcher_has_time_to_end() -> None:
    assert int(OURS["dispatcher"]["stop_grace_period"].removesuffix("s")) >= Settings().shutdown_grace + 5


def test_the_console_is_published_on_this_machine_only_where_its_link_leads() -> None:
    console = OURS["console"]
    settings = load_settings(console["environment"])
    assert console["ports"] == [f"127.0.0.1:{settings.console_port}:{settings.console_port}"]
    assert settings.console_url == f"http://127.0.0.1:{settings.console_port}"
    assert settings.console_token is not None
    link = f"{settings.console_url}/login?token={settings.console_token.get_secret_value()}"
    assert link in (DEPLOY / "compose.yaml").read_text().partition("services:")[0]
    assert link in read("README.md")


class Tour:
    """The services as processes of this machine: the same commands and variables, other addresses."""

    def __init__(self, database_url: str) -> None:
        self.ports = {name: free_port() for name in ("application", "sandbox", "dispatcher", "console")}
        self.addresses = {
            "postgres://partner:partner@database:5432/partner": database_url,
            "postgresql+psycopg://partner:partner@database:5432/partner": database_url.replace("://", "+psycopg://", 1),
            "http://sandbox:8377": f"http://127.0.0.1:{self.ports['sandbox']}",
            "8377": str(self.ports["sandbox"]),
            "8080": str(self.ports["application"]),
            "9465": str(self.ports["console"]),
            "0.0.0.0": "127.0.0.1",  # noqa: S104 (replaced, not bound)
            "python3": sys.executable,
            "/application/application.py": str(DEPLOY / "compose" / "application.py"),
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """As compose would."""
        service = OURS[name]
        command = [*service.get("entrypoint", [str(DISPATCHER)]), *service.get("command", [])]
        self.running[name] = subprocess.Popen([self._here(word) for word in command], env=self._environ(name))

    def is_healthy(self, name: str) -> bool:
        """Whether the image's health check passes in the container of this service."""
        return subprocess.run([DISPATCHER, "health"], env=self._environ(name), check=False).returncode == 0

    def _environ(self, name: str) -> dict[str, str]:
        variables = {key: self._here(value) for key, value in OURS[name].get("environment", {}).items()}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("DISPATCHER_")}
        port = {"dispatcher": "DISPATCHER_OPS_PORT", "console": "DISPATCHER_CONSOLE_PORT"}.get(name)
        return kept | variables | ({port: str(self.ports[name])} if port else {})

    def _here(self, word: str) -> str:
        return self.addresses.get(word, word)

    def ask(self, service: str, path: str, method: str = "GET") -> httpx.Response:
        """One of the two that publish a port."""
        return HTTP.request(method, f"http://127.0.0.1:{self.ports[service]}{path}")

    def told(self) -> list[str]:
        """The resources that the stand-in for Vercel heard of."""
        return [one["body"]["event"]["resourceId"] for one in self.ask("sandbox", "/requests").json()]


@pytest.fixture
def tour() -> Iterator[Tour]:
    """Everything is up."""
    with own_postgresql() as server:
        made = Tour(server.get_uri())
        try:
            made.start("migrate")
            assert made.running["migrate"].wait(60) == 0
            for name in ("sandbox", "application", "dispatcher"):
                made.start(name)
            wait_until(lambda: made.ask("application", "/databases/db_1").status_code == 404)
            wait_until(lambda: made.told() == [])
            yield made
        finally:
            for process in made.running.values():
                process.kill()
                process.wait()


@pytest.mark.gate
def test_the_console_shows_what_was_delivered_and_is_healthy(tour: Tour) -> None:
    tour.start("console")
    wait_until(lambda: tour.is_healthy("console"))
    token = OURS["console"]["environment"]["DISPATCHER_CONSOLE_TOKEN"]
    url = f"http://127.0.0.1:{tour.ports['console']}"
    with httpx.Client(trust_env=False, follow_redirects=True, timeout=30) as browser:
        assert "Who are you?" in browser.get(f"{url}/login?token={token}").text
        assert tour.ask("application", "/databases/db_1?name=renamed", "PUT").status_code == 200
        wait_until(lambda: tour.told() == ["db_1"])
        wait_until(lambda: "db_1" in browser.get(f"{url}/requests?outcome=delivered").text)
        assert '<strong class="label">tour</strong>' in browser.get(url).text


@pytest.mark.gate
def test_a_change_is_announced_and_one_that_is_rolled_back_is_not(tour: Tour) -> None:
    assert tour.ask("application", "/databases/db_0?name=never&fail=true", "PUT").status_code == 500
    assert tour.ask("application", "/databases/db_1?name=renamed", "PUT").json() == {"id": "db_1", "name": "renamed"}
    wait_until(lambda: tour.told() == ["db_1"])
    assert tour.ask("application", "/databases/db_0").status_code == 404
    tour.running["dispatcher"].send_signal(signal.SIGTERM)
    assert tour.running["dispatcher"].wait(60) == 0
    assert tour.told() == ["db_1"]
