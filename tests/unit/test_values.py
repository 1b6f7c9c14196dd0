"""The values of settings: each text is accepted, or refused by the variable's name in one line without a secret."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.policy.rate_window import RateLimit
from dispatcher.settings.environment import variable_name
from dispatcher.settings.settings import Settings
from tests.unit.loading import CANARY, attempt, load, refuse


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
        ("LEASE", "30m1h", "is not a duration"),
        ("LEASE", "1h 30", "is not a duration"),
        ("LEASE", "1h  30m", "is not a duration"),
        ("LEASE", "1h1h", "is not a duration"),
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
        ("OPS_PORT", "tcp://somewhere:9464", "is not a port: write a number, or off"),
        ("OPS_PORT", "none", "is not a port (it is 'none'): write a number, or off"),
        ("OPS_HOST", "[::1]:80", "is not an address to listen on"),
        ("CONSOLE_PORT", "65536", "must be between 0 and 65535"),
        ("CONSOLE_TOKEN", CANARY, "is shorter than 32 characters: write a random one"),
        ("CONSOLE_TOKEN", f"{CANARY} {CANARY}", "holds white space"),
        ("CONSOLE_USER_HEADER", "X-User:", "is not the name of a header (it is 'X-User:')"),
        ("CONSOLE_TRUSTED_PROXIES", "127.0.0.1,proxy", "is not a list of addresses: write them with commas"),
        ("CONSOLE_TRUSTED_PROXIES", "10.0.0.1/8", "is not a list of addresses"),
        ("CONSOLE_OPERATORS", "anna\nben", "holds a line break"),
        ("CONSOLE_URL", "console.example.com", "is not a URL"),
        ("CONSOLE_PREFIX", "tools/outbox", "is not a path (it is 'tools/outbox'): write one such as /tools/outbox"),
        ("CONSOLE_PREFIX", "/", "is not a path"),
        ("CONSOLE_PREFIX", "//evil.example.com", "is not a path: write"),
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
        ("TRUST_ENV_PROXY", "2", "must be true or false (it is '2')"),
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
        ("CREDENTIALS_URL", "https://a/{installation_id}#x", "must not hold a fragment"),
        ("CREDENTIALS_URL", f"https://a/tokens?key={CANARY}", "must hold {installation_id} in its path or its query"),
        ("CREDENTIALS_URL", "https://a/{installation}", "must hold {installation_id} in its path or its query"),
        ("CREDENTIALS_URL", "https://{installation_id}.a/t", "must hold {installation_id} in its path or its query"),
        ("CREDENTIALS_URL", f"https://u:{CANARY}@a/{{installation_id}}", "must not hold a user name or password"),
        ("CREDENTIALS_URL", "a/{installation_id}", "is not a URL"),
        ("CREDENTIALS_URL_TOKEN", f"Bearer {CANARY}", "holds white space"),
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
