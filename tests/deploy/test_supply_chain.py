"""What is shipped is known: pinned by hash, listed, audited, and free of secrets."""

import http.server
import json
import os
import platform
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typing_extensions import override

from tests.deploy.documents import DEPLOY, ROOT
from tests.deploy.image_sbom import check_form, check_packages
from tests.processes.conftest import free_port

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
SHIPPED = [*PROJECT["dependencies"], *(one for name in ("service", "postgres", "mysql") for one in EXTRAS[name])]
"""What the image installs."""


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=;~ ]", requirement)[0].lower()


def pinned(lock: str) -> dict[str, str]:
    """The versions by the names of a lock file."""
    return dict(re.findall(r"(?m)^([\w.-]+)(?:\[[\w, -]+\])?==([\w.]+)", (ROOT / lock).read_text()))


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-build.txt", "requirements-dev.txt"])
def test_every_pinned_package_has_its_hashes(lock: str) -> None:
    for requirement in re.split(r"(?m)^(?=\w)", (ROOT / lock).read_text())[1:]:
        assert "--hash=sha256:" in requirement, requirement


def test_the_lock_files_agree() -> None:
    everything = pinned("requirements-dev.txt")
    for lock in ("requirements.txt", "requirements-build.txt"):
        assert pinned(lock).items() <= everything.items()


def test_the_extras_that_are_asked_for_are_pinned_too() -> None:
    """Without them, pip 23 takes the newest release for the extra, and then refuses it: it has no hash."""
    lock = (ROOT / "requirements-dev.txt").read_text()
    assert re.search(r"(?m)^coverage\[toml\]==", lock), "pytest-cov asks for coverage[toml]"
    for requirement in (one for one in SHIPPED if "[" in one):
        assert re.search(rf"(?m)^{re.escape(requirement.partition(']')[0])}\]==", lock), requirement


def test_every_dependency_is_pinned_and_used() -> None:
    sources = "".join(
        path.read_text() for folder in ("dispatcher", "migrations") for path in (ROOT / folder).rglob("*.py")
    )
    for name in map(name_of, SHIPPED):
        assert name in pinned("requirements.txt")
        assert re.search(rf"\b{name.replace('-', '_')}\b", sources), name


@pytest.mark.parametrize("of", ["dependencies", "service"])
def test_every_dependency_says_why_it_is_there(of: str) -> None:
    listed = (ROOT / "pyproject.toml").read_text().partition(f"\n{of} = [\n")[2].partition("\n]")[0].splitlines()
    assert listed
    assert [line for line in listed if "#" not in line] == []


@pytest.mark.gate
@pytest.mark.timeout(600)
def test_the_sbom_lists_what_an_installation_holds() -> None:
    run_make("sbom")
    sbom = check_form((ROOT / "build" / "sbom.json").read_text())
    assert sbom["metadata"]["component"]["name"] == PROJECT["name"]
    assert sbom["metadata"]["component"]["version"] == PROJECT["version"]
    check_packages(sbom, ROOT / "build" / "sbom" / "environment")
    python = [one for one in sbom["components"] if one["name"] == "python"]
    assert [one["version"] for one in python] == [platform.python_version()]


def test_the_same_environment_gives_the_same_list() -> None:
    first, second = (
        subprocess.run([sys.executable, DEPLOY / "sbom.py"], check=True, capture_output=True).stdout for _ in range(2)
    )
    assert first == second
    assert b"vercel-outbox-dispatcher" in first


def run_make(target: str) -> None:
    """Runs it with the environment of this test as it is."""
    command = ["make", f"VENV={Path(sys.executable).parents[1]}", "READY=", target]
    environment = os.environ | {"PIP_NO_COMPILE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_secret_is_found(tmp_path: Path) -> None:
    leak = tmp_path / "settings.py"
    leak.write_text('AWS_KEY = "AKIA' + 'IOSFODNN7QXAMPLQ"\n')
    done = subprocess.run([ROOT / ".ci" / "scan_secrets", leak], check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "AWS Access Key" in done.stdout + done.stderr


class Advisories(http.server.ThreadingHTTPServer):
    """A stand-in for osv.dev, which knows one vulnerable package."""

    daemon_threads = True

    def __init__(self, vulnerable: str | None) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.vulnerable = vulnerable
        self.asked: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/query"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Advisories

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = query["package"]["name"]
        self.server.asked.add(name)
        package = {"name": name, "ecosystem": "PyPI"}
        advisory = {"id": "PYSEC-2026-1", "summary": "a made-up flaw", "affected": [{"package": package, "ranges": []}]}
        body = json.dumps({"vulns": [advisory]} if name == self.server.vulnerable else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, *_: object) -> None:
        """Stays quiet."""


@pytest.fixture
def advisories(request: pytest.FixtureRequest) -> Iterator[Advisories]:
    with Advisories(getattr(request, "param", None)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def audit(url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / ".ci" / "audit.py")]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | {"OSV_URL": url})


@pytest.mark.gate
def test_every_pinned_package_is_audited(advisories: Advisories) -> None:
    done = audit(advisories.url)
    assert done.returncode == 0, done.stderr
    assert "NOT AUDITED" not in done.stderr
    assert {"sqlalchemy", "httptools", "hatchling"} <= advisories.asked


@pytest.mark.gate
@pytest.mark.parametrize("advisories", ["starlette"], indirect=True)
def test_a_known_vulnerability_fails_the_audit(advisories: Advisories) -> None:
    done = audit(advisories.url)
    assert done.returncode == 1
    assert re.search(r"(?m)^starlette .*PYSEC-2026-1", done.stdout), done.stderr


def test_an_audit_without_data_says_so() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1/query"
    done = audit(url)
    assert done.returncode == 0
    assert done.stderr.startswith(f"NOT AUDITED: {url} does not answer")


def test_nightly_audits_last() -> None:
    """Where NOT AUDITED is seen."""
    commands = (ROOT / ".ci" / "nightly").read_text().splitlines()
    assert ".ci/audit.py" in commands[-2]
