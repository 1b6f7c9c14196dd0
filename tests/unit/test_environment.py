"""Variables and files: unknown names, `_FILE` variants, and messages that contain no value."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from dispatcher.settings.settings import Settings, SettingsError, describe, load_settings
from tests.unit.loading import CANARY, DATABASE, load, refuse

# ── names


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("DISPATCHER_LAESE", "DISPATCHER_LAESE is not a setting: did you mean DISPATCHER_LEASE?"),
        ("dispatcher_lease", "dispatcher_lease is not a setting: did you mean DISPATCHER_LEASE?"),
        ("DISPATCHER_TOKEN", "DISPATCHER_TOKEN is not a setting: did you mean DISPATCHER_VERCEL_TOKEN?"),
        ("DISPATCHER_VERCEL_TOKEN_FILES", "DISPATCHER_VERCEL_TOKEN_FILES is not a setting: did you mean "),
        ("DISPATCHER_", "DISPATCHER_ is not a setting: unset it, or see Settings in deploy/README.md"),
        ("DISPATCHER_XYZZY", "DISPATCHER_XYZZY is not a setting: unset it, or see Settings in deploy/README.md"),
        ("DISPATCHER_A\nB", "'DISPATCHER_A\\nB' is not a setting"),
        ("DISPATCHER_" + "Q" * 5_000, "DISPATCHER_" + "Q" * 69 + "… is not a setting"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(name: str, answer: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load_settings(DATABASE | {name: CANARY})
    assert str(refusal.value).startswith(answer)
    assert CANARY not in str(refusal.value)


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "MY_DISPATCHER_X",
        "DISPATCHER_TEST_POSTGRES_URL",
        "DISPATCHER_SERVICE_HOST",
        "DISPATCHER_SERVICE_PORT",
        "DISPATCHER_SERVICE_PORT_METRICS",
        "DISPATCHER_PORT",
        "DISPATCHER_PORT_9464_TCP",
        "DISPATCHER_PORT_9464_TCP_ADDR",
        "DISPATCHER_OPS_SERVICE_HOST",
        "DISPATCHER_CONSOLE_PORT",  # also the name of a setting
    ],
)
def test_what_is_not_ours_is_left_alone(name: str) -> None:
    assert load_settings(DATABASE | {name: "tcp://10.0.0.1:9464"}).model_dump() == load({}).model_dump()


# ── files


@pytest.mark.parametrize("content", [CANARY, f"{CANARY}\n", f"{CANARY}\r\n"])
def test_a_secret_is_read_from_a_file_without_its_line_break(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_bytes(content.encode())
    settings = load({"VERCEL_TOKEN_FILE": str(file)})
    assert settings.vercel_token == SecretStr(CANARY)
    assert next(line for line in describe(settings) if line.name == "DISPATCHER_VERCEL_TOKEN").source == f"file {file}"


def test_the_file_of_a_setting_is_known(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(CANARY)
    settings = load({"VERCEL_TOKEN_FILE": str(file), "LEASE": "30s"})
    assert settings.file_of("vercel_token") == file
    assert [settings.file_of(field) for field in ("lease", "concurrency")] == [None, None]
    assert Settings(vercel_token=SecretStr(CANARY)).file_of("vercel_token") is None


def test_every_setting_can_come_from_a_file(tmp_path: Path) -> None:
    for line in describe(load({})):
        file = tmp_path / line.name
        file.write_text(line.value or "")
        if line.value is not None:
            settings = load({f"{line.name.removeprefix('DISPATCHER_')}_FILE": str(file)})
            assert line.name in [each.name for each in describe(settings) if each.source == f"file {file}"]


def test_a_bad_value_in_a_file_is_blamed_on_the_name_as_typed(tmp_path: Path) -> None:
    (tmp_path / "lease").write_text(CANARY)
    line = refuse({"LEASE_FILE": str(tmp_path / "lease")})
    assert line.startswith("DISPATCHER_LEASE_FILE is not a duration: write")
    assert CANARY not in line


def test_a_value_and_a_file_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(CANARY)
    line = refuse({"VERCEL_TOKEN": CANARY, "VERCEL_TOKEN_FILE": str(tmp_path / "token")})
    assert line == "DISPATCHER_VERCEL_TOKEN and DISPATCHER_VERCEL_TOKEN_FILE are both set: keep one of them"


def test_a_secret_where_its_path_belongs_is_not_repeated() -> None:
    line = refuse({"VERCEL_TOKEN_FILE": CANARY})
    assert line.startswith("DISPATCHER_VERCEL_TOKEN_FILE names a file that does not exist")
    assert line.endswith("put the path of a readable text file there, not the value itself")
    assert CANARY not in line


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "names an empty file"),
        (b"\n", "names an empty file"),
        (b"\xff\xfe", "names a file that is not UTF-8 text"),
        (b"x" * 65_537, "names a file of more than 65536 bytes"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "value").write_bytes(content)
    assert refuse({"VERCEL_TOKEN_FILE": str(tmp_path / "value")}).startswith(f"DISPATCHER_VERCEL_TOKEN_FILE {problem}")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert "names something that is not a regular file" in refuse({"VERCEL_TOKEN_FILE": str(tmp_path)})


def test_an_unreadable_path_is_refused() -> None:
    assert "names a file that cannot be read" in refuse({"VERCEL_TOKEN_FILE": "/" + "x" * 5_000})
