"""The trace context that an event carries from the partner's span to the delivery."""

try:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    _INSTALLED = False
else:
    _INSTALLED = True


def current_traceparent() -> str | None:
    """The W3C trace context of the span that is active here; None if there is none."""
    if not _INSTALLED:
        return None
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")
