"""The ops port of a real service, and hostile clients."""

import contextlib
import selectors
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from dispatcher.service.ops_connection import MAX_CONNECTIONS
from dispatcher.telemetry.repetition import MAX_LINES
from tests.processes.conftest import HTTP, Stage, wait_until

FEW_DESCRIPTORS = ("sh", "-c", 'ulimit -n 48; exec "$0" "$@"')
"""Enough for the service's work, but not with all the connections that the ops port allows."""
ENOUGH_DESCRIPTORS = ("sh", "-c", 'ulimit -n 96; exec "$0" "$@"')
"""Enough for the service's work with all the connections that the ops port allows, but not with three times as many."""
USED_UP = "SELECT 1 FROM vercel_attempt WHERE error LIKE '%Too many open files%'"
REQUESTS = 100
GARBAGE = b"\x00\x01\x02\r\n\r\n"
UPGRADE = b"GET /livez HTTP/1.1\r\nHost: ops\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
# Invalid chunks after the answer, which uvicorn does not expect.
BROKEN_BODY = b"GET /livez HTTP/1.1\r\nHost: ops\r\nTransfer-Encoding: chunked\r\n\r\n"


class Hog(threading.Thread):
    """Holds more connections than the service has descriptors, sends nothing, and replaces each one that is closed."""

    def __init__(self, port: int, connections: int) -> None:
        super().__init__()
        self._port = port
        self._connections = connections
        self._stopped = threading.Event()
        self.turned_away = threading.Event()
        """Set once the service has closed a connection because it accepts no more."""

    def run(self) -> None:
        with selectors.DefaultSelector() as held:
            while not self._stopped.is_set():
                if len(held.get_map()) < self._connections:
                    with contextlib.suppress(OSError):
                        held.register(socket.create_connection(("127.0.0.1", self._port), 30), selectors.EVENT_READ)
                for closed, _ in held.select(0.001):
                    self.turned_away.set()
                    held.unregister(closed.fileobj)
                    closed.fileobj.close()  # type: ignore[union-attr]  # a socket
            for key in list(held.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]  # a socket

    def stop(self) -> None:
        """Closes all connections."""
        self._stopped.set()
        self.join()


@contextlib.contextmanager
def hogging(stage: Stage, connections: int) -> Iterator[None]:
    """Enters the block once the service accepts no more connections."""
    hog = Hog(stage.ops_port, connections)
    hog.start()
    try:
        assert hog.turned_away.wait(60)
        yield
    finally:
        hog.stop()


@pytest.mark.gate
def test_with_all_descriptors_used_up_it_survives_and_delivers_afterwards(stage: Stage) -> None:
    stage.launcher = FEW_DESCRIPTORS
    service = stage.start_service()
    stage.launcher = ()
    stage.commit("db_0")
    wait_until(stage.requests)
    stage.sandbox.kill()  # which ends the connection that is kept open
    stage.sandbox.wait()
    with hogging(stage, 100):
        stage.commit("db_1")
        wait_until(lambda: service.poll() is not None or stage.query(USED_UP))
        assert service.poll() is None, service.log
    stage.start_sandbox("60/60s", port=stage.sandbox_url.rpartition(":")[2])
    wait_until(lambda: stage.received("db_1", 0))
    assert HTTP.get(f"http://127.0.0.1:{stage.ops_port}/livez").status_code == 200
    service.send_signal(signal.SIGTERM)
    assert service.wait(60) == 0, service.log


def test_it_answers_and_delivers_despite_a_crowd_of_silent_connections(stage: Stage) -> None:
    stage.launcher = ENOUGH_DESCRIPTORS
    stage.start_service()
    silent = [socket.create_connection(("127.0.0.1", stage.ops_port), 30) for _ in range(3 * MAX_CONNECTIONS)]
    try:
        assert HTTP.get(f"http://127.0.0.1:{stage.ops_port}/livez").status_code == 200
        assert stage.run("health").returncode == 0
        stage.commit("db_1")
        wait_until(stage.requests)
    finally:
        for one in silent:
            one.close()


def send(stage: Stage, request: bytes, after_the_answer: bytes = b"") -> None:
    """Sends a request, and waits until its connection is closed."""
    with socket.create_connection(("127.0.0.1", stage.ops_port), 30) as client, contextlib.suppress(ConnectionError):
        client.sendall(request)
        client.recv(65_536)
        client.sendall(after_the_answer)
        if after_the_answer:
            client.recv(1)


@pytest.mark.parametrize(
    ("request_", "after_the_answer", "event"),
    [
        (GARBAGE, b"", "Invalid HTTP request received"),
        (UPGRADE, b"", "Unsupported upgrade request"),
        (BROKEN_BODY, GARBAGE, "Fatal error on transport TCPTransport"),
    ],
    ids=["garbage", "upgrade", "broken body"],
)
def test_bad_requests_are_a_few_lines_and_their_sum(
    stage: Stage, request_: bytes, after_the_answer: bytes, event: str
) -> None:
    service = stage.start_service()
    for _ in range(REQUESTS):
        send(stage, request_, after_the_answer)
    service.send_signal(signal.SIGTERM)
    assert service.wait(60) == 0, service.log
    events = Counter(line["event"].partition("\n")[0].rstrip(".") for line in service.lines)
    sums = [line["more"] for line in service.lines if line["event"] == f"{event}: more of them"]
    assert sums
    assert events[event] <= MAX_LINES * (len(sums) + 1)
    assert events[event] + sum(sums) == REQUESTS


def test_without_a_port_it_still_delivers(stage: Stage) -> None:
    service = stage.start("run", DISPATCHER_OPS_PORT="off")
    started = wait_until(lambda: service.logged("started"))
    assert started["ops_port"] is None
    stage.commit("db_1")
    wait_until(stage.requests)
    service.send_signal(signal.SIGTERM)
    assert service.wait(60) == 0, service.log
    assert {line["logger"] for line in service.lines} == {"dispatcher"}
