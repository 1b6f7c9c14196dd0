"""The trigger on PostgreSQL 13 and newer: one function and one trigger, replaced in one transaction."""

from collections.abc import Iterator, Sequence

from dispatcher.outbox.tables import outbox
from dispatcher.outbox.trigger.statements import Script
from dispatcher.outbox.trigger.watched import Watched, literal, qualified, quoted

_MARK = '"'
_EVENTS = "AFTER INSERT OR UPDATE OR DELETE"


def script(watched: Watched) -> Script:
    """Returns the SQL of the trigger. Writers wait from DROP TRIGGER to COMMIT, so each change fires the old trigger or the new one."""
    function, trigger = qualified(watched.schema, watched.trigger, _MARK), quoted(watched.trigger, _MARK)
    table = quoted(watched.table, _MARK)
    body = _body(watched)
    return Script(
        test=_test(watched),
        create=(
            f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $vercel${body}$vercel$",
            _pin(function),
            f"DROP TRIGGER IF EXISTS {trigger} ON {table}",
            f"CREATE TRIGGER {trigger} {_EVENTS} ON {table}\n  FOR EACH ROW EXECUTE FUNCTION {function}()",
        ),
        note=(f"COMMENT ON FUNCTION {function}() IS {literal(watched.command)}",),
        bodies={watched.trigger: body},
        frame=(
            "-- In a migration that runs in a transaction of its own, leave out BEGIN and COMMIT.\nBEGIN;\n",
            "COMMIT;\n",
        ),
    )


def _outbox(watched: Watched) -> str:
    return qualified(watched.outbox_schema, outbox.name, _MARK) if watched.outbox_schema else outbox.name


def _test(watched: Watched) -> str:
    values = [source.read("NEW", _MARK) for source in watched.sources.values()]
    values += [f"NEW.{quoted(name, _MARK)}" for name in watched.when_changed]
    return (
        "DO $vercel$\nBEGIN\n"
        f"  PERFORM {literal(_outbox(watched))}::pg_catalog.regclass, {', '.join(values)}\n"
        f"    FROM {quoted(watched.table, _MARK)} AS new WHERE false;\n"
        "END\n$vercel$"
    )


def _body(watched: Watched) -> str:
    def declare(version: str) -> Iterator[str]:
        for column in watched.sources:
            yield f"  vercel_{version}_{column} text;\n"

    def read(version: str, operation: str) -> str:
        values = "".join(
            f"    vercel_{version}_{column} := nullif(CAST({source.read(version.upper(), _MARK)} AS text), '');\n"
            for column, source in watched.sources.items()
        )
        return f"  IF TG_OP <> '{operation}' THEN\n{values}  END IF;\n"

    def named(version: str, columns: Sequence[str]) -> str:
        return ", ".join(f"vercel_{version}_{column}" for column in columns)

    def insert(version: str, condition: str = "") -> str:
        exist = " AND ".join(f"vercel_{version}_{column} IS NOT NULL" for column in watched.ids)
        return (
            f"  IF {exist}{condition} THEN\n"  # noqa: S608 (names that were checked)
            f"    INSERT INTO {_outbox(watched)} (type, {', '.join(watched.sources)})\n"
            f"      VALUES ('{watched.type}', {named(version, [*watched.sources])});\n"
            "  END IF;\n"
        )

    def compare(columns: Sequence[str], operator: str) -> str:
        return f"ROW({named('old', columns)}) {operator} ROW({named('new', columns)})"

    moved, skip = compare([*watched.ids], "IS DISTINCT FROM"), ""
    if watched.when_changed:
        old, new = (
            ", ".join(f"{version}.{quoted(name, _MARK)}" for name in watched.when_changed) for version in ("OLD", "NEW")
        )
        # *= compares bytes: some types, such as json, have no =.
        same = f"ROW({old})::record OPERATOR(pg_catalog.*=) ROW({new})::record"
        skip = (
            "  IF TG_OP = 'UPDATE' THEN\n"
            f"    IF {compare([*watched.sources], 'IS NOT DISTINCT FROM')} AND {same} THEN\n      RETURN NULL;\n    END IF;\n"
            "  END IF;\n"
        )
    return (
        f"\nDECLARE\n{''.join(declare('old'))}{''.join(declare('new'))}BEGIN\n"
        f"{read('old', 'INSERT')}{read('new', 'DELETE')}{skip}"
        f"{insert('old', f' AND {moved}')}{insert('new')}"
        "  RETURN NULL;\nEND\n"
    )


def _pin(function: str) -> str:
    """Binds the function to the tables that are visible now: a session's search_path or temporary tables could redirect it."""
    return f"""\
DO $vercel$
BEGIN
  EXECUTE 'ALTER FUNCTION {function}() SET search_path = ' || (
    SELECT coalesce(pg_catalog.string_agg(pg_catalog.quote_ident(s.name) || ', ', '' ORDER BY s.place), '')
    FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS s (name, place)
    WHERE s.name NOT LIKE 'pg_temp%'
  ) || 'pg_temp';
END
$vercel$"""  # noqa: S608 (names that were checked)
