"""Does a quick test notice a small change to the protocol, the pipeline or the policy?

    python -m tests.mutation [--sample 300] [--seed 2026-11-30] [--jobs 2] [FILE …]

Prints each mutant that survived. Fails if more than one in ten did.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.quick_tests import QuickTests, environment, measure

MUTATED = (
    "store",
    "breaker.py",
    "burst.py",
    "dead_letters.py",
    "floor.py",
    "installations.py",
    "lease.py",
    "leases.py",
    "policy.py",
    "rate_window.py",
    "sender.py",
    "token_cache.py",
    "worker.py",
)
HANGS_AFTER = 120.0
"""Seconds after which a mutant has hung: that is noticed."""
NOTICED = 0.9
SKIPPED = shutil.ignore_patterns(".*", "build", "__pycache__", "node_modules")


def main() -> None:
    """Prints the survivors and their share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="*", type=Path, default=[Path("dispatcher") / name for name in MUTATED])
    parser.add_argument("--sample", type=int, help="so many, drawn at random (default: all)")
    parser.add_argument("--seed", default="", help="what is drawn by")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        tests = measure(Path(made))
        every = [one for path in _files(options.files) for one in mutants_of(path) if tests.of(one)]
        drawn = random.Random(options.seed).sample(every, min(options.sample or len(every), len(every)))  # noqa: S311
        say(f"{len(drawn)} of {len(every)} mutants")
        survivors = sum(1 for _ in survivors_of(drawn, tests, options.jobs, Path(made)))
    noticed = 1 - survivors / len(drawn)
    say(f"{noticed:.1%} of {len(drawn)} mutants were noticed, at least {NOTICED:.0%} must be")
    sys.exit(noticed < NOTICED)


def say(line: str) -> None:
    """Prints it at once."""
    print(line, flush=True)  # noqa: T201 (a command)


def _files(given: Sequence[Path]) -> Iterator[Path]:
    for path in given:
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def survivors_of(mutants: Sequence[Mutant], tests: QuickTests, jobs: int, scratch: Path) -> Iterator[Mutant]:
    """Those that no test noticed, each printed. Each job changes a copy of the project."""
    copies: Queue[Path] = Queue()
    for number in range(jobs):
        copies.put(shutil.copytree(Path.cwd(), scratch / str(number), symlinks=True, ignore=SKIPPED))

    def survives(mutant: Mutant) -> bool:
        copy = copies.get()
        try:
            return _survives(mutant, tests.of(mutant), copy)
        finally:
            copies.put(copy)

    with ThreadPoolExecutor(jobs) as pool:
        for number, (mutant, survived) in enumerate(zip(mutants, pool.map(survives, mutants), strict=True), 1):
            if survived:
                say(f"{number:5} {mutant}")
                yield mutant


def _survives(mutant: Mutant, tests: Sequence[str], copy: Path) -> bool:
    file = copy / mutant.path
    code = file.read_text()
    file.write_text(mutant.applied(code))
    changed = environment(PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        run = subprocess.run(command, cwd=copy, env=changed, timeout=HANGS_AFTER, capture_output=True, check=False)
    except subprocess.TimeoutExpired:
        return False
    finally:
        file.write_text(code)
    return run.returncode == 0


if __name__ == "__main__":
    main()
