"""What is shipped is known: pinned by hash, listed, and free of secrets."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.deploy.documents import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


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
    extras = (one for name in ("postgres", "mysql") for one in PROJECT["optional-dependencies"][name])
    for requirement in (one for one in [*PROJECT["dependencies"], *extras] if "[" in one):
        assert re.search(rf"(?m)^{re.escape(requirement.partition(']')[0])}\]==", lock), requirement


def test_every_dependency_is_pinned_and_used() -> None:
    sources = "".join(
        path.read_text() for folder in ("dispatcher", "migrations") for path in (ROOT / folder).rglob("*.py")
    )
    extras = [one for name in ("postgres", "mysql") for one in PROJECT["optional-dependencies"][name]]
    for name in map(name_of, [*PROJECT["dependencies"], *extras]):
        assert name in pinned("requirements.txt")
        assert re.search(rf"\b{name.replace('-', '_')}\b", sources), name


def test_every_dependency_says_why_it_is_there() -> None:
    lines = (ROOT / "pyproject.toml").read_text().partition("\ndependencies = [\n")[2].partition("\n]")[0].splitlines()
    assert [line for line in lines if "#" not in line] == []


@pytest.mark.gate
def test_the_sbom_lists_what_the_image_holds() -> None:
    done = subprocess.run(["make", "sbom"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sbom = json.loads((ROOT / "build" / "sbom.json").read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    assert sbom["metadata"]["component"]["name"] == PROJECT["name"]
    assert {one["name"]: one["version"] for one in sbom["components"]} == pinned("requirements.txt")


def test_a_secret_is_found(tmp_path: Path) -> None:
    leak = tmp_path / "settings.py"
    leak.write_text('AWS_KEY = "AKIA' + 'IOSFODNN7QXAMPLQ"\n')
    done = subprocess.run([ROOT / ".ci" / "scan_secrets", leak], check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "AWS Access Key" in done.stdout + done.stderr
