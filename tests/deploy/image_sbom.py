"""Compares a list of `deploy/sbom.py` with what is really there; for an image: `python -m tests.deploy.image_sbom ROOT`."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

ROOT = Path(__file__).parents[2]
PRODUCT = "vercel-outbox-dispatcher"
Component = dict[str, Any]


def components(sbom: Component) -> Iterator[Component]:
    """Of every depth."""
    for one in sbom["components"]:
        yield one
        yield from components({"components": one.get("components", [])})


def of_type(found: Iterable[Component], kind: str) -> dict[str, Component]:
    """By name, those whose package URL is of this kind."""
    return {one["name"]: one for one in found if one.get("purl", "").startswith(f"pkg:{kind}/")}


def check_form(text: str) -> Component:
    """Returns the parsed list. Its form is CycloneDX's, each reference is unique, and each package URL can be read."""
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert error is None, error
    sbom: Component = json.loads(text)
    references = [one["bom-ref"] for one in components(sbom)]
    assert len(references) == len(set(references))
    for one in components(sbom):
        if "purl" in one:
            assert PackageURL.from_string(one["purl"]).version == one["version"]
    return sbom


def check_packages(sbom: Component, environment: Path) -> None:
    """It lists the packages of this environment, each with its licence and the hash of a wheel that the lock file allows."""
    (directory,) = environment.glob("lib/python3*/site-packages")
    there = {re.sub(r"[-_.]+", "-", one.name).lower(): one.version for one in distributions(path=[str(directory)])}
    listed = of_type(sbom["components"], "pypi")
    assert there.items() <= {name: one["version"] for name, one in listed.items()}.items()
    lock = (ROOT / "requirements.txt").read_text()
    for name in there:
        assert listed[name]["licenses"], name
        if name != PRODUCT:
            ((digest),) = listed[name]["hashes"]
            assert f"--hash=sha256:{digest['content']}" in lock, name
    check_native_code(sbom, listed, directory)
    check_vendored(listed[PRODUCT]["components"], directory / "dispatcher" / "console" / "static")


def check_vendored(listed: list[Component], static: Path) -> None:
    """Our package's scripts of other projects are listed, with the hashes of what is installed."""
    scripts = {sha256(path.read_bytes()).hexdigest() for path in static.glob("*.min.js")}
    assert scripts
    assert scripts == {digest["content"] for one in of_type(listed, "npm").values() for digest in one["hashes"]}
    assert len(of_type(listed, "npm")) == len(listed)


def check_native_code(sbom: Component, listed: dict[str, Component], directory: Path) -> None:
    """The parts of native packages are listed, or the list says that they are unknown."""
    assert len(of_type(listed["orjson"]["components"], "cargo")) > 10
    assert {"openssl", "postgresql"} <= of_type(listed["psycopg-binary"]["components"], "generic").keys()
    assert "openssl" in of_type(listed["cryptography"]["components"], "generic")
    bundled = {path.name for path in directory.glob("*.libs/*")}
    assert bundled == {one["name"] for one in components(sbom) if one["type"] == "file"}
    (unknown,) = (one["assemblies"] for one in sbom["compositions"] if one["aggregate"] == "unknown")
    assert any(one.startswith("pkg:pypi/uvloop@") for one in unknown)
    assert not [one for one in unknown if one.startswith("pkg:pypi/orjson@")]


def check_system(sbom: Component, root: Path) -> None:
    """It lists the packages that dpkg knows, and the system."""
    query = ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "--show", "--showformat", "${Package}@${Version}\n"]
    known = subprocess.run(query, check=True, capture_output=True, text=True).stdout.split()
    assert "dpkg" in {name.partition("@")[0] for name in known}
    assert set(known) == {f"{name}@{one['version']}" for name, one in of_type(sbom["components"], "deb").items()}
    assert [one["name"] for one in sbom["components"] if one["type"] == "operating-system"] == ["debian"]


def main(root: Path) -> None:
    sbom = check_form((root / "opt/dispatcher/sbom.json").read_text())
    check_packages(sbom, root / "opt/dispatcher")
    check_system(sbom, root)
    sys.stdout.write(f"   {len(list(components(sbom)))} components\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
