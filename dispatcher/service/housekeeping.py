"""The periodic work besides delivery: measures the backlog, writes heartbeats, fixes stranded installations, deletes old rows."""

import asyncio
import contextlib
from datetime import timedelta

import structlog
from sqlalchemy.exc import DBAPIError

from dispatcher import __version__, store
from dispatcher.database import schema
from dispatcher.database.transactions import Database
from dispatcher.inspection.backlog import measure
from dispatcher.outbox.tables import dispatcher
from dispatcher.service.scheduler import Scheduler
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import Gauged, Listener, Stranded, WritesAccepted
from dispatcher.worker.database_thread import STEP_SECONDS, DatabaseThread
from dispatcher.worker.worker import Worker

GAUGE_SECONDS = 15.0
HEARTBEAT_SECONDS = 15.0
FIX_STRANDED_SECONDS = 600.0
FIX_STRANDED_CLUSTER_SECONDS = 5.0
"""On a cluster a row lock is local to its node. The protocol does not rely on it; this is the safety net."""
PRUNE_SECONDS = 600.0
LEAVE_SECONDS = 1.0
NO_HEARTBEAT = (
    f"operators do not see this dispatcher: grant its user SELECT, INSERT, UPDATE and DELETE on {dispatcher.name}; `dispatcher check`"
    " prints the statement"
)
SILENT_KEPT_FOR = timedelta(days=1)
"""How long operators still see a dispatcher that ended without a word."""
LOOK_FOR_MIGRATION_SECONDS = 60.0


class Housekeeping:
    """Its steps share a thread of their own, so that the worker's steps never wait for them.

    Each raises the database's errors; one that has not ended after `deadline` seconds raises such an error too.
    """

    def __init__(
        self,
        database: Database,
        worker: Worker,
        settings: Settings,
        report: Listener,
        *,
        deadline: float = STEP_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._thread = DatabaseThread(database, deadline)
        self._worker = worker
        self._settings = settings
        self._report = report
        self._heartbeat_seconds = heartbeat_seconds
        self._was_seen = self._was_denied = False

    def schedule(self, scheduler: Scheduler, *, clustered: bool) -> None:
        """Adds each step with its interval."""
        scheduler.every("gauges", GAUGE_SECONDS, self.gauge)
        scheduler.every("heartbeat", self._heartbeat_seconds, self.beat)
        scheduler.every(
            "stranded", FIX_STRANDED_CLUSTER_SECONDS if clustered else FIX_STRANDED_SECONDS, self.fix_stranded
        )
        scheduler.every("prune", PRUNE_SECONDS, self.prune)
        if self._thread.database.lacking:
            scheduler.every("schema", LOOK_FOR_MIGRATION_SECONDS, self.look_for_migration)

    async def gauge(self) -> None:
        """Reports the size and the age of the backlog, dead letters, pauses and open breakers."""
        backlog = await self._thread.run(measure)
        states = {
            "outbox": backlog.outbox,
            "due": backlog.due,
            "waiting": backlog.waiting,
            "paused": backlog.paused,
        }
        self._report(
            Gauged(
                states,
                backlog.oldest_event_age,
                backlog.dead_letters,
                backlog.paused_installations,
                backlog.open_breakers,
                backlog.overdue,
                backlog.installations,
                backlog.failing,
            )
        )

    async def beat(self) -> None:
        """Writes the heartbeat, and reports that the server accepts writes: an idle service would never notice a standby."""
        if not self._writes_heartbeats or not await self._write_heartbeat():
            await self._thread.run(store.check_writes)
        self._report(WritesAccepted())

    async def _write_heartbeat(self) -> bool:
        """Returns False if the database's user lacks the privilege, which a release before this one did not need."""
        database = self._thread.database
        try:
            await self._thread.run(store.beat, self._heartbeat())
        except DBAPIError as error:
            if not database.dialect.is_denied(error):
                raise
            if not self._was_denied:
                structlog.get_logger("dispatcher").warning("no heartbeat", hint=NO_HEARTBEAT)
            self._was_denied = True
            return False
        self._was_seen = True
        return True

    @property
    def _writes_heartbeats(self) -> bool:
        """Whether the schema is new enough."""
        return self._thread.database.has(dispatcher.c.name)

    def _heartbeat(self) -> store.Heartbeat:
        worker = self._worker
        return store.Heartbeat(
            worker.name, __version__, worker.in_flight, is_outage=worker.outage, is_first=not self._was_seen
        )

    async def leave(self) -> None:
        """Deletes the heartbeat, because the service stops. If the database does not answer, operators see its end later."""
        if self._was_seen:
            with contextlib.suppress(DBAPIError, TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._thread.run(store.leave, self._worker.name)

    async def fix_stranded(self) -> None:
        """Makes stranded installations due again, and reports how many there were."""
        if fixed := await self._thread.run(store.repair):
            self._report(Stranded(fixed))

    async def prune(self) -> None:
        """Deletes rows whose retention has passed, in chunks."""
        retentions = (
            timedelta(seconds=self._settings.attempt_retention),
            timedelta(seconds=self._settings.dead_letter_retention),
        )
        while await self._thread.run(store.prune, *retentions):
            pass
        await self._forget_idle()
        if self._writes_heartbeats:
            await self._thread.run(store.forget_silent, SILENT_KEPT_FOR)

    async def look_for_migration(self) -> None:
        """Uses what the database has lacked so far as soon as `dispatcher migrate` has added it."""
        if self._thread.database.lacking:
            await self._thread.run(schema.check)

    async def _forget_idle(self) -> None:
        """Deletes the rows of installations without a request for the retention of attempts."""
        rate = self._settings.rate_limit
        idle_for = timedelta(seconds=max(self._settings.attempt_retention, rate.seconds if rate else 0.0))
        after: str | None = ""
        while after is not None:
            after = await self._thread.run(store.forget_idle, idle_for, after)

    def close(self) -> None:
        """Ends its thread; a running step is interrupted."""
        self._thread.close()
