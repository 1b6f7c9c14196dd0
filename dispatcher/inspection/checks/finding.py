"""The result of one check."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"  # the service works, but not as it should
    PROBLEM = "problem"  # it does not start, or delivers nothing


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. Never contains a secret."""

    check: str
    level: Level
    what: str
    """One line: what was found and, unless the level is OK, how to fix it."""


def ok(check: str, what: str) -> Finding:
    return Finding(check, Level.OK, what)


def warning(check: str, what: str) -> Finding:
    return Finding(check, Level.WARNING, what)


def problem(check: str, what: str) -> Finding:
    return Finding(check, Level.PROBLEM, what)
