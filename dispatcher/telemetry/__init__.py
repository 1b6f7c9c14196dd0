"""The worker's reports and their listeners: metrics, log, traces."""

from dispatcher.telemetry.log import Log
from dispatcher.telemetry.log_format import configure_logging
from dispatcher.telemetry.metrics import Metrics
from dispatcher.telemetry.reports import (
    Answered,
    BreakerTurned,
    CrashBuried,
    EventsCollected,
    Gauged,
    InstallationForgotten,
    InstallationPaused,
    InstallationResumed,
    LeaseLost,
    Listener,
    MalformedBuried,
    Report,
    StepFailed,
    StepRecovered,
    Stranded,
    Ticked,
    WritesAccepted,
    listen,
)

__all__ = [
    "Answered",
    "BreakerTurned",
    "CrashBuried",
    "EventsCollected",
    "Gauged",
    "InstallationForgotten",
    "InstallationPaused",
    "InstallationResumed",
    "LeaseLost",
    "Listener",
    "Log",
    "MalformedBuried",
    "Metrics",
    "Report",
    "StepFailed",
    "StepRecovered",
    "Stranded",
    "Ticked",
    "WritesAccepted",
    "configure_logging",
    "listen",
]
