"""The files that pages load, and what templates must not hold."""

import json
import re
from hashlib import sha256
from pathlib import Path

import pytest

import dispatcher.console
from tests.console.conftest import Console, links

PACKAGE = Path(dispatcher.console.__file__).parent
STATIC = PACKAGE / "static"
TEMPLATES = sorted((PACKAGE / "templates").iterdir())


async def test_files_have_names_that_change_with_them_and_are_kept_for_good(console: Console) -> None:
    files = [link for link in links((await console.get("")).text) if "/static/" in link]
    assert len(files) >= 4
    for file in files:
        answer = await console.get(file)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert sha256(answer.content).hexdigest()[:12] in file
        plain = await console.get(file, accept_encoding="identity")
        assert (plain.content, plain.headers.get("content-encoding")) == (answer.content, None)
        assert answer.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("name", ["console.css", "vendored.json", "%2e%2e%2fpages.py", "console.000000000000.css"])
async def test_nothing_else_is_served(console: Console, name: str) -> None:
    assert (await console.get(f"static/{name}")).status_code == 404


async def test_a_first_visit_is_small(console: Console) -> None:
    page = await console.get("")
    sizes = [
        int((await console.get(file)).headers["content-length"]) for file in links(page.text) if "/static/" in file
    ]
    assert sum(sizes) + len(page.content) <= 40_000
    scripts = [len(file.read_bytes()) for file in STATIC.glob("*.js")]
    assert sum(scripts) <= 20 * 1_024
    assert len((STATIC / "console.js").read_bytes()) <= 8 * 1_024
    assert len((STATIC / "console.css").read_bytes()) <= 16 * 1_024


def test_what_is_not_ours_is_what_its_project_published_with_its_licence() -> None:
    pinned = json.loads((STATIC / "vendored.json").read_text())
    files = {name: file for one in pinned.values() for name, file in one["files"].items()}
    assert {file.name for pattern in ("*.min.js", "*.LICENSE") for file in STATIC.glob(pattern)} == files.keys()
    for name, file in files.items():
        assert sha256((STATIC / name).read_bytes()).hexdigest() == file["sha256"]
    for package in pinned:
        assert "permission to use" in (STATIC / f"{package}.LICENSE").read_text().lower()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: str(template.name))
def test_no_template_holds_a_script_a_style_or_an_address_of_another_site(template: Path) -> None:
    html = re.sub(r"\{[{%#].*?[}%#]\}", "", template.read_text(), flags=re.DOTALL)
    assert not re.search(r"<script(?![^>]* src=)[^>]*>|<style|<base|javascript:", html)
    assert not re.search(r"<[^>]*\s(style|on\w+|srcdoc|formaction)\s*=", html)
    assert "://" not in html
    assert not re.search(r"\|\s*safe|autoescape", template.read_text())
