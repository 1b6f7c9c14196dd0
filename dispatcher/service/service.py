"""The service: runs until it is told to stop, and takes its parts apart in order."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version

import structlog
from starlette.applications import Starlette

from dispatcher.database.transactions import Database, explain, summarize
from dispatcher.service.composition import Parts, composed
from dispatcher.service.drain import deliver_what_is_due
from dispatcher.service.endpoints import ops_app, serving_ops
from dispatcher.service.health import Health
from dispatcher.service.housekeeping import Housekeeping
from dispatcher.service.scheduler import Scheduler
from dispatcher.service.signals import stop_on_signals
from dispatcher.service.sleeper import Sleeper
from dispatcher.settings.settings import Settings, Wakeup
from dispatcher.telemetry import Listener, Log, Metrics, StepFailed, listen

Tick = Callable[[], Awaitable[float]]

LAST_ROUND_SHARE = 0.5
"""The share of the grace in which a service that was told to stop still begins requests."""


async def run(settings: Settings, stop: asyncio.Event | None = None) -> None:
    """Delivers until SIGTERM or SIGINT (or `stop`), then drains within the grace. A second signal ends the process at once.

    Raises SettingsError, UnusableNetwork, UnusableSchema, UnusableIsolation, PortUnavailable or the database's error if it cannot begin.
    """
    stop = stop or asyncio.Event()
    stop_on_signals(stop, settings.shutdown_grace)
    log, noteworthy = structlog.get_logger("dispatcher"), Log()
    health, metrics = Health(poll_interval=settings.poll_interval), Metrics(version("vercel-outbox-dispatcher"))
    report = listen(health, metrics, noteworthy)
    async with (
        composed(settings, report) as parts,
        _waking(parts, settings) as tick,
        _answering(ops_app(health, metrics.registry), settings, noteworthy) as port,
        _scheduled(parts, tick, settings, report),
    ):
        log.info("started", ops_port=port, vercel=settings.vercel_base_url, database=parts.database.dialect.name)
        await stop.wait()
        health.stopping = True
        log.info("draining", in_flight=parts.worker.in_flight, grace=settings.shutdown_grace)
        await _stop(parts, settings.shutdown_grace, report)
    noteworthy.sum_up()
    log.info("stopped")


@asynccontextmanager
async def _waking(parts: Parts, settings: Settings) -> AsyncIterator[Tick]:
    """The worker's tick; with WAKEUP=notify it sleeps until the bell rings."""
    if settings.wakeup is not Wakeup.NOTIFY:
        yield parts.worker.tick_until_answer
        return
    log = structlog.get_logger("dispatcher")
    sleeper = Sleeper(
        parts.database,
        parts.worker.tick_until_answer,
        parts.worker.sweep,
        lambda why: log.warning("no bell, polling only", reason=why),
    )
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


@asynccontextmanager
async def _scheduled(parts: Parts, tick: Tick, settings: Settings, report: Listener) -> AsyncIterator[None]:
    """The worker's ticks and the housekeeping go on until the end of the block."""
    clustered = await parts.thread.run(Database.is_cluster)
    housekeeping = Housekeeping(parts.database, settings, report)
    scheduler = Scheduler(report)
    scheduler.every("tick", settings.poll_interval, tick)
    housekeeping.schedule(scheduler, clustered=clustered)
    scheduler.start()
    try:
        yield
    finally:
        scheduler.stop()
        housekeeping.close()


async def _stop(parts: Parts, grace: float, report: Listener) -> None:
    """An application that stopped just before has its last events delivered; for what else is due, there are others."""
    began = time.monotonic()
    last_round = began + grace * LAST_ROUND_SHARE
    try:
        try:
            await deliver_what_is_due(parts, lambda: time.monotonic() >= last_round)
        finally:
            await parts.worker.stop(max(0.0, began + grace - time.monotonic()))
    except Exception as error:  # noqa: BLE001 (the leases expire by themselves, and what was not settled is sent again)
        report(StepFailed("stop", summarize(error), explain(error)))
