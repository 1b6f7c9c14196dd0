"""Both transports against real sockets: whatever a server does, each request ends in time with one outcome."""

import asyncio
import gc
import gzip
import logging
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from dispatcher.policy.outcome import OutcomeKind
from dispatcher.transport import (
    Network,
    NotConnected,
    Request,
    Transport,
    TransportFailed,
    get,
    open_transport,
    post_form,
)
from dispatcher.transport.http1 import IDLE_SECONDS, Http1Transport
from dispatcher.transport.portable import PortableTransport
from dispatcher.vercel.client import Vercel
from tests.unit.raw_server import BODY, CANARY, DEADLINE_SECONDS, DELIVERED, Step, answer, certified, running, send

MEGABYTE = 1_000_000
ENDLESS = 3_600.0

# The portable transport sometimes leaves a closed socket to the garbage collector: see CHANGELOG, known defects.
pytestmark = [
    pytest.mark.usefixtures("leftover_sockets"),
    pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning", "default::ResourceWarning"),
]


WITHOUT_DESCRIPTORS = """
import contextlib, os, resource, uvloop
from dispatcher.transport import Network, Request
from dispatcher.transport.http1 import Http1Transport

async def send():
    transport = Http1Transport(Network())
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with contextlib.suppress(OSError):
        while True:
            os.dup(0)
    try:
        await transport.exchange(Request("http://127.0.0.1:9", {}, b"", timeout=60, limit=0))
    except Exception as error:
        print(type(error).__name__, error)

uvloop.run(send())
"""


@pytest.fixture(params=[Http1Transport, PortableTransport], ids=["http1", "portable"])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[Transport]:
    opened = request.param(Network())
    yield opened
    await opened.aclose()


@pytest.fixture
async def http1() -> AsyncIterator[Http1Transport]:
    """What is true of the client to Vercel only."""
    opened = Http1Transport(Network())
    yield opened
    await opened.aclose()


async def test_what_goes_over_the_wire(transport: Transport) -> None:
    async with running(DELIVERED) as server:
        outcome = await send(transport, f"{server.url}/api")
    assert outcome.kind is OutcomeKind.DELIVERED
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    request_line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert request_line == "POST /api/v1/installations/icfg_1/events HTTP/1.1"
    assert body == BODY
    assert headers["authorization"] == f"Bearer {CANARY}"
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(BODY))
    assert headers["host"] == f"127.0.0.1:{server.port}"
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"].startswith("vercel-outbox-dispatcher")
    assert len(headers) == len(lines), "a header was sent twice"


async def test_headers_of_a_success_are_read(transport: Transport) -> None:
    reply = answer(
        "201 Created",
        b"",
        "X-Vercel-Id: iad1::abc",
        "X-RateLimit-Remaining: 7",
        "X-RateLimit-Reset: 1795521630",
        "Date: Tue, 24 Nov 2026 12:00:00 GMT",
    )
    async with running(reply) as server:
        outcome = await send(transport, server.url)
    assert (outcome.vercel_id, outcome.rate_remaining, outcome.rate_reset) == ("iad1::abc", 7, 30.0)
    assert outcome.retry_after is None


async def test_only_the_headers_that_a_request_names_are_read(transport: Transport) -> None:
    async with running(answer("201 Created", b"", "X-One: 1", "X-Two: 2"), keep_alive=True) as server:
        for names, headers in (((), {}), (("x-two", "x-three"), {"x-two": "2"})):
            request = Request(server.url, {}, b"", timeout=DEADLINE_SECONDS, limit=0, read_headers=names)
            assert (await transport.exchange(request)).headers == headers


