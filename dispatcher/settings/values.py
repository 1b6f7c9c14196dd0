"""What a setting may say: text → value. Pure. An error continues the sentence that the variable's name begins."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from dispatcher.settings.durations import DAY, echo, format_duration, parse_duration

T = TypeVar("T")

_NUMBER = re.compile(r"[0-9]{1,9}")
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")
_DATABASE_URL = re.compile(r"(sqlite|postgres|postgresql|mysql|mariadb)(?:\+[a-z0-9_]+)?://(.*)", re.DOTALL)
_INSTALLATION_BIND = re.compile(r"(?<![:\w\\]):installation_id\b")
_MAX_TOKEN_LENGTH = 512
BEARER_TOKEN = re.compile(rf"[\x21-\x7e]{{1,{_MAX_TOKEN_LENGTH}}}")
_HIGHEST_PORT = 65_535


class Wakeup(StrEnum):
    """How the service learns of new events: by looking, or (PostgreSQL) also by being told."""

    POLL = "poll"
    NOTIFY = "notify"


class LogFormat(StrEnum):
    """How a log line is written: `auto` is `text` on a terminal and `json` elsewhere."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """The least severe line that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `requests` requests in any window of `seconds` seconds."""

    requests: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.requests}/{self.seconds:.15g}s"


def parse_number(value: object) -> int:
    """A whole number, from ASCII digits alone. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value)
    raise ValueError(f"is not a whole number{echo(value)}: write digits only, such as 64")


def parse_port(value: object) -> int | None:
    """A port, 0 for one that the system chooses; `off` is None. Raises ValueError."""
    if value is None or value == "off":
        return None
    try:
        number = parse_number(value)
    except ValueError:
        raise ValueError(f"is not a port{echo(value)}: write a number, or off") from None
    if number > _HIGHEST_PORT:
        raise ValueError(f"must be between 0 and {_HIGHEST_PORT}, or off")
    return number


def duration_between(lowest: float, highest: float) -> Callable[[object], float]:
    """A `parse_duration` that also refuses what is outside [lowest, highest] seconds."""

    def parse(value: object) -> float:
        seconds = parse_duration(value)
        if not lowest <= seconds <= highest:
            raise ValueError(f"must be between {format_duration(lowest)} and {format_duration(highest)}")
        return seconds

    return parse


def number_between(lowest: int, highest: int) -> Callable[[object], int]:
    """A `parse_number` that also refuses what is outside [lowest, highest]."""

    def parse(value: object) -> int:
        number = parse_number(value)
        if not lowest <= number <= highest:
            raise ValueError(f"must be between {lowest} and {highest}")
        return number

    return parse


def one_of(choices: type[StrEnum]) -> Callable[[object], StrEnum]:
    """A parser of the values of an enumeration, in upper or lower case."""

    def parse(value: object) -> StrEnum:
        try:
            return choices(str(value).lower())
        except ValueError:
            raise ValueError(f"must be one of {', '.join(choices)}{echo(value)}") from None

    return parse


def optional(parse: Callable[[object], T]) -> Callable[[object], T | None]:
    """The same parser for a setting that may be left out."""

    def parse_optional(value: object) -> T | None:
        return None if value is None else parse(value)

    return parse_optional


def parse_flag(value: object) -> bool:
    """`true` or `false`. Raises ValueError."""
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise ValueError(f"must be true or false{echo(value)}")


def parse_rate_limit(value: object) -> RateLimit | None:
    """`60/60s` is 60 requests in any 60 seconds; `off` is None. Raises ValueError."""
    if value is None or value == "off":
        return None
    if isinstance(value, RateLimit):
        return value
    number, _, period = str(value).partition("/")
    try:
        requests, seconds = parse_number(number), parse_duration(period)
    except ValueError:
        raise ValueError(f"is not a rate{echo(value)}: write requests/duration, such as 60/60s, or off") from None
    if not (1 <= requests <= 1_000_000 and 0.001 <= seconds <= DAY):
        raise ValueError("must allow between 1 and 1000000 requests in 1ms to 1d, such as 60/60s")
    return RateLimit(requests, seconds)


