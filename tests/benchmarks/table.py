"""The results, as a Markdown table."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: a result and, if there is one, its target."""

    scenario: str
    case: str
    value: str
    figure: float | None = None
    """The number, in `unit`, that the target applies to."""
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the target is met, in words; empty without a target."""
        if self.figure is None or (self.at_least is None and self.at_most is None):
            return ""
        met = (self.at_least is None or self.figure >= self.at_least) and (
            self.at_most is None or self.figure <= self.at_most
        )
        return "met" if met else "**missed**"

    @property
    def target(self) -> str:
        """The target with its direction; empty without one."""
        least = "" if self.at_least is None else f"≥ {self.at_least:g}"
        most = "" if self.at_most is None else f"≤ {self.at_most:g}"
        return f"{least}{most}"


def markdown(lines: Iterable[Line]) -> str:
    """Returns the lines as a table."""
    head = ["scenario", "case", "median", "figure", "unit", "target", ""]
    rows = [
        [line.scenario, line.case, line.value, _number(line.figure), line.unit, line.target, line.verdict]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def median_ratio(values: Sequence[float], baseline: Sequence[float]) -> float:
    """Returns the median of the ratios within each round, because a disturbance in a round affects both values."""
    return statistics.median(value / other for value, other in zip(values, baseline, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the value that `share` percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
