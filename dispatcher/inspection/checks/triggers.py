"""Checks the triggers of `dispatcher trigger` that announce changes of the partner's tables."""

from collections.abc import Iterator
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from dispatcher.database.transactions import Database
from dispatcher.database.triggers import (
    Installed,
    UnfitTrigger,
    are_visible,
    installed,
    locate,
    writers_without_outbox,
)
from dispatcher.inspection.checks.finding import Finding, ok, problem, warning
from dispatcher.outbox.trigger import UnusableName, Watched

_CHECK = "triggers"


def check_triggers(database: Database) -> Iterator[Finding]:
    """Reports each trigger that is gone, disabled, broken or outdated. Without triggers there is no finding."""
    with database.read() as connection:
        if not are_visible(connection, database.dialect.name):
            yield ok(
                _CHECK,
                "not looked for, which takes the privilege TRIGGER: if you use any, run this as the user who made them",
            )
            return
        found = installed(connection, database.dialect.name)
    findings = [finding for one in found if (finding := _examine(database, one))]
    yield from findings
    if found and not findings:
        yield ok(_CHECK, f"in place on {', '.join(sorted({str(one.table) for one in found}))}")


def _examine(database: Database, one: Installed) -> Finding | None:
    if one.watched is None:
        return warning(_CHECK, f"another version made a trigger that this one cannot check, with `{one.command}`")
    table, again = one.table or one.watched.table, f"run `{one.command} --apply`"
    if not one.is_whole:
        return problem(
            _CHECK,
            f"the trigger on {table} is gone, so changes there are not announced: {again} or, if you do not want it any more,"
            f" {one.removal};",
        )
    if one.is_disabled:
        return problem(
            _CHECK, f"the trigger on {table} is disabled, so changes there are not announced: enable it (ALTER TABLE)"
        )
    misfit, wrong_users = _compare(database, one, one.watched)
    if misfit is not None:
        return problem(
            _CHECK,
            f"the trigger on {table} does not fit it any more, so changes there may fail: {misfit}. It was made by `{one.command}`",
        )
    if not one.is_current:
        return warning(_CHECK, f"the trigger on {table} is not as this version would make it: {again}")
    return None if wrong_users is None else warning(_CHECK, wrong_users)


def _compare(database: Database, one: Installed, watched: Watched) -> tuple[str | None, str | None]:
    """Returns why the trigger does not fit its table, and what is wrong with the users who change it.

    Neither is known to a user who may not read the table.
    """
    try:
        with database.read() as connection:
            if one.search_path is not None:
                connection.execute(sa.select(sa.func.set_config("search_path", one.search_path, True)))
            located = locate(connection, database.dialect, replace(watched, table=one.table or watched.table))
            return None, writers_without_outbox(connection, located)
    except (UnfitTrigger, UnusableName) as unfit:
        return str(unfit), None
    except DBAPIError as error:
        if not database.dialect.is_denied(error):
            raise
    return None, None
