"""The receiver in Vercel's place: it reads the resource from the partner's database before it answers."""

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from tests.clusters.session import DriverError, Session

Behaviour = Callable[[], int | None]
"""Returns the status to answer with at once, or None to go on."""

PATIENCE_SECONDS = 1.5
"""Less than the dispatchers' `REQUEST_TIMEOUT`: after this time an acceptance could come too late for them."""


class Request(NamedTuple):
    """A request that was answered with 201."""

    resource: str
    arrived_at: float
    """In epoch seconds, before the resource was read."""
    mark: int
    """What the database held."""
    announced: int
    """The mark of the newest event that the request announces."""


class Receiver:
    """Listens on a port of its own. A share of the requests is answered badly, or not at all."""

    def __init__(self, sessions: Sequence[Session], fault_share: float) -> None:
        self._sessions = sessions
        self._fault_share = fault_share
        self._random = random.Random(0)  # noqa: S311 (test data)
        self.behaviour: Behaviour | None = None
        """What it does instead, for a while."""
        self.accepted: list[Request] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                arrived = time.time()
                event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["event"]
                status = receiver.receive(event["resourceId"], int(event["productId"]), arrived)
                if status is None:
                    self.close_connection = True  # no answer at all
                    return
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # a dispatcher that was killed

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def receive(self, resource: str, announced: int, arrived: float) -> int | None:
        """Returns the status to answer with, or None for no answer."""
        if self.behaviour is not None and (status := self.behaviour()) is not None:
            return status
        fault = self._random.random() < self._fault_share
        kind = self._random.choice((500, 503, None))
        mark = None if fault and kind == 503 else self._read(resource)
        if fault or mark is None or time.time() > arrived + PATIENCE_SECONDS:
            return kind if fault else 503
        self.accepted.append(Request(resource, arrived, mark, announced))
        return 201

    def _read(self, resource: str) -> int | None:
        """Returns the resource's mark from the first database that answers, or None."""
        for session in self._sessions:
            with suppress(*DriverError), session.transaction() as cursor:
                cursor.execute("SELECT mark FROM partner_resource WHERE resource = %s", (resource,))
                return int(cursor.fetchone()[0])
        return None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for session in self._sessions:
            session.close()
