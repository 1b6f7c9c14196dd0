"""The service: runs until a signal stops it, and takes its parts apart in order."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version

import structlog
from starlette.applications import Starlette

from dispatcher.database.errors import describe_error, summarize
from dispatcher.database.transactions import Database
from dispatcher.service.composition import Parts, composed
from dispatcher.service.database_wait import GRACE_SECONDS, wait_for_database
from dispatcher.service.drain import deliver_what_is_due
from dispatcher.service.endpoints import ops_app, serving_on_socket, serving_ops
from dispatcher.service.health import Health
from dispatcher.service.housekeeping import Housekeeping
from dispatcher.service.scheduler import Scheduler
from dispatcher.service.signals import stop_on_signals
from dispatcher.service.sleeper import Sleeper
from dispatcher.service.worker_process import stop_with_parent
from dispatcher.settings.settings import Settings, Wakeup
from dispatcher.telemetry import Listener, Log, Metrics, StepFailed, listen

Tick = Callable[[], Awaitable[float]]

TICK_SECONDS = 1.0
"""APScheduler starts a tick at most this often. Between two of its ticks others follow without it, which costs less."""
LAST_ROUND_SHARE = 0.5
"""The share of the grace in which a stopping service still starts requests."""


async def run(
    settings: Settings,
    stop: asyncio.Event | None = None,
    *,
    database_grace: float = GRACE_SECONDS,
    parent: int | None = None,
) -> None:
    """Delivers until SIGTERM or SIGINT (or `stop`), then drains within the grace. A second signal ends the process at once.

    A database that is away at the start is waited for, up to `database_grace` seconds. A worker process gets the descriptor of the
    socket on which its `parent` asks, instead of the ops port. Raises SettingsError, UnusableDatabaseUrl,
    UnusableNetwork, UnusableSchema, UnusableIsolation, PortUnavailable or the database's error if it cannot start.
    """
    stop = stop or asyncio.Event()
    begin_stop = stop_on_signals(stop, settings.shutdown_grace)
    if parent is not None:
        stop_with_parent(begin_stop)
    log = Log(settings.console_url)
    health, metrics = Health(poll_interval=settings.poll_interval), Metrics(version("vercel-outbox-dispatcher"))
    report = listen(health, metrics, log)
    async with (
        composed(settings, report) as parts,
        _serving(ops_app(health, metrics.registry), settings, log, parent) as port,
    ):
        await wait_for_database(parts.thread, health, stop, database_grace)
        if not stop.is_set():
            await _deliver(parts, settings, stop, health, report, port)
    log.sum_up()
    structlog.get_logger("dispatcher").info("stopped")


async def _deliver(
    parts: Parts, settings: Settings, stop: asyncio.Event, health: Health, report: Listener, port: int | None
) -> None:
    """Delivers until `stop` is set, and drains."""
    logger = structlog.get_logger("dispatcher")
    async with _waking(parts, settings) as tick, _scheduled(parts, tick, settings, report):
        logger.info("started", ops_port=port, vercel=settings.vercel_base_url, database=settings.database.place)
        await stop.wait()
        health.stopping = True
        logger.info("draining", in_flight=parts.worker.in_flight, grace=settings.shutdown_grace)
        await _stop(parts, settings.shutdown_grace, report)


@asynccontextmanager
async def _waking(parts: Parts, settings: Settings) -> AsyncIterator[Tick]:
    """The worker's tick; with WAKEUP=notify followed by a sleep that a notification ends."""
    if settings.wakeup is not Wakeup.NOTIFY:
        yield parts.worker.tick_until_answer
        return
    logger = structlog.get_logger("dispatcher")
    sleeper = Sleeper(
        parts.database,
        parts.worker.tick_until_answer,
        parts.worker.sweep,
        lambda why: logger.warning("no notifier, polling only", reason=why),
    )
    try:
        yield sleeper.tick
    finally:
        await sleeper.close()


@asynccontextmanager
async def _serving(app: Starlette, settings: Settings, log: Log, parent: int | None) -> AsyncIterator[int | None]:
    """Serves the ops port unless it is off. Lines that its clients can provoke, from uvicorn and asyncio, are limited."""
    if parent is not None:
        async with serving_on_socket(app, socket.socket(fileno=parent)):
            yield None
        return
    if settings.ops_port is None:
        yield None
        return
    with log.limiting("uvicorn.error", "asyncio"):
        async with serving_ops(app, settings.ops_host, settings.ops_port) as port:
            yield port


@asynccontextmanager
async def _scheduled(parts: Parts, tick: Tick, settings: Settings, report: Listener) -> AsyncIterator[None]:
    """Runs the ticks and the housekeeping until the end of the block."""
    clustered = await parts.thread.run(Database.is_cluster)
    housekeeping = Housekeeping(parts.database, parts.worker, settings, report)
    scheduler = Scheduler(report)
    scheduler.every("tick", max(settings.poll_interval, TICK_SECONDS), tick)
    housekeeping.schedule(scheduler, clustered=clustered)
    scheduler.start()
    try:
        yield
    finally:
        scheduler.stop()
        await housekeeping.leave()
        housekeeping.close()


async def _stop(parts: Parts, grace: float, report: Listener) -> None:
    """Still delivers what is due, such as the last events of an application that stopped just before; the rest is for other replicas."""
    began = time.monotonic()
    last_round = began + grace * LAST_ROUND_SHARE
    try:
        try:
            await deliver_what_is_due(parts, lambda: time.monotonic() >= last_round)
        finally:
            await parts.worker.stop(max(0.0, began + grace - time.monotonic()))
    except Exception as error:  # noqa: BLE001 (the leases expire by themselves, and requests that were not settled are sent again)
        report(StepFailed("stop", summarize(error), describe_error(error)))
