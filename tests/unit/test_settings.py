"""Settings: every name and default of the contract, every contradiction, and what a person is shown."""

import os
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from dispatcher.policy.rate_window import RateLimit
from dispatcher.settings.environment import variable_name
from dispatcher.settings.settings import (
    AttemptLog,
    LogFormat,
    LogLevel,
    Settings,
    SettingsError,
    Wakeup,
    describe,
    load_settings,
)
from tests.unit.loading import CANARY, load, refuse

# ── the contract's table


def test_an_empty_environment_gives_the_defaults_of_the_contract() -> None:
    minute, hour, day = 60.0, 3_600.0, 86_400.0
    expected: dict[str, object] = {
        "DISPATCHER_DATABASE_URL": SecretStr(""),  # there is none: see below
        "DISPATCHER_SCHEMA": None,
        "DISPATCHER_VERCEL_BASE_URL": "https://api.vercel.com",
        "DISPATCHER_ALLOW_INSECURE_BASE_URL": False,
        "DISPATCHER_TRUST_ENV_PROXY": False,
        "DISPATCHER_CA_FILE": None,
        "DISPATCHER_VERCEL_TOKEN": None,
        "DISPATCHER_CREDENTIALS_QUERY": None,
        "DISPATCHER_CREDENTIALS_DIR": None,
        "DISPATCHER_CREDENTIALS_URL": None,
        "DISPATCHER_CREDENTIALS_URL_TOKEN": None,
        "DISPATCHER_OAUTH_TOKEN_URL": None,
        "DISPATCHER_OAUTH_CLIENT_ID": None,
        "DISPATCHER_OAUTH_CLIENT_SECRET": None,
        "DISPATCHER_OAUTH_PARAMS": None,
        "DISPATCHER_CREDENTIALS_TTL": 5 * minute,
        "DISPATCHER_CREDENTIALS_CONNECTIONS": 8,
        "DISPATCHER_POLL_INTERVAL": 0.2,
        "DISPATCHER_WAKEUP": Wakeup.POLL,
        "DISPATCHER_PROCESSES": 1,
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
        "DISPATCHER_ATTEMPT_LOG": AttemptLog.ALL,
        "DISPATCHER_ATTEMPT_RETENTION": 7 * day,
        "DISPATCHER_DEAD_LETTER_RETENTION": 90 * day,
        "DISPATCHER_SHUTDOWN_GRACE": 25.0,
        "DISPATCHER_OPS_HOST": "127.0.0.1",
        "DISPATCHER_OPS_PORT": 9464,
        "DISPATCHER_CONSOLE_HOST": "127.0.0.1",
        "DISPATCHER_CONSOLE_PORT": 9465,
        "DISPATCHER_CONSOLE_TOKEN": None,
        "DISPATCHER_CONSOLE_USER_HEADER": None,
        "DISPATCHER_CONSOLE_TRUSTED_PROXIES": (ip_network("127.0.0.0/8"), ip_network("::1/128")),
        "DISPATCHER_CONSOLE_OPERATORS": (),
        "DISPATCHER_CONSOLE_URL": None,
        "DISPATCHER_CONSOLE_PREFIX": None,
        "DISPATCHER_CONSOLE_LABEL": None,
        "DISPATCHER_LOG_FORMAT": LogFormat.AUTO,
        "DISPATCHER_LOG_LEVEL": LogLevel.INFO,
    }
    settings = Settings()
    assert {variable_name(field): getattr(settings, field) for field in Settings.model_fields} == expected


def test_the_defaults_would_pass_as_values_too() -> None:
    defaults = load({})
    texts = {line.name: line.value for line in describe(defaults) if line.value is not None}
    assert load_settings(texts).model_dump() == defaults.model_dump()


