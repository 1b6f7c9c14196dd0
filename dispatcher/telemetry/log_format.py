"""The format of every line of the process, those of libraries included."""

import logging
import os
import sys
from io import StringIO
from typing import Any, TextIO

import structlog

from dispatcher.settings.settings import LogFormat, LogLevel


def configure_logging(log_format: LogFormat, log_level: LogLevel) -> None:
    """Logs to stderr, as JSON or, on a terminal, for people. Lines of uvicorn, APScheduler, SQLAlchemy and warnings look the same."""
    as_json = log_format is LogFormat.JSON or (log_format is LogFormat.AUTO and not sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    plain = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
    ends: list[Any] = (
        [plain, structlog.processors.JSONRenderer()] if as_json else [_escape_event, _for_people(sys.stderr)]
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, _rename_logger],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ends],
    )
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [stream]
    root.setLevel(log_level.value.upper())
    logging.captureWarnings(True)
    for chatty in ("apscheduler", "uvicorn", "httpcore", "httpx", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _rename_logger(_logger: object, _method: str, event: Any) -> Any:
    """uvicorn calls the logger of all its lines `uvicorn.error`, which looks like an error."""
    if event["logger"] == "uvicorn.error":
        event["logger"] = "uvicorn"
    return event


def _for_people(stream: TextIO) -> structlog.dev.ConsoleRenderer:
    in_color = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    # No local variables: they hold tokens. Strings are quoted: they come from partners and could contain escape sequences.
    return structlog.dev.ConsoleRenderer(colors=in_color, exception_formatter=_write_traceback, repr_native_str=True)


def _escape_event(_logger: object, _method: str, event: Any) -> Any:
    """Messages of libraries may contain what a client or a server sent."""
    event["event"] = _escaped(str(event["event"]))
    return event


def _write_traceback(stream: TextIO, error: Any) -> None:
    traceback = StringIO()
    structlog.dev.plain_traceback(traceback, error)
    stream.write(_escaped(traceback.getvalue()))


def _escaped(text: str) -> str:
    """Returns the text without characters that could control a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
