"""The coverage gates, from coverage.py's JSON report. Silent when they hold: the tests' summary stays the last word."""

import json
import sys
from pathlib import Path
from typing import Any

LEAST_LINES = 95.0
# What decides whether a notification is lost: here every branch has a test.
EVERY_BRANCH = ("dispatcher/store", "dispatcher/policy", "dispatcher/worker/lease.py")


def find_gaps(report: dict[str, Any]) -> list[str]:
    """A line for each gate that does not hold."""
    totals = report["totals"]
    lines = 100 * totals["covered_lines"] / totals["num_statements"]
    gaps = [] if lines >= LEAST_LINES else [f"dispatcher: {lines:.1f} % of lines, not {LEAST_LINES} %"]
    guarded = {path: file for path, file in report["files"].items() if path.startswith(EVERY_BRANCH)}
    if not guarded:
        gaps.append(f"no file of {' or '.join(EVERY_BRANCH)} was measured")
    for path, file in sorted(guarded.items()):
        missing = [f"{start}→{end}" for start, end in file["missing_branches"]]
        if missing or file["missing_lines"]:
            gaps.append(f"{path}: untested lines {file['missing_lines']}, branches {', '.join(missing) or 'none'}")
    return gaps


def main(report: str) -> int:
    gaps = find_gaps(json.loads(Path(report).read_text()))
    for gap in gaps:
        sys.stderr.write(f"coverage: {gap}\n")
    return 1 if gaps else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