def test_without_an_argument_the_environment_of_the_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_DATABASE_URL", "sqlite:///dispatcher.db")
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
        ("PROCESSES", "64", 64),
        ("PROCESSES", "auto", min(64, os.cpu_count() or 1)),
        ("CONCURRENCY", "1", 1),
        ("CONCURRENCY", "10000", 10_000),
        ("MAX_ATTEMPTS", "1", 1),
        ("OPS_PORT", "0", 0),
        ("OPS_PORT", "65535", 65_535),
        ("OPS_PORT", "off", None),
        ("OPS_HOST", "::1", "::1"),
        ("OPS_HOST", "localhost", "localhost"),
        ("LOG_LEVEL", "DEBUG", LogLevel.DEBUG),
        ("CONSOLE_TRUSTED_PROXIES", "10.0.0.1, fd00::/8", (ip_network("10.0.0.1"), ip_network("fd00::/8"))),
        ("CONSOLE_OPERATORS", "anna@example.com, Ben", ("anna@example.com", "Ben")),
        ("CONSOLE_USER_HEADER", "X-User", "X-User"),
        ("CONSOLE_PREFIX", "/tools/outbox/", "/tools/outbox"),
        ("LOG_FORMAT", "json", LogFormat.JSON),
        ("RATE_LIMIT", "off", None),
        ("RATE_LIMIT", "1/500ms", RateLimit(1, 0.5)),
        ("GLOBAL_RATE_LIMIT", "1000/1m", RateLimit(1_000, 60.0)),
        ("ALLOW_INSECURE_BASE_URL", "false", False),
        ("TRUST_ENV_PROXY", "true", True),
        ("TRUST_ENV_PROXY", "True", True),
        ("TRUST_ENV_PROXY", "1", True),
        ("TRUST_ENV_PROXY", "0", False),
        ("CA_FILE", "/etc/ssl/private-ca.pem", "/etc/ssl/private-ca.pem"),
        ("VERCEL_BASE_URL", "https://vercel.com/api/", "https://vercel.com/api"),
        ("VERCEL_BASE_URL", "https://[::1]:8377", "https://[::1]:8377"),
        ("DATABASE_URL", "mysql://root@127.0.0.1:3306/app", SecretStr("mysql://root@127.0.0.1:3306/app")),
        ("DATABASE_URL", "postgresql+psycopg://u@h/d", SecretStr("postgresql+psycopg://u@h/d")),
        ("VERCEL_TOKEN", "t" * 512, SecretStr("t" * 512)),
        ("CREDENTIALS_DIR", "/run/tokens", "/run/tokens"),
        *(
            ("CREDENTIALS_URL", url, url)
            for url in (
                "https://partner.test/tokens/{installation_id}",
                "https://partner.test/tokens?id={installation_id}&v=2",
                "http://127.0.0.1:8000/tokens/{installation_id}",
                "http://[::1]:8000/tokens/{installation_id}",
                "http://localhost/{installation_id}",
            )
        ),
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


def test_a_forgotten_database_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPATCHER_DATABASE_URL", raising=False)
    with pytest.raises(SettingsError) as refusal:
        load_settings({"DISPATCHER_VERCEL_TOKEN": CANARY})
    assert str(refusal.value) == (
        "DISPATCHER_DATABASE_URL is not set: set it to the URL of your application's database, or, for a trial, to sqlite:///dispatcher.db"
    )


