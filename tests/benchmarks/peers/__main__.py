"""`make bench-peers`: the same events through the dispatcher and its peers, on one PostgreSQL, to one sink.

Each round measures every peer once. A peer is running and has sent some events before those of the drain are committed, in one transaction.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import psycopg

from tests.benchmarks.machine import MissingProgram, Server, Sink, postgresql, sink, versions
from tests.benchmarks.peers.peers import PEERS, Peer, install
from tests.benchmarks.programs import Running, running
from tests.benchmarks.table import Line, markdown, median_ratio, percentile

WRITTEN = Path("build/peers.md")
WARM_UP_EVENTS = 1_000
LATENCY_EVENTS, EVENTS_PER_SECOND = 300, 50
PG_BOSS = "pg-boss"
MAX_CPU_RATIO = 1.05
"""The dispatcher's processor time, with the database's, ÷ that of pg-boss, at most."""


class Figures(NamedTuple):
    """What one round of a peer has shown."""

    rate: float
    """Drained events per second."""
    worker: float
    """Seconds of processor time of the peer per 1,000 events."""
    database: float
    """Those of the database."""
    memory: float
    """Peak, in megabytes."""
    p50: float
    """Milliseconds from commit to request."""
    p99: float


def main() -> int:
    """Returns the exit code: 1 if a program is missing."""
    parser = argparse.ArgumentParser(prog="make bench-peers", description=__doc__)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    missing = install()
    peers = [peer for peer in PEERS if peer.name not in missing]
    try:
        with sink() as at, postgresql() as server:
            figures = _measure(peers, at, server, arguments.events, arguments.rounds)
            about = f"{datetime.now(UTC):%d %B %Y}, medians of {arguments.rounds} rounds, {arguments.events:,} events. "
            left_out = "".join(f"\n- not measured: {name}: {why}" for name, why in missing.items())
            table = f"{about}{versions()}\n\n{markdown(_lines(figures))}\n{left_out}"
    except MissingProgram as program:
        print(program, file=sys.stderr)  # noqa: T201 (a command)
        return 1
    WRITTEN.write_text(table)
    print(table)  # noqa: T201 (a command)
    return 0


def _measure(peers: list[Peer], at: Sink, server: Server, events: int, rounds: int) -> dict[Peer, list[Figures]]:
    figures: dict[Peer, list[Figures]] = {peer: [] for peer in peers}
    for round_ in range(rounds):
        for peer in peers:
            figures[peer].append(_run(peer, at, server, f"peer_{peers.index(peer)}_{round_}", events))
            print(peer.name, *(f"{figure:,.3f}" for figure in figures[peer][-1]), file=sys.stderr)  # noqa: T201 (a command)
    return figures


def _run(peer: Peer, at: Sink, server: Server, name: str, events: int) -> Figures:
    """Measures one peer on a database of its own."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    url = server.url.rpartition("/")[0] + f"/{name}"
    peer.install(url, at.url)
    at.forget()
    command, environment = peer.command(url, at.url)
    with (
        running(command, environment, directory=None if not peer.program else Path("build/peers")) as worker,
        closing(psycopg.connect(url)) as connection,
    ):
        _hand_over(connection, peer, 1, WARM_UP_EVENTS)
        at.arrivals(WARM_UP_EVENTS, seconds=120)
        at.forget()
        observed = worker, Running(server.pid or 0)
        before = [one.processor() for one in observed]
        committed = _hand_over(connection, peer, WARM_UP_EVENTS + 1, WARM_UP_EVENTS + events)
        _analyze(connection)
        rate = events / (at.arrivals(events, seconds=900)[-1][0] - committed)
        used, of_database = (
            (one.processor() - begun) / events * 1000 for one, begun in zip(observed, before, strict=True)
        )
        memory = worker.peak_memory()
        at.forget()
        latencies = _latencies(connection, peer, at, WARM_UP_EVENTS + events)
    return Figures(rate, used, of_database, memory, percentile(latencies, 50), percentile(latencies, 99))


def _hand_over(connection: psycopg.Connection, peer: Peer, first: int, last: int) -> float:
    """Commits the events, and returns when the commit was sent."""
    connection.execute(peer.insert.format(first=first, last=last).encode())
    committed = time.time()
    connection.commit()
    return committed


def _analyze(connection: psycopg.Connection) -> None:
    """Updates the statistics, as autovacuum would later: with those of an empty queue, some peers' plans take ten times as long."""
    connection.execute("ANALYZE")
    connection.commit()


def _latencies(connection: psycopg.Connection, peer: Peer, at: Sink, after: int) -> list[float]:
    committed: dict[str, float] = {}
    began = time.monotonic()
    for number in range(after + 1, after + 1 + LATENCY_EVENTS):
        time.sleep(max(0.0, began + len(committed) / EVENTS_PER_SECOND - time.monotonic()))
        committed[peer.path(number)] = _hand_over(connection, peer, number, number)
    return [(arrived - committed[path]) * 1000 for arrived, path in at.arrivals(LATENCY_EVENTS, seconds=30)]


def _lines(figures: dict[Peer, list[Figures]]) -> Iterator[Line]:
    ours = [peer for peer in figures if not peer.program]
    for peer, rounds in figures.items():
        name, of = f"{peer.name} {peer.version()}", Figures(*map(statistics.median, zip(*rounds, strict=True)))
        value = f"{of.rate:,.0f}/s, {of.worker:.3f} + {of.database:.3f} s CPU/1,000, {of.memory:.0f} MB"
        yield Line("drain", name, value)
        yield Line("latency", name, f"p50 {of.p50:.1f} ms, p99 {of.p99:.1f} ms")
        if peer in ours:
            continue
        for one, target in zip(ours, peer.targets, strict=True):
            ratio = median_ratio([each.rate for each in figures[one]], [each.rate for each in rounds])
            yield Line("drain", name, "", ratio, f"{one.name} ÷ peer", at_least=target)
        cpu = median_ratio(*([each.worker + each.database for each in one] for one in (figures[ours[0]], rounds)))
        at_most = MAX_CPU_RATIO if peer.name == PG_BOSS else None
        yield Line("CPU", name, "", cpu, f"{ours[0].name} ÷ peer", at_most=at_most)


if __name__ == "__main__":
    sys.exit(main())
