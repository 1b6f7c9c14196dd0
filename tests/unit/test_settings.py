"""Settings: every name and default of the contract, every edge, every refusal in one line, never a secret."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from dispatcher.policy.rate_window import RateLimit
from dispatcher.settings.durations import format_duration, parse_duration
from dispatcher.settings.settings import (
    LogFormat,
    LogLevel,
    Settings,
    SettingsError,
    Wakeup,
    describe,
    load_settings,
    variable_name,
)

CANARY = "canary-Zx81_secret"


def load(environ: Mapping[str, str]) -> Settings:
    return load_settings({f"DISPATCHER_{name}": text for name, text in environ.items()})


def refuse(environ: Mapping[str, str]) -> str:
    """The one line that these settings are refused with."""
    with pytest.raises(SettingsError) as refusal:
        load(environ)
    assert "\n" not in str(refusal.value)
    assert refusal.value.__cause__ is None
    assert refusal.value.__context__ is None
    return str(refusal.value)


# ── the contract's table


def test_an_empty_environment_gives_the_defaults_of_the_contract() -> None:
    minute, hour, day = 60.0, 3_600.0, 86_400.0
    expected: dict[str, object] = {
        "DISPATCHER_DATABASE_URL": SecretStr("sqlite:///dispatcher.db"),
        "DISPATCHER_SCHEMA": None,
        "DISPATCHER_VERCEL_BASE_URL": "https://api.vercel.com",
        "DISPATCHER_ALLOW_INSECURE_BASE_URL": False,
        "DISPATCHER_TRUST_ENV_PROXY": False,
        "DISPATCHER_CA_FILE": None,
        "DISPATCHER_VERCEL_TOKEN": None,
        "DISPATCHER_CREDENTIALS_QUERY": None,
        "DISPATCHER_CREDENTIALS_DIR": None,
        "DISPATCHER_OAUTH_TOKEN_URL": None,
        "DISPATCHER_OAUTH_CLIENT_ID": None,
        "DISPATCHER_OAUTH_CLIENT_SECRET": None,
        "DISPATCHER_OAUTH_PARAMS": None,
        "DISPATCHER_CREDENTIALS_TTL": 5 * minute,
        "DISPATCHER_POLL_INTERVAL": 0.2,
        "DISPATCHER_WAKEUP": Wakeup.POLL,
        "DISPATCHER_CONCURRENCY": 64,
        "DISPATCHER_REQUEST_TIMEOUT": 10.0,
        "DISPATCHER_LEASE": 60.0,
        "DISPATCHER_RATE_LIMIT": RateLimit(60, 60.0),
        "DISPATCHER_GLOBAL_RATE_LIMIT": None,
        "DISPATCHER_SETTLE_DELAY": 0.0,
        "DISPATCHER_MAX_ATTEMPTS": 20,
        "DISPATCHER_BACKOFF_BASE": 2.0,
        "DISPATCHER_BACKOFF_CAP": hour,
        "DISPATCHER_AUTH_GRACE": 24 * hour,
        "DISPATCHER_DISABLED_GRACE": 30 * day,
        "DISPATCHER_ATTEMPT_RETENTION": 7 * day,
        "DISPATCHER_DEAD_LETTER_RETENTION": 90 * day,
        "DISPATCHER_SHUTDOWN_GRACE": 25.0,
        "DISPATCHER_OPS_HOST": "127.0.0.1",
        "DISPATCHER_OPS_PORT": 9464,
        "DISPATCHER_LOG_FORMAT": LogFormat.AUTO,
        "DISPATCHER_LOG_LEVEL": LogLevel.INFO,
    }
    settings = load({})
    assert {variable_name(field): getattr(settings, field) for field in Settings.model_fields} == expected


def test_the_defaults_would_pass_as_values_too() -> None:
    defaults = load({})
    texts = {line.name: line.value for line in describe(defaults) if line.value is not None}
    assert load_settings(texts).model_dump() == defaults.model_dump()


def test_without_an_argument_the_environment_of_the_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_CONCURRENCY", "7")
    assert load_settings().concurrency == 7


def test_keywords_take_typed_values_and_nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_MAX_ATTEMPTS", "7")
    settings = Settings(
        lease=30,
        concurrency=5,
        rate_limit=RateLimit(1, 0.5),
        global_rate_limit=None,
        vercel_token=SecretStr("t"),
        database_schema=None,
        allow_insecure_base_url=True,
        wakeup=Wakeup.POLL,
    )
    assert (settings.lease, settings.concurrency, settings.max_attempts) == (30.0, 5, 20)
    assert (settings.rate_limit, settings.global_rate_limit) == (RateLimit(1, 0.5), None)
    assert settings.allow_insecure_base_url


@pytest.mark.parametrize("value", [0, 10_001, True, 1.5, None])
def test_a_keyword_is_checked_as_a_variable_is(value: object) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"concurrency": value})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load({}).lease = 5.0


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("POLL_INTERVAL", "1ms", 0.001),
        ("POLL_INTERVAL", "0.5s", 0.5),
        ("ATTEMPT_RETENTION", "0", 0.0),
        ("ATTEMPT_RETENTION", "0s", 0.0),
        ("REQUEST_TIMEOUT", "59s", 59.0),
        ("LEASE", "11s", 11.0),
        ("LEASE", "1d", 86_400.0),
        ("CONCURRENCY", "1", 1),
        ("CONCURRENCY", "10000", 10_000),
        ("MAX_ATTEMPTS", "1", 1),
        ("OPS_PORT", "0", 0),
        ("OPS_PORT", "65535", 65_535),
        ("OPS_PORT", "off", None),
        ("OPS_HOST", "::1", "::1"),
        ("OPS_HOST", "localhost", "localhost"),
        ("LOG_LEVEL", "DEBUG", LogLevel.DEBUG),
        ("LOG_FORMAT", "json", LogFormat.JSON),
        ("RATE_LIMIT", "off", None),
        ("RATE_LIMIT", "1/500ms", RateLimit(1, 0.5)),
        ("GLOBAL_RATE_LIMIT", "1000/1m", RateLimit(1_000, 60.0)),
        ("ALLOW_INSECURE_BASE_URL", "false", False),
        ("TRUST_ENV_PROXY", "true", True),
        ("CA_FILE", "/etc/ssl/private-ca.pem", "/etc/ssl/private-ca.pem"),
        ("VERCEL_BASE_URL", "https://vercel.com/api/", "https://vercel.com/api"),
        ("VERCEL_BASE_URL", "https://[::1]:8377", "https://[::1]:8377"),
        ("DATABASE_URL", "mysql://root@127.0.0.1:3306/app", SecretStr("mysql://root@127.0.0.1:3306/app")),
        ("DATABASE_URL", "postgresql+psycopg://u@h/d", SecretStr("postgresql+psycopg://u@h/d")),
        ("VERCEL_TOKEN", "t" * 512, SecretStr("t" * 512)),
        ("CREDENTIALS_DIR", "/run/tokens", "/run/tokens"),
    ],
)
def test_good_values(name: str, text: str, expected: object) -> None:
    assert getattr(load({name: text}), name.lower()) == expected


def test_a_local_stand_in_may_be_reached_without_tls_if_asked_for() -> None:
    settings = load({"VERCEL_BASE_URL": "http://127.0.0.1:8377", "ALLOW_INSECURE_BASE_URL": "true"})
    assert settings.vercel_base_url == "http://127.0.0.1:8377"


def test_a_schema_and_notify_go_with_postgresql() -> None:
    settings = load({"DATABASE_URL": "postgres://app@db/app", "SCHEMA": "outbox", "WAKEUP": "notify"})
    assert (settings.database_schema, settings.wakeup) == ("outbox", Wakeup.NOTIFY)


def test_oauth_is_read_whole() -> None:
    settings = load(
        {
            "OAUTH_TOKEN_URL": "https://api.vercel.com/token?x=1",
            "OAUTH_CLIENT_ID": "oac_1",
            "OAUTH_CLIENT_SECRET": CANARY,
            "OAUTH_PARAMS": '{"installation": "{installation_id}"}',
        }
    )
    assert settings.oauth_params == {"installation": "{installation_id}"}
    assert settings.oauth_client_secret == SecretStr(CANARY)


# ── refusals


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("LEASE", "60", "is not a duration (it is '60'): write a number and a unit, such as 200ms"),
        ("LEASE", "1_000s", "is not a duration"),
        ("LEASE", "-5s", "is not a duration"),
        ("LEASE", "+5s", "is not a duration"),
        ("LEASE", "nan", "is not a duration"),
        ("LEASE", "inf", "is not a duration"),
        ("LEASE", "1e3s", "is not a duration"),
        ("LEASE", "\u0666\u0660s", "is not a duration"),
        ("LEASE", "60 s", "is not a duration"),
        ("LEASE", " 60s", "is not a duration"),
        ("LEASE", "60s\n", "is not a duration"),
        ("LEASE", "60S", "is not a duration"),
        ("LEASE", "1h30m", "is not a duration"),
        ("LEASE", "2d", "must be between 1s and 1d"),
        ("LEASE", "9" * 400 + "d", "is not a duration: write"),
        ("POLL_INTERVAL", "0", "must be between 1ms and 1h"),
        ("BACKOFF_BASE", "0s", "must be between 1ms and 1h"),
        ("DEAD_LETTER_RETENTION", "999999999999d", "must be between 0s and 3650d"),
        ("CONCURRENCY", "0", "must be between 1 and 10000"),
        ("CONCURRENCY", "-1", "is not a whole number (it is '-1'): write digits only"),
        ("CONCURRENCY", "1_000", "is not a whole number"),
        ("CONCURRENCY", "\uff16\uff14", "is not a whole number"),
        ("CONCURRENCY", "64.0", "is not a whole number"),
        ("OPS_PORT", "65536", "must be between 0 and 65535"),
        ("OPS_PORT", "tcp://10.0.0.1:9464", "is not a port: write a number, or off"),
        ("OPS_PORT", "none", "is not a port (it is 'none'): write a number, or off"),
        ("OPS_HOST", "[::1]:80", "is not an address to listen on"),
        ("MAX_ATTEMPTS", "0", "must be between 1 and 1000000"),
        ("RATE_LIMIT", "60", "is not a rate (it is '60'): write requests/duration, such as 60/60s, or off"),
        ("RATE_LIMIT", "60/60", "is not a rate"),
        ("RATE_LIMIT", "60/x", "is not a rate"),
        ("RATE_LIMIT", "0/60s", "must allow between 1 and 1000000 requests"),
        ("RATE_LIMIT", "60/0s", "must allow between 1 and 1000000 requests"),
        ("RATE_LIMIT", "60/1.2.3s", "is not a rate"),
        ("RATE_LIMIT", "none", "is not a rate"),
        ("WAKEUP", "push", "must be one of poll, notify (it is 'push')"),
        ("LOG_FORMAT", "xml", "must be one of auto, json, text (it is 'xml')"),
        ("LOG_LEVEL", "loud", "must be one of debug, info, warning, error (it is 'loud')"),
        ("ALLOW_INSECURE_BASE_URL", "yes", "must be true or false (it is 'yes')"),
        ("TRUST_ENV_PROXY", "1", "must be true or false (it is '1')"),
        ("CA_FILE", "/a\n.pem", "holds a line break"),
        ("SCHEMA", 'a"; DROP TABLE x', "is not a schema name"),
        ("SCHEMA", "s" * 64, "is not a schema name"),
        ("VERCEL_BASE_URL", "api.vercel.com", "is not a URL: write one like https://api.vercel.com"),
        ("VERCEL_BASE_URL", "ftp://api.vercel.com", "is not a URL"),
        ("VERCEL_BASE_URL", "https://", "is not a URL"),
        ("VERCEL_BASE_URL", "https://a:99999", "is not a URL"),
        ("VERCEL_BASE_URL", "https://[::1", "is not a URL"),
        ("VERCEL_BASE_URL", "https://a b", "is not a URL"),
        ("VERCEL_BASE_URL", "https://a\\@b", "is not a URL"),
        ("VERCEL_BASE_URL", f"https://u:{CANARY}@a", "must not hold a user name or password"),
        ("VERCEL_BASE_URL", "https://a/?", "must not hold a query or a fragment"),
        ("VERCEL_BASE_URL", f"https://a/?token={CANARY}", "must not hold a query or a fragment"),
        ("VERCEL_BASE_URL", "https://a/#x", "must not hold a query or a fragment"),
        ("OAUTH_TOKEN_URL", "https://a/#x", "must not hold a fragment"),
        ("DATABASE_URL", "oracle://u@h/d", "must begin with postgresql://, mysql:// or sqlite:///"),
        ("DATABASE_URL", CANARY, "must begin with postgresql://, mysql:// or sqlite:///"),
        ("DATABASE_URL", f"postgresql://u:{CANARY}@x@h/d", "holds more than one @: write %40"),
        ("DATABASE_URL", f"postgresql://u:{CANARY}\n@h/d", "holds a line break"),
        ("VERCEL_TOKEN", f"{CANARY}\n", "holds white space, a line break or a character that is not ASCII"),
        ("VERCEL_TOKEN", f"Bearer {CANARY}", "holds white space"),
        ("VERCEL_TOKEN", f"{CANARY}é", "holds white space"),
        ("VERCEL_TOKEN", CANARY * 30, "is longer than 512 characters"),
        ("OAUTH_CLIENT_SECRET", f"{CANARY}\x00", "holds a line break or another character that cannot be printed"),
        ("OAUTH_PARAMS", CANARY, "is not a JSON object of strings"),
        ("OAUTH_PARAMS", '{"a": 1}', "is not a JSON object of strings"),
        ("OAUTH_PARAMS", '["a"]', "is not a JSON object of strings"),
        ("OAUTH_PARAMS", "[" * 100_000, "is not a JSON object of strings"),
        ("CREDENTIALS_QUERY", "SELECT token FROM t WHERE id = ?", "does not use :installation_id"),
        ("CREDENTIALS_QUERY", "SELECT id::installation_id FROM t", "does not use :installation_id"),
        ("LEASE", "", "is empty: give it a value or unset it"),
        ("VERCEL_TOKEN", "", "is empty: give it a value or unset it"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, text: str, problem: str) -> None:
    line = refuse({name: text})
    assert line.startswith(f"DISPATCHER_{name} {problem}")
    assert CANARY not in line
    assert ";" not in line


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        (
            {"LEASE": "10s"},
            "DISPATCHER_LEASE must be at least 11s, which is DISPATCHER_REQUEST_TIMEOUT plus 1s: lengthen it",
        ),
        ({"LEASE": "10999ms"}, "DISPATCHER_LEASE must be at least 11s"),
        ({"REQUEST_TIMEOUT": "1m"}, "DISPATCHER_LEASE must be at least 61s"),
        ({"BACKOFF_CAP": "1s"}, "DISPATCHER_BACKOFF_CAP must not be shorter than DISPATCHER_BACKOFF_BASE"),
        ({"RATE_LIMIT": "4001/60s"}, "DISPATCHER_RATE_LIMIT must name at most 4000 requests"),
        ({"WAKEUP": "notify"}, "DISPATCHER_WAKEUP=notify needs a postgresql:// URL in DISPATCHER_DATABASE_URL"),
        ({"SCHEMA": "outbox", "DATABASE_URL": "mysql://h/d"}, "DISPATCHER_SCHEMA needs a postgresql:// URL"),
        ({"VERCEL_BASE_URL": "http://a"}, "DISPATCHER_VERCEL_BASE_URL must begin with https://"),
        ({"VERCEL_BASE_URL": "HTTP://a"}, "DISPATCHER_VERCEL_BASE_URL must begin with https://"),
        (
            {"OAUTH_TOKEN_URL": "http://a", "OAUTH_CLIENT_ID": "i", "OAUTH_CLIENT_SECRET": CANARY},
            "DISPATCHER_OAUTH_TOKEN_URL must begin with https://",
        ),
        (
            {"OAUTH_CLIENT_SECRET": CANARY},
            "the OAuth settings are incomplete: set DISPATCHER_OAUTH_TOKEN_URL, DISPATCHER_OAUTH_CLIENT_ID as well",
        ),
        ({"OAUTH_PARAMS": "{}"}, "the OAuth settings are incomplete"),
        (
            {"VERCEL_TOKEN": CANARY, "CREDENTIALS_DIR": "/t"},
            "DISPATCHER_VERCEL_TOKEN, DISPATCHER_CREDENTIALS_DIR are several sources of credentials: keep one of them",
        ),
        (
            {
                "OAUTH_TOKEN_URL": "https://a",
                "OAUTH_CLIENT_ID": "i",
                "OAUTH_CLIENT_SECRET": CANARY,
                "CREDENTIALS_QUERY": "SELECT :installation_id",
            },
            "DISPATCHER_CREDENTIALS_QUERY, DISPATCHER_OAUTH_… are several sources of credentials",
        ),
    ],
)
def test_an_impossible_combination_is_refused(environ: dict[str, str], line: str) -> None:
    refusal = refuse(environ)
    assert refusal.startswith(line)
    assert CANARY not in refusal


def test_every_problem_is_named_at_once() -> None:
    line = refuse({"LEASE": "x", "CONCURRENCY": "y", "LAESE": "60s", "OPS_PORT_FILE": "/nowhere/port"})
    assert [problem.split(" ")[0] for problem in line.split("; ")] == [
        "DISPATCHER_LAESE",
        "DISPATCHER_OPS_PORT_FILE",
        "DISPATCHER_CONCURRENCY",
        "DISPATCHER_LEASE",
    ]


def test_several_contradictions_are_named_at_once() -> None:
    assert refuse({"LEASE": "5s", "BACKOFF_CAP": "1s", "SCHEMA": "s"}).count("; ") == 2


def test_a_contradiction_is_not_alleged_while_a_value_cannot_be_read() -> None:
    line = refuse({"OAUTH_TOKEN_URL": "https://a", "OAUTH_CLIENT_ID": "i", "OAUTH_CLIENT_SECRET_FILE": "/nowhere/x"})
    assert line.startswith("DISPATCHER_OAUTH_CLIENT_SECRET_FILE names a file that does not exist")
    assert "incomplete" not in line


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
        load_settings({name: CANARY})
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
    ],
)
def test_what_is_not_ours_is_left_alone(name: str) -> None:
    assert load_settings({name: "tcp://10.0.0.1:9464"}).model_dump() == load({}).model_dump()


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
            settings = load_settings({f"{line.name}_FILE": str(file)})
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


# ── what a person is shown


def test_each_setting_is_shown_with_its_source_and_without_its_secret(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(CANARY)
    settings = load(
        {
            "DATABASE_URL": f"postgres://app:{CANARY}@db:5432/app?sslpassword={CANARY}&{CANARY}",
            "OAUTH_TOKEN_URL": f"https://api.vercel.com/token?key={CANARY}",
            "OAUTH_CLIENT_ID": "oac_1",
            "OAUTH_CLIENT_SECRET_FILE": str(tmp_path / "secret"),
            "OAUTH_PARAMS": f'{{"assertion": "{CANARY}"}}',
            "POLL_INTERVAL": "0.25s",
            "GLOBAL_RATE_LIMIT": "100/1s",
        }
    )
    lines = {line.name.removeprefix("DISPATCHER_"): (line.value, line.source) for line in describe(settings)}
    assert len(lines) == len(Settings.model_fields)
    assert lines["DATABASE_URL"] == ("postgres://app:***@db:5432/app?sslpassword=***&***", "environment")
    assert lines["OAUTH_TOKEN_URL"] == ("https://api.vercel.com/token?key=***", "environment")
    assert lines["OAUTH_CLIENT_SECRET"] == ("***", f"file {tmp_path / 'secret'}")
    assert lines["OAUTH_PARAMS"] == ("assertion=***", "environment")
    assert lines["POLL_INTERVAL"] == ("250ms", "environment")
    assert lines["GLOBAL_RATE_LIMIT"] == ("100/1s", "environment")
    assert lines["RATE_LIMIT"] == ("60/60s", "default")
    assert lines["SCHEMA"] == (None, "default")
    assert lines["VERCEL_BASE_URL"] == ("https://api.vercel.com", "default")
    assert CANARY not in f"{settings} {settings!r} {describe(settings)}"


def test_what_was_given_in_code_is_called_an_argument() -> None:
    lines = {line.name: line.source for line in describe(Settings(database_schema=None, lease=30))}
    assert (lines["DISPATCHER_LEASE"], lines["DISPATCHER_SCHEMA"]) == ("argument", "argument")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///dispatcher.db", "sqlite:///dispatcher.db"),
        ("postgresql://db/app", "postgresql://db/app"),
        ("postgresql://app@db/app", "postgresql://app@db/app"),
        (f"mysql://app:{CANARY}@db/app", "mysql://app:***@db/app"),
        (f"mysql://app:{CANARY}/{CANARY}@db/app", "mysql://app:***@db/app"),
        (f"mysql://app:{CANARY}:{CANARY}@db/app", "mysql://app:***@db/app"),
        (f"mysql://:{CANARY}@db/app", "mysql://:***@db/app"),
        ("mysql://db:3306/app", "mysql://db:3306/app"),
    ],
)
def test_a_database_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert describe(load({"DATABASE_URL": url}))[0].value == shown


PASSWORD_CHARACTERS = [
    *map(chr, range(0x21, 0x7F)),
    *("ä", "??", "?&", "/?", "?/", "%40", "@?", "?@", "&a=", "://"),
]


@pytest.mark.parametrize(
    "url",
    [
        "postgres://app:{}@db/app",
        "mysql://app:{}@db/app?ssl_ca=x",
        "postgres://us/er:{}@db/app",
        "postgres://db/app?user=app&password={}",
        "postgres://db/app?sslpassword={}&sslmode=verify-full",
        "sqlite://app:{}@db/app",
        "mysql://app:{}",
    ],
)
def test_no_part_of_a_password_is_shown_whatever_characters_it_holds(url: str) -> None:
    for characters in PASSWORD_CHARACTERS:
        shown = shown_of({"DATABASE_URL": url.format(f"CANARY{characters}HALF{characters}END")})
        assert not [part for part in ("CANARY", "HALF", "END") if part in shown], characters


def shown_of(environ: Mapping[str, str]) -> str:
    """All that a person is shown of these settings."""
    try:
        settings = load(environ)
    except SettingsError as refusal:
        return str(refusal)
    return f"{settings!r} {describe(settings)}"


@pytest.mark.parametrize(
    "query",
    [
        *("'{}'", '"{}"', "'a''{}'", "'\\'{}'", "E'\\'' || '{}'", "$${}$$", "$k${}$k$", "0x{}", "12{}", "'{}"),
        *("-- it's\n'{}'", "/* ' */ '{}'", "# it's\n'{}'", "`'` || '{}'", "1--'\n'{}'"),
    ],
)
def test_no_literal_of_a_query_is_shown(query: str) -> None:
    literal = query.format("0123456789abcdef")
    shown = shown_of({"CREDENTIALS_QUERY": f"SELECT decrypt(token, {literal}) FROM t WHERE id = :installation_id"})
    assert "SELECT decrypt(token, " in shown
    assert "456789abcdef" not in shown


def test_a_query_is_shown_without_its_literals() -> None:
    settings = load({"CREDENTIALS_QUERY": "SELECT d(token, 'KEY') FROM \"t\" WHERE id = :installation_id AND n2 > 3"})
    lines = {line.name: line.value for line in describe(settings)}
    assert lines["DISPATCHER_CREDENTIALS_QUERY"] == (
        "SELECT d(token, '***') FROM \"***\" WHERE id = :installation_id AND n2 > ***"
    )


def test_a_keyword_mistake_holds_no_secret_either() -> None:
    with pytest.raises(ValidationError) as refusal:
        Settings.model_validate({"vercel_token": f"{CANARY} ", "lease": 1})
    assert CANARY not in f"{refusal.value} {refusal.value!r}"


# ── parsers, searched


@given(st.text())
def test_any_text_is_a_duration_or_a_refusal(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds < 1e17
    assert text.isascii()
    assert text == "0" or text[-1] in "smhd"


@given(st.decimals(0, 10**9, places=3), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_number_with_a_unit_is_that_many_of_it(number: object, unit: str) -> None:
    size = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}[unit]
    assert parse_duration(f"{number}{unit}") == pytest.approx(float(str(number)) * size)


@given(st.integers(0, 10**12))
def test_a_duration_reads_back_as_it_was_written(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1_000)) == milliseconds / 1_000


@pytest.mark.parametrize("value", [True, None, -1, float("nan"), float("inf"), b"10s", [1]])
def test_what_is_neither_text_nor_a_number_of_seconds_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(value)


@given(st.integers(1, 1_000_000), st.integers(1, 86_400_000))
def test_a_rate_reads_back_as_it_was_written(requests: int, milliseconds: int) -> None:
    limit = load({"GLOBAL_RATE_LIMIT": f"{requests}/{milliseconds}ms"}).global_rate_limit
    assert limit == RateLimit(requests, milliseconds / 1_000)
    assert load({"GLOBAL_RATE_LIMIT": str(limit)}).global_rate_limit == limit


@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])))
def test_any_text_is_a_rate_or_a_refusal_in_one_line(text: str) -> None:
    loaded = attempt({"RATE_LIMIT": text})
    if isinstance(loaded, Settings):
        assert loaded.rate_limit is None or loaded.rate_limit.requests >= 1
    else:
        assert loaded.startswith("DISPATCHER_RATE_LIMIT ")
        assert loaded.isprintable()


@given(st.sampled_from(list(Settings.model_fields)), st.text(min_size=1))
def test_any_value_of_any_setting_is_taken_or_refused_in_one_printable_line(field: str, text: str) -> None:
    loaded = attempt({variable_name(field).removeprefix("DISPATCHER_"): text})
    assert isinstance(loaded, Settings) or loaded.isprintable()


def attempt(environ: Mapping[str, str]) -> Settings | str:
    """The settings, or the line that they are refused with."""
    try:
        return load(environ)
    except SettingsError as refusal:
        return str(refusal)
