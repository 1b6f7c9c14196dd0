"""The database as actions change it, and whether it takes changes."""

import time

from dispatcher.database.transactions import Database, open_database
from dispatcher.inspection.checks.database import check_writes
from dispatcher.inspection.checks.finding import Level
from dispatcher.inspection.checks.privileges import check_privileges
from dispatcher.settings.durations import MINUTE
from dispatcher.settings.settings import Settings

STATEMENT_SECONDS = 30
"""For each statement of an action, which may search many rows for its next chunk."""


def open_for_writing(settings: Settings) -> Database:
    """Opens the database of the settings so that actions can change it."""
    url, schema = settings.database_url.get_secret_value(), settings.database_schema
    return open_database(url, schema, statement_seconds=STATEMENT_SECONDS)


class Refusal:
    """Why the database takes no changes from its user at present; looked up once a minute."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ends_at = time.monotonic()
        self._why: str | None = None

    def __call__(self) -> str | None:
        """Returns the reason, or None if it takes them."""
        if time.monotonic() >= self._ends_at:
            self._why = self._look()
            self._ends_at = time.monotonic() + MINUTE
        return self._why

    def _look(self) -> str | None:
        for check in (check_writes, check_privileges):
            for finding in check(self._database):
                if finding.level is Level.PROBLEM:
                    return finding.what
        return None
