"""The table that a trigger watches, and the source of each id in its events."""

import hashlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from dispatcher.outbox.events import INSTALLATION_UPDATED, RESOURCE_UPDATED
from dispatcher.outbox.tables import metadata

COMMAND = "dispatcher trigger"
PREFIX = "vercel_outbox_"
"""The name of every trigger begins so, and that of what belongs to it."""
_NAME = re.compile(r"[\w -]+")
_MAX_NAME_BYTES = 63
# Leaves room for the suffixes of MySQL and SQLite.
_MAX_TRIGGER_NAME_BYTES = 50
_RESERVED = {f"{PREFIX}wakeup"}
"""The trigger of DISPATCHER_WAKEUP=notify."""
_ROW = re.compile(r"\bNEW\b(?=\s*\.)", re.IGNORECASE)
_NOT_IN_EXPRESSIONS = re.compile(r";|--|/\*|\$\$|\$vercel\$|\\|[\x00-\x1f\x7f]")


class UnusableName(ValueError):
    """No trigger can be made for this table, column or expression; the message names it and the reason."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the watched table, by its name as the database shows it. Raises UnusableName."""

    name: str

    def __post_init__(self) -> None:
        check_name(self.name)

    def read(self, version: str, mark: str) -> str:
        """Returns SQL for its value in this version of the row (`OLD`, `NEW`). `mark`: the database's quotation mark."""
        return f"{version}.{quoted(self.name, mark)}"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Expression:
    """SQL that computes an id from the row `NEW`, such as `encode(NEW.id, 'hex')` or a sub-select. Raises UnusableName."""

    sql: str

    def __post_init__(self) -> None:
        if bad := _NOT_IN_EXPRESSIONS.search(self.sql):
            raise UnusableName(f"the expression {self.sql!r} contains {bad[0]!r}: write it in one line, without that")
        if not _ROW.search(self.sql):
            raise UnusableName(
                f"the expression {self.sql!r} reads nothing from the row: write NEW.column for its columns"
            )

    def read(self, version: str, _mark: str) -> str:
        """Returns SQL for its value in this version of the row (`OLD`, `NEW`)."""
        return f"({_ROW.sub(version, self.sql)})"

    def __str__(self) -> str:
        return self.sql


Source = Column | Expression


