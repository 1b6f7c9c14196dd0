"""The event loop that the service runs in."""

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

GC_THRESHOLDS = (10_000, 20, 20)
"""`gc.set_threshold`: new objects before a collection of the youngest generation, and collections of it before one of the next."""
SWITCH_INTERVAL_SECONDS = 0.001
"""How long one thread may compute while another waits. Python's default is 5 ms, longer than an answer takes; with 20 µs, changing between
the event loop and the database's threads took a tenth of the worker's processor time.
"""


def run_in_loop(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs the coroutine in the fastest event loop that this machine has.

    Objects loaded so far live as long as the process, so they are frozen. Later ones rarely form cycles, so the collector runs less
    often; by default it would take 10 % of each delivery. The database's threads give way to the loop soon.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if sys.platform != "win32":
        import uvloop

        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main)
