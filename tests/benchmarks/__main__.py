"""`make bench`: measures, prints a table and writes it to build/benchmarks.md. Rounds are interleaved, because only ratios count."""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks import coalescing, console, drain, earlier, footprint, latency, partner_cost, replicas, scale
from tests.benchmarks.machine import Machine, MissingProgram, Server, mariadb, postgresql, sink, versions
from tests.benchmarks.table import Line, markdown

WRITTEN = Path("build/benchmarks.md")
SCENARIOS = {
    "drain": drain.measure,
    "coalescing": coalescing.measure,
    "latency": latency.measure,
    "partner_cost": partner_cost.measure,
    "scale": scale.measure,
    "footprint": footprint.measure,
    "replicas": replicas.measure,
    "console": console.measure,
    "earlier": earlier.measure,
}


def main() -> int:
    """Returns the exit code: 1 if a program is missing."""
    arguments = _arguments()
    lines: list[Line] = []
    try:
        with ExitStack() as stack:
            databases = {"postgresql": stack.enter_context(postgresql())}
            if not arguments.quick:
                databases["mysql"] = stack.enter_context(mariadb())
            databases["sqlite"] = Server(f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory())}/bench.db")
            rounds, share = (1, 0.01) if arguments.quick else (arguments.rounds, arguments.share)
            machine = Machine(databases, stack.enter_context(sink()), rounds, share, arguments.quick)
            for scenario in arguments.scenarios:
                for line in SCENARIOS[scenario](machine):
                    lines.append(line)
                    print(markdown([line]).splitlines()[-1], file=sys.stderr, flush=True)  # noqa: T201 (a command)
    except MissingProgram as missing:
        print(missing, file=sys.stderr)  # noqa: T201 (a command)
        return 1
    table = f"{datetime.now(UTC):%d %B %Y}, medians of {rounds} rounds with {share:.0%} of the events. {versions()}\n\n{markdown(lines)}\n"
    WRITTEN.parent.mkdir(exist_ok=True)
    WRITTEN.write_text(table)
    print(table)  # noqa: T201 (a command)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument(
        "--quick",
        action="store_true",
        help="run each scenario briefly, to see that it works; the figures are meaningless",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="fraction of the events (0.1: a tenth)")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - set(SCENARIOS):
        parser.error(f"unknown: {', '.join(unknown)}")
    arguments.scenarios = arguments.scenarios or list(SCENARIOS)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
