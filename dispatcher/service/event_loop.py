"""The event loop that the service runs in."""

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

GC_THRESHOLDS = (10_000, 20, 20)
"""Objects more than before at which the garbage collector looks at the new ones, and how often it looks further."""
SWITCH_INTERVAL_SECONDS = 0.00002
"""Seconds for which the database's thread may compute while the event loop waits to: an answer takes less time than Python's own 5 ms."""


def run_in_loop(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs it in the fastest event loop that this machine has.

    What is loaded by now stays, and what comes after hardly ever forms cycles: the garbage collector need not look at the one at all,
    nor as often as usual at the other, which would take a tenth of the time of each delivery. The database's thread gives way to the
    loop at once.
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
