"""`make simulation`: simulates a fleet of dispatchers and prints a table for each scenario. The same seed gives the same figures."""

import argparse
import gc
import sys
import time

from tests.simulation.scenarios import SCENARIOS


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make simulation", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--size", type=float, default=1.0, help="fraction of the million installations")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - set(SCENARIOS):
        parser.error(f"unknown: {', '.join(unknown)}")
    gc.disable()  # nothing here forms cycles, and it would look at millions of rows again and again
    for name in arguments.scenarios or SCENARIOS:
        began = time.process_time()
        print(SCENARIOS[name](arguments.size).markdown(), flush=True)  # noqa: T201 (a command)
        print(f"{name}: {time.process_time() - began:.0f} s of processor time", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
