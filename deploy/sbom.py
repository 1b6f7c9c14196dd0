"""Prints a CycloneDX 1.6 list of the environment whose Python runs it: `python sbom.py [--report FILE]… [--image]`.

It has Python itself and the packages with their licences, and within each package the crates and libraries that its wheel's own SBOMs
and its native files name, and the scripts of other projects that ours serves to browsers. With `--image` it also has the packages of
Debian, and those of the Python that the environment is based on. `--report` names a report of `pip install --report`, which has the hash of
each wheel. It needs nothing but Python, so the image's own Python can run it; it contains no time and no random number, so the same
installation gives the same list.
"""

import argparse
import ctypes
import hashlib
import json
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

PRODUCT = "vercel-outbox-dispatcher"
DPKG = Path("var/lib/dpkg/status")
COPIED = ("type", "group", "name", "version", "purl", "cpe", "hashes", "licenses")
"""The fields of a component that mean the same in every version of CycloneDX."""
NATIVE_FILE = re.compile(r"\.(so|pyd|dylib)(\.|$)")
OPENSSL = re.compile(rb"OpenSSL (\d+\.\d+\.\d+[a-z]?) +\d{1,2} \w{3} \d{4}")
Component = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, action="append", default=[])
    parser.add_argument("--image", action="store_true")
    options = parser.parse_args()
    bom = list_everything(read_hashes(options.report), is_image=options.image)
    json.dump(bom, sys.stdout, indent=1, sort_keys=True, ensure_ascii=False)
    sys.stdout.write("\n")


def list_everything(wheels: dict[str, str], *, is_image: bool) -> Component:
    """Returns the whole document. `wheels` maps the name of a package to the SHA-256 of its wheel."""
    packages = [describe_package(one, wheels) for one in find_packages(with_base=is_image)]
    packages.sort(key=lambda one: str(one["purl"]))
    (product,) = (one for one in packages if one["name"] == PRODUCT)
    unlisted = [one["bom-ref"] for one in packages if one.pop("unlisted")]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**product, "bom-ref": "product", "type": "application", "components": []}},
        "components": [describe_python(), *packages, *(describe_debian(Path("/")) if is_image else [])],
        "compositions": [
            {"aggregate": "complete", "assemblies": ["product"]},
            # Native code whose wheel does not list what was linked into it.
            {"aggregate": "unknown", "assemblies": unlisted},
        ],
    }


def read_hashes(reports: Iterable[Path]) -> dict[str, str]:
    """Returns the SHA-256 of each wheel that pip installed, by the package's normalized name."""
    installs = [install for report in reports for install in json.loads(report.read_text())["install"]]
    return {normalize(one["metadata"]["name"]): sha256_of(one["download_info"]["archive_info"]) for one in installs}


def sha256_of(archive: dict[str, Any]) -> str:
    """pip before 23.1 writes it in a form of its own."""
    return str(archive["hashes"]["sha256"] if "hashes" in archive else archive["hash"].removeprefix("sha256="))


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# Python ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def describe_python() -> Component:
    version = platform.python_version()
    return {
        "bom-ref": f"pkg:generic/python@{version}",
        "type": "platform",
        "name": "python",
        "version": version,
        "purl": f"pkg:generic/python@{version}",
        "cpe": f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*",
        "licenses": [{"license": {"id": "PSF-2.0"}}],
    }


def find_packages(*, with_base: bool) -> list[Distribution]:
    """The packages of this environment; `with_base`: also those of the Python that it is based on, such as the image's pip."""
    base = sysconfig.get_path("purelib", vars={"base": sys.base_prefix})
    found = distributions(path=[*sys.path, base] if with_base else sys.path)
    return list({(normalize(one.name), one.version): one for one in found}.values())


def describe_package(package: Distribution, wheels: dict[str, str]) -> Component:
    """`unlisted`: whether it has native code of unknown origin."""
    name = normalize(package.name)
    purl = f"pkg:pypi/{name}@{quote(package.version)}"
    native = [Path(str(file.locate())) for file in package.files or () if NATIVE_FILE.search(file.name)]
    listed = list(read_own_lists(package, purl))
    described: Component = {
        "bom-ref": purl,
        "type": "library",
        "name": name,
        "version": package.version,
        "purl": purl,
        "licenses": licenses_of(package),
        "components": [*listed, *describe_libraries(native, purl), *read_vendored(package, purl)],
        "unlisted": bool(native) and not listed,
    }
    if name in wheels:
        described["hashes"] = [{"alg": "SHA-256", "content": wheels[name]}]
    return described


