"""`run` with several worker processes: starts and stops them together, and speaks for all of them on one ops port."""

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack

import structlog
from prometheus_client import CollectorRegistry

from dispatcher.service.endpoints import ops_app_of, serving_ops
from dispatcher.service.worker_process import WorkerProcess
from dispatcher.settings.settings import Settings
from dispatcher.telemetry import Log
from dispatcher.telemetry.merged_metrics import MergedMetrics


class ProcessGroup:
    """What the processes answer together, as `Spokesman`."""

    def __init__(self, processes: Sequence[WorkerProcess], metrics: MergedMetrics) -> None:
        self._processes = processes
        self._metrics = metrics

    async def is_live(self) -> bool:
        """Whether each process is live, or has just been started."""
        answers = await asyncio.gather(*(process.ask("/livez") for process in self._processes))
        return all(
            process.is_starting if answer is None else answer[0] == 200
            for process, answer in zip(self._processes, answers, strict=True)
        )

    async def why_not_ready(self) -> str | None:
        """Returns why the first process that is not ready is not; None if all are."""
        answers = await asyncio.gather(*(process.ask("/readyz") for process in self._processes))
        for process, answer in zip(self._processes, answers, strict=True):
            if answer is None:
                return f"worker process {process.number}: no answer"
            if answer[0] != 200:
                return f"worker process {process.number}: {json.loads(answer[1])['reason']}"
        return None

    async def registry(self) -> CollectorRegistry:
        """Returns the sum of the metrics of all processes; of one that does not answer, what it said last."""
        answers = await asyncio.gather(*(process.ask("/metrics") for process in self._processes))
        for process, answer in zip(self._processes, answers, strict=True):
            if answer is not None and answer[0] == 200:
                self._metrics.update(process.number, answer[1])
        return self._metrics.registry


async def run_processes(settings: Settings) -> int:
    """Runs `settings.processes` worker processes until SIGTERM or SIGINT; a second signal is passed on, and ends them at once.

    Returns the exit code of the first process that did not exit with 0; a process that cannot start ends the others. Raises
    PortUnavailable.
    """
    logger, log, stop, metrics = structlog.get_logger("dispatcher"), Log(), asyncio.Event(), MergedMetrics()
    with ExitStack() as sockets:
        processes = [WorkerProcess(number, metrics.end) for number in range(1, settings.processes + 1)]
        for process in processes:
            sockets.callback(process.close)
        _stop_on_signals(processes, stop)
        async with AsyncExitStack() as stack:
            port = None
            if settings.ops_port is not None:
                stack.enter_context(log.limiting("uvicorn.error", "asyncio"))
                app = ops_app_of(ProcessGroup(processes, metrics))
                port = await stack.enter_async_context(serving_ops(app, settings.ops_host, settings.ops_port))
            logger.info("worker processes started", processes=len(processes), ops_port=port)
            codes = await asyncio.gather(*(_run(process, processes, stop) for process in processes))
    return next((code for code in codes if code != os.EX_OK), os.EX_OK)


async def _run(process: WorkerProcess, all_processes: Sequence[WorkerProcess], stop: asyncio.Event) -> int:
    code = await process.run(stop)
    _stop(all_processes, stop)
    return code


def _stop_on_signals(processes: Sequence[WorkerProcess], stop: asyncio.Event) -> None:
    def on_signal(number: int) -> None:
        if stop.is_set():
            for process in processes:
                process.send(number)
        _stop(processes, stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)


def _stop(processes: Sequence[WorkerProcess], stop: asyncio.Event) -> None:
    stop.set()
    for process in processes:
        process.stop()
