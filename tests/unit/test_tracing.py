"""Traces: the span of a delivery links to the partner's span. The receiver is a real OTLP server over HTTP."""

import gzip
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from dispatcher.telemetry import tracing

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector(ThreadingHTTPServer):
    """An OTLP server that keeps the spans it receives."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receive)
        self.spans: list[Span] = []


class _Receive(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        plain = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
        exported = ExportTraceServiceRequest.FromString(plain)
        self.server.spans += [
            s for resource in exported.resource_spans for scope in resource.scope_spans for s in scope.spans
        ]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's own name)
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


EXPORT = f"""
from dispatcher.outbox.events import Subject
from dispatcher.policy.outcome import Outcome, OutcomeKind
from dispatcher.telemetry.tracing import delivery_spans, export_traces
end = export_traces()
delivery_span = delivery_spans()
for traceparent, kind, status in (({TRACEPARENT!r}, OutcomeKind.DELIVERED, 201), (None, OutcomeKind.TIMEOUT, None)):
    with delivery_span(Subject("icfg_1", "resource.updated", "db_1"), 3, traceparent) as conclude:
        conclude(Outcome(kind, status=status))
end()
"""


def test_a_delivery_is_a_span_with_a_link_to_the_partners(collector: Collector) -> None:
    """In a process of its own: a tracer provider can be set only once."""
    endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
    subprocess.run([sys.executable, "-c", EXPORT], check=True, env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
    delivered, failed = collector.spans
    assert delivered.name == "deliver resource.updated"
    (link,) = delivered.links
    assert link.trace_id.hex() == TRACEPARENT.split("-")[1]
    attributes = {one.key: one.value for one in delivered.attributes}
    assert attributes["dispatcher.installation_id"].string_value == "icfg_1"
    assert attributes["dispatcher.outcome"].string_value == "delivered"
    assert attributes["http.response.status_code"].int_value == 201
    assert list(failed.links) == []
    assert failed.status.code == trace.StatusCode.ERROR.value


def test_nothing_is_exported_unless_an_endpoint_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tracing._ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    before = trace.get_tracer_provider()
    tracing.export_traces()()
    assert trace.get_tracer_provider() is before


def test_without_opentelemetry_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_INSTALLED", False)
    before = trace.get_tracer_provider()
    assert tracing.delivery_spans() is None
    tracing.export_traces()()
    assert trace.get_tracer_provider() is before
