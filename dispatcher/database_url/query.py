"""The parameters after the ? of a database URL."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote_plus

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")
_SEVERAL = "host"
"""The one parameter that may occur several times."""


@dataclass(frozen=True, slots=True)
class Translation:
    """The parameters of a URL: those for our driver, in its words, and those of other clients, which have no effect here."""

    parameters: Mapping[str, str]
    ignored: Mapping[str, str]


def split_query(query: str) -> dict[str, str]:
    """Returns the parameters by name; several hosts are joined by commas. Raises ValueError.

    No value is shown, nor any name that may be part of a password with an & in it.
    """
    given: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, equals, value = (unquote_plus(part) for part in pair.partition("="))
        if not equals or not _NAME.fullmatch(name):
            if _follows_password(given):
                raise ValueError("has a password with an & in it: write %26 for it")
            raise ValueError("has something after the ? that is not name=value: write %26 for an & in a value")
        if name in given and name != _SEVERAL:
            raise ValueError(f"has a parameter twice: {_show(name, given)}")
        given[name] = f"{given[name]},{value}" if name in given else value
    return given


def refuse_unknown(given: Mapping[str, str], unknown: Collection[str], known: Iterable[str]) -> None:
    """Raises ValueError if there are unknown parameters."""
    if not unknown:
        return
    name = min(unknown, key=list(given).index)
    shown = _show(name, given)
    nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75) if shown == name else []
    hint = f"did you mean {nearest[0]}?" if nearest else "remove it, or see deploy/databases.md"
    raise ValueError(f"has an unknown parameter after the ?, {shown}: {hint}")


def _show(name: str, given: Mapping[str, str]) -> str:
    """Returns the name, unless it may be the rest of a password with an & in it."""
    before = list(given)[: list(given).index(name)]
    return "which follows a password (write %26 for an & in it)" if _follows_password(before) else name


def _follows_password(before: Iterable[str]) -> bool:
    return any("pass" in name.lower() for name in before)
