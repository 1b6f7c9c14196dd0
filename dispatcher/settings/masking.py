"""Masks settings for display: passwords and the literals of SQL. Text that cannot be parsed unambiguously is masked entirely."""

import re
from collections.abc import Mapping

from pydantic import SecretStr

from dispatcher.database_url.address import read_address
from dispatcher.settings.durations import format_duration

MASK = "***"
_NUMBER_OR_TEXT = r"""
    '[^'\\]*' | "[^"\\]*" | `[^`\\]*`  # text or a quoted name: databases differ
    | \b\d[\w.]*                       # a number, including 0x…
"""
_LITERAL = re.compile(_NUMBER_OR_TEXT, re.VERBOSE)
# After one of these, the database decides where text begins and ends: a backslash, a comment, dollar quotes, an open quote.
_DOUBTFUL = re.compile(r"""['"`\\$\#] | -- | /\*""", re.VERBOSE)


def mask_database_url(text: str) -> str:
    """Returns the URL without its password and without the values of its query."""
    try:
        family = read_address(text).family
    except ValueError:
        return MASK if text else ""
    before, at, after = text.rpartition("@") if family != "sqlite" else ("", "", text)
    if at:
        scheme, _, account = before.partition("://")
        user, colon, _ = account.partition(":")
        before = f"{scheme}://{user}{f':{MASK}' if colon else ''}@"
    address, question, query = after.partition("?")
    return before + address + question + _mask_pairs(query)


def mask_token_url(url: str) -> str:
    """Returns the URL without the values of its query."""
    address, question, query = url.partition("?")
    return address + question + _mask_pairs(query)


def mask_query(sql: str) -> str:
    """Returns SQL without its literals. From the first ambiguous character on, everything is masked."""
    kept: list[str] = []
    end = 0
    for literal in _LITERAL.finditer(sql):
        if _DOUBTFUL.search(sql, end, literal.start()):
            break
        mark = literal[0][0] if literal[0][0] in "'\"`" else ""
        kept += [sql[end : literal.start()], mark, MASK, mark]
        end = literal.end()
    rest = sql[end:]
    doubtful = _DOUBTFUL.search(rest)
    return "".join([*kept, f"{rest[: doubtful.start()]}{MASK}" if doubtful else rest])


_MASKS = {"oauth_token_url": mask_token_url, "credentials_url": mask_token_url, "credentials_query": mask_query}


def show(field: str, value: object) -> str | None:
    """Returns the value of a setting as people see it; None if it is not set."""
    match value:
        case SecretStr():
            if field == "database_url":
                return mask_database_url(value.get_secret_value()) or None
            return MASK
        case Mapping():
            return ", ".join(f"{name}={MASK}" for name in value)
        case tuple():
            return ",".join(map(str, value)) or None
        case bool():
            return str(value).lower()
        case float():
            return format_duration(value)
        case None:
            return "off" if field in ("rate_limit", "global_rate_limit", "ops_port") else None
    return _MASKS.get(field, str)(str(value))


def _mask_pairs(query: str) -> str:
    """`a=1&b=2` → `a=***&b=***`: a parameter of any name may be a key or a password."""
    shown: list[str] = []
    is_password = False  # the & may be part of it
    for name, equals, _ in (pair.partition("=") for pair in query.split("&") if query):
        shown.append(f"{name}={MASK}" if equals and not is_password else MASK)
        is_password = is_password or "pass" in name.lower()
    return "&".join(shown)
