"""The deployment guide: its tables are the code's, its snippets are valid, its commands name what exists."""

import json
import re
import shutil
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from dispatcher.console.access import ProxyAccess, choose_access
from dispatcher.settings.settings import Settings, describe, load_settings
from dispatcher.transport import Network
from tests.conftest import not_tested
from tests.deploy.documents import DEPLOY, IMAGE, ROOT, VERSION, blocks, commands, is_command, read, read_yaml, table

KUBERNETES = DEPLOY / "kubernetes"
INSTALLED = "/opt/vercel-outbox-dispatcher/bin"
PREFIX = "DISPATCHER_"


def commands_of(tool: str) -> list[list[str]]:
    return [words for words in commands("README.md") if words[0] == tool]


def accept(settings: dict[str, str], database: str = "postgres://partner@database/partner") -> Settings:
    """The settings, with a database where the platform's own secret is named."""
    return load_settings({"DISPATCHER_DATABASE_URL": database} | settings)


def test_the_table_of_settings_is_the_codes() -> None:
    told = {f"{PREFIX}{name}": default.strip("`") for name, (default, _) in table("README.md", "Settings").items()}
    assert told == {line.name: line.value or "" for line in describe(Settings())}


def test_every_setting_is_explained() -> None:
    assert all(meaning for _, meaning in table("README.md", "Settings").values())


def test_the_table_of_log_lines_is_the_codes() -> None:
    modules = (
        "service/service.py",
        "service/database_wait.py",
        "service/composition.py",
        "service/processes.py",
        "service/worker_process.py",
        "service/housekeeping.py",
        "service/signals.py",
        "telemetry/log.py",
        "console/guard.py",
        "console/operations.py",
        "cli/installations.py",
        "cli/publish.py",
    )
    sources = "".join((ROOT / "dispatcher" / name).read_text() for name in modules)
    calls = r'\b(?:info|warning|error)\(\s*"([^"]+)"|(?:logging\.[A-Z]+|log\(\s*settings),\s*"([^"]+)"'
    written = re.findall(calls, sources)
    told = {name for row in table("README.md", "Logs") for name in row.split("`, `")}
    assert told == {first or second for first, second in written}


def test_every_file_it_names_exists() -> None:
    for name in re.findall(r"`([\w./-]+\.(?:yaml|json|md|service|txt|toml))`", read("README.md")):
        if not name.startswith(("build/", "/opt/")):  # made elsewhere
            assert (DEPLOY / name).exists() or (ROOT / name).exists(), name


def test_every_tool_of_its_commands_is_looked_at_here() -> None:
    tools = {
        "curl",
        "docker",
        "export",
        "gpg",
        "install",
        "kubectl",
        "openssl",
        "python3",
        "sed",
        "sha256sum",
        "systemctl",
    }
    assert {words[0] for words in commands("README.md")} == tools | {"dispatcher", f"{INSTALLED}/pip"}


def test_the_links_of_the_alerts_can_be_made_absolute() -> None:
    ((*command, source, redirection, _),) = commands_of("sed")
    assert redirection == ">"
    done = subprocess.run([*command, source], cwd=ROOT, check=True, capture_output=True, text=True)
    links = [rule["annotations"] for group in yaml.safe_load(done.stdout)["groups"] for rule in group["rules"]]
    assert links
    assert all(re.fullmatch(r"https://[\w./-]+/runbook\.md#\w+", link["runbook_url"]) for link in links)
    assert all(re.match(r"https://[\w./-]+/outbox/[a-z]", link["console_path"]) for link in links)


def test_the_make_commands_exist() -> None:
    for target in re.findall(r"`make ([\w-]+)", read("README.md")):
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=False, capture_output=True)
        assert done.returncode == 0, target


def test_its_own_commands_exist() -> None:
    """`tests/contract/test_privileges.py` runs what `grants` prints."""
    for words in commands_of("dispatcher"):
        assert is_command(words[1 : words.index("|") if "|" in words else None])


def test_docker_builds_and_runs_this_release_on_a_base_with_its_digest() -> None:
    pull, build, demo, sbom = (words for words in commands_of("docker") if words[1] != "compose")
    (export,) = commands_of("export")
    assert export[1] == f"BASE=$(docker image inspect --format '{{{{index .RepoDigests 0}}}} {pull[-1]})".replace(
        "}} ", "}}' "
    )
    assert build == ["docker", "build", "--build-arg", "BASE", "--tag", f"{IMAGE}:{VERSION}", "."]
    assert is_command(demo[demo.index(f"{IMAGE}:{VERSION}") + 1 :])
    assert sbom[sbom.index(f"{IMAGE}:{VERSION}") + 1 :] == ["/opt/dispatcher/sbom.json"]
    assert "> /opt/dispatcher/sbom.json" in (ROOT / "Dockerfile").read_text()