FAULTS: dict[str, tuple[list[Step], OutcomeKind, int | None]] = {
    "hang": ([ENDLESS], OutcomeKind.TIMEOUT, None),
    "drip head": (
        [b"HTTP/1.1 201 C\r\nX: ", *(step for _ in range(10_000) for step in (b"a", 0.1))],
        OutcomeKind.TIMEOUT,
        None,
    ),
    "cut at once": ([], OutcomeKind.UNREACHABLE, None),
    "cut in the head": ([b"HTTP/1.1 201 Crea"], OutcomeKind.UNREACHABLE, None),
    "garbage": ([b"\x00\xff\xfe garbage\r\n\r\n"], OutcomeKind.UNREACHABLE, None),
    "another protocol": ([b"220 mail.example ESMTP\r\n"], OutcomeKind.UNREACHABLE, None),
    "status 99": ([answer("099 Odd")], OutcomeKind.UNREACHABLE, None),
    "status 999": ([answer("999 Odd")], OutcomeKind.UNREACHABLE, 999),
    "status 2010": ([answer("2010 Odd")], OutcomeKind.UNREACHABLE, None),
    "interim answer first": ([b"HTTP/1.1 103 Hints\r\n\r\n", DELIVERED], OutcomeKind.DELIVERED, 201),
    "negative length": ([b"HTTP/1.1 400 Bad\r\nContent-Length: -5\r\n\r\n{}"], OutcomeKind.UNREACHABLE, None),
    "endless head": ([b"HTTP/1.1 201 C\r\nX: " + b"a" * MEGABYTE, b"\r\n\r\n"], OutcomeKind.UNREACHABLE, None),
    "header beyond ASCII": (
        [b"HTTP/1.1 201 C\r\nX-Vercel-Id: \xe9\xff\r\nContent-Length: 0\r\n\r\n"],
        OutcomeKind.DELIVERED,
        201,
    ),
    "success whose body hangs": ([b"HTTP/1.1 201 C\r\nContent-Length: 9\r\n\r\n", ENDLESS], OutcomeKind.DELIVERED, 201),
    "success whose body is cut": ([b"HTTP/1.1 201 C\r\nContent-Length: 9\r\n\r\nabc"], OutcomeKind.DELIVERED, 201),
    "refusal whose body hangs": ([b"HTTP/1.1 400 B\r\nContent-Length: 9\r\n\r\n{", ENDLESS], OutcomeKind.REJECTED, 400),
    "refusal whose body drips": (
        [b"HTTP/1.1 400 B\r\nContent-Length: 9999\r\n\r\n", *(step for _ in range(9_999) for step in (b"x", 0.1))],
        OutcomeKind.REJECTED,
        400,
    ),
    "refusal whose body is cut": ([b"HTTP/1.1 503 B\r\nContent-Length: 99\r\n\r\n{"], OutcomeKind.FAILED, 503),
    "broken chunks": ([b"HTTP/1.1 500 B\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"], OutcomeKind.FAILED, 500),
}


TIMEOUTS = {"hang": 0.6, "drip head": 0.6, "refusal whose body hangs": 2.0, "refusal whose body drips": 2.0}
"""For the faults that last until the deadline of the request. By then the head of a refusal must have arrived, even on a busy machine."""


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_fault_is_one_outcome_in_time(transport: Transport, fault: str) -> None:
    steps, kind, status = FAULTS[fault]
    async with running(*steps) as server:
        async with asyncio.timeout(DEADLINE_SECONDS):
            outcome = await send(transport, server.url, timeout=TIMEOUTS.get(fault, 2 * DEADLINE_SECONDS))
        assert (outcome.kind, outcome.status) == (kind, status), outcome
        assert (outcome.error is None) == (kind is OutcomeKind.DELIVERED)
        await check_usable(transport)
    assert len(server.requests) == 1, "a hidden repetition"


async def check_usable(transport: Transport) -> None:
    """Asserts that the transport still delivers."""
    async with running(DELIVERED) as server:
        assert (await send(transport, server.url)).kind is OutcomeKind.DELIVERED


async def test_a_message_is_kept_although_its_body_is_cut_short(transport: Transport) -> None:
    body = b'{"error":{"code":"bad_request","message":"no such field"}}'
    reply = b"HTTP/1.1 400 Bad\r\nContent-Length: 500\r\n\r\n" + body
    async with running(reply) as server:
        outcome = await send(transport, server.url)
    assert (outcome.error_code, outcome.error) == ("bad_request", "no such field")


