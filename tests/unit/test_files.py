"""Tokens from files."""

import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from dispatcher.credentials.bearer_token import CredentialsUnavailable, NoCredential
from dispatcher.credentials.files import DirectoryCredentials, StaticCredentials


async def test_a_static_token_is_read_again_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("new\n")
    credentials = StaticCredentials(SecretStr("old"), path)
    assert (await credentials.token("i")).get_secret_value() == "old"
    assert (await credentials.token("i", refused=SecretStr("old"))).get_secret_value() == "new"


async def test_a_file_per_installation_follows_a_swapped_link(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "icfg_1").write_text(f"{version}\n")
    (tmp_path / "data").symlink_to("one")
    credentials = DirectoryCredentials(tmp_path / "data")
    assert (await credentials.token("icfg_1")).get_secret_value() == "one"
    (tmp_path / "next").symlink_to("two")
    os.replace(tmp_path / "next", tmp_path / "data")
    assert (await credentials.token("icfg_1")).get_secret_value() == "two"


@pytest.mark.parametrize("name", ["..", "../secret", "a/b", "", "missing"])
async def test_no_file_outside_the_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("s")
    (tmp_path / "dir").mkdir()
    with pytest.raises(NoCredential):
        await DirectoryCredentials(tmp_path / "dir").token(name)


async def test_a_missing_directory_is_no_installations_fault(tmp_path: Path) -> None:
    with pytest.raises(CredentialsUnavailable):
        await DirectoryCredentials(tmp_path / "gone").token("icfg_1")