def test_compose_is_given_its_file_and_every_profile_and_asked_where_it_listens() -> None:
    (up,) = (words for words in commands_of("docker") if words[1] == "compose")
    services = read_yaml(ROOT / up[up.index("-f") + 1])["services"].values()
    given = {value for name, value in pairwise(up) if name == "--profile"}
    assert given == {profile for one in services for profile in one.get("profiles", [])}
    published = {port.rpartition(":")[0] for service in services for port in service.get("ports", [])}
    for words in commands_of("curl"):
        assert re.match(r"http://([\d.:]+)/", words[-1])[1] in published  # type: ignore[index]  # a URL


@pytest.mark.parametrize("words", [words for words in commands_of("kubectl") if words[1] == "apply"], ids=" ".join)
def test_what_kubectl_applies_can_be_composed(words: list[str]) -> None:
    done = subprocess.run([kubectl(), "kustomize", words[-1]], cwd=ROOT, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_the_job_that_is_replaced_and_waited_for_is_the_migration() -> None:
    job = read_yaml(KUBERNETES / "migrate" / "job.yaml")["metadata"]["name"]
    others = [words for words in commands_of("kubectl") if words[1] in {"delete", "wait"}]
    assert [words[1] for words in others] == ["delete", "wait"]
    assert all(job in words or f"job/{job}" in words for words in others)


def test_the_secret_holds_a_file_and_the_config_map_settings_under_the_names_in_the_manifests(tmp_path: Path) -> None:
    (tmp_path / "database-url").write_text("postgres://partner@database/partner")
    secret, settings = (create(words, tmp_path) for words in creations() if f"{IMAGE}-console" not in words)
    assert (secret["kind"], secret["metadata"]["name"]) == ("Secret", IMAGE)
    assert secret["data"].keys() == {"database-url"}
    assert (settings["kind"], settings["metadata"]["name"]) == ("ConfigMap", IMAGE)
    assert accept(settings["data"]).credentials_query


def test_the_secret_of_the_consoles_proxy_holds_what_its_manifest_names(tmp_path: Path) -> None:
    (make,) = commands_of("openssl")
    *command, redirection, name = make
    assert (redirection, name) == (">", "cookie-secret")
    done = subprocess.run(command, check=True, capture_output=True)
    assert len(done.stdout) == 32  # for AES-256; oauth2-proxy takes the file as it is
    (tmp_path / name).write_bytes(done.stdout)
    (tmp_path / "client-secret").write_text("t0ken")
    (secret,) = (create(words, tmp_path) for words in creations() if f"{IMAGE}-console" in words)
    pod = read_yaml(KUBERNETES / "console" / "deployment.yaml")["spec"]["template"]["spec"]
    proxy = next(one for one in pod["containers"] if one["name"] == "proxy")
    (mount,) = proxy["volumeMounts"]
    assert {"name": mount["name"], "secret": {"secretName": secret["metadata"]["name"]}} in pod["volumes"]
    files = {word.partition("=")[2] for word in proxy["args"] if "-file=" in word}
    assert files == {f"{mount['mountPath']}/{key}" for key in secret["data"]}


def creations() -> list[list[str]]:
    """The commands that create objects of Kubernetes."""
    return [words for words in commands_of("kubectl") if words[1] == "create"]


def create(words: list[str], directory: Path) -> Any:
    """The object that this command would create."""
    command = [kubectl(), *words[1:], "--dry-run=client", "--output=yaml"]
    done = subprocess.run(command, cwd=directory, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def test_no_command_has_a_secret_in_its_arguments() -> None:
    for words in commands("README.md"):
        assert "DATABASE_URL=" not in " ".join(words)


def test_systemd_gets_its_units_and_starts_them_in_order() -> None:
    (install,) = commands_of("install")
    units = [DEPLOY.parent / word for word in install if word.endswith(".service")]
    assert {unit.name for unit in units} == {unit.name for unit in (DEPLOY / "systemd").iterdir()}
    assert all(unit.is_file() for unit in units)
    started = [words[-1] for words in commands_of("systemctl") if len(words) > 2]
    assert [f"{name}.service" for name in started] == ["dispatcher-migrate.service", "dispatcher.service"]
    for unit in units:
        assert f"{INSTALLED}/dispatcher " in unit.read_text()


def test_the_table_of_extras_is_the_projects() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    assert {name for row in table("README.md", "Install") for name in row.split("`, `")} == {"none", *extras}
    for document in (ROOT / "README.md", DEPLOY / "README.md"):
        for asked in re.findall(r"whl\)\[([\w,]+)\]", document.read_text()):
            assert set(asked.split(",")) <= extras


def test_the_promised_versions_are_those_of_the_project() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lowest = dict(re.findall(r"(\w+)>=([\d.]+)", " ".join(dependencies)))
    assert f"It needs SQLAlchemy {lowest['sqlalchemy']} and pydantic {lowest['pydantic']}, or newer" in read(
        "README.md"
    )


@pytest.mark.parametrize(
    "document", [ROOT / "README.md", *DEPLOY.rglob("*.md"), *DEPLOY.rglob("*.service"), *DEPLOY.rglob("*.in")]
)
def test_nothing_is_installed_by_the_name_that_others_could_register(document: Path) -> None:
    assert not re.search(r"(install|add)\b[^\n]* ['\"]?vercel-outbox-dispatcher(?![./:\w])", document.read_text())


def test_ecs_ends_the_dispatcher_last_and_does_not_hold_the_application_back() -> None:
    (task,) = (json.loads(block) for block in blocks("README.md", "json"))
    application, dispatcher = task["containerDefinitions"]
    assert application["dependsOn"] == [{"containerName": dispatcher["name"], "condition": "START"}]
    assert dispatcher["essential"]  # one that cannot start must be noticed
    assert dispatcher["restartPolicy"]["enabled"]
    settings = accept({one["name"]: one["value"] for one in dispatcher["environment"]})
    assert settings.shutdown_grace + 5 <= dispatcher["stopTimeout"] <= 120
    assert_image_and_command(dispatcher["image"], dispatcher["command"])
    assert settings.ops_host == "127.0.0.1"
    assert dispatcher["healthCheck"]["command"] == ["CMD", "dispatcher", "health"]
    assert {one["name"] for one in dispatcher["secrets"]} == {"DISPATCHER_DATABASE_URL"}


def test_cloud_run_has_a_dispatcher_that_ends_within_its_ten_seconds() -> None:
    (service,) = (yaml.safe_load(block) for block in blocks("README.md", "yaml"))
    template = service["spec"]["template"]
    _, dispatcher = template["spec"]["containers"]
    assert "run.googleapis.com/container-dependencies" not in template["metadata"]["annotations"]
    variables = {one["name"]: one["value"] for one in dispatcher["env"]}
    (mount,), (volume,) = dispatcher["volumeMounts"], template["spec"]["volumes"]
    assert mount["name"] == volume["name"]
    (item,) = volume["secret"]["items"]
    assert variables.pop("DISPATCHER_DATABASE_URL_FILE") == f"{mount['mountPath']}/{item['path']}"
    settings = accept(variables)
    assert settings.shutdown_grace < 10
    assert_image_and_command(dispatcher["image"], dispatcher["args"])
    assert settings.ops_host == "0.0.0.0"  # noqa: S104 (what it has to be, not bound)
    assert "startupProbe" not in dispatcher
    assert dispatcher["livenessProbe"]["httpGet"] == {"path": "/livez", "port": settings.ops_port}


def test_fly_migrates_runs_and_watches_the_dispatcher() -> None:
    (config,) = (tomllib.loads(block) for block in blocks("README.md", "toml"))
    settings = accept(config["env"])
    assert config["kill_timeout"] >= settings.shutdown_grace + 5
    for command in (config["deploy"]["release_command"], config["processes"]["dispatcher"]):
        assert_image_and_command(config["build"]["image"], [command])
    assert settings.ops_host == "0.0.0.0"  # noqa: S104 (what it has to be, not bound)
    live: dict[str, Any] = config["checks"]["live"]
    assert (live["path"], live["port"]) == ("/livez", settings.ops_port)
    assert config["metrics"] == {"port": settings.ops_port, "path": "/metrics"}


def assert_image_and_command(image: str, arguments: list[str]) -> None:
    assert image.endswith(f"/{IMAGE}:{VERSION}")
    assert is_command(arguments)


def kubectl() -> str:
    return shutil.which("kubectl") or not_tested("kubectl is not installed")


def test_the_settings_of_a_proxy_lead_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    block, *_ = blocks("README.md", "ini")
    variables = dict(line.split("=", 1) for line in block.splitlines())
    settings = accept({name: value for name, value in variables.items() if name.startswith(PREFIX)})
    for name in ("HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name.lower(), raising=False)
        monkeypatch.setenv(name, variables[name])
    network = Network(trust_env_proxy=settings.trust_env_proxy)
    assert network.detour(settings.vercel_base_url) == " through the proxy http://***@proxy.example.com:3128"
    for host in variables["NO_PROXY"].split(","):
        assert network.detour(f"https://{host}/token") == ""


def test_the_settings_of_a_console_behind_a_proxy_let_it_start() -> None:
    *_, block = blocks("README.md", "ini")
    settings = accept(dict(line.split("=", 1) for line in block.splitlines()) | {f"{PREFIX}CONSOLE_HOST": "10.0.0.7"})
    assert isinstance(choose_access(settings, "", may_write=False), ProxyAccess)
