"""The coverage gates, checked on coverage.py's JSON report. Prints nothing if they hold, so the tests' summary stays the last output."""

import json
import sys
from pathlib import Path
from typing import Any

MIN_LINES_PERCENT = 95.0
# This code decides whether a notification is lost, so each of its branches needs a test.
FULLY_COVERED = (
    "dispatcher/store",
    "dispatcher/policy",
    "dispatcher/worker/lease",
    "dispatcher/worker/settlement",
    "dispatcher/worker/answers",
)


def find_gaps(report: dict[str, Any]) -> list[str]:
    """Returns one line for each gate that does not hold."""
    totals = report["totals"]
    lines = 100 * totals["covered_lines"] / totals["num_statements"]
    gaps = [] if lines >= MIN_LINES_PERCENT else [f"dispatcher: {lines:.1f} % of lines, not {MIN_LINES_PERCENT} %"]
    guarded = {path: file for path, file in report["files"].items() if path.startswith(FULLY_COVERED)}
    if not guarded:
        gaps.append(f"no file of {' or '.join(FULLY_COVERED)} was measured")
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
