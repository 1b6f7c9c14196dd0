"""Both transports against real servers: private certificate authorities, proxies and their passwords."""

import base64
import logging
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import trustme

from dispatcher.inspection.checks.network import check_network
from dispatcher.policy.outcome import OutcomeKind
from dispatcher.settings.settings import Settings
from dispatcher.transport import Network, Transport, UnusableNetwork, open_transport, post_form
from dispatcher.transport.portable import PortableTransport
from tests.conftest import not_tested
from tests.unit.raw_server import (
    DEADLINE_SECONDS,
    DELIVERED,
    LOGIN,
    PROXY_CANARY,
    QUOTED_LOGIN,
    answer,
    certified,
    proxying,
    running,
    send,
)

# The portable transport sometimes leaves a closed socket to the garbage collector: see CHANGELOG, known defects.
pytestmark = [
    pytest.mark.usefixtures("nothing_in_the_environment", "leftover_sockets"),
    pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning", "default::ResourceWarning"),
]

Opening = Callable[[Network, str], Transport]


@pytest.fixture(params=["to Vercel", "general"])
def opening(request: pytest.FixtureRequest) -> Opening:
    """Opens a transport."""
    return open_transport if request.param == "to Vercel" else lambda network, _url: PortableTransport(network)


@asynccontextmanager
async def opened(opening: Opening, network: Network, url: str = "https://127.0.0.1") -> AsyncIterator[Transport]:
    transport = opening(network, url)
    yield transport
    await transport.aclose()


async def test_a_private_authority_is_trusted_if_a_file_names_it(
    opening: Opening, authority: trustme.CA, ca_file: str
) -> None:
    async with running(DELIVERED, tls=certified(authority)) as server:
        async with opened(opening, Network()) as transport:
            refused = await send(transport, server.url)
        async with opened(opening, Network(ca_file)) as transport:
            delivered = await send(transport, server.url)
    assert (refused.kind, delivered.kind) == (OutcomeKind.UNREACHABLE, OutcomeKind.DELIVERED)
    assert len(server.requests) == 1


