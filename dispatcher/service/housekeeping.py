"""The periodic work besides delivery: measures the backlog, probes for writes, fixes stranded installations, deletes old rows."""

from datetime import timedelta

from dispatcher import store
from dispatcher.database.transactions import Database
from dispatcher.inspection.backlog import measure
from dispatcher.service.scheduler import Scheduler
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import Gauged, Listener, Stranded, WritesAccepted
from dispatcher.worker.database_thread import STEP_SECONDS, DatabaseThread

GAUGE_SECONDS = 15.0
CHECK_WRITES_SECONDS = 15.0
FIX_STRANDED_SECONDS = 600.0
FIX_STRANDED_CLUSTER_SECONDS = 5.0
"""On a cluster a row lock is local to its node. The protocol does not rely on it; this is the safety net."""
PRUNE_SECONDS = 600.0


class Housekeeping:
    """Its steps share a thread of their own, so that the worker's steps never wait for them.

    Each raises the database's errors; one that has not ended after `deadline` seconds raises such an error too.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        report: Listener,
        *,
        deadline: float = STEP_SECONDS,
        check_writes_seconds: float = CHECK_WRITES_SECONDS,
    ) -> None:
        self._thread = DatabaseThread(database, deadline)
        self._settings = settings
        self._report = report
        self._check_writes_seconds = check_writes_seconds

    def schedule(self, scheduler: Scheduler, *, clustered: bool) -> None:
        """Adds each step with its interval."""
        scheduler.every("gauges", GAUGE_SECONDS, self.gauge)
        scheduler.every("writes", self._check_writes_seconds, self.check_writes)
        scheduler.every(
            "stranded", FIX_STRANDED_CLUSTER_SECONDS if clustered else FIX_STRANDED_SECONDS, self.fix_stranded
        )
        scheduler.every("prune", PRUNE_SECONDS, self.prune)

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
            )
        )

    async def check_writes(self) -> None:
        """Reports that the server accepts writes: on a standby, an idle service would never notice that it does not."""
        await self._thread.run(store.check_writes)
        self._report(WritesAccepted())

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
