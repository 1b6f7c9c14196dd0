"""Traces: the span of a delivery links to the partner's span, whose context travels in the row.

Without OpenTelemetry (extra `otel`) everything here does nothing.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from dispatcher.outbox.events import Subject
from dispatcher.policy.outcome import Outcome, OutcomeKind

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    _INSTALLED = False
else:
    _INSTALLED = True

_SCOPE = "vercel-outbox-dispatcher"
Span = AbstractContextManager[Callable[[Outcome], None]]
DeliverySpan = Callable[[Subject, int, str | None], Span]
"""Opens a span around one request. Takes the subject, the number of events, and the traceparent of the newest, to which the span links.
The block receives a function that notes the outcome."""
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def delivery_spans() -> DeliverySpan | None:
    """Returns a function that opens a span around each request; None if no tracer provider is set by now."""
    if not _INSTALLED or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return _span


@contextmanager
def _span(subject: Subject, events: int, traceparent: str | None) -> Iterator[Callable[[Outcome], None]]:
    tracer = trace.get_tracer(_SCOPE)
    attributes: dict[str, str | int] = {
        "dispatcher.installation_id": subject.installation_id,
        "dispatcher.events": events,
    }
    with tracer.start_as_current_span(
        f"deliver {subject.type}", kind=trace.SpanKind.CLIENT, links=_links(traceparent), attributes=attributes
    ) as span:
        yield lambda outcome: _conclude(span, outcome)


def export_traces() -> Callable[[], None]:
    """Exports spans if OTEL_EXPORTER_OTLP_ENDPOINT is set. Returns a function that sends the last ones and stops."""
    if not _INSTALLED or not any(os.environ.get(name) for name in _ENDPOINTS):
        return lambda: None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    service_name = os.environ.get("OTEL_SERVICE_NAME", _SCOPE)
    provider = TracerProvider(resource=Resource.create({"service.name": service_name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider.shutdown


def _links(traceparent: str | None) -> "list[trace.Link]":
    if traceparent is None:
        return []
    carried = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
    context = trace.get_current_span(carried).get_span_context()
    return [trace.Link(context)] if context.is_valid else []


def _conclude(span: "trace.Span", outcome: Outcome) -> None:
    span.set_attribute("dispatcher.outcome", outcome.kind.value)
    if outcome.status is not None:
        span.set_attribute("http.response.status_code", outcome.status)
    if outcome.kind is not OutcomeKind.DELIVERED:
        span.set_status(trace.StatusCode.ERROR, outcome.kind.value)
