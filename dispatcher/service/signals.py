"""The signals that stop the service."""

import asyncio
import os
import signal
from collections.abc import Callable

import structlog

OVERTIME_SECONDS = 5.0
"""Time after the grace to take everything apart. A service that needs longer is waiting for a database that does not answer."""


def stop_on_signals(stop: asyncio.Event, grace: float) -> Callable[[], None]:
    """Sets `stop` at the first signal. A second one, or the end of the grace and the overtime, ends the process at once.

    Returns the function that does what the first signal does.
    """
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def on_first_signal() -> None:
        if stop.is_set():
            return
        stop.set()
        for number in signals:
            loop.remove_signal_handler(number)
            signal.signal(number, _end_at_once)
        signal.signal(signal.SIGALRM, _end_at_once)
        signal.setitimer(signal.ITIMER_REAL, grace + OVERTIME_SECONDS)

    for number in signals:
        loop.add_signal_handler(number, on_first_signal)
    return on_first_signal


def _end_at_once(number: int, _frame: object) -> None:
    """Exits explicitly: in a container, signals have no default action for process 1."""
    if number == signal.SIGALRM:
        structlog.get_logger("dispatcher").error("not stopped in time", why="the database does not answer")
        os._exit(os.EX_TEMPFAIL)  # the exit code for an unreachable database
    os._exit(128 + number)
