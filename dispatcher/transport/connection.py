"""One HTTP/1.1 connection in the event loop: sends a request, parses its answer with httptools, and is free for the next one."""

import asyncio
import select
from collections.abc import Callable
from functools import lru_cache
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from dispatcher.transport.exchange import Broken, Reply, Request

MAX_HEAD_BYTES = 65_536
"""The head of an answer may have this many bytes, interim answers (1xx) included."""
MAX_UNREAD_BYTES = 65_536
"""If more of a body follows than was to be read, the connection is closed: a new one is quicker."""


class Stale(Broken):
    """A connection that had served a request before was closed without a byte of an answer to this one."""


class Connection(asyncio.Protocol):
    """Sends one request at a time. Calls `on_free` with itself whenever another request may follow, and `on_close` when none may."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_free: Callable[["Connection"], None],
        on_close: Callable[["Connection"], None],
    ) -> None:
        self._loop = loop
        self._on_free = on_free
        self._on_close = on_close
        self._parser = HttpResponseParser(self)
        self._input = select.poll()
        self._answer: asyncio.Future[Reply] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._is_busy = False
        self._requests = 0
        self.is_closed = False
        self.free_since = 0.0
        """The loop's time at which its last answer ended."""

    @property
    def has_input(self) -> bool:
        """Whether something has arrived that the loop has not read yet. While the connection is free, that can only be its end."""
        return bool(self._input.poll(0))

    def send(self, message: bytes, request: Request, deadline: float) -> asyncio.Future[Reply]:
        """Sends `message`. The result is the answer, as soon as what `request` wants of it has arrived, or `deadline` (the loop's time).

        If no status has arrived, the exception is TimeoutError, Stale or Broken. If it is cancelled, the connection is closed.
        """
        self._reads_success, self._limit = request.read_success, request.limit
        self._wanted = _as_bytes(request.read_headers)
        self._status = self._arrived = self._unread = 0
        self._headers: dict[str, str] = {}
        self._body = b""
        self._deadline = deadline
        self._is_busy = True
        self._requests += 1
        self._answer = self._loop.create_future()
        self._answer.add_done_callback(self._close_if_cancelled)
        if self._timer is None or self._timer_at > deadline:
            self._set_timer()
        self._transport.write(message)
        return self._answer

    def close(self, reason: str) -> None:
        """Closes it. A request that waits for its answer gets what has arrived, or Broken with this reason."""
        self._end(Broken(reason))

    def _end(self, error: Exception) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        self._on_close(self)
        if self._answer is None or self._answer.done():
            return
        if self._status:
            self._give_answer()
        else:
            self._answer.set_exception(error)

    def _give_answer(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Reply(self._status, self._headers, self._body[: self._limit]))

    def _close_if_cancelled(self, answer: asyncio.Future[Reply]) -> None:
        if answer.cancelled():
            self.close("the request was cancelled")

    def _set_timer(self) -> None:
        """One timer serves many requests: one that comes too early is set again, which is cheaper than a timer for each."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._deadline
        self._timer = self._loop.call_at(self._deadline, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if not self._is_busy:
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        else:
            self._end(TimeoutError())

    # called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._input.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self.is_closed:
            return
        self._arrived += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.close(f"what the server sent is not the answer to a request in HTTP/1.1: {error}")
        if self._is_busy and not self._status and self._arrived > MAX_HEAD_BYTES:
            self.close(f"the head of the answer is longer than {MAX_HEAD_BYTES:,} bytes")

    def connection_lost(self, error: Exception | None) -> None:
        reason = str(error) if error else "the server closed the connection before it answered"
        self._end(Stale(reason) if self._requests > 1 and not self._arrived else Broken(reason))

    # called by the parser

    def on_message_begin(self) -> None:
        if not self._is_busy:
            raise HttpParserError("an answer without a request")

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in self._wanted:
            self._headers[name.decode("ascii")] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # an interim answer; the final one follows
            self._headers = {}
            return
        self._status = status
        if 200 <= status < 300 and not self._reads_success:
            self._give_answer()

    def on_body(self, part: bytes) -> None:
        self._unread += len(part)
        if len(self._body) < self._limit:
            self._body += part
        if len(self._body) >= self._limit:
            self._give_answer()
        if self._unread > self._limit + MAX_UNREAD_BYTES:
            self.close("the body of the answer is too long")

    def on_message_complete(self) -> None:
        if not self._status:
            return
        self._give_answer()
        self._is_busy = False
        if self._parser.should_keep_alive() and not self._transport.get_write_buffer_size():
            self.free_since = self._loop.time()
            self._on_free(self)
        else:
            self.close("the server ends the connection")


@lru_cache(maxsize=16)
def _as_bytes(names: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset(name.encode("ascii") for name in names)
