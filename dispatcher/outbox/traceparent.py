"""The trace context that an event carries from the partner's span to the delivery."""

try:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    _INSTALLED = False
else:
    _INSTALLED = True


def current_traceparent() -> str | None:
    """Returns the W3C trace context of the active span, or None if there is none."""
    if not _INSTALLED:
        return None
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")
