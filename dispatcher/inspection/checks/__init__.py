"""The checks of `dispatcher check`: whether the service could work here and, if not, how to fix it. They change nothing."""

from dispatcher.inspection.checks.examination import examine
from dispatcher.inspection.checks.finding import Finding, Level, worst_first

__all__ = ["Finding", "Level", "examine", "worst_first"]
