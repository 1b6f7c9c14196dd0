"""What the service does now and then beside delivering: it measures, mends and prunes, and sees whether the server takes writes."""

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
MEND_SECONDS = 600.0
MEND_CLUSTER_SECONDS = 5.0
"""… where a row lock is local to a node: the protocol does without it, and this is the net under that."""
PRUNE_SECONDS = 600.0


class Housekeeping:
    """Its steps share a thread of their own, so that the worker's wait for none of them. Each raises what the database raises,
    also if it has not ended after `deadline` seconds.
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
        """Each step has its time."""
        scheduler.every("gauges", GAUGE_SECONDS, self.gauge)
        scheduler.every("writes", self._check_writes_seconds, self.check_writes)
        scheduler.every("mend", MEND_CLUSTER_SECONDS if clustered else MEND_SECONDS, self.mend)
        scheduler.every("prune", PRUNE_SECONDS, self.prune)

    async def gauge(self) -> None:
        """Reports how much waits."""
        found = await self._thread.run(measure)
        states = {"outbox": found.outbox, "due": found.due, "waiting": found.waiting, "paused": found.paused}
        self._report(
            Gauged(
                states,
                found.oldest_event_age,
                found.dead_letters,
                found.paused_installations,
                found.open_breakers,
            )
        )

    async def check_writes(self) -> None:
        """Reports that the server takes writes: on a standby, a service that has nothing to do would never notice."""
        await self._thread.run(store.check_writes)
        self._report(WritesAccepted())

    async def mend(self) -> None:
        """Reports installations that had to be mended."""
        if mended := await self._thread.run(store.mend):
            self._report(Stranded(mended))

    async def prune(self) -> None:
        """Deletes what has been kept for long enough, a step for each chunk."""
        kept_for = (
            timedelta(seconds=self._settings.attempt_retention),
            timedelta(seconds=self._settings.dead_letter_retention),
        )
        while await self._thread.run(store.prune, *kept_for):
            pass

    def close(self) -> None:
        """Ends its thread; what runs in it breaks off."""
        self._thread.close()
