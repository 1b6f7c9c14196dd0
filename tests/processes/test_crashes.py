"""Services that are killed or frozen at the worst moment: the law holds, on every database."""

import contextlib
import json
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.processes.conftest import Running, Stage, on_every_database, wait_until

pytestmark = [pytest.mark.gate, on_every_database]


class TokenServer:
    """An OAuth token endpoint that keeps a service waiting between claim and send."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._asking = contextlib.ExitStack()

    @property
    def settings(self) -> dict[str, str]:
        """The settings of a service that uses this endpoint."""
        return {
            "DISPATCHER_OAUTH_TOKEN_URL": f"http://127.0.0.1:{self._listening.getsockname()[1]}",
            "DISPATCHER_OAUTH_CLIENT_ID": "partner",
            "DISPATCHER_OAUTH_CLIENT_SECRET": "s3cret",
        }

    def asked(self) -> socket.socket:
        """Waits for the service's request; returns its connection."""
        connection = self._asking.enter_context(self._listening.accept()[0])
        connection.settimeout(60)
        connection.recv(65_536)
        return connection

    def close(self) -> None:
        """Closes the accepted connections."""
        self._asking.close()


@pytest.fixture
def token_server() -> Iterator[TokenServer]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        server = TokenServer(listening)
        yield server
        server.close()


def answer(connection: socket.socket) -> None:
    body = json.dumps({"access_token": "t0ken-that-comes-late", "token_type": "bearer", "expires_in": 3600})
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall((head + body).encode())


def waiting_for_its_token(stage: Stage, token_server: TokenServer, **environment: str) -> tuple[Running, socket.socket]:
    """Starts a service, and waits until it has committed its lease but not begun the request."""
    token = stage.environment.pop("DISPATCHER_VERCEL_TOKEN")
    service = stage.start_service(**token_server.settings, **environment)
    stage.environment["DISPATCHER_VERCEL_TOKEN"] = token
    stage.commit("db_1")
    asking = token_server.asked()
    assert stage.leased
    return service, asking


@contextlib.contextmanager
def unsettled_answer(stage: Stage) -> Iterator[Running]:
    """Yields a service that has Vercel's answer, but cannot settle it within the block."""
    service = stage.start_service()
    stage.sandbox.freeze()
    stage.commit("db_1")
    wait_until(lambda: stage.leased)
    with stage.blocked():
        stage.sandbox.thaw()
        wait_until(lambda: stage.metric('dispatcher_requests_total{outcome="delivered"} 1.0'))
        yield service


def kill(service: Running) -> None:
    service.send_signal(signal.SIGKILL)
    service.wait()


@pytest.mark.varies
def test_killed_between_claim_and_send_nothing_is_lost(stage: Stage, token_server: TokenServer) -> None:
    service, _asking = waiting_for_its_token(stage, token_server)
    kill(service)
    assert stage.requests(None) + stage.requests() == []
    assert stage.count("vercel_delivery") == 1
    at = stage.commit("db_1")
    stage.expire_leases()
    stage.start_service()
    wait_until(lambda: stage.received("db_1", at))
    wait_until(lambda: stage.count("vercel_delivery") == 0)


def test_killed_between_answer_and_settle_the_event_is_sent_again(stage: Stage) -> None:
    with unsettled_answer(stage) as service:
        kill(service)
    assert (stage.count("vercel_delivery"), stage.count("vercel_attempt")) == (1, 0)
    at = stage.commit("db_1")
    stage.expire_leases()
    stage.start_service()
    wait_until(lambda: stage.count("vercel_delivery") + stage.count("vercel_outbox") == 0)
    assert stage.received("db_1", at)
    assert stage.query("SELECT attempt, outcome FROM vercel_attempt") == [(1, "delivered")]


def test_an_event_that_was_committed_while_no_service_ran_is_delivered_by_the_next(stage: Stage) -> None:
    stage.script(cut="after", times=1)
    service = stage.start_service()
    stage.commit("db_1")
    wait_until(stage.requests)  # Vercel has the event, the service has no answer
    kill(service)
    at = stage.commit("db_1")
    stage.expire_leases()
    stage.start_service()
    wait_until(lambda: stage.count("vercel_delivery") + stage.count("vercel_outbox") == 0)
    assert stage.received("db_1", at)


def test_frozen_between_claim_and_send_it_starts_no_request_if_it_wakes_too_late(
    stage: Stage, token_server: TokenServer
) -> None:
    brief = {"DISPATCHER_LEASE": "5s", "DISPATCHER_REQUEST_TIMEOUT": "3s"}
    sleeper, asking = waiting_for_its_token(stage, token_server, **brief)
    stage.freeze(sleeper)
    stage.start("run")  # it waits for the lease to end
    wait_until(lambda: stage.count("vercel_delivery") == 0)
    at = stage.commit("db_1")
    wait_until(lambda: stage.received("db_1", at))
    sent = len(stage.requests())
    answer(asking)
    sleeper.thaw()
    wait_until(lambda: stage.metric("dispatcher_lease_lost_total 1.0"))
    assert {one["token"] for one in stage.requests()} == {stage.requests()[0]["token"]}
    assert len(stage.requests()) == sent
    assert stage.count("vercel_dead_letter") == 0


def test_frozen_between_answer_and_settle_it_changes_nothing_and_counts_it(stage: Stage) -> None:
    with unsettled_answer(stage) as sleeper:
        sleeper.freeze()
    stage.expire_leases()
    stage.commit("db_1")  # neither the answer nor the lease covers this event
    other = stage.start("run")
    wait_until(lambda: stage.count("vercel_delivery") + stage.count("vercel_outbox") == 0)
    stage.sandbox.freeze()
    at = stage.commit("db_1")
    wait_until(lambda: stage.leased and stage.count("vercel_delivery"))
    before = stage.query("SELECT events FROM vercel_delivery")
    sleeper.thaw()
    wait_until(lambda: stage.metric("dispatcher_lease_lost_total 1.0"))
    assert stage.query("SELECT events FROM vercel_delivery") == before
    stage.sandbox.thaw()
    wait_until(lambda: stage.received("db_1", at))
    wait_until(lambda: stage.count("vercel_delivery") == 0)
    assert stage.count("vercel_dead_letter") == 0
    for service in (sleeper, other):
        service.send_signal(signal.SIGTERM)
        assert service.wait(60) == 0
