"""The release recipe of CONTRIBUTING, run on a clone of this commit with a temporary key."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VENV = Path(sys.executable).parents[1]
KEY = "%no-protection\nKey-Type: eddsa\nKey-Curve: ed25519\nName-Real: Release\nName-Email: release@example.com\n%commit\n"


@pytest.mark.gate
def test_the_recipe_tags_builds_and_signs(tmp_path: Path) -> None:
    (recipe,) = re.findall(r"(?ms)^   ```sh\n(.*?)^   ```$", (ROOT / "CONTRIBUTING.md").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    keys, clone = tmp_path / "keys", tmp_path / "clone"
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
    environment = os.environ | git | {"GNUPGHOME": str(keys), "MAKEFLAGS": f"VENV={VENV} READY="}

    def run(*command: str, where: Path = clone) -> str:
        done = subprocess.run(command, check=False, cwd=where, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("git", "clone", "--quiet", "--no-tags", str(ROOT), str(clone), where=tmp_path)
    (keys / "key").write_text(KEY)
    try:
        run("gpg", "--batch", "--quiet", "--generate-key", str(keys / "key"))
        run("bash", "-euc", recipe)
        run("git", "verify-tag", f"v{version}")
        run("gpg", "--verify", "SHA256SUMS.asc", "SHA256SUMS", where=clone / "dist")
        signed = run("sha256sum", "--check", "SHA256SUMS", where=clone / "dist")
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=False, env=environment)
    assert signed.count(": OK") == 2  # the wheel and the source archive
    assert (clone / "build" / "sbom.json").is_file()
