"""The release recipe of CONTRIBUTING, run on a clone of this commit with a temporary key; and the release, installed as the guide says."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.documents import VERSION, blocks

# In one process, which makes the release once.
pytestmark = [pytest.mark.gate, pytest.mark.timeout(600), pytest.mark.xdist_group("release")]

ROOT = Path(__file__).parents[2]
VENV = Path(sys.executable).parents[1]
KEY = "%no-protection\nKey-Type: eddsa\nKey-Curve: ed25519\nName-Real: Release\nName-Email: release@example.com\n%commit\n"
INSTALLED = "/opt/vercel-outbox-dispatcher"


@dataclass(frozen=True)
class Release:
    """A clone in which the recipe was run, and the environment with the key."""

    clone: Path
    environment: Mapping[str, str]

    @property
    def files(self) -> Path:
        return self.clone / "dist"

    def run(self, *command: str, where: Path) -> str:
        done = subprocess.run(command, check=False, cwd=where, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    directory = tmp_path_factory.mktemp("release")
    (recipe,) = re.findall(r"(?ms)^   ```sh\n(.*?)^   ```$", (ROOT / "CONTRIBUTING.md").read_text())
    keys = directory / "keys"
    keys.mkdir(mode=0o700)
    # Nobody's own configuration of git, and a repository that may be another user's.
    git = {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "GIT_COMMITTER_NAME": "Release",
        "GIT_COMMITTER_EMAIL": "release@example.com",
    }
    # `make` uses the environment of this test as it is.
    others = {"GNUPGHOME": str(keys), "MAKEFLAGS": f"VENV={VENV} READY=", "PIP_NO_COMPILE": "1"}
    environment = os.environ | git | others
    made = Release(directory / "clone", environment)
    made.run("git", "clone", "--quiet", "--no-tags", str(ROOT), str(made.clone), where=directory)
    (keys / "key").write_text(KEY)
    try:
        made.run("gpg", "--batch", "--quiet", "--generate-key", str(keys / "key"), where=directory)
        made.run("bash", "-euc", recipe, where=made.clone)
        yield made
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=False, env=environment)


def steps(place: Path) -> tuple[str, str]:
    """The guide's commands that check a release and that install it, the latter into this place."""
    check, install = blocks("README.md", "sh")[:2]
    assert INSTALLED in install
    return check, install.replace(INSTALLED, str(place))


def test_the_recipe_tags_builds_and_signs(release: Release) -> None:
    release.run("git", "verify-tag", f"v{VERSION}", where=release.clone)
    signed = release.run("sha256sum", "--check", "SHA256SUMS", where=release.files)
    assert sorted(re.findall(r"(?m)^(?:\./)?(.*): OK$", signed)) == sorted(
        [
            f"vercel_outbox_dispatcher-{VERSION}-py3-none-any.whl",
            f"vercel_outbox_dispatcher-{VERSION}.tar.gz",
            "requirements.txt",
            "sbom.json",
        ]
    )


def test_the_release_is_checked_and_installed_as_the_guide_says(release: Release, tmp_path: Path) -> None:
    for commands in steps(tmp_path / "installed"):
        release.run("bash", "-euc", commands, where=release.files)
    version = release.run(str(tmp_path / "installed" / "bin" / "dispatcher"), "--version", where=tmp_path)
    assert version == f"vercel-outbox-dispatcher {VERSION}\n"


def test_an_application_pins_the_wheel_by_its_hash(release: Release, tmp_path: Path) -> None:
    (line,) = blocks("README.md", "text")[:1]
    name = line.split()[0].removeprefix("./")
    digests = re.findall(r"(?m)^(\w+)  (?:\./)?(.+)$", (release.files / "SHA256SUMS").read_text())
    (digest,) = (one for one, file in digests if file == name)
    for pinned, expected in ((digest, 0), ("0" * 64, 1)):
        (tmp_path / "requirements.txt").write_text(line.replace("…", pinned))
        (tmp_path / name).write_bytes((release.files / name).read_bytes())
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--no-index",
            "--require-hashes",
            "-r",
            "requirements.txt",
        ]
        done = subprocess.run([*command, "-d", "there"], cwd=tmp_path, check=False, capture_output=True, text=True)
        assert done.returncode == expected, done.stderr


@pytest.mark.parametrize("file", ["requirements.txt", "SHA256SUMS"])
def test_a_release_that_was_changed_is_refused(release: Release, tmp_path: Path, file: str) -> None:
    changed = tmp_path / "dist"
    changed.mkdir()
    for path in release.files.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    with (changed / file).open("a") as text:
        text.write("# more\n")
    check, _ = steps(tmp_path)
    done = subprocess.run(
        ["bash", "-euc", check], check=False, cwd=changed, env=release.environment, capture_output=True
    )
    assert done.returncode != 0
