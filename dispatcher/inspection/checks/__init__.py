"""What `dispatcher check` finds out: whether the service could work here, and if not, what to mend. Nothing is changed."""

from dispatcher.inspection.checks.examination import examine
from dispatcher.inspection.checks.finding import Finding, Level

__all__ = ["Finding", "Level", "examine"]
