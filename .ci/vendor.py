"""Fetches the files of other projects that the console serves, as `vendored.json` names them: `vendor.py [DIRECTORY]`.

They come from the registry that npm is configured with. A file with another SHA-256 than the one there is refused, and nothing is changed.
For another version, change the version and delete the SHA-256: the new ones are recorded.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parents[1] / "dispatcher" / "console" / "static"


class Refused(Exception):
    """A file is not the one that is pinned."""


def main() -> None:
    static = Path(sys.argv[1]) if len(sys.argv) > 1 else STATIC
    pinned = json.loads((static / "vendored.json").read_text())
    fetched: dict[str, bytes] = {}
    for package, one in pinned.items():
        fetched |= fetch(package, one["version"], one["files"])
    for name, content in fetched.items():
        (static / name).write_bytes(content)
    (static / "vendored.json").write_text(json.dumps(pinned, indent=2) + "\n")


def fetch(package: str, version: str, files: dict[str, Any]) -> dict[str, bytes]:
    """Returns the contents of the files of this package, and notes the SHA-256 of those without one. Raises Refused."""
    with tempfile.TemporaryDirectory() as directory:
        pack = ["npm", "pack", "--silent", "--pack-destination", directory, f"{package}@{version}"]
        subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 (what vendored.json names)
        (archive,) = Path(directory).iterdir()
        with tarfile.open(archive) as tar:
            contents = {name: read(tar, file["path"]) for name, file in files.items()}
    for name, file in files.items():
        digest = sha256(contents[name]).hexdigest()
        if file.setdefault("sha256", digest) != digest:
            raise Refused(f"{name} of {package} {version} has another SHA-256 than vendored.json: nothing was changed")
    return contents


def read(tar: tarfile.TarFile, path: str) -> bytes:
    file = tar.extractfile(path)
    if file is None:
        raise Refused(f"{path} is no file: nothing was changed")
    return file.read()


if __name__ == "__main__":
    try:
        main()
    except Refused as error:
        sys.exit(str(error))