@pytest.mark.parametrize("store", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_both_transports_trust_the_store_that_the_environment_names_and_every_authority_of_the_file(
    opening: Opening, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorities = [trustme.CA() for _ in range(3)]
    in_store = tmp_path / "store.pem"
    authorities[0].cert_pem.write_to_path(str(in_store))
    for one in authorities[1:]:
        one.cert_pem.write_to_path(str(tmp_path / "both.pem"), append=True)
    monkeypatch.setenv(store, str(in_store) if store == "SSL_CERT_FILE" else hashed_directory(in_store))
    async with opened(opening, Network(str(tmp_path / "both.pem"))) as transport:
        for one in authorities:
            async with running(DELIVERED, tls=certified(one)) as server:
                assert (await send(transport, server.url)).kind is OutcomeKind.DELIVERED


def hashed_directory(certificate: Path) -> str:
    """Makes a directory in which OpenSSL finds this certificate."""
    if shutil.which("openssl") is None:
        not_tested("openssl is not installed")
    command = ["openssl", "x509", "-noout", "-hash", "-in", str(certificate)]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    directory = certificate.parent / "hashed"
    directory.mkdir()
    shutil.copy(certificate, directory / f"{name}.0")
    return str(directory)


def test_a_machine_without_a_store_trusts_the_authorities_of_certifi(
    monkeypatch: pytest.MonkeyPatch, ca_file: str
) -> None:
    with_store = Network(ca_file)
    nowhere = SimpleNamespace(cafile=None, capath=None)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nowhere)
    without = Network(ca_file)
    assert (len(with_store.further_authorities), without.store) == (1, None)
    assert len(without.further_authorities) > 50
    assert set(without.further_authorities) == set(without.tls_context().get_ca_certs(binary_form=True))
    authorities = next(check_network(Settings(ca_file=ca_file), without)).what
    assert "certifi" in authorities
    assert ca_file in authorities


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("path", ["", "/no/such"])
def test_a_store_that_the_environment_names_and_that_is_not_there_is_refused(
    variable: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, path)
    with pytest.raises(UnusableNetwork, match="correct SSL_CERT_FILE"):
        Network()


def test_a_store_without_a_certificate_is_refused(
    opening: Opening, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "empty.pem"))
    with pytest.raises(UnusableNetwork, match="correct SSL_CERT_FILE"):
        opening(Network(), "https://127.0.0.1")


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _path: None, "names no file"),
    "a directory": (Path.mkdir, "names no file"),
    "empty": (Path.touch, "holds no certificate"),
    "a key": (lambda path: trustme.CA().private_key_pem.write_to_path(str(path)), "holds no certificate"),
    "a server's": (
        lambda path: trustme.CA().issue_cert("a.test").cert_chain_pems[0].write_to_path(str(path)),
        "holds no certificate of an authority",
    ),
    "unreadable": (lambda path: path.symlink_to("/proc/self/mem"), "cannot be read|holds no certificate"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_without_an_authority_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    make, problem = BAD_FILES[kind]
    path = tmp_path / "bad.pem"
    make(path)
    with pytest.raises(UnusableNetwork, match=rf"DISPATCHER_CA_FILE.*({problem}).*{path}") as refused:
        Network(str(path))
    assert "\n" not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_a_proxy_of_the_environment_is_used_only_when_asked(
    opening: Opening, variable: str, trusted: bool, authority: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(DELIVERED, tls=certified(authority)) as server, proxying() as proxy:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        async with opened(opening, Network(ca_file, trust_env_proxy=trusted)) as transport:
            outcome = await send(transport, server.url)
    assert outcome.kind is OutcomeKind.DELIVERED
    assert [head.split(b" ")[:2] for head in proxy.heads] == [
        [b"CONNECT", f"127.0.0.1:{server.port}".encode()]
    ] * trusted


@pytest.mark.parametrize("trusted", [False, True])
async def test_plain_http_has_a_proxy_of_its_own(
    opening: Opening, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(DELIVERED) as proxy, running(DELIVERED) as server:
        monkeypatch.setenv("http_proxy", f"{QUOTED_LOGIN}@127.0.0.1:{proxy.port}")
        async with opened(opening, Network(trust_env_proxy=trusted), server.url) as transport:
            outcome = await send(transport, server.url)
    assert outcome.kind is OutcomeKind.DELIVERED
    assert (len(proxy.requests), len(server.requests)) == ((1, 0) if trusted else (0, 1))
    assert not any(b"roxy" in request for request in server.requests)
    assert all(base64.b64encode(LOGIN.encode()) in request for request in proxy.requests)


@pytest.mark.parametrize(("variable", "hosts"), [("NO_PROXY", "a.test, 127.0.0.1"), ("no_proxy", "*")])
async def test_what_no_proxy_lists_is_asked_directly(
    opening: Opening, variable: str, hosts: str, authority: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(DELIVERED, tls=certified(authority)) as server:
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv(variable, hosts)
        async with opened(opening, Network(ca_file, trust_env_proxy=True)) as transport:
            assert (await send(transport, server.url)).kind is OutcomeKind.DELIVERED


async def test_a_form_goes_through_the_proxy_and_its_password_to_the_proxy_alone(
    opening: Opening, authority: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        running(answer("200 OK", b"{}"), tls=certified(authority)) as server,
        proxying(LOGIN.encode()) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://{QUOTED_LOGIN}@127.0.0.1:{proxy.port}")
        async with opened(opening, Network(ca_file, trust_env_proxy=True)) as transport:
            assert await post_form(transport, server.url, {}, timeout=DEADLINE_SECONDS, limit=10) == (200, b"{}")
    assert len(proxy.heads) == 1
    assert b"roxy" not in server.requests[0]


async def test_a_proxy_may_speak_tls(
    opening: Opening, authority: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = certified(authority)
    async with running(DELIVERED, tls=tls) as server, proxying(tls=tls) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"https://127.0.0.1:{proxy.port}")
        async with opened(opening, Network(ca_file, trust_env_proxy=True)) as transport:
            outcome = await send(transport, server.url)
    assert outcome.kind is OutcomeKind.DELIVERED, outcome
    assert len(proxy.heads) == 1


@pytest.mark.parametrize("refusing", [True, False])
async def test_a_proxy_that_does_not_connect_is_named_without_its_password(
    opening: Opening, refusing: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with proxying(b"another") as proxy:
        port = proxy.port if refusing else 1
        monkeypatch.setenv("HTTPS_PROXY", f"http://{QUOTED_LOGIN}@127.0.0.1:{port}")
        async with opened(opening, Network(trust_env_proxy=True)) as transport:
            outcome = await send(transport, "https://vercel.invalid")
    assert (outcome.kind, outcome.connected) == (OutcomeKind.UNREACHABLE, False)
    assert (outcome.error or "").endswith(f" through the proxy http://***@127.0.0.1:{port}")
    assert PROXY_CANARY not in f"{outcome} {caplog.text} {[record.args for record in caplog.records]}"


@pytest.mark.parametrize(
    "url",
    [
        f"socks5://me:{PROXY_CANARY}@proxy.test",
        f"http://me:{PROXY_CANARY}/x@proxy.test",
        f"http://me:1/{PROXY_CANARY}@proxy.test",
        f"http://me:1?{PROXY_CANARY}@proxy.test",
        f"http://me:1#{PROXY_CANARY}@proxy.test",
        f"http://me:{PROXY_CANARY}@:3128",
        f"http://me:{PROXY_CANARY}@[::1",
        f"http://me:{PROXY_CANARY}\n@proxy.test",
    ],
)
def test_what_is_no_proxy_is_refused_without_a_part_of_its_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(UnusableNetwork, match=r"HTTPS_PROXY .*is not the URL of a proxy") as refused:
        Network(trust_env_proxy=True)
    assert PROXY_CANARY not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
