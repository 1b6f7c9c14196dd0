"""Parses the text of each setting. Error messages are predicates: prefixed with the variable's name they form a sentence.

Bounds and choices are pydantic's own constraints; `explain_constraint` words their errors. `None` as the default of a setting is
pydantic's too: the parsers see only values that were given.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import BeforeValidator, SecretStr
from pydantic.fields import FieldInfo

from dispatcher.database_url.address import read_address
from dispatcher.outbox.schema import parse_name
from dispatcher.policy.rate_window import RateLimit
from dispatcher.settings.durations import DAY, echo, format_duration, parse_duration
from dispatcher.settings.urls import parse_base_url, parse_credentials_url, parse_token_url

Seconds = float

_NUMBER = re.compile(r"[0-9]{1,9}")
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")
_INSTALLATION_BIND = re.compile(r"(?<![:\w\\]):installation_id\b")
_MAX_TOKEN_LENGTH = 512
BEARER_TOKEN = re.compile(rf"[\x21-\x7e]{{1,{_MAX_TOKEN_LENGTH}}}")
"""A token that can travel in a header."""
MAX_PORT = 65_535
MIN_CONSOLE_TOKEN_LENGTH = 32
_HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_PATH_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")
MAX_PROCESSES = 64


def parse_number(value: object) -> int:
    """Parses a whole number of ASCII digits. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value)
    raise ValueError(f"is not a whole number{echo(value)}: write digits only, such as 64")


def parse_processes(value: object) -> int:
    """Parses a number of processes; `auto` is one for each core that this process may use. Raises ValueError."""
    if value == "auto":
        usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        return min(usable, MAX_PROCESSES)
    try:
        return parse_number(value)
    except ValueError:
        raise ValueError(f"is not a number of processes{echo(value)}: write a number, or auto") from None


def parse_port(value: object) -> int | None:
    """Parses a port; 0 lets the system choose one, `off` is None. Raises ValueError."""
    if value is None or value == "off":
        return None
    try:
        number = parse_number(value)
    except ValueError:
        raise ValueError(f"is not a port{echo(value)}: write a number, or off") from None
    if number > MAX_PORT:
        raise ValueError(f"must be between 0 and {MAX_PORT}, or off")
    return number


_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def parse_flag(value: object) -> bool:
    """Parses `true` or `false` in any case, `1` or `0`. Raises ValueError."""
    if isinstance(value, bool):
        return value
    if (flag := _FLAGS.get(str(value).lower())) is not None:
        return flag
    raise ValueError(f"must be true or false{echo(value)}")


def parse_rate_limit(value: object) -> RateLimit | None:
    """Parses a rate: `60/60s` is 60 requests in any 60 seconds, `off` is None. Raises ValueError."""
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
    """Parses a bearer token: 1 to 512 visible ASCII characters, as a header requires. Raises ValueError."""
    text = reveal(value)
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("holds white space, a line break or a character that is not ASCII: write the bare token")
    if len(text) > _MAX_TOKEN_LENGTH:
        raise ValueError(f"is longer than {_MAX_TOKEN_LENGTH} characters, and no Vercel token is that long")
    return SecretStr(text)


def parse_console_token(value: object) -> SecretStr:
    """Parses a token that people log in to the console with; one that can be guessed is refused. Raises ValueError."""
    token = parse_token(value)
    if len(token.get_secret_value()) < MIN_CONSOLE_TOKEN_LENGTH:
        raise ValueError(
            f"is shorter than {MIN_CONSOLE_TOKEN_LENGTH} characters: write a random one, such as that of `openssl rand -hex 32`"
        )
    return token


def parse_secret(value: object) -> SecretStr:
    """Parses a secret of any form: one printable line. Raises ValueError."""
    return SecretStr(_check_printable(reveal(value)))


def parse_text(value: object) -> str:
    """Parses one printable line. Raises ValueError."""
    return _check_printable(str(value))


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds a line break or another character that cannot be printed")
    return text


def parse_schema(value: object) -> str:
    """Parses the name of a PostgreSQL schema. Raises ValueError."""
    return parse_name(str(value))


def parse_host(value: object) -> str:
    """Parses an address or a host name to listen on. Raises ValueError."""
    text = str(value)
    if not _HOST.fullmatch(text):
        raise ValueError(
            "is not an address to listen on: write one such as 0.0.0.0, 127.0.0.1 or :: (no brackets, no port)"
        )
    return text


def parse_database_url(value: object) -> SecretStr:
    """Parses a database URL, and returns it as it is. Raises ValueError."""
    text = reveal(value)
    read_address(text)
    return SecretStr(text)


