"""The hosts of a database URL: `a:5432,b:5432`, `[::1]:5432`, or the directory of a socket."""

import re
from typing import NamedTuple

_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<name>[^:\[\]]*))(?::(?P<port>[0-9]{1,5})?)?")
_MAX_PORT = 65_535


class Host(NamedTuple):
    """A host name, an address, or the directory of a socket, which begins with / or @."""

    name: str
    port: int | None = None

    @property
    def is_socket(self) -> bool:
        return self.name[:1] in ("/", "@")

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name and not self.is_socket else self.name
        return name if self.port is None else f"{name}:{self.port}"


def read_hosts(hosts: str, ports: str = "") -> tuple[Host, ...]:
    """Reads hosts separated by commas, each with its port or none, or with `ports` in the same order. Raises ValueError.

    One port is for all the hosts. No host means the driver's default.
    """
    read = tuple(map(_read_host, hosts.split(","))) if hosts or ports else ()
    if not ports:
        return read
    if any(host.port is not None for host in read):
        raise ValueError("names ports twice: write host:port, or the parameter port")
    each = [_read_port(port) for port in ports.split(",")]
    if len(each) == 1:
        each *= len(read)
    if len(each) != len(read):
        raise ValueError("does not name as many ports as hosts: write a:5432,b:5432")
    return tuple(host._replace(port=port) for host, port in zip(read, each, strict=True))


def _read_host(text: str) -> Host:
    if text[:1] in ("/", "@"):
        return Host(text)
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError(
            "has a host or port that cannot be read: write host:port (an IPv6 address in brackets), or several as a:5432,b:5432"
        )
    return Host(match["v6"] or match["name"], _read_port(match["port"] or ""))


def _read_port(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MAX_PORT):
        raise ValueError(f"has a port that is not a number between 1 and {_MAX_PORT}")
    return int(text)
