"""The service: puts the parts together, runs until it is told to stop, and takes them apart in order."""

import asyncio
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from typing import Any, TypeVar

import structlog
from starlette.applications import Starlette

from dispatcher import schema, store
from dispatcher.backlog import measure
from dispatcher.credentials import open_credentials
from dispatcher.database import Database, explain, open_database, summarize
from dispatcher.health import Health
from dispatcher.hosts import is_local
from dispatcher.ops import ops_app, serving_ops
from dispatcher.policy import Action
from dispatcher.scheduler import Scheduler
from dispatcher.settings import Settings, Wakeup, insecure_hosts
from dispatcher.telemetry import (
    Attempted,
    CrashBuried,
    EventsCollected,
    Gauged,
    Listener,
    Log,
    Metrics,
    Report,
    StepFailed,
    Stranded,
    Ticked,
    listen,
)
from dispatcher.tracing import export_traces
from dispatcher.transport import open_transport
from dispatcher.vercel import Vercel
from dispatcher.wakeup import Sleeper
from dispatcher.worker import Worker

Result = TypeVar("Result")
Tick = Callable[[], Awaitable[float]]

GAUGE_EVERY = 15.0
MEND_EVERY = 600.0
MEND_CLUSTER_EVERY = 5.0
"""… where a row lock is local to a node: the protocol does without it, and this is the net under that."""
PRUNE_EVERY = 600.0
DRAIN_PAUSE = 0.02
GARBAGE = (10_000, 20, 20)
"""Objects more than before at which the garbage collector looks at the new ones, and how often it looks further."""
SWITCH_INTERVAL = 0.00002
"""Seconds for which the database's thread may compute while the event loop waits to: an answer takes less time than Python's own 5 ms."""
LAST_ROUND = 0.5
"""The share of the grace in which a service that was told to stop still begins requests."""
OVERTIME_SECONDS = 5.0
"""What is left after the grace for taking the rest apart. A service that needs longer waits for a database that does not answer."""


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain did, and how many events and deliveries it left."""

    events: int
    requests: int
    delivered: int
    dead_lettered: int
    waiting: int


class Tally:
    """Counts what a worker reports."""

    def __init__(self) -> None:
        self.events = self.requests = self.delivered = self.dead_lettered = 0

    def __call__(self, report: Report) -> None:
        """Adds it up."""
        match report:
            case EventsCollected(events, malformed):
                self.events += events
                self.dead_lettered += malformed
            case Attempted():
                self.requests += report.outcome.made_a_request
                self.delivered += report.decision.action is Action.DELIVERED
                self.dead_lettered += report.decision.action is Action.BURY
            case CrashBuried(deliveries):
                self.dead_lettered += deliveries
            case _:
                pass


def run_in_loop(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs it in the fastest event loop that this machine has.

    What is loaded by now stays, and what comes after hardly ever forms cycles: the garbage collector need not look at the one at all,
    nor as often as usual at the other, which would take a tenth of the time of each delivery. The database's thread gives way to the
    loop at once.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE)
    sys.setswitchinterval(SWITCH_INTERVAL)
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if sys.platform != "win32":
        import uvloop

        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main)


async def run(settings: Settings, stop: asyncio.Event | None = None) -> None:
    """Delivers until SIGTERM or SIGINT (or `stop`), then drains within the grace. A second signal ends the process at once.

    Raises SettingsError, UnusableSchema, UnusableIsolation, PortUnavailable or the database's error if it cannot begin.
    """
    stop = stop or asyncio.Event()
    _stop_on_signals(stop, settings.shutdown_grace)
    log, noteworthy = structlog.get_logger("dispatcher"), Log()
    health, metrics = Health(pause=settings.poll_interval), Metrics(version("vercel-outbox-dispatcher"))
    report = listen(health, metrics, noteworthy)
    async with (
        _worker(settings, report) as (database, worker),
        _waking(database, worker, settings) as tick,
        _answering(ops_app(health, metrics.registry), settings, noteworthy) as port,
    ):
        clustered = await asyncio.to_thread(database.is_cluster)
        scheduler = _schedule(database, tick, settings, report, clustered=clustered)
        log.info("started", ops_port=port, vercel=settings.vercel_base_url, database=database.dialect.name)
        await stop.wait()
        health.stopping = True
        log.info("draining", in_flight=worker.in_flight, grace=settings.shutdown_grace)
        await _stop(database, worker, settings.shutdown_grace, report)
        scheduler.stop()
    noteworthy.sum_up()
    log.info("stopped")


async def drain(
    settings: Settings,
    *,
    max_seconds: float | None = None,
    max_events: int | None = None,
    progress: Callable[[Tally], None] = lambda _: None,
) -> Drained:
    """Delivers what is due and ends; at the latest after so many seconds or (about) so many events.

    `progress` is told after each tick how far it is. Raises as `run` does, and what the database raises.
    """
    stop, tally, noteworthy = asyncio.Event(), Tally(), Log()
    _stop_on_signals(stop, settings.shutdown_grace)
    deadline = None if max_seconds is None else time.monotonic() + max_seconds

    def enough() -> bool:
        done = tally.delivered + tally.dead_lettered
        return (
            stop.is_set()
            or (max_events is not None and done >= max_events)
            or (deadline is not None and time.monotonic() >= deadline)
        )

    def tell(report: Report) -> None:
        if isinstance(report, Ticked):
            progress(tally)

    async with _worker(settings, listen(tally, noteworthy, tell)) as (database, worker):
        await _deliver_what_is_due(database, worker, enough)
        await worker.stop(settings.shutdown_grace)
        left = await asyncio.to_thread(measure, database)
    noteworthy.sum_up()
    return Drained(tally.events, tally.requests, tally.delivered, tally.dead_lettered, left.left)


@asynccontextmanager
async def _worker(settings: Settings, report: Listener) -> AsyncIterator[tuple[Database, Worker]]:
    """The worker and what it stands on; at the end the client is closed before the engine."""
    _warn_of_clear_text(settings)
    async with AsyncExitStack() as stack:
        stack.callback(export_traces())
        database = open_database(settings.database_url.get_secret_value(), settings.database_schema)
        stack.callback(database.close)
        await asyncio.to_thread(schema.check, database)
        await asyncio.to_thread(database.check_isolation)
        transport = open_transport(settings.concurrency)
        stack.push_async_callback(transport.aclose)
        credentials = open_credentials(settings, database.engine, transport)
        stack.push_async_callback(credentials.aclose)
        vercel = Vercel(settings.vercel_base_url, transport, settings.request_timeout)
        worker = Worker(database, vercel, credentials, settings, report, name=f"{socket.gethostname()}:{os.getpid()}")
        stack.callback(worker.close)
        yield database, worker


def _warn_of_clear_text(settings: Settings) -> None:
    for name, host in insecure_hosts(settings):
        if not is_local(host):
            structlog.get_logger("dispatcher").warning(
                "tokens travel in clear text",
                setting=name,
                host=host,
                hint="write https://, and unset DISPATCHER_ALLOW_INSECURE_BASE_URL",
            )


@asynccontextmanager
async def _waking(database: Database, worker: Worker, settings: Settings) -> AsyncIterator[Tick]:
    """The worker's tick; with WAKEUP=notify it sleeps until the bell rings."""
    if settings.wakeup is not Wakeup.NOTIFY:
        yield worker.tick
        return
    log = structlog.get_logger("dispatcher")
    sleeper = Sleeper(database, worker.tick, lambda why: log.warning("no bell, polling only", reason=why))
    try:
        yield sleeper.tick
    finally:
        await sleeper.close()


