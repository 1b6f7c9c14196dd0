"""A pytest plugin for applications that publish: the fixtures `vercel_outbox` and `vercel_sandbox`.

pytest loads this module in every run of an environment that has the package: it imports nothing of the service before a fixture is used.
"""

import asyncio
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dispatcher.sandbox import Sandbox
    from dispatcher.testing import Outbox

_WITHOUT_DATABASE = (
    "vercel_outbox does not know your test's database: define a fixture `vercel_outbox_database` that returns an engine, a session or a"
    " connection"
)
_ASYNC = (
    "vercel_outbox_database returned an async object: instead define an async fixture `vercel_outbox` that returns"
    " `await dispatcher.testing.Outbox.aopen(…)` of it"
)
_WITHOUT_SERVICE = "vercel_sandbox needs the packages of the service: install the wheel with its extra [service], as deploy/README.md shows"


@pytest.fixture
def vercel_outbox_database() -> object:
    """Define this fixture yourself. It returns the database of your test: an engine of SQLAlchemy, which sees what is committed, or a
    session or connection that `publish` accepts, which also sees what its own transaction wrote.
    """
    pytest.fail(_WITHOUT_DATABASE, pytrace=False)


@pytest.fixture
def vercel_outbox(vercel_outbox_database: Any) -> "Outbox":
    """The events that the test announced: a `dispatcher.testing.Outbox`. Creates the dispatcher's tables if they are missing."""
    from dispatcher.testing import Outbox
    from dispatcher.testing.steps import is_async

    if is_async(vercel_outbox_database):
        pytest.fail(_ASYNC, pytrace=False)
    return Outbox.open(vercel_outbox_database)


@pytest.fixture
def vercel_sandbox() -> "Iterator[Sandbox]":
    """A stand-in for Vercel, on a port of its own, in a thread of its own: a `dispatcher.sandbox.Sandbox`."""
    try:
        from dispatcher.sandbox import Sandbox
    except ModuleNotFoundError:
        pytest.fail(_WITHOUT_SERVICE, pytrace=False)
    with _running(Sandbox()) as sandbox:
        yield sandbox


@contextmanager
def _running(sandbox: "Sandbox") -> "Iterator[Sandbox]":
    """Runs the sandbox in an event loop of its own, so that tests with and without one can use it."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        async with sandbox:
            started.set_result((asyncio.get_running_loop(), stop))
            await stop.wait()

    with ThreadPoolExecutor(1, "vercel_sandbox") as threads:
        serving = threads.submit(lambda: asyncio.run(serve()))
        either: list[Future[Any]] = [started, serving]
        wait(either, return_when=FIRST_COMPLETED)
        if serving.done():
            serving.result()
        loop, stop = started.result()
        try:
            yield sandbox
        finally:
            loop.call_soon_threadsafe(stop.set)
            serving.result()
