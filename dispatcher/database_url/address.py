"""Reads a database URL. Error messages are predicates: prefixed with what is wrong they form a sentence, and contain no value."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from dispatcher.database_url import mysql, postgresql
from dispatcher.database_url.hosts import Host, read_hosts
from dispatcher.database_url.query import split_query

FAMILIES = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
    "sqlite": "sqlite",
}
"""The family of databases that each scheme of a URL names."""
EXAMPLE_FILE = "sqlite:///dispatcher.db"

_URL = re.compile(
    r"""(?P<scheme>[a-z]+)(?:\+[a-z0-9_]+)?://  # a driver is ignored: ours is used
        (?:(?P<user>[^:/]*)(?::(?P<password>[^@]*))?@)?
        (?P<hosts>[^/?]*) (?:/(?P<database>[^?]*))? (?:\?(?P<query>.*))?""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_PRISMA = re.compile(r"prisma(\+[a-z]+)?://", re.IGNORECASE)
_TRANSLATIONS = {"postgresql": postgresql.translate, "mysql": mysql.translate}


@dataclass(frozen=True, slots=True)
class Address:
    """A database and how to connect to it."""

    family: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    hosts: tuple[Host, ...] = ()
    database: str = ""
    """Its name; of SQLite the path of its file."""
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    """In the words of our driver; for SQLite none."""
    ignored: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The parameters of other clients, which have no effect here."""

    @property
    def place(self) -> str:
        """The family, the hosts and the name, for people: `postgresql://db.example.com:5432/partner`."""
        if self.family == "sqlite":
            return f"sqlite:///{self.database if self.database.startswith('file:') else Path(self.database).absolute()}"
        hosts = ",".join(map(str, self.hosts)) or self.parameters.get("unix_socket", "")
        return f"{self.family}://{hosts}/{self.database or self.parameters.get('dbname', '')}"


def family_of(url: str) -> str | None:
    """Returns the family that the scheme of the URL names: `postgresql`, `mysql`, `sqlite`, or None for any other."""
    return FAMILIES.get(url.partition(":")[0].partition("+")[0].lower())


def read_address(url: str) -> Address:
    """Reads the URL. Raises ValueError if it cannot be used, or has a parameter that neither we nor another client know."""
    if _PRISMA.match(url):
        raise ValueError(
            "is the address of Prisma's proxy, which only Prisma's client can use: write the direct URL of the database"
        )
    if family_of(url) is None or "://" not in url:
        raise ValueError("must begin with postgresql://, mysql:// or sqlite:///")
    _check_printable(url)
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError("cannot be read: write scheme://user:password@host:port/name")
    parts = {name: text or "" for name, text in match.groupdict().items()}
    family = FAMILIES[parts["scheme"].lower()]
    return _read_file(parts) if family == "sqlite" else _read_server(family, parts, url.partition("://")[2])


def _read_file(parts: Mapping[str, str]) -> Address:
    if parts["hosts"] or parts["user"]:
        raise ValueError(f"names no file: write {EXAMPLE_FILE}")
    if parts["database"] in ("", ":memory:"):
        raise ValueError(f"names an in-memory SQLite database, which only one process sees: write {EXAMPLE_FILE}")
    return Address("sqlite", database=parts["database"])


def _read_server(family: str, parts: Mapping[str, str], rest: str) -> Address:
    _check_user(rest)
    given = split_query(parts["query"])
    hosts = read_hosts(given.pop("host", "") or unquote(parts["hosts"]), given.pop("port", ""))
    if family == "mysql" and len(hosts) > 1:
        raise ValueError("names several hosts, of which the MySQL driver takes one: name the primary, or a proxy")
    translation = _TRANSLATIONS[family](given)
    user, password, database = (unquote(parts[name]) for name in ("user", "password", "database"))
    # PostgreSQL's default is the user's name; one of MySQL's option files can name a database.
    if (
        family == "mysql"
        and not database
        and not translation.parameters.keys() & {"read_default_file", "read_default_group"}
    ):
        raise ValueError("names no database: write its name after the host, mysql://user:password@host:port/name")
    for decoded in (user, database, *(host.name for host in hosts), *translation.parameters.values()):
        _check_printable(decoded)
    return Address(family, user or None, password or None, hosts, database, translation.parameters, translation.ignored)


def _check_printable(text: str) -> None:
    if not text.isprintable():
        raise ValueError("holds a line break or another character that cannot be printed")


def _check_user(rest: str) -> None:
    """Raises ValueError if the end of the user's name or password is ambiguous: part of it could be taken for the host."""
    if rest.count("@") > 1:
        raise ValueError("holds more than one @: write %40 for an @ in the user's name, the password or a parameter")
    name, at, _ = rest.rpartition("@")
    user = name.partition(":")[0]
    if at and "/" in user:
        raise ValueError("holds a / in the user's name: write %2F for it")
    if at and "?" in user:
        raise ValueError("holds a ? in the user's name, or an @ in a parameter: write %3F or %40 for it")