def licenses_of(package: Distribution) -> list[Component]:
    """An SPDX expression; or the names that older metadata has; or the text of the files that it ships."""
    if expression := package.metadata.get("License-Expression"):
        return [{"expression": expression}]
    classifiers = [one for one in package.metadata.get_all("Classifier", []) if one.startswith("License :: ")]
    text = str(package.metadata.get("License") or "").strip()
    if names := [one.rpartition(" :: ")[2] for one in classifiers] or text.splitlines()[:1]:
        return [{"license": {"name": name}} for name in names]
    shipped = package.metadata.get_all("License-File", [])
    files = [file for file in package.files or () if file.name in shipped and ".dist-info" in file.parts[0]]
    return [{"license": {"name": file.name, "text": {"content": file.read_text()}}} for file in files]


def read_own_lists(package: Distribution, parent: str) -> Iterator[Component]:
    """The components in the SBOMs that a wheel carries in its metadata (PEP 770), such as the crates of a package in Rust."""
    for file in package.files or ():
        if "sboms" in file.parts and file.suffix == ".json":
            bom = json.loads(Path(str(file.locate())).read_text())
            for number, one in enumerate(flatten(bom.get("components", []))):
                if normalize(one["name"]) != normalize(package.name):
                    yield {
                        "bom-ref": f"{parent}#{file.name}-{number}",
                        **{key: one[key] for key in COPIED if key in one},
                    }


def read_vendored(package: Distribution, parent: str) -> Iterator[Component]:
    """The packages of npm whose files ours holds, each with the hash of its script."""
    for file in package.files or () if package.name == PRODUCT else ():
        if file.name == "vendored.json":
            for name, one in json.loads(Path(str(file.locate())).read_text()).items():
                scripts = [script["sha256"] for path, script in one["files"].items() if path.endswith(".js")]
                yield {
                    "bom-ref": f"{parent}#{name}",
                    "type": "library",
                    "name": name,
                    "version": one["version"],
                    "purl": f"pkg:npm/{name}@{one['version']}",
                    "licenses": [{"license": {"id": one["licence"]}}],
                    "hashes": [{"alg": "SHA-256", "content": digest} for digest in scripts],
                }


def flatten(components: Iterable[Component]) -> Iterator[Component]:
    for one in components:
        yield one
        yield from flatten(one.get("components", []))


def describe_libraries(files: Iterable[Path], parent: str) -> Iterator[Component]:
    """The shared libraries that a wheel bundles, with their hashes, and the versions of OpenSSL and libpq within native files."""
    for path in files:
        content = path.read_bytes()
        if path.parent.name.endswith(".libs"):
            digest = {"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}
            yield {"bom-ref": f"{parent}#{path.name}", "type": "file", "name": path.name, "hashes": [digest]}
        for version in sorted({match.decode() for match in OPENSSL.findall(content)}):
            yield known_library("openssl", "openssl:openssl", version, f"{parent}#{path.name}")
        if re.match(r"libpq[-.]", path.name):
            yield known_library("postgresql", "postgresql:postgresql", libpq_version(path), f"{parent}#{path.name}")


def known_library(name: str, cpe: str, version: str, place: str) -> Component:
    return {
        "bom-ref": f"{place}-{name}-{version}",
        "type": "library",
        "name": name,
        "version": version,
        "purl": f"pkg:generic/{name}@{version}",
        "cpe": f"cpe:2.3:a:{cpe}:{version}:*:*:*:*:*:*:*",
    }


def libpq_version(path: Path) -> str:
    major, minor = divmod(ctypes.CDLL(str(path)).PQlibVersion(), 10_000)
    return f"{major}.{minor}"


# Debian ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def describe_debian(root: Path) -> Iterator[Component]:
    """The system and the packages that dpkg has installed."""
    release = read_fields((root / "etc/os-release").read_text(), "=")
    system, version = release["ID"].strip('"'), release.get("VERSION_ID", "").strip('"')
    yield {"bom-ref": "system", "type": "operating-system", "name": system, "version": version}
    for paragraph in (root / DPKG).read_text().split("\n\n"):
        package = read_fields(paragraph, ": ")
        if package.get("Status", "").endswith(" installed"):
            name, arch = package["Package"], package["Architecture"]
            purl = f"pkg:deb/{system}/{quote(name)}@{quote(package['Version'], safe=':~')}?arch={arch}&distro={system}-{version}"
            yield {
                "bom-ref": purl,
                "type": "library",
                "name": name,
                "version": package["Version"],
                "purl": purl,
                "licenses": debian_licenses(root / "usr/share/doc" / name / "copyright"),
            }


def read_fields(text: str, separator: str) -> dict[str, str]:
    """Returns the fields of one line each."""
    lines = (line.partition(separator) for line in text.splitlines() if separator in line and not line.startswith(" "))
    return {name: value for name, _, value in lines}


def debian_licenses(path: Path) -> list[Component]:
    """The names in a machine-readable copyright file."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    names = sorted(set(re.findall(r"(?m)^License: *(\S.*)$", text)))
    return [{"license": {"name": name}} for name in names]


if __name__ == "__main__":
    main()
