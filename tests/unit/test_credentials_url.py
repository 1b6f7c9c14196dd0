"""Tokens from a service of the partner's own, over real connections."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from pydantic import SecretStr
from typing_extensions import override

from dispatcher.credentials.bearer_token import CredentialsUnavailable, NoCredential
from dispatcher.credentials.url import UrlCredentials
from dispatcher.transport import Network, open_general_transport
from tests.unit.raw_server import CANARY, DEADLINE_SECONDS, RawServer, answer, read_request

pytestmark = pytest.mark.usefixtures("nothing_in_the_environment")


@dataclass
class Service(RawServer):
    """Plays one of the answers to each request, the last again and again. `credentials` look up there, and `now` is their time."""

    answers: list[bytes]
    requests: list[str] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    now: float = 0.0

    @override
    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append((await read_request(reader)).decode())
        writer.write(self.answers[min(len(self.requests), len(self.answers)) - 1])
        await writer.drain()

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


@contextlib.asynccontextmanager
async def look_ups(
    *answers: bytes, path: str = "/tokens/{installation_id}", secret: str | None = CANARY
) -> AsyncIterator[tuple[UrlCredentials, Service]]:
    service = Service(list(answers))
    async with service.listening(None), looking_up(service, path, secret, timeout=3 * DEADLINE_SECONDS) as credentials:
        yield credentials, service


@contextlib.asynccontextmanager
async def looking_up(
    service: Service, path: str = "/tokens/{installation_id}", secret: str | None = CANARY, *, timeout: float
) -> AsyncIterator[UrlCredentials]:
    transport = open_general_transport(Network())
    credentials = UrlCredentials(
        transport,
        f"http://127.0.0.1:{service.port}{path}",
        None if secret is None else SecretStr(secret),
        timeout=timeout,
        ttl=60,
        clock=lambda: service.now,
        sleep=service.sleep,
    )
    yield credentials
    await credentials.aclose()
    await transport.aclose()


async def token_in(body: bytes) -> str:
    async with look_ups(answer("200 OK", body)) as (credentials, _):
        return (await credentials.token("icfg_1")).get_secret_value()


@pytest.mark.parametrize(
    "body",
    [
        b"t0ken",
        b" t0ken\r\n",
        b'"t0ken"',
        b'{"token": "t0ken"}',
        b'{"access_token": "t0ken", "token_type": "Bearer", "expires_in": 60}',
        b'{"token": "t0ken", "access_token": "other"}',
    ],
)
async def test_a_token_is_text_or_json(body: bytes) -> None:
    assert await token_in(body) == "t0ken"


async def test_a_token_of_digits_is_text() -> None:
    assert await token_in(b"0123456789") == "0123456789"
    assert await token_in(b"123e4") == "123e4"


@pytest.mark.parametrize("path", ["/tokens/{installation_id}", "/tokens?for={installation_id}&key=1"])
async def test_a_request_names_the_installation_and_proves_who_asks(path: str) -> None:
    async with look_ups(answer("200 OK", b"t0ken"), path=path) as (credentials, service):
        await credentials.token("icfg_1")
    (request,) = service.requests
    line, *headers = request.split("\r\n")
    assert line == f"GET {path.replace('{installation_id}', 'icfg_1')} HTTP/1.1"
    assert f"authorization: bearer {CANARY}".lower() in [header.lower() for header in headers]


async def test_without_a_secret_no_authorization_is_sent() -> None:
    async with look_ups(answer("200 OK", b"t0ken"), secret=None) as (credentials, service):
        await credentials.token("icfg_1")
    assert "authorization" not in service.requests[0].lower()


@pytest.mark.parametrize("installation_id", ["../icfg_2", "a?b", "icfg_1/x", "", "ü"])
async def test_a_malformed_id_is_never_sent(installation_id: str) -> None:
    async with look_ups(answer("200 OK", b"t0ken")) as (credentials, service):
        with pytest.raises(NoCredential):
            await credentials.token(installation_id)
    assert service.requests == []


@pytest.mark.parametrize(
    "reply", [answer("404 Not Found", b"<h1>no"), answer("200 OK", b"null"), answer("200 OK", b'{"token": null}')]
)
async def test_an_installation_without_a_token_is_told_at_once(reply: bytes) -> None:
    async with look_ups(reply) as (credentials, service):
        with pytest.raises(NoCredential, match="for icfg_1: store the installation's access token there"):
            await credentials.token("icfg_1")
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (answer("401 Unauthorized"), "answered 401: check DISPATCHER_CREDENTIALS_URL_TOKEN"),
        (answer("403 Forbidden"), "answered 403: check DISPATCHER_CREDENTIALS_URL_TOKEN"),
        (answer("400 Bad Request"), "answered 400: it must answer 200 with the token, or 404"),
        (answer("204 No Content"), "answered 204: it must answer 200 with the token, or 404"),
        (answer("302 Found", b"", "Location: https://login.test/"), "answered 302: redirects are never followed"),
        (answer("200 OK", b""), "is empty"),
        (answer("200 OK", b"{}"), "answered 200 without a token"),
        (answer("200 OK", b'["t0ken"]'), "answered 200 without a token"),
        (answer("200 OK", b"true"), "answered 200 without a token"),
        (answer("200 OK", b'{"token": {"value": "t0ken"}}'), "answered 200 without a token"),
        (answer("200 OK", b"<html> <body>log in"), "holds no bearer token"),
        (answer("200 OK", b'{"token": "two\\nlines"}'), "holds no bearer token"),
        (answer("200 OK", b"\xff\xfe\xfd"), "holds no bearer token"),
        (answer("200 OK", b"x" * 100_000), "holds no bearer token"),
    ],
)
async def test_an_unusable_answer_is_the_services_fault(reply: bytes, text: str) -> None:
    async with look_ups(reply) as (credentials, service):
        with pytest.raises(CredentialsUnavailable) as failed:
            await credentials.token("icfg_1")
    assert text in str(failed.value)
    assert "127.0.0.1" in str(failed.value)
    assert len(service.requests) == 1


@pytest.mark.parametrize("status", ["408 Request Timeout", "429 Too Many Requests", "500 No", "503 No"])
async def test_a_passing_failure_is_tried_again(status: str) -> None:
    async with look_ups(answer(status), answer("200 OK", b"t0ken")) as (credentials, service):
        assert (await credentials.token("icfg_1")).get_secret_value() == "t0ken"
    assert (len(service.requests), len(service.pauses)) == (2, 1)


async def test_a_service_that_stays_away_is_not_the_installations_fault() -> None:
    async with look_ups(answer("503 No")) as (credentials, service):
        with pytest.raises(CredentialsUnavailable, match=r"the token service failed 3 times: 127.0.0.1 answered 503"):
            await credentials.token("icfg_1")
        assert len(service.requests) == 3
    async with looking_up(service, timeout=3 * DEADLINE_SECONDS) as credentials:
        with pytest.raises(CredentialsUnavailable, match=r"failed 3 times: cannot connect to 127.0.0.1"):
            await credentials.token("icfg_1")


async def test_a_service_that_never_answers_is_not_the_installations_fault() -> None:
    class Silent(Service):
        @override
        async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.requests.append((await read_request(reader)).decode())
            await asyncio.sleep(3_600)

    service = Silent([])
    async with service.listening(None), looking_up(service, timeout=1.5) as credentials:
        with pytest.raises(CredentialsUnavailable, match=r"no answer from 127.0.0.1 within 0.5 s"):
            await credentials.token("icfg_1")


@pytest.mark.parametrize(
    ("body", "seconds"), [(b"t0ken", 60), (b'{"token": "t", "expires_in": 1000}', 940), (b'{"token": "t"}', 60)]
)
async def test_a_token_is_kept_as_long_as_it_is_good(body: bytes, seconds: float) -> None:
    async with look_ups(answer("200 OK", body)) as (credentials, service):
        await credentials.token("icfg_1")
        for now, requests in ((seconds - 0.1, 1), (seconds, 2)):
            service.now = now
            assert credentials.is_at_hand("icfg_1") is (requests == 1)
            await credentials.token("icfg_1")
            assert len(service.requests) == requests


async def test_a_refused_token_is_looked_up_again() -> None:
    async with look_ups(answer("200 OK", b"old"), answer("200 OK", b"new")) as (credentials, _):
        old = await credentials.token("icfg_1")
        assert (await credentials.token("icfg_1", refused=old)).get_secret_value() == "new"


@pytest.mark.parametrize(
    "reply",
    [
        f"Authorization: Bearer {CANARY}\r\n\r\n".encode(),
        answer(f"500 {CANARY}", CANARY.encode()),
        answer("403 No", f'{{"error": "{CANARY}"}}'.encode()),
        answer("302 Found", b"", f"Location: https://login.test/?{CANARY}"),
        answer("200 OK", f"two words {CANARY}".encode()),
    ],
)
async def test_an_echo_of_the_secret_is_shown_nowhere(reply: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with look_ups(reply) as (credentials, _):
        with pytest.raises(CredentialsUnavailable) as failed:
            await credentials.token("icfg_1")
        seen = f"{failed.value!r} {failed.value.__context__!r} {caplog.text} {credentials!r}"
    assert CANARY[:10] not in seen
    assert base64.b64encode(CANARY.encode()).decode()[:10] not in seen
