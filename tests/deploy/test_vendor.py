"""`make vendor`: what npm's registry has is compared with what is pinned; a difference changes nothing."""

import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.conftest import not_tested
from tests.deploy.documents import ROOT

VENDOR = ROOT / ".ci" / "vendor.py"
STATIC = ROOT / "dispatcher" / "console" / "static"

pytestmark = pytest.mark.gate


@pytest.fixture
def static(tmp_path: Path) -> Path:
    """A copy of the console's files."""
    if shutil.which("npm") is None:
        not_tested("npm is not installed (Debian: apt-get install npm)")
    return Path(shutil.copytree(STATIC, tmp_path / "static"))


def vendor(static: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, VENDOR, static], check=False, capture_output=True, text=True)


def contents(static: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in static.iterdir()}


def change(static: Path, **fields: str) -> None:
    """Gives the pinned script these fields instead."""
    path = static / "vendored.json"
    pinned = json.loads(path.read_text())
    pinned["idiomorph"]["files"]["idiomorph.min.js"] = {"path": "package/dist/idiomorph.min.js", **fields}
    path.write_text(json.dumps(pinned))


@pytest.mark.parametrize("is_pinned", [True, False], ids=["checked", "recorded"])
def test_the_files_are_those_of_the_registry(static: Path, is_pinned: bool) -> None:
    before = contents(static)
    if not is_pinned:
        change(static)
    for path in static.glob("idiomorph.*"):
        path.unlink()
    done = vendor(static)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert contents(static) == before


def test_another_file_than_the_pinned_one_is_refused(static: Path) -> None:
    change(static, sha256="0" * 64)
    before = contents(static)
    done = vendor(static)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == "idiomorph.min.js of idiomorph 0.8.0 has another SHA-256 than vendored.json: nothing was changed\n"
    )
    assert contents(static) == before
