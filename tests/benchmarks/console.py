"""Console: whether a drain is slower while people look at the console."""

import secrets
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from threading import Event

import httpx

from dispatcher.console.pages import PLACES
from tests.benchmarks.drain import Measured, drain
from tests.benchmarks.machine import Machine, Server, Sink, free_port
from tests.benchmarks.programs import dispatcher, running, settings
from tests.benchmarks.table import Line, median_ratio

INSTALLATIONS = 2_000
POLL_SECONDS = 5.0
"""The script of each page asks this often whether there is anything new."""
_CONNECT_RETRIES = 8
"""While the console starts, with ever longer pauses."""


def measure(machine: Machine) -> Iterator[Line]:
    """Measures drains of several polls each, without a console and with one that six people look at, each at another page."""
    events = machine.size(180_000)
    server, sink = machine.databases["postgresql"], machine.sink
    plain, looked = Measured(), Measured()
    shares: list[float] = []
    for _ in range(machine.rounds):
        for measured in (plain, looked):
            beside = looked_at(server, sink, shares) if measured is looked else None
            measured.add(*drain(server, sink, events, installations=min(INSTALLATIONS, events), beside=beside))
    yield Line("console", "no console", f"{statistics.median(plain.rates):,.0f}/s, {plain.processor(events)}")
    used = f"{looked.processor(events)}, the console {100 * statistics.median(shares):.1f} % of a core"
    value = f"{statistics.median(looked.rates):,.0f}/s, {used}"
    ratio = median_ratio(looked.rates, plain.rates)
    yield Line("console", "each page open", value, ratio, "× no console", at_least=0.98)


@contextmanager
def looked_at(server: Server, sink: Sink, shares: list[float]) -> Iterator[None]:
    """Runs a console with each page open in a browser. Appends the share of a core that the console used."""
    port, token, over = free_port(), secrets.token_urlsafe(32), Event()
    environment = settings(server.url, sink.url, CONSOLE_PORT=str(port), CONSOLE_TOKEN=token)
    patient = httpx.HTTPTransport(retries=_CONNECT_RETRIES)
    with (
        running(dispatcher("console"), environment) as console,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=patient, timeout=60) as browser,
        ThreadPoolExecutor() as threads,
    ):
        browser.get("/login", params={"token": token})
        polling = threads.submit(_poll, browser, over)
        began, used = time.monotonic(), console.processor()
        try:
            yield
        finally:
            over.set()
        shares.append((console.processor() - used) / (time.monotonic() - began))
        polling.result()


def _poll(browser: httpx.Client, over: Event) -> None:
    """Asks for each page in turn, as the pages' script does. Raises HTTPStatusError for an error."""
    tags: dict[str, str] = {}
    for place in cycle(PLACES):
        answer = browser.get(f"/{place.path}", headers={"If-None-Match": tags.get(place.path, "")})
        if answer.status_code != httpx.codes.NOT_MODIFIED:
            answer.raise_for_status()
        tags[place.path] = answer.headers["ETag"]
        if over.wait(POLL_SECONDS / len(PLACES)):
            return
