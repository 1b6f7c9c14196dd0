"""Checks whether the quick tests notice small changes to the protocol, the pipeline and the policy.

    python -m tests.mutation [--sample 300] [--seed 2026-11-30] [--jobs 2] [FILE …]

Prints each mutant that survived. Fails if more than one in ten did: a machine that is busy can let a single one pass, or fail.
"""

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.quick_tests import QuickTests, measure
from tests.mutation.trial import load_libraries, survives

MUTATED = (
    "store",
    "policy",
    "worker",
    "credentials/token_cache.py",
    "inspection/dead_letters.py",
    "inspection/installation_list.py",
    "inspection/installations.py",
)
MIN_NOTICED_SHARE = 0.9
SURVIVORS = Path(__file__).with_name("survivors.txt")
"""The known survivors. Each paragraph is a reason, after `#`, followed by its mutants, one per line."""


def main() -> None:
    """Prints the survivors, and the share of mutants that were noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="*", type=Path, default=[Path("dispatcher") / name for name in MUTATED])
    parser.add_argument("--sample", type=int, help="number of mutants to draw at random (default: all)")
    parser.add_argument("--seed", default="", help="seed of the random draw")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    for name in [name for name in os.environ if name == "CI" or name.startswith("DISPATCHER_")]:
        del os.environ[name]  # only SQLite
    with tempfile.TemporaryDirectory() as made:
        tests = measure(Path(made))
        every = [one for path in _files(options.files) for one in mutants_of(path)]
        drawn = random.Random(options.seed).sample(every, min(options.sample or len(every), len(every)))  # noqa: S311
        say(f"{len(drawn)} of {len(every)} mutants; those that survive:")
        survivors = list(survivors_of(drawn, tests, options.jobs, Path(made)))
    known = may_live(SURVIVORS.read_text())
    unknown = [mutant for mutant in survivors if str(mutant) not in known]
    noticed = 1 - len(survivors) / len(drawn)
    say(f"{noticed:.1%} of {len(drawn)} mutants were noticed, at least {MIN_NOTICED_SHARE:.0%} must be")
    say(
        f"{len(unknown)} of the {len(survivors)} survivors are not in {SURVIVORS.name}: add a test, or the reason why each may live"
    )
    sys.exit(noticed < MIN_NOTICED_SHARE)


def may_live(text: str) -> set[str]:
    """Returns the mutants in a list of survivors. Raises ValueError for a paragraph without a reason."""
    known: set[str] = set()
    for paragraph in text.split("\n\n"):
        reason, *mutants = paragraph.strip().splitlines()
        if not reason.startswith("# "):
            raise ValueError(f"no reason: {reason}")
        known.update(line for line in mutants if not line.startswith("# "))
    return known


def say(line: str) -> None:
    """Prints the line immediately."""
    print(line, flush=True)  # noqa: T201 (a command)


def _files(given: Sequence[Path]) -> Iterator[Path]:
    for path in given:
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def survivors_of(mutants: Sequence[Mutant], tests: QuickTests, jobs: int, scratch: Path) -> Iterator[Mutant]:
    """Yields the mutants that no test noticed, and prints each."""
    load_libraries()

    def survived(numbered: tuple[int, Mutant]) -> bool:
        number, mutant = numbered
        failed = scratch / str(number)
        if not (quick := tests.of(mutant)) or survives(mutant, quick, failed):
            return True
        if failed.exists():
            tests.noticed[failed.read_text()] += 1
        return False

    with ThreadPoolExecutor(jobs) as pool:
        for mutant, has_survived in zip(mutants, pool.map(survived, enumerate(mutants)), strict=True):
            if has_survived:
                say(f"{mutant.line:5} {mutant}")
                yield mutant


if __name__ == "__main__":
    main()
