import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.cli.conftest import Terminal


class Answer(BaseHTTPRequestHandler):
    """The answers of a service, stuck or not."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/livez" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a server that uses `Answer`."""
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(("status", "code", "text"), [(200, 0, "healthy\n"), (503, 4, "not healthy")])
def test_it_reports_the_answer_of_the_service(
    dispatcher: Terminal, port: int, monkeypatch: pytest.MonkeyPatch, status: int, code: int, text: str
) -> None:
    monkeypatch.setattr(Answer, "status", status)
    ended = dispatcher("health", ops_port=str(port))
    assert ended.code == code
    assert ended.out.startswith(text)


def test_where_nothing_answers_it_is_unhealthy(dispatcher: Terminal) -> None:
    ended = dispatcher("health", ops_port="1")
    assert (ended.code, ended.out) == (4, "")
    assert "nothing answers on 127.0.0.1 port 1" in ended.complaint


def test_without_a_port_the_error_gives_the_remedy(dispatcher: Terminal) -> None:
    ended = dispatcher("health", ops_port="off")
    assert (ended.code, ended.out) == (2, "")
    assert "DISPATCHER_OPS_PORT is off" in ended.complaint
    assert "set a port, or remove the health check" in ended.complaint
