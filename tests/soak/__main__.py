"""`make soak HOURS=2`: the law under random faults on SQLite, PostgreSQL and MariaDB at once, and whether anything grows."""

import argparse
import secrets
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tests.clusters.figures import HEADER
from tests.soak.samples import QUANTITIES
from tests.soak.servers import Database, MariadbServer, Postgresql, Sqlite
from tests.soak.trial import Result, soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    options = parser.parse_args()
    sys.stdout.write(f"{options.hours} hours, seed {options.seed}\n")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(prefix="dispatcher-soak-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        databases: list[Database] = [Sqlite(directory), Postgresql(directory), MariadbServer(directory)]
        try:
            soaks = _soak_all(databases, options.hours * 3600, options.seed)
        finally:
            for database in databases[1:]:
                database.server.daemon.kill()  # type: ignore[attr-defined]
    results = [one.result() for one in soaks if one.exception() is None]
    problems = [problem for result in results for problem in result.problems]
    sys.stdout.write("\n".join([_report(results), *problems, ""]))
    for one in soaks:
        one.result()  # raises the error of one that could not go on, after the figures of the others
    return bool(problems)


def _soak_all(databases: list[Database], seconds: float, seed: int) -> list[Future[Result]]:
    """Returns the soaks, which have ended."""
    with ThreadPoolExecutor(len(databases)) as threads:
        return [threads.submit(soak, one, seconds, seed + place) for place, one in enumerate(databases)]


def _report(results: list[Result]) -> str:
    names = ["", "median and growth of", *(quantity.name for quantity in QUANTITIES), ""]
    lines = [HEADER, *(result.figures.row for result in results)]
    lines += ["", " | ".join(names).strip(), "|---" * (len(QUANTITIES) + 1) + "|"]
    lines += [" | ".join(["", one.figures.scenario, *map(str, one.trends), ""]).strip() for one in results]
    for one in results:
        faults = ", ".join(f"{name} {count}" for name, count in one.faults.most_common())
        lines += ["", f"{one.figures.scenario}: {faults}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
