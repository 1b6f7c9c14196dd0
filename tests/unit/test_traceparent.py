"""The trace context that an event carries."""

import sqlite3

import pytest
from opentelemetry.sdk.trace import TracerProvider

from dispatcher import ResourceUpdated, publish
from dispatcher.outbox import traceparent
from dispatcher.outbox.events import is_traceparent
from dispatcher.outbox.publisher import insert_event

EVENT = ResourceUpdated(installation_id="icfg_1", resource_id="db_1")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_an_event_carries_the_active_span() -> None:
    assert "traceparent" not in insert_event(EVENT).compile().params
    with TracerProvider().get_tracer("partner").start_as_current_span("rename") as span:
        carried = insert_event(EVENT).compile().params["traceparent"]
    assert is_traceparent(carried)
    assert f"{span.get_span_context().trace_id:032x}" in carried


def test_a_trace_context_given_by_hand_wins() -> None:
    with TracerProvider().get_tracer("partner").start_as_current_span("rename"):
        given = EVENT.model_copy(update={"traceparent": TRACEPARENT})
        assert insert_event(given).compile().params["traceparent"] == TRACEPARENT


def test_it_travels_through_a_driver_too() -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE vercel_outbox (installation_id, type, resource_id, traceparent)")
        connection.execute("BEGIN")
        with TracerProvider().get_tracer("partner").start_as_current_span("rename"):
            publish(connection, EVENT)
        ((carried,),) = connection.execute("SELECT traceparent FROM vercel_outbox")
    connection.close()
    assert is_traceparent(carried)


def test_without_opentelemetry_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traceparent, "_INSTALLED", False)
    assert traceparent.current_traceparent() is None
