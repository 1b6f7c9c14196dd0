"""What one check found."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # the service works, but not as it should
    PROBLEM = "problem"  # it does not start, or delivers nothing


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` is one line: what is the case, and for anything but OK how to mend it. It never holds a secret."""

    check: str
    level: Level
    what: str


def ok(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, what)


def warning(check: str, what: str) -> Finding:
    """See Level."""
    return Finding(check, Level.WARNING, what)


def problem(check: str, what: str) -> Finding:
    """See Level."""
    return Finding(check, Level.PROBLEM, what)