def test_a_database_that_cannot_be_read_is_not_called_forgotten_too() -> None:
    assert "not set" not in refuse({"DATABASE_URL_FILE": "/nowhere/x"})
    assert "not set" not in refuse({"DATABASE_URL": ""})


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
        (
            {"PROCESSES": "many"},
            "DISPATCHER_PROCESSES is not a number of processes (it is 'many'): write a number, or auto",
        ),
        ({"PROCESSES": "65"}, "DISPATCHER_PROCESSES must be between 1 and 64"),
        ({"RATE_LIMIT": "4001/60s"}, "DISPATCHER_RATE_LIMIT must name at most 4000 requests"),
        ({"WAKEUP": "notify"}, "DISPATCHER_WAKEUP=notify needs a postgresql:// URL in DISPATCHER_DATABASE_URL"),
        ({"SCHEMA": "outbox", "DATABASE_URL": "mysql://h/d"}, "DISPATCHER_SCHEMA needs a postgresql:// URL"),
        ({"VERCEL_BASE_URL": "http://a"}, "DISPATCHER_VERCEL_BASE_URL must begin with https://"),
        ({"VERCEL_BASE_URL": "HTTP://a"}, "DISPATCHER_VERCEL_BASE_URL must begin with https://"),
        (
            {"OAUTH_TOKEN_URL": "http://a", "OAUTH_CLIENT_ID": "i", "OAUTH_CLIENT_SECRET": CANARY},
            "DISPATCHER_OAUTH_TOKEN_URL must begin with https://",
        ),
        *(
            (
                {"CREDENTIALS_URL": f"http://{host}/{{installation_id}}"},
                "DISPATCHER_CREDENTIALS_URL must begin with https://",
            )
            for host in ("partner.test", "10.0.0.1", "localhost.partner.test")
        ),
        (
            {"CREDENTIALS_URL_TOKEN": CANARY},
            "DISPATCHER_CREDENTIALS_URL_TOKEN goes with DISPATCHER_CREDENTIALS_URL: set that as well, or unset it",
        ),
        (
            {"CREDENTIALS_URL": f"https://a/{{installation_id}}?key={CANARY}", "VERCEL_TOKEN": CANARY},
            "DISPATCHER_VERCEL_TOKEN, DISPATCHER_CREDENTIALS_URL are several sources of credentials: keep one of them",
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


# ── what a person is shown


def test_each_setting_is_shown_with_its_source_and_without_its_secret(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(CANARY)
    settings = load(
        {
            "DATABASE_URL": f"postgres://app:{CANARY}@db:5432/app?sslpassword={CANARY}",
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
    assert lines["DATABASE_URL"] == ("postgres://app:***@db:5432/app?sslpassword=***", "environment")
    assert lines["OAUTH_TOKEN_URL"] == ("https://api.vercel.com/token?key=***", "environment")
    assert lines["OAUTH_CLIENT_SECRET"] == ("***", f"file {tmp_path / 'secret'}")
    assert lines["OAUTH_PARAMS"] == ("assertion=***", "environment")
    assert lines["POLL_INTERVAL"] == ("250ms", "environment")
    assert lines["GLOBAL_RATE_LIMIT"] == ("100/1s", "environment")
    assert lines["RATE_LIMIT"] == ("60/60s", "default")
    assert lines["SCHEMA"] == (None, "default")
    assert lines["VERCEL_BASE_URL"] == ("https://api.vercel.com", "default")
    assert CANARY not in f"{settings} {settings!r} {describe(settings)}"


def test_a_token_service_is_shown_without_its_key_and_its_secret(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{CANARY}\n")
    url = f"http://127.0.0.1:8000/{{installation_id}}?key={CANARY}"
    settings = load({"CREDENTIALS_URL": url, "CREDENTIALS_URL_TOKEN_FILE": str(tmp_path / "secret")})
    lines = {line.name.removeprefix("DISPATCHER_"): (line.value, line.source) for line in describe(settings)}
    assert settings.credentials_url_token == SecretStr(CANARY)
    assert lines["CREDENTIALS_URL"] == ("http://127.0.0.1:8000/{installation_id}?key=***", "environment")
    assert lines["CREDENTIALS_URL_TOKEN"] == ("***", f"file {tmp_path / 'secret'}")
    assert CANARY not in f"{settings} {settings!r} {describe(settings)}"


def test_what_was_given_in_code_is_called_an_argument() -> None:
    lines = {line.name: line.source for line in describe(Settings(database_schema=None, lease=30))}
    assert (lines["DISPATCHER_LEASE"], lines["DISPATCHER_SCHEMA"]) == ("argument", "argument")


def test_a_keyword_mistake_holds_no_secret_either() -> None:
    with pytest.raises(ValidationError) as refusal:
        Settings.model_validate({"vercel_token": f"{CANARY} ", "lease": 1})
    assert CANARY not in f"{refusal.value} {refusal.value!r}"
