"""Reads `DISPATCHER_…` variables, and the files that `DISPATCHER_…_FILE` variables name, as text."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PREFIX = "DISPATCHER_"
FILE_SUFFIX = "_FILE"
# Variables of the test suite; the service ignores them.
TEST_PREFIX = f"{PREFIX}TEST_"
# For a Service whose name begins with "dispatcher", Kubernetes sets variables like these in every pod of the namespace.
_SERVICE_LINK = re.compile(
    r"DISPATCHER(_.+)?_(SERVICE_(HOST|PORT(_.+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://[0-9A-Fa-f.:\[\]]+:[0-9]+")
"""The value of such a variable that ends in `_PORT`. For a Service named "dispatcher-console" that is the name of a setting."""
_SCHEMA_VARIABLE = "SCHEMA"
"""Not the field's name: pydantic's BaseModel has a method called `schema`."""
_MAX_FILE_BYTES = 65_536
_MAX_NAME_LENGTH = 80


@dataclass(slots=True)
class Reading:
    """The settings that were found, by variable, and the problems with the others."""

    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """The file that the text was read from, if it was."""
    typed_names: dict[str, str] = field(default_factory=dict)
    """The variable as the user typed it, with `_FILE`."""
    unknown: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def variable_name(field: str) -> str:
    """Returns the environment variable of a field: `lease` → `DISPATCHER_LEASE`."""
    return PREFIX + (_SCHEMA_VARIABLE if field == "database_schema" else field.upper())


def read_environment(environ: Mapping[str, str], known: Iterable[str]) -> Reading:
    """Reads the `known` variables and their `_FILE` variants. Problems are sentences that contain no value."""
    reading = Reading()
    names = tuple(known)
    for name in names:
        _read_setting(reading, environ, name)
    reading.unknown.extend(_name_unknown(environ, names))
    return reading


def _read_setting(reading: Reading, environ: Mapping[str, str], name: str) -> None:
    file_name = name + FILE_SUFFIX
    if name in environ and file_name in environ:
        reading.unreadable.append(f"{name} and {file_name} are both set: keep one of them")
        return
    try:
        if file_name in environ:
            _keep(reading, name, file_name, _read_file(environ[file_name]))
            reading.files[name] = environ[file_name]
        elif name in environ and not _is_service_link(name, environ[name]):
            _keep(reading, name, name, environ[name])
    except ValueError as problem:
        reading.unreadable.append(f"{file_name} {problem}")


def _is_service_link(name: str, text: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(name) and _SERVICE_ADDRESS.fullmatch(text))


def _keep(reading: Reading, name: str, typed_name: str, text: str) -> None:
    if not text:
        reading.unreadable.append(f"{typed_name} is empty: give it a value or unset it")
        return
    reading.texts[name], reading.typed_names[name] = text, typed_name


def _read_file(path: str) -> str:
    """Returns the text without the line breaks at its end. The ValueError omits the path, which may be the secret itself."""
    advice = "put the path of a readable text file there, not the value itself"
    try:
        file = Path(path)
        if not file.exists():
            raise ValueError(f"names a file that does not exist: {advice}")
        if not file.is_file():
            raise ValueError(f"names something that is not a regular file: {advice}")
        with file.open("rb") as content:
            raw = content.read(_MAX_FILE_BYTES + 1)
    except OSError:
        raise ValueError(f"names a file that cannot be read: {advice}, and let the service's user read it") from None
    if len(raw) > _MAX_FILE_BYTES:
        raise ValueError(f"names a file of more than {_MAX_FILE_BYTES} bytes: {advice}")
    return _decode(raw)


def _decode(raw: bytes) -> str:
    try:
        text = raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("names a file that is not UTF-8 text: write the value as plain text") from None
    if not text:
        raise ValueError("names an empty file: write the value into it")
    return text


def _name_unknown(environ: Mapping[str, str], known: tuple[str, ...]) -> Iterator[str]:
    accepted = {name + suffix for name in known for suffix in ("", FILE_SUFFIX)}
    for name in sorted(environ):
        ours = name.upper().startswith(PREFIX) and not name.startswith(TEST_PREFIX)
        if ours and name not in accepted and not _SERVICE_LINK.fullmatch(name):
            yield f"{_show_name(name)} is not a setting{_suggest(name, accepted)}"


def _suggest(name: str, accepted: set[str]) -> str:
    # Without the prefix, which would make every name look alike.
    wanted = name.upper().removeprefix(PREFIX)
    nearest = difflib.get_close_matches(
        wanted, sorted(known.removeprefix(PREFIX) for known in accepted), n=1, cutoff=0.5
    )
    return f": did you mean {PREFIX}{nearest[0]}?" if nearest else ": unset it, or see Settings in deploy/README.md"


def _show_name(name: str) -> str:
    shown = name if name.isprintable() and name.isascii() else ascii(name)
    return shown if len(shown) <= _MAX_NAME_LENGTH else f"{shown[:_MAX_NAME_LENGTH]}…"
