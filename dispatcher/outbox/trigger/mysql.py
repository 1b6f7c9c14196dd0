"""The triggers on MariaDB and MySQL. DDL commits by itself here, so each trigger is replaced on its own, without a gap.

MariaDB replaces a trigger in one statement. MySQL cannot, but a table may have several triggers for one event: while the old one is
dropped and created anew, a second one does the same. Both write an event; the dispatcher makes one request of them.
"""

from collections.abc import Callable, Iterable, Iterator

from dispatcher.outbox.tables import outbox
from dispatcher.outbox.trigger.statements import Script
from dispatcher.outbox.trigger.watched import Source, Watched, literal, qualified, quoted

_MARK = "`"
_TEXT = "text CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
_REMARK = (
    "-- For the mysql or mariadb client. Rows that a foreign key changes or deletes (CASCADE) fire no trigger here.\n"
)


def replacing_script(watched: Watched) -> Script:
    """Returns the SQL of the triggers for MariaDB."""
    return _script(watched, _replace)


def overlapping_script(watched: Watched) -> Script:
    """Returns the SQL of the triggers for MySQL; MariaDB takes it too."""
    return _script(watched, _overlap)


def _script(watched: Watched, creation: Callable[[Watched, str, str], Iterator[str]]) -> Script:
    bodies = {"INSERT": _on_insert(watched), "UPDATE": _on_update(watched), "DELETE": _on_delete(watched)}
    view = qualified(watched.outbox_schema or watched.schema, watched.trigger, _MARK)
    return Script(
        test=_test(watched),
        create=tuple(statement for event, body in bodies.items() for statement in creation(watched, event, body)),
        note=(f"CREATE OR REPLACE SQL SECURITY INVOKER VIEW {view} AS SELECT {literal(watched.command)} AS made_by",),
        bodies={_name(watched, event): body for event, body in bodies.items()},
        frame=(f"{_REMARK}DELIMITER $$\n", "DELIMITER ;\n"),
        delimiter="$$",
    )


def _replace(watched: Watched, event: str, body: str) -> Iterator[str]:
    yield _create(watched, event, _name(watched, event), body, "CREATE OR REPLACE TRIGGER")


def _overlap(watched: Watched, event: str, body: str) -> Iterator[str]:
    name, second = _name(watched, event), f"{_name(watched, event)}_second"
    for created, dropped in ((second, second), (name, name)):
        yield f"DROP TRIGGER IF EXISTS {qualified(watched.schema, dropped, _MARK)}"
        yield _create(watched, event, created, body, "CREATE TRIGGER")
    yield f"DROP TRIGGER {qualified(watched.schema, second, _MARK)}"


def _create(watched: Watched, event: str, name: str, body: str, verb: str) -> str:
    trigger, table = qualified(watched.schema, name, _MARK), quoted(watched.table, _MARK)
    return f"{verb} {trigger} AFTER {event} ON {table} FOR EACH ROW\n{body}"


def _name(watched: Watched, event: str) -> str:
    return f"{watched.trigger}_{event.lower()}"


def _test(watched: Watched) -> str:
    values = [source.read("NEW", _MARK) for source in watched.sources.values()]
    values += [f"NEW.{quoted(name, _MARK)}" for name in watched.when_changed]
    return f"DO EXISTS (SELECT {', '.join(values)} FROM {quoted(watched.table, _MARK)} AS NEW WHERE FALSE)"  # noqa: S608 (names that were checked)


def _on_insert(watched: Watched) -> str:
    return f"BEGIN\n{_declare(watched, 'new')}{_insert(watched, 'new')}END"


def _on_update(watched: Watched) -> str:
    moved, changed = _differ(_variables(watched.ids)), ""
    if watched.when_changed:
        names = (quoted(name, _MARK) for name in watched.when_changed)
        others = [(f"OLD.{name}", f"NEW.{name}") for name in names]
        changed = f" AND ({_differ([*_variables(watched.sources), *others])})"
    return (
        f"BEGIN\n{_declare(watched, 'old')}{_declare(watched, 'new')}"
        f"{_insert(watched, 'old', f' AND ({moved})')}{_insert(watched, 'new', changed)}END"
    )


def _on_delete(watched: Watched) -> str:
    return f"BEGIN\n{_declare(watched, 'old')}{_insert(watched, 'old')}END"


def _declare(watched: Watched, version: str) -> str:
    def one(column: str, source: Source) -> str:
        return f"  DECLARE vercel_{version}_{column} {_TEXT} DEFAULT {source.read(version.upper(), _MARK)};\n"

    return "".join(one(column, source) for column, source in watched.sources.items())


def _insert(watched: Watched, version: str, condition: str = "") -> str:
    exist = " AND ".join(f"vercel_{version}_{column} <> ''" for column in watched.ids)
    values = ", ".join(f"nullif(vercel_{version}_{column}, '')" for column in watched.sources)
    table = qualified(watched.outbox_schema, outbox.name, _MARK) if watched.outbox_schema else outbox.name
    # Not INSERT … SELECT … WHERE, which would lock the whole table for the duration of the partner's statement.
    return (
        f"  IF {exist}{condition} THEN\n"  # noqa: S608 (names that were checked)
        f"    INSERT INTO {table} (type, {', '.join(watched.sources)})\n"
        f"      VALUES ('{watched.type}', {values});\n"
        "  END IF;\n"
    )


def _variables(columns: Iterable[str]) -> list[tuple[str, str]]:
    return [(f"vercel_old_{column}", f"vercel_new_{column}") for column in columns]


def _differ(pairs: Iterable[tuple[str, str]]) -> str:
    """Compares old and new values as bytes: most collations do not distinguish `a` and `A`."""
    return " OR ".join(f"NOT (CAST({old} AS BINARY) <=> CAST({new} AS BINARY))" for old, new in pairs)
