"""The SQL of a trigger, in each database's own words."""

from collections.abc import Callable

from dispatcher.outbox.trigger import mysql, postgresql, sqlite
from dispatcher.outbox.trigger.statements import Script
from dispatcher.outbox.trigger.watched import Watched

_SCRIPTS: dict[str, Callable[[Watched], Script]] = {
    "postgresql": postgresql.script,
    "mysql": mysql.overlapping_script,
    "mariadb": mysql.replacing_script,
    "sqlite": sqlite.script,
}


def script(dialect: str, watched: Watched) -> Script:
    """Returns the SQL that creates or replaces the trigger. `dialect`: postgresql, mysql, mariadb or sqlite."""
    return _SCRIPTS[dialect](watched)