@dataclass(frozen=True, slots=True)
class Watched:
    """The table to watch. Each row is one resource of one installation, or with `resource=None` one installation itself.

    Rows whose ids are NULL or empty are ignored. Raises UnusableName.
    """

    table: str
    installation: Source
    resource: Source | None
    product: Source | None = None
    when_changed: tuple[str, ...] = ()
    """An update writes an event only if it changes one of these columns, an id or the product; if this is empty, every update does."""
    outbox_schema: str | None = None
    """The schema of the outbox, on MySQL its database; None: that of the connection or of the table."""

    def __post_init__(self) -> None:
        parts = self.table.split(".")
        if len(parts) > 2:
            raise UnusableName(f"{self.table!r} is not a table name: write NAME or SCHEMA.NAME")
        schema = [self.outbox_schema] if self.outbox_schema is not None else []
        for name in (*parts, *self.when_changed, *schema):
            check_name(name)
        if parts[-1].lower() in metadata.tables:
            raise UnusableName(f"{parts[-1]} is a table of the dispatcher's own: name the table of your resources")
        if self.resource is None and self.product is not None:
            raise UnusableName(f"an event of the type {INSTALLATION_UPDATED} names no product")

    @property
    def type(self) -> str:
        """The type of its events."""
        return INSTALLATION_UPDATED if self.resource is None else RESOURCE_UPDATED

    @property
    def schema(self) -> str | None:
        """The schema that the table's name contains; on MySQL its database."""
        return self.table.rpartition(".")[0] or None

    @property
    def bare_table(self) -> str:
        """The table's name without its schema."""
        return self.table.rpartition(".")[2]

    @property
    def trigger(self) -> str:
        """The trigger's name, unique within the table's schema."""
        name = f"{PREFIX}installation_of_{self.bare_table}" if self.resource is None else PREFIX + self.bare_table
        if len(name.encode()) <= _MAX_TRIGGER_NAME_BYTES and name not in _RESERVED:
            return name
        return PREFIX + hashlib.sha256(name.encode()).hexdigest()[:16]

    @property
    def ids(self) -> dict[str, Source]:
        """The columns of the outbox that identify the subject, each with its source."""
        resource = {} if self.resource is None else {"resource_id": self.resource}
        return {"installation_id": self.installation, **resource}

    @property
    def sources(self) -> dict[str, Source]:
        """The columns of the outbox that come from the row, each with its source."""
        return self.ids if self.product is None else {**self.ids, "product_id": self.product}

    @property
    def columns(self) -> list[str]:
        """The columns of the table that are named, other than in expressions."""
        named = [source.name for source in self.sources.values() if isinstance(source, Column)]
        return [*dict.fromkeys((*named, *self.when_changed))]

    @property
    def command(self) -> str:
        """The command that prints this trigger. It is written into the database beside it, and read back by `read_command`."""
        return " ".join([COMMAND, *(f"--{option} {shlex.quote(value)}" for option, value in self._options())])

    def _options(self) -> Iterator[tuple[str, str]]:
        yield "table", self.table
        if self.resource is None:
            yield "type", self.type
        for name, source in (
            ("installation", self.installation),
            ("resource", self.resource),
            ("product", self.product),
        ):
            if source is not None:
                yield f"{name}-{'column' if isinstance(source, Column) else 'expression'}", str(source)
        if self.when_changed:
            yield "when-changed", ",".join(self.when_changed)
        if self.outbox_schema is not None:
            yield "schema", self.outbox_schema


def read_command(command: str) -> Watched:
    """Returns what `Watched.command` was made of. Raises ValueError, for example for a command of a newer version."""
    if not command.startswith(f"{COMMAND} "):
        raise ValueError("not a command that makes a trigger")
    words = shlex.split(command.removeprefix(COMMAND))
    options = dict(zip(words[::2], words[1::2], strict=True))
    is_installation = options.pop("--type", RESOURCE_UPDATED) == INSTALLATION_UPDATED
    installation, resource, product = (_pop_source(options, name) for name in ("installation", "resource", "product"))
    if installation is None or (resource is None) != is_installation:
        raise ValueError("an id has no source")
    names = tuple(filter(None, options.pop("--when-changed", "").split(",")))
    watched = Watched(options.pop("--table", ""), installation, resource, product, names, options.pop("--schema", None))
    if options:
        raise ValueError("options of another version")
    return watched


def _pop_source(options: dict[str, str], name: str) -> Source | None:
    column, expression = options.pop(f"--{name}-column", None), options.pop(f"--{name}-expression", None)
    if column is not None:
        return Column(column)
    return None if expression is None else Expression(expression)


def check_name(name: str) -> None:
    """Raises UnusableName for a name that quotation marks might not be enough for."""
    if not _NAME.fullmatch(name):
        raise UnusableName(
            f"{name!r} is not a usable name: use letters, digits, _, - and spaces, as the database shows it"
        )
    if len(name.encode()) > _MAX_NAME_BYTES:
        raise UnusableName(f"{name!r} is longer than {_MAX_NAME_BYTES} bytes")


def quoted(name: str, mark: str) -> str:
    """Quotes the name, part by part; `check_name` has refused quotation marks."""
    return ".".join(f"{mark}{part}{mark}" for part in name.split("."))


def qualified(schema: str | None, name: str, mark: str) -> str:
    """Returns the quoted name, with its schema if there is one."""
    return f"{quoted(schema, mark)}.{quoted(name, mark)}" if schema else quoted(name, mark)


def literal(text: str) -> str:
    """Returns the text as a string of SQL; it contains no backslash."""
    return "'" + text.replace("'", "''") + "'"
