"""The release before the newest migration, as the repository's history has it."""

import io
import subprocess
import tarfile
from pathlib import Path

from tests.clusters.fleet import ROOT


def unpack_older_release(directory: Path) -> None:
    """Puts the program as it was before its newest migration into a directory. Needs the repository's whole history."""
    newest = max((ROOT / "migrations" / "versions").glob("*.py")).relative_to(ROOT)
    (added,) = _git("log", "--diff-filter=A", "--format=%H", "--", str(newest)).decode().split()
    archive = _git("archive", f"{added}^", "dispatcher", "migrations")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(directory, filter="data")


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, f"the repository's whole history is needed: {done.stderr.decode()}"
    return done.stdout