def parse_token(value: object) -> SecretStr:
    """A bearer token: 1 to 512 visible ASCII characters, or it could not travel in a header. Raises ValueError."""
    text = reveal(value)
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("holds white space, a line break or a character that is not ASCII: write the bare token")
    if len(text) > _MAX_TOKEN_LENGTH:
        raise ValueError(f"is longer than {_MAX_TOKEN_LENGTH} characters, which no token of Vercel's is")
    return SecretStr(text)


def parse_secret(value: object) -> SecretStr:
    """A secret of any form, kept out of every representation. Raises ValueError."""
    return SecretStr(_check_printable(reveal(value)))


def parse_text(value: object) -> str:
    """One line of text. Raises ValueError."""
    return _check_printable(str(value))


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds a line break or another character that cannot be printed")
    return text


def parse_schema(value: object) -> str:
    """The name of a PostgreSQL schema. Raises ValueError."""
    text = str(value)
    if not _SCHEMA.fullmatch(text):
        raise ValueError(
            "is not a schema name: write at most 63 letters, digits and underscores, not beginning with a digit"
        )
    return text


def parse_host(value: object) -> str:
    """An address or a host name to listen on. Raises ValueError."""
    text = str(value)
    if not _HOST.fullmatch(text):
        raise ValueError(
            "is not an address to listen on: write one such as 0.0.0.0, 127.0.0.1 or :: (no brackets, no port)"
        )
    return text


def parse_database_url(value: object) -> SecretStr:
    """A database URL as partners have it; its driver is chosen elsewhere. Raises ValueError."""
    text = reveal(value)
    match = _DATABASE_URL.fullmatch(text)
    if match is None:
        raise ValueError("must begin with postgresql://, mysql:// or sqlite:///")
    if match[1] != "sqlite":
        _check_user(match[2])
    return SecretStr(_check_printable(text))


def _check_user(rest: str) -> None:
    """Raises ValueError if it is not sure where the user's name and the password end: a part could be taken for the host."""
    if rest.count("@") > 1:
        raise ValueError("holds more than one @: write %40 for an @ in the user's name, the password or a parameter")
    name, at, _ = rest.rpartition("@")
    if at and "/" in name.partition(":")[0]:
        raise ValueError("holds a / in the user's name: write %2F for it")


def is_postgresql(database_url: SecretStr) -> bool:
    """Whether the URL names a PostgreSQL server, or one that speaks its protocol."""
    match = _DATABASE_URL.fullmatch(database_url.get_secret_value())
    return match is not None and match[1].startswith("postgres")


def parse_base_url(value: object) -> str:
    """Where Vercel's API lives, without a trailing slash. Raises ValueError."""
    url = _parse_url(str(value))
    if url.query or url.fragment or "?" in str(value) or "#" in str(value):
        raise ValueError("must not hold a query or a fragment: write it like https://api.vercel.com")
    return str(value).rstrip("/")


def parse_token_url(value: object) -> str:
    """Where OAuth tokens are asked for. Raises ValueError."""
    if _parse_url(str(value)).fragment:
        raise ValueError("must not hold a fragment (#…)")
    return str(value)


def _parse_url(text: str) -> SplitResult:
    malformed = ValueError("is not a URL: write one like https://api.vercel.com")
    if not _PRINTABLE.fullmatch(text) or "\\" in text:
        raise malformed
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise malformed from None
    if url.scheme not in ("https", "http") or not url.hostname or port == 0:
        raise malformed
    if "@" in url.netloc:
        raise ValueError("must not hold a user name or password")
    return url


def parse_oauth_params(value: object) -> dict[str, str]:
    """Further form fields of the token request, from a JSON object of strings. Raises ValueError."""
    try:
        params = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        params = None
    if isinstance(params, dict) and all(isinstance(item, str) for pair in params.items() for item in pair):
        return dict(params)
    raise ValueError('is not a JSON object of strings: write one such as {"installation": "{installation_id}"}')


def parse_credentials_query(value: object) -> str:
    """SQL that finds the token of `:installation_id`. Raises ValueError."""
    text = str(value)
    if not _INSTALLATION_BIND.search(text):
        raise ValueError(
            "does not use :installation_id: write SELECT token FROM your_table WHERE id = :installation_id"
        )
    return text


def reveal(value: object) -> str:
    """The text of a secret or of a plain value."""
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