async def test_of_a_huge_body_only_the_beginning_is_taken(transport: Transport) -> None:
    chunks = [b"x" * MEGABYTE] * 100
    async with running(b"HTTP/1.1 400 Bad\r\nContent-Length: 100000000\r\n\r\n", *chunks) as server:
        outcome = await send(transport, server.url)
        assert outcome.kind is OutcomeKind.REJECTED
        assert outcome.error is not None
        assert len(outcome.error) <= 2_000
        assert server.bytes_sent < 30 * MEGABYTE  # the capacity of the buffers of two sockets


async def test_nothing_of_the_body_of_a_success_is_waited_for(transport: Transport) -> None:
    chunks = [b"x" * MEGABYTE] * 100
    async with running(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n", *chunks) as server:
        outcome = await send(transport, server.url)
        assert outcome.kind is OutcomeKind.DELIVERED
        assert server.bytes_sent < 30 * MEGABYTE


async def test_a_compressed_bomb_stays_small(transport: Transport) -> None:
    bomb = gzip.compress(b'{"error":{"message":"' + b"boom " * 10 * MEGABYTE + b'"}}')
    async with running(answer("502 Bad Gateway", bomb, "Content-Encoding: gzip")) as server:
        outcome = await send(transport, server.url)
    assert outcome.kind is OutcomeKind.FAILED
    assert outcome.error is not None
    assert len(outcome.error) <= 2_000


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
async def test_a_redirect_takes_the_credential_nowhere(transport: Transport, status: str) -> None:
    async with running(DELIVERED) as elsewhere:
        async with running(answer(status, b"", f"Location: {elsewhere.url}/stolen")) as server:
            outcome = await send(transport, server.url)
        assert elsewhere.connections == 0
    assert outcome.kind is OutcomeKind.REJECTED
    assert outcome.error is not None
    assert "DISPATCHER_VERCEL_BASE_URL" in outcome.error
    assert server.url in outcome.error


async def test_an_untrusted_certificate_is_refused_before_anything_is_sent(transport: Transport) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    async with running(DELIVERED, tls=tls) as server:
        outcome = await send(transport, server.url)
    assert outcome.kind is OutcomeKind.UNREACHABLE
    assert outcome.error is not None
    assert "certificate" in outcome.error
    assert server.requests == []


async def test_plain_http_behind_an_https_address(transport: Transport) -> None:
    async with running(DELIVERED) as server:
        outcome = await send(transport, f"https://127.0.0.1:{server.port}", timeout=1)
    assert outcome.kind in (OutcomeKind.UNREACHABLE, OutcomeKind.TIMEOUT)
    assert server.requests == []
    gc.collect()  # collects a leftover socket here, where that is not a failure


async def test_a_closed_port_is_named(transport: Transport) -> None:
    async with running() as server:
        pass
    outcome = await send(transport, server.url)
    assert outcome.kind is OutcomeKind.UNREACHABLE
    assert outcome.error is not None
    assert outcome.error.startswith("cannot connect to 127.0.0.1")


async def test_a_host_without_an_address(transport: Transport) -> None:
    outcome = await send(transport, "http://nowhere.invalid", timeout=2)
    assert outcome.kind in (OutcomeKind.UNREACHABLE, OutcomeKind.TIMEOUT)
    assert outcome.error is not None
    assert "nowhere.invalid" in outcome.error


async def test_500_sends_in_a_row_use_one_connection(transport: Transport) -> None:
    async with running(DELIVERED, keep_alive=True) as server:
        vercel = Vercel(server.url, transport, DEADLINE_SECONDS)
        kinds = {(await vercel.send("icfg_1", BODY, SecretStr(CANARY))).kind for _ in range(500)}
    assert kinds == {OutcomeKind.DELIVERED}
    assert (server.connections, len(server.requests)) == (1, 500)


async def test_a_body_of_a_success_does_not_cost_the_connection(http1: Http1Transport) -> None:
    async with running(answer("201 Created", b'{"ok":true}'), keep_alive=True) as server:
        for _ in range(50):
            assert (await send(http1, server.url)).kind is OutcomeKind.DELIVERED
        assert server.connections == 1


async def test_many_at_once_use_no_more_connections_than_requests_in_flight(transport: Transport) -> None:
    async with running(0.01, DELIVERED, keep_alive=True) as server:
        for _ in range(5):
            outcomes = await asyncio.gather(*(send(transport, server.url) for _ in range(16)))
            assert {outcome.kind for outcome in outcomes} == {OutcomeKind.DELIVERED}
        assert server.connections <= 16


async def test_a_line_that_the_server_closed_is_not_used_again(transport: Transport) -> None:
    async with running(answer("201 Created", b"", "Connection: close")) as server:
        for _ in range(3):
            assert (await send(transport, server.url)).kind is OutcomeKind.DELIVERED
        assert server.connections == 3


async def test_cancelling_passes_and_leaves_the_transport_usable(transport: Transport) -> None:
    async with running(ENDLESS) as server:
        sending = asyncio.create_task(send(transport, server.url))
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not server.requests:
                await asyncio.sleep(0.005)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
    await check_usable(transport)


async def test_closing_it_under_a_request_is_an_outcome(http1: Http1Transport) -> None:
    async with running(ENDLESS) as server:
        sending = asyncio.create_task(send(http1, server.url))
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not server.requests:
                await asyncio.sleep(0.005)
        await http1.aclose()
        assert (await sending).kind is OutcomeKind.UNREACHABLE


ECHOES: dict[str, Callable[[str], list[Step]]] = {
    "message": lambda token: [answer("401 No", f'{{"error":{{"message":"bad token {token}"}}}}'.encode())],
    "code": lambda token: [answer("403 No", f'{{"error":{{"code":"{token}","message":"no"}}}}'.encode())],
    "page": lambda token: [answer("502 No", f"<html><title>{token}</title><body>Bearer {token}".encode())],
    "header": lambda token: [answer("201 Created", b"", f"X-Vercel-Id: {token}")],
    "location": lambda token: [answer("307 Moved", b"", f"Location: http://x.invalid/?t={token}")],
    "at the limit": lambda token: [answer("500 No", b"e" * (8_192 - len(token) + 3) + token.encode())],
    "garbage": lambda token: [f"Authorization: Bearer {token}\r\n\r\n".encode()],
}


@pytest.mark.parametrize("where", [*ECHOES, *FAULTS])
async def test_the_credential_turns_up_nowhere(
    transport: Transport, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    steps = ECHOES[where](CANARY) if where in ECHOES else FAULTS[where][0]
    async with running(*steps) as server:
        outcome = await send(transport, server.url, timeout=0.3)
    seen = f"{outcome!r} {caplog.text} {[record.args for record in caplog.records]} {transport!r}"
    assert CANARY not in seen
    assert CANARY[:10] not in seen


async def test_a_form_is_posted(transport: Transport) -> None:
    async with running(answer("200 OK", b'{"access_token":"t"}')) as server:
        got = await post_form(
            transport, f"{server.url}/token", {"a": "1 &", "ü": "2"}, timeout=DEADLINE_SECONDS, limit=10
        )
    assert got == (200, b'{"access_t')
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /token HTTP/1.1")
    assert b"application/x-www-form-urlencoded" in head
    assert body == b"a=1+%26&%C3%BC=2"


async def test_a_get_has_headers_and_no_body(transport: Transport) -> None:
    async with running(answer("404 Not Found", b"no such token")) as server:
        got = await get(transport, f"{server.url}/a?b=1", {"x-one": "1"}, timeout=DEADLINE_SECONDS, limit=7)
    assert got == (404, b"no such")
    head, _, body = server.requests[0].decode().partition("\r\n\r\n")
    line, *headers = head.lower().split("\r\n")
    assert (line, body) == ("get /a?b=1 http/1.1", "")
    assert "x-one: 1" in headers


@pytest.mark.parametrize(
    ("steps", "timeout", "message"),
    [([ENDLESS], 0.2, "no answer from 127.0.0.1 within 0.2 s"), ([], DEADLINE_SECONDS, "127.0.0.1 broke")],
)
async def test_a_form_without_an_answer(transport: Transport, steps: list[Step], timeout: float, message: str) -> None:
    async with running(*steps) as server:
        with pytest.raises(TransportFailed, match=message) as failed:
            await post_form(transport, server.url, {"client_secret": CANARY}, timeout=timeout, limit=10)
    assert failed.value.__cause__ is None
    assert failed.value.__suppress_context__
    assert CANARY not in str(failed.value)


def test_without_a_free_descriptor_there_is_no_connection_but_a_process() -> None:
    command = [sys.executable, "-c", WITHOUT_DESCRIPTORS]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("NotConnected ")
    assert "Too many open files" in done.stdout


# the client to Vercel: connections that are used again

TWO_ANSWERS = DELIVERED + b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "surplus",
    [TWO_ANSWERS, DELIVERED + b"x", DELIVERED + b"\r\n\r\nx", DELIVERED + DELIVERED],
    ids=["two answers", "a byte", "lines", "the same twice"],
)
async def test_what_follows_an_answer_is_never_taken_for_the_next(http1: Http1Transport, surplus: bytes) -> None:
    """Otherwise a request would count as answered that the server has not even read: its change would be lost."""
    async with running(surplus, keep_alive=True) as server:
        for _ in range(3):
            assert (await send(http1, server.url)).status == 201
        assert server.connections == len(server.requests) == 3


@pytest.mark.parametrize("unasked", [b"HTTP/1.1 201 C\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 408 R\r\n\r\n", b"x"])
async def test_an_answer_before_its_request_is_not_an_answer(http1: Http1Transport, unasked: bytes) -> None:
    """It comes while the connection is free, and is there when the next request takes the connection."""
    async with running(DELIVERED, keep_alive=True) as server:
        assert (await send(http1, server.url)).status == 201
        await server.say(unasked)
        assert (await send(http1, server.url)).status == 201
        assert server.connections == len(server.requests) == 2


async def test_a_connection_that_was_closed_while_free_is_replaced(http1: Http1Transport) -> None:
    async with running(DELIVERED, keep_alive=True) as server:
        assert (await send(http1, server.url)).status == 201
        await server.hang_up()
        assert (await send(http1, server.url)).status == 201
        assert server.connections == len(server.requests) == 2


async def test_a_request_that_meets_the_end_of_its_connection_is_sent_again_once() -> None:
    """The server closes the connection when the second request comes, without a byte of an answer, and each new one, too."""
    http1 = Http1Transport(Network())
    async with running(DELIVERED, keep_alive=True, answered=1) as server:
        assert (await send(http1, server.url)).status == 201
        outcome = await send(http1, server.url)
        assert (outcome.kind, outcome.status) == (OutcomeKind.DELIVERED, 201)
        assert (server.connections, len(server.requests)) == (2, 3)
        server.answered = 0
        outcome = await send(http1, server.url)
        assert outcome.kind is OutcomeKind.UNREACHABLE
        assert (server.connections, len(server.requests)) == (3, 5)  # on the old one, and once more on a new one
    await http1.aclose()


async def test_a_request_is_not_sent_again_once_a_byte_of_its_answer_has_come(http1: Http1Transport) -> None:
    async with running(DELIVERED, keep_alive=True) as server:
        assert (await send(http1, server.url)).status == 201
        server.answer, server.keep_alive = [b"HTTP/1.1 20"], False
        assert (await send(http1, server.url)).kind is OutcomeKind.UNREACHABLE
        assert len(server.requests) == 2


async def test_a_connection_serves_the_next_request_only_after_the_end_of_its_answer(http1: Http1Transport) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
    async with running(head + b"a", 0.05, b"bcd", keep_alive=True) as server:
        assert (await send(http1, server.url)).status == 200  # the body need not be waited for
        assert (await send(http1, server.url)).status == 200
        assert server.connections == 2
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(next(iter(http1._servers.values())).free) < 2:
                await asyncio.sleep(0.005)
        assert (await send(http1, server.url)).status == 200
        assert server.connections == 2


async def test_of_several_requests_on_one_connection_each_has_its_own_deadline(http1: Http1Transport) -> None:
    async with running(DELIVERED, keep_alive=True) as server:
        assert (await send(http1, server.url, timeout=DEADLINE_SECONDS)).status == 201
        server.answer = [ENDLESS]
        outcome = await send(http1, server.url, timeout=0.1)
        assert outcome.kind is OutcomeKind.TIMEOUT
        server.answer = [DELIVERED]
        assert (await send(http1, server.url, timeout=0.1)).status == 201
        server.answer = [0.3, DELIVERED]
        assert (await send(http1, server.url)).status == 201  # although the timer of the request before fires meanwhile
        assert server.connections == 2


async def test_connections_that_are_not_used_are_closed(http1: Http1Transport) -> None:
    async with running(DELIVERED, keep_alive=True) as server:
        await asyncio.gather(*(send(http1, server.url) for _ in range(3)))
        (known,) = http1._servers.values()
        used, *unused = known.free
        for one in unused:
            one.free_since -= IDLE_SECONDS
        http1._close_idle()
        assert known.free == [used]
        assert [one.is_closed for one in unused] == [True, True]
        used.free_since -= IDLE_SECONDS
        http1._close_idle()
        assert not http1._connections


@pytest.mark.parametrize(
    ("reply", "status", "error"),
    [
        (b"HTTP/1.1 500 Oh\r\n\r\nuntil the end", 500, "until the end"),
        (b"HTTP/1.0 503 Oh\r\nContent-Length: 3\r\n\r\nold", 503, "old"),
        (b"HTTP/1.1 400 Oh\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 400, "abcde"),
        (b"HTTP/1.1 204 None\r\n\r\n", 204, None),
    ],
    ids=["until the end", "HTTP/1.0", "chunked", "without a body"],
)
async def test_every_kind_of_body_is_read(http1: Http1Transport, reply: bytes, status: int, error: str | None) -> None:
    async with running(reply) as server:
        outcome = await send(http1, server.url)
    assert (outcome.status, outcome.error) == (status, error)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 103 Hints\r\n\r\n" * 10_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\nX : y\n\n",
        b"HTTP/2 200 OK\r\n\r\n",
    ],
    ids=["another protocol", "endless interim answers", "two lengths", "length and chunks", "a space", "HTTP/2"],
)
async def test_an_answer_that_is_not_clearly_one_is_none(http1: Http1Transport, reply: bytes) -> None:
    async with running(reply) as server:
        outcome = await send(http1, server.url)
        assert (outcome.kind, outcome.status) == (OutcomeKind.UNREACHABLE, None)
        await check_usable(http1)


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("http://127.0.0.1:{}/a b", {}),
        ("http://127.0.0.1:{}/a\r\nx: y", {}),
        ("http://127.0.0.1:{}/ü", {}),
        ("ftp://127.0.0.1:{}/", {}),
        ("http://127.0.0.1:99999/", {}),
        ("http://127.0.0.1:{}/", {"x": "a\r\ny: b"}),
        ("http://127.0.0.1:{}/", {"x": "a\nb"}),
        ("http://127.0.0.1:{}/", {"x": "ü"}),
    ],
)
async def test_what_cannot_be_a_request_is_not_sent(http1: Http1Transport, url: str, headers: dict[str, str]) -> None:
    async with running(DELIVERED) as server:
        request = Request(url.format(server.port), headers, b"", timeout=DEADLINE_SECONDS, limit=0)
        with pytest.raises(NotConnected):
            await http1.exchange(request)
        assert server.requests == []


async def test_over_tls_a_connection_is_used_again(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    http1 = Http1Transport(Network(str(tmp_path / "ca.pem")))
    async with running(DELIVERED, keep_alive=True, tls=certified(authority)) as server:
        for _ in range(50):
            assert (await send(http1, server.url)).status == 201
        assert server.connections == 1
        await server.hang_up()
        assert (await send(http1, server.url)).status == 201
        assert (server.connections, len(server.requests)) == (2, 51)
    await http1.aclose()


def test_only_a_proxy_takes_another_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    through = Network(trust_env_proxy=True)
    assert isinstance(open_transport(Network(), "https://api.vercel.com"), Http1Transport)
    assert isinstance(open_transport(through, "http://127.0.0.1"), Http1Transport)
    assert isinstance(open_transport(through, "https://api.vercel.com"), PortableTransport)
