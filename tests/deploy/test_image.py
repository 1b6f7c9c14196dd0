"""The Dockerfile keeps its promises on paper; `make image-test` builds it and runs it."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from dispatcher.settings.settings import Settings
from tests.deploy.documents import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
BUILD, FINAL = re.split(r"(?m)^FROM ", DOCKERFILE)[1:]


def instruction(name: str) -> str:
    """The one of the final stage."""
    (found,) = re.findall(rf"(?m)^{name} (.*)$", FINAL)
    return str(found)


def test_both_stages_have_the_same_base_which_the_builder_names_by_its_digest() -> None:
    """No digest stands here: it would keep the security fixes of later bases out."""
    assert BUILD.splitlines()[0] == "${BASE} AS build"
    assert FINAL.splitlines()[0] == "${BASE}"
    assert re.findall(r"(?m)^ARG BASE.*$", DOCKERFILE.partition("FROM ")[0]) == ["ARG BASE"]
    assert 'org.opencontainers.image.base.name="${BASE}"' in FINAL


@pytest.mark.parametrize(
    ("base", "code"), [("python:3.13", 1), ("", 1), ("python@sha256:0123", 0), ("python:3.13@sha256:0123", 0)]
)
def test_a_base_without_its_digest_is_refused(base: str, code: int) -> None:
    (check,) = re.findall(r"(?m)^RUN (case .*)$", BUILD)
    done = subprocess.run(["sh", "-c", check], check=False, env={"BASE": base}, capture_output=True, text=True)
    assert done.returncode == code
    assert ("deploy/README.md" in done.stderr) is bool(code)


def test_it_is_started_without_a_shell_as_nobody_in_particular() -> None:
    assert json.loads(instruction("ENTRYPOINT")) == ["dispatcher"]
    assert json.loads(instruction("CMD")) == ["run"]
    assert json.loads(instruction("HEALTHCHECK").partition("CMD ")[2]) == ["dispatcher", "health"]
    assert instruction("USER") == "65532:65532"
    assert not re.findall(r"(?m)^RUN", FINAL)


def test_it_promises_no_port_that_only_the_container_itself_reaches() -> None:
    assert Settings().ops_host == "127.0.0.1"
    assert not re.findall(r"(?m)^EXPOSE|DISPATCHER_OPS_HOST", FINAL)


def test_whatever_is_downloaded_is_a_wheel_with_a_known_hash() -> None:
    steps = re.split(r"&&|\n(?=[A-Z])", BUILD.replace("\\\n", " "))
    installs = [step for step in steps if " install " in step]
    assert len(installs) == 3
    for install in installs:
        assert "--no-index" in install or ("--require-hashes" in install and "--only-binary :all:" in install)


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for line in re.findall(r"(?m)^COPY (.*)$", BUILD) for word in line.split()[:-1]}
    assert let_in == copied
    assert all((ROOT / name).exists() for name in let_in)


def test_the_script_is_shell(tmp_path: Path) -> None:
    assert subprocess.run(["bash", "-n", ROOT / "deploy" / "image_test.sh"], check=False, cwd=tmp_path).returncode == 0
