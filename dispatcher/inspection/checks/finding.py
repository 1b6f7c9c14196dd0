"""The result of one check."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from textwrap import shorten

_MAX_ERROR_LENGTH = 200


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


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Returns problems, then warnings, then the rest, each in the order given."""
    order = (Level.PROBLEM, Level.WARNING, Level.OK)
    return sorted(findings, key=lambda finding: order.index(finding.level))


def summarize(status: int | None, error: str | None, vercel_id: str | None) -> str:
    """Returns an answer of Vercel in parentheses, after a space; nothing if all its parts are missing."""
    shortened = error and shorten(error, _MAX_ERROR_LENGTH, placeholder=" …")
    parts = (status, shortened, vercel_id and f"x-vercel-id {vercel_id}")
    summary = ", ".join(str(part) for part in parts if part)
    return f" ({summary})" if summary else ""


def ok(check: str, what: str) -> Finding:
    return Finding(check, Level.OK, what)


def warning(check: str, what: str) -> Finding:
    return Finding(check, Level.WARNING, what)


def problem(check: str, what: str) -> Finding:
    return Finding(check, Level.PROBLEM, what)
