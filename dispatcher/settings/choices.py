"""The settings that choose one of a few words."""

from enum import StrEnum


class Wakeup(StrEnum):
    """How the service learns of new events: by polling, or (PostgreSQL) also by notifications."""

    POLL = "poll"
    NOTIFY = "notify"


class AttemptLog(StrEnum):
    """Which requests the log of attempts has a row for."""

    ALL = "all"
    FAILURES = "failures"


class LogFormat(StrEnum):
    """The format of log lines; `auto` is `text` on a terminal and `json` elsewhere."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """The lowest severity that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
