"""The log of a real service: one format, no secrets, and few lines."""

import json
import signal
from collections import Counter
from collections.abc import Iterable
from typing import Any

from dispatcher.telemetry.repetition import MAX_LINES
from tests.processes.conftest import Running, Stage, wait_until

DEAD = 300
CONSOLE_URL = "https://ops.example.com/outbox"


def stop(stage: Stage, service: Running) -> list[dict[str, Any]]:
    """Stops the service; returns its lines."""
    service.send_signal(signal.SIGTERM)
    assert service.wait(60) == 0, service.log
    assert stage.environment["DISPATCHER_VERCEL_TOKEN"] not in service.log
    return service.lines


def test_every_line_is_json_and_at_debug_each_attempt_has_one(stage: Stage) -> None:
    service = stage.start_service(DISPATCHER_LOG_LEVEL="debug")
    stage.script(status=503, times=1)
    stage.commit("db_1")
    wait_until(stage.requests)
    lines = stop(stage, service)
    assert all({"timestamp", "level", "event", "logger"} <= line.keys() for line in lines)
    loggers = {line["logger"] for line in lines}
    assert "dispatcher" in loggers
    assert "uvicorn.error" not in loggers
    attempts = [(line["outcome"], line["status"]) for line in lines if line["event"] == "attempt"]
    assert attempts == [("failed", 503), ("delivered", 201)]
    changes = [line["event"] for line in lines if line["logger"] == "dispatcher" and line["level"] == "info"]
    assert changes == ["started", "draining", "stopped"]
    (started,) = (line for line in lines if line["event"] == "started")
    assert started["database"] == f"sqlite:///{stage.path}"


def test_a_storm_of_dead_letters_is_a_few_lines_and_their_sum(stage: Stage) -> None:
    service = stage.start_service(DISPATCHER_RATE_LIMIT="off")
    stage.script(status=400)
    stage.commit(*(f"db_{number}" for number in range(DEAD)))
    wait_until(lambda: stage.count("vercel_dead_letter") == DEAD)
    lines = stop(stage, service)
    events = Counter(line["event"] for line in lines)
    windows = events["dead letter: more of them"]
    assert 1 <= windows <= events["dead letter"] / MAX_LINES
    assert events["dead letter"] + sum(line.get("more", 0) for line in lines) == DEAD
    assert events["dead letter"] <= MAX_LINES * (windows + 1)
    assert events.total() - events["dead letter"] - windows < 30


def test_a_pause_and_a_dead_letter_link_to_the_console(stage: Stage) -> None:
    stage.script(status=400, resource_id="db_1")
    stage.script(status=401, resource_id="db_2")
    stage.commit("db_1")
    drained = stage.run("drain", DISPATCHER_CONSOLE_URL=f"{CONSOLE_URL}/")
    assert links(map(json.loads, drained.stderr.splitlines())) == {"dead letter": "explain?id=db_1&installation=icfg_1"}
    service = stage.start_service(DISPATCHER_CONSOLE_URL=CONSOLE_URL)
    stage.commit("db_2")
    wait_until(lambda: service.logged("installation paused"))
    assert links(stop(stage, service)) == {"installation paused": "installations/icfg_1"}


def links(lines: Iterable[dict[str, Any]]) -> dict[str, str]:
    """The pages that these lines link to, by event."""
    return {line["event"]: line["console"].removeprefix(f"{CONSOLE_URL}/") for line in lines if "console" in line}
