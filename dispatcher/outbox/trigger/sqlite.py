"""The triggers on SQLite, replaced in one transaction."""

from dispatcher.outbox.tables import outbox
from dispatcher.outbox.trigger.statements import Script
from dispatcher.outbox.trigger.watched import Source, Watched, literal, qualified, quoted

_MARK = '"'
_REMARK = "-- For `sqlite3 -bail`: without it, the shell continues after an error.\n"


def script(watched: Watched) -> Script:
    """Returns the SQL of the triggers."""
    bodies = {"INSERT": _insert(watched, "NEW"), "UPDATE": _on_update(watched), "DELETE": _insert(watched, "OLD")}
    view = qualified(watched.schema, watched.trigger, _MARK)
    create: list[str] = []
    for event, body in bodies.items():
        name = qualified(watched.schema, _name(watched, event), _MARK)
        table = quoted(watched.bare_table, _MARK)
        create += [
            f"DROP TRIGGER IF EXISTS {name}",
            f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW\nBEGIN\n{body}END",
        ]
    return Script(
        test=_test(watched),
        create=tuple(create),
        note=(
            f"DROP VIEW IF EXISTS {view}",
            f"CREATE VIEW {view} AS SELECT {literal(watched.command)} AS made_by",
        ),
        bodies={_name(watched, event): body for event, body in bodies.items()},
        frame=(f"{_REMARK}BEGIN IMMEDIATE;\n", "COMMIT;\n"),
    )


def _name(watched: Watched, event: str) -> str:
    return f"{watched.trigger}_{event.lower()}"


def _test(watched: Watched) -> str:
    values = [source.read("NEW", _MARK) for source in watched.sources.values()]
    values += [f"NEW.{quoted(name, _MARK)}" for name in watched.when_changed]
    return f"SELECT {', '.join(values)} FROM {quoted(watched.table, _MARK)} AS NEW WHERE 0"  # noqa: S608 (names that were checked)


def _on_update(watched: Watched) -> str:
    moved = _changed([*watched.ids.values()])
    changed = ""
    if watched.when_changed:
        others = (_differs(f"OLD.{quoted(name, _MARK)}", f"NEW.{quoted(name, _MARK)}") for name in watched.when_changed)
        changed = f" AND ({' OR '.join([_changed([*watched.sources.values()]), *others])})"
    return _insert(watched, "OLD", f" AND ({moved})") + _insert(watched, "NEW", changed)


def _insert(watched: Watched, version: str, condition: str = "") -> str:
    values = ", ".join(f"{source.read(version, _MARK)} AS {column}" for column, source in watched.sources.items())
    selected = ", ".join(f"nullif({column}, '')" for column in watched.sources)
    exist = " AND ".join(f"{column} <> ''" for column in watched.ids)
    return (
        f"  INSERT INTO {outbox.name} (type, {', '.join(watched.sources)})\n"  # noqa: S608 (names that were checked)
        f"    SELECT '{watched.type}', {selected} FROM (SELECT {values})\n"
        f"    WHERE {exist}{condition};\n"
    )


def _changed(sources: list[Source]) -> str:
    return " OR ".join(_differs(source.read("OLD", _MARK), source.read("NEW", _MARK)) for source in sources)


def _differs(old: str, new: str) -> str:
    return f"{old} IS NOT {new} COLLATE BINARY"
