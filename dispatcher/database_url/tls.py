"""The level of TLS that the parameters of a URL ask for, in the words of any client."""

import json
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import TypeVar

Choice = TypeVar("Choice")


class Tls(IntEnum):
    """How the connection is protected, from the least to the most."""

    OFF = 0
    PREFERRED = 1
    """If the server offers it; anybody on the network can prevent it."""
    REQUIRED = 2
    """Always, with any server."""
    AUTHORITY = 3
    """Only with a server that a trusted authority has certified, whatever its name."""
    HOST = 4
    """Only with a server that a trusted authority has certified for this host."""


_TRUE, _FALSE = {"true", "1", "yes", "on", "t"}, {"false", "0", "no", "off", "f"}
_MODES = {
    **dict.fromkeys(("disable", "disabled"), Tls.OFF),
    **dict.fromkeys(("allow", "prefer", "preferred"), Tls.PREFERRED),
    **dict.fromkeys(("require", "required", "no-verify", "skip-verify", "trust"), Tls.REQUIRED),
    "verify-ca": Tls.AUTHORITY,
    **dict.fromkeys(("verify-full", "verify-identity"), Tls.HOST),
}
_EXPLICIT = "sslmode"
_FLAGS: dict[str, tuple[Tls | None, Tls | None]] = {
    "usessl": (Tls.REQUIRED, Tls.OFF),
    "requiressl": (Tls.REQUIRED, None),
    "trustservercertificate": (Tls.REQUIRED, None),
    "verifyservercertificate": (Tls.AUTHORITY, None),
    "sslverifycert": (Tls.AUTHORITY, None),
    "sslverifyidentity": (Tls.HOST, None),
    "sslcheckhostname": (Tls.HOST, None),
    "ssldisabled": (Tls.OFF, None),
}
"""What `true` and `false` ask for."""
_ACCEPT = {"strict": Tls.HOST, "accept_invalid_certs": None, "accept-invalid-certs": None}
_SWITCHES = {"ssl", "tls"}
_OBJECT_NAMES = {"rejectUnauthorized", "minVersion", "maxVersion"}


def squeeze(name: str) -> str:
    """Returns the name without hyphens and underscores, in lower case: `ssl-mode`, `ssl_mode` and `sslMode` are `sslmode`."""
    return name.replace("-", "").replace("_", "").lower()


def is_tls(name: str) -> bool:
    """Whether `read_tls` reads this parameter."""
    return squeeze(name) in {_EXPLICIT, "sslaccept", *_FLAGS, *_SWITCHES}


def read_tls(given: Mapping[str, str]) -> Tls | None:
    """Returns the level asked for: that of `sslmode`, else the highest of the others; None if there is none. Raises ValueError."""
    modes = [_read_mode(name, value) for name, value in given.items() if squeeze(name) == _EXPLICIT]
    others = dict(_read_others(given))
    if modes:
        return max(*modes, others.get("sslaccept", Tls.OFF)) if max(modes) >= Tls.REQUIRED else max(modes)
    levels = set(others.values())
    if Tls.OFF in levels and max(levels) >= Tls.REQUIRED:
        raise ValueError("asks for TLS with one parameter and refuses it with another: keep one of them")
    return max(levels, default=None)


def _read_others(given: Mapping[str, str]) -> Iterator[tuple[str, Tls]]:
    for name, value in given.items():
        squeezed, level = squeeze(name), None
        if squeezed == "sslaccept":
            level = _choose(name, value, _ACCEPT)
        elif squeezed in _SWITCHES:
            level = _read_switch(name, value)
        elif squeezed in _FLAGS:
            level = _FLAGS[squeezed][not _is_true(name, value)]
        if level is not None:
            yield squeezed, level


def _read_mode(name: str, value: str) -> Tls:
    return _choose(name, value.replace("_", "-"), _MODES)


def _read_switch(name: str, value: str) -> Tls:
    """`ssl=true` verifies, as it does in the clients that know it; they also take a mode, or an object."""
    if value.startswith("{"):
        return _read_object(name, value)
    if value.lower() in _TRUE | _FALSE:
        return Tls.HOST if value.lower() in _TRUE else Tls.OFF
    return _choose(name, value.replace("_", "-"), {"true": Tls.HOST, "false": Tls.OFF, **_MODES})


def _read_object(name: str, value: str) -> Tls:
    try:
        content = json.loads(value)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not content.keys() <= _OBJECT_NAMES:
        raise ValueError(
            f'has a parameter {name} that cannot be read: write {{"rejectUnauthorized":true}}, and name files in parameters of their own'
        )
    return Tls.REQUIRED if content.get("rejectUnauthorized") is False else Tls.HOST


def _is_true(name: str, value: str) -> bool:
    return _choose(name, value, {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)})


def _choose(name: str, value: str, choices: Mapping[str, Choice]) -> Choice:
    if value.lower() not in choices:
        raise ValueError(f"has a parameter {name} with an unknown value: write one of {', '.join(sorted(choices))}")
    return choices[value.lower()]