def parse_header_name(value: object) -> str:
    """Parses the name of an HTTP header. Raises ValueError."""
    text = str(value)
    if not _HEADER_NAME.fullmatch(text):
        raise ValueError(f"is not the name of a header{echo(text)}: write one such as X-Auth-Request-Email")
    return text


def parse_path_prefix(value: object) -> str:
    """Parses the path below which a proxy serves an application; returns it without a trailing slash. Raises ValueError."""
    text = str(value).rstrip("/")
    if not _PATH_PREFIX.fullmatch(text):
        raise ValueError(f"is not a path{echo(value)}: write one such as /tools/outbox")
    return text


def parse_networks(value: object) -> tuple[IPv4Network | IPv6Network, ...]:
    """Parses addresses and networks, separated by commas. Raises ValueError."""
    if isinstance(value, tuple):
        return value
    try:
        return tuple(ip_network(one) for one in _split(value))
    except ValueError:
        raise ValueError(
            "is not a list of addresses: write them with commas between them, such as 127.0.0.1,10.0.0.0/8"
        ) from None


def parse_names(value: object) -> tuple[str, ...]:
    """Parses names, separated by commas. Raises ValueError."""
    return value if isinstance(value, tuple) else tuple(_split(parse_text(value)))


def _split(value: object) -> list[str]:
    return [part.strip() for part in str(value).split(",")]


def parse_oauth_params(value: object) -> dict[str, str]:
    """Parses further form fields of the token request: a JSON object of strings. Raises ValueError."""
    try:
        params = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        params = None
    if isinstance(params, dict) and all(isinstance(item, str) for pair in params.items() for item in pair):
        return dict(params)
    raise ValueError('is not a JSON object of strings: write one such as {"installation": "{installation_id}"}')


def parse_credentials_query(value: object) -> str:
    """Parses SQL that finds the token of `:installation_id`. Raises ValueError."""
    text = str(value)
    if not _INSTALLATION_BIND.search(text):
        raise ValueError(
            "does not use :installation_id: write SELECT token FROM your_table WHERE id = :installation_id"
        )
    return text


def reveal(value: object) -> str:
    """Returns the text of a secret or of a plain value."""
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def parse_choice(value: object) -> object:
    """Lower-cases text, so that an enumeration's values are accepted in either case."""
    return value.lower() if isinstance(value, str) else value


def explain_constraint(field: FieldInfo, text: str) -> str:
    """Returns why `text` violates the bounds or the choices of this field."""
    if isinstance(field.annotation, type) and issubclass(field.annotation, StrEnum):
        return f"must be one of {', '.join(field.annotation)}{echo(text)}"
    show = format_duration if field.annotation is Seconds else str
    bounds = {name: getattr(item, name) for item in field.metadata for name in ("ge", "le") if hasattr(item, name)}
    return f"must be between {show(bounds['ge'])} and {show(bounds['le'])}"


Text = Annotated[str, BeforeValidator(parse_text)]
Secret = Annotated[SecretStr, BeforeValidator(parse_secret)]
Token = Annotated[SecretStr, BeforeValidator(parse_token)]
Flag = Annotated[bool, BeforeValidator(parse_flag)]
ConsoleToken = Annotated[SecretStr, BeforeValidator(parse_console_token)]
HeaderName = Annotated[str, BeforeValidator(parse_header_name)]
PathPrefix = Annotated[str, BeforeValidator(parse_path_prefix)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(parse_networks)]
Names = Annotated[tuple[str, ...], BeforeValidator(parse_names)]
DatabaseUrl = Annotated[SecretStr, BeforeValidator(parse_database_url)]
SchemaName = Annotated[str, BeforeValidator(parse_schema)]
BaseUrl = Annotated[str, BeforeValidator(parse_base_url)]
TokenUrl = Annotated[str, BeforeValidator(parse_token_url)]
CredentialsUrl = Annotated[str, BeforeValidator(parse_credentials_url)]
OauthParams = Annotated[Mapping[str, str], BeforeValidator(parse_oauth_params)]
CredentialsQuery = Annotated[str, BeforeValidator(parse_credentials_query)]
Host = Annotated[str, BeforeValidator(parse_host)]
Port = Annotated[int | None, BeforeValidator(parse_port)]
Rate = Annotated[RateLimit | None, BeforeValidator(parse_rate_limit)]
ParsedNumber = BeforeValidator(parse_number)
ParsedProcesses = BeforeValidator(parse_processes)
ParsedDuration = BeforeValidator(parse_duration)
Choice = BeforeValidator(parse_choice)