@asynccontextmanager
async def _answering(app: Starlette, settings: Settings, log: Log) -> AsyncIterator[int | None]:
    """The ops port, if there is to be one. Clients of it provoke lines of uvicorn and, through the event loop, of asyncio."""
    if settings.ops_port is None:
        yield None
        return
    with log.limiting("uvicorn.error", "asyncio"):
        async with serving_ops(app, settings.ops_host, settings.ops_port) as port:
            yield port


def _schedule(database: Database, tick: Tick, settings: Settings, report: Listener, *, clustered: bool) -> Scheduler:
    async def gauge() -> None:
        found = await asyncio.to_thread(measure, database)
        states = {"outbox": found.outbox, "due": found.due, "waiting": found.waiting, "paused": found.paused}
        report(
            Gauged(
                states,
                found.oldest_event_age,
                found.dead_letters,
                found.paused_installations,
                found.open_breakers,
            )
        )

    async def mend() -> None:
        if mended := await asyncio.to_thread(store.mend, database):
            report(Stranded(mended))

    async def prune() -> None:
        kept_for = timedelta(seconds=settings.attempt_retention), timedelta(seconds=settings.dead_letter_retention)
        await asyncio.to_thread(store.prune, database, *kept_for)

    scheduler = Scheduler(report)
    scheduler.every("tick", settings.poll_interval, tick)
    scheduler.every("gauges", GAUGE_EVERY, gauge)
    scheduler.every("mend", MEND_CLUSTER_EVERY if clustered else MEND_EVERY, mend)
    scheduler.every("prune", PRUNE_EVERY, prune)
    scheduler.start()
    return scheduler


async def _deliver_what_is_due(database: Database, worker: Worker, enough: Callable[[], bool]) -> None:
    """Returns when nothing is due any more, or Vercel is out, or it is enough."""
    while not enough():
        pause = await worker.tick()
        if worker.idle and (worker.outage or not await asyncio.to_thread(_anything_due, database)):
            return
        await asyncio.sleep(min(pause, DRAIN_PAUSE))


async def _stop(database: Database, worker: Worker, grace: float, report: Listener) -> None:
    """An application that stopped just before has its last events delivered; for what else is due, there are others."""
    began = time.monotonic()
    last_round = began + grace * LAST_ROUND
    try:
        try:
            await _deliver_what_is_due(database, worker, lambda: time.monotonic() >= last_round)
        finally:
            await worker.stop(max(0.0, began + grace - time.monotonic()))
    except Exception as error:  # noqa: BLE001 (the leases expire by themselves, and what was not settled is sent again)
        report(StepFailed("stop", summarize(error), explain(error)))


def _anything_due(database: Database) -> bool:
    work = store.look(database, store.LOWEST_ID, store.LONG_AGO)
    return work.to_collect or work.to_claim


def _stop_on_signals(stop: asyncio.Event, grace: float) -> None:
    """Stops at the first signal. A second one, or the end of the grace and the overtime, ends the process at once."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def first() -> None:
        stop.set()
        for number in signals:
            loop.remove_signal_handler(number)
            signal.signal(number, _end_at_once)
        signal.signal(signal.SIGALRM, _end_at_once)
        signal.setitimer(signal.ITIMER_REAL, grace + OVERTIME_SECONDS)

    for number in signals:
        loop.add_signal_handler(number, first)


def _end_at_once(number: int, _frame: object) -> None:
    """Ends the process with an exit code of its own: for process 1 of a container the default action of a signal does not exist."""
    if number == signal.SIGALRM:
        structlog.get_logger("dispatcher").error("not stopped in time", why="the database does not answer")
        os._exit(os.EX_TEMPFAIL)  # the code of a database that cannot be reached
    os._exit(128 + number)
