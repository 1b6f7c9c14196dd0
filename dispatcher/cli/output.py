"""The format of results: aligned columns for people, one JSON object per line for programs."""

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import typer

MIN_WRAPPED_COLUMNS = 30
"""In a narrower column, text is not wrapped."""


def print_json(row: Mapping[str, Any]) -> None:
    """Prints one object on one line: times in ISO 8601, UTC; characters that could control a terminal escaped."""
    text = json.dumps(row, default=_plain, ensure_ascii=False)
    typer.echo(text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text))


def print_columns(header: Sequence[str], rows: Iterable[Sequence[object]], *, wraps: bool = True) -> None:
    """Prints a table. Columns of numbers are aligned at the right. `wraps=False`: the last column is to be copied as it is."""
    Columns(header, wraps=wraps).print(rows)


class Columns:
    """A table that is printed piece by piece: each piece goes on with the widths of those before."""

    def __init__(self, header: Sequence[str], *, wraps: bool = True) -> None:
        self._wraps = wraps
        self._header: Sequence[str] | None = header
        self._widths = [len(name) for name in header]

    def print(self, rows: Iterable[Sequence[object]]) -> None:
        """Prints these rows, the header before the first ones. Columns of numbers are aligned at the right; on a terminal, the last
        column is wrapped at its edge, unless `wraps` is false.
        """
        rows = list(rows)
        lines = [tuple(shown(cell) for cell in row) for row in rows]
        columns = range(len(self._widths))
        self._widths = [max([self._widths[n], *(len(line[n]) for line in lines)]) for n in columns]
        right = [bool(rows) and all(isinstance(row[n], int | float | None) for row in rows) for n in columns]
        indent = sum(self._widths[:-1]) + 2 * (len(self._widths) - 1)
        for row in ([tuple(self._header)] if self._header else []) + lines:
            cells = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, self._widths, right, strict=True))
            line = "  ".join(cells).rstrip()
            typer.echo(_wrapped(line, indent) if self._wraps else line)
        self._header = None


def _wrapped(line: str, indent: int) -> str:
    """Wraps the text from the column `indent` on, on a terminal that is wide enough for it."""
    width = shutil.get_terminal_size().columns - indent
    if not sys.stdout.isatty() or width < MIN_WRAPPED_COLUMNS:
        return line
    parts = textwrap.wrap(line[indent:], width, break_long_words=False, break_on_hyphens=False)
    return line[:indent] + ("\n" + " " * indent).join(parts)


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Prints `name  value` lines; facts without a value are left out."""
    lines = [(name, shown(value)) for name, value in facts if value is not None]
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        typer.echo(f"{name.ljust(width)}  {value}")


def shown(value: object) -> str:
    """The text of a value: times to the second in UTC, characters that could control a terminal escaped."""
    match value:
        case None:
            return "-"
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def cut(text: str, length: int) -> str:
    """The first line of the text, of at most `length` characters; `…` stands for the rest."""
    first = text.partition("\n")[0]
    return first if first == text and len(text) <= length else first[: length - 1] + "…"


def number(count: int, noun: str, least: str = "") -> str:
    """`1 delivery`, `2 deliveries`; with `+` as `least`, `2+ deliveries`."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count:,}{least} {noun if count == 1 and not least else plural}"


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    raise TypeError(f"no JSON for {type(value).__name__}")
