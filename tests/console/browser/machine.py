"""The machine of the deployment guide's section on the console: the console as a command, behind nginx with TLS, as the guide shows both,
and a stand-in for oauth2-proxy.
"""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import trustme
from typing_extensions import override

from tests.cli.conftest import COMMAND, Terminal
from tests.deploy.documents import blocks
from tests.processes.conftest import free_port, wait_until

*_, SETTINGS = blocks("README.md", "ini")
SERVER, LOCATIONS = blocks("README.md", "nginx")
"""Of nginx: the whole server, and what replaces its location for a team."""
GUIDE = {
    name.removeprefix("DISPATCHER_").lower(): value
    for name, value in (line.split("=", 1) for line in SETTINGS.splitlines())
}
"""The settings that the guide shows for a team."""
TOKEN_MODE = {name: GUIDE[name] for name in ("console_url", "console_label")}
URL = f"{GUIDE['console_url']}/"
HOST, PATH = str(urlsplit(URL).hostname), urlsplit(URL).path
HEADER = GUIDE["console_user_header"]
ANNA = GUIDE["console_operators"].partition(",")[0]
CARL = "carl@example.com"
"""Not an operator."""
NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
CONFIG = """
{user}
worker_processes 1;
daemon off;
pid {directory}/pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    port_in_redirect off; # for the browser it is port 443
    {server}
}}
"""


def keep_the_path(server: str) -> str:
    """As the comment in the guide says."""
    assert server.count(":9465/;") == 1
    return server.replace(":9465/;", ":9465;")


def for_a_team(locations: str = LOCATIONS) -> str:
    """The server of the guide with these locations in place of its own."""
    server, replaced = re.subn(r"(?ms)^    location .*?^    }\n", lambda _: locations, SERVER)
    assert replaced == 1
    return server


@dataclass(frozen=True)
class Ports:
    """Where the servers of these tests listen."""

    tls: int = field(default_factory=free_port)
    console: int = field(default_factory=free_port)
    sign_in: int = field(default_factory=free_port)


@dataclass
class Machine:
    """The machine of the guide, with a console on a database of its own."""

    ports: Ports
    directory: Path
    stack: ExitStack
    consoles: list[subprocess.Popen[str]] = field(default_factory=list)

    def run_console(self, *arguments: str, **settings: str) -> str:
        """Starts `dispatcher console`; returns the address that it prints."""
        environ = Terminal(self.directory).environ(**settings, console_port=str(self.ports.console))
        command = [str(COMMAND), "console", *arguments]
        with (self.directory / "console.log").open("w") as log:
            running = subprocess.Popen(
                command, cwd=self.directory, env=environ, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._end_later(running)
        self.consoles.append(running)
        assert running.stdout is not None
        line = running.stdout.readline()
        assert line, (self.directory / "console.log").read_text()
        return str(line.split()[-1])

    def stop_console(self) -> None:
        """Ends it; returns once nothing listens on its port."""
        self.consoles[-1].terminate()
        self.consoles[-1].wait()

    def run_nginx(self, server: str) -> None:
        """Starts nginx with this configuration of the guide, on other ports and with a certificate of its own."""
        if NGINX is None:
            pytest.fail("nginx is not installed (Debian: apt-get install nginx-light)", pytrace=False)
        certificate = self.directory / "certificate.pem"
        trustme.CA().issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(certificate))
        for there, here in (
            ("listen 443 ssl;", f"listen 127.0.0.1:{self.ports.tls} ssl;"),
            (r"(ssl_certificate(_key)?) .*;", rf"\1 {certificate};"),
            ("127.0.0.1:9465", f"127.0.0.1:{self.ports.console}"),
            ("127.0.0.1:4180", f"127.0.0.1:{self.ports.sign_in}"),
        ):
            server = re.sub(there, here, server)
        config = self.directory / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(CONFIG.format(user=user, directory=self.directory, server=server))
        command = [NGINX, "-c", str(config), "-p", str(self.directory), "-e", "stderr"]
        with (self.directory / "nginx.log").open("w") as log:
            running = subprocess.Popen(command, stderr=log)
        self._end_later(running)
        wait_until(lambda: running.poll() is not None or listens(self.ports.tls))
        assert running.poll() is None, (self.directory / "nginx.log").read_text()

    def _end_later(self, running: subprocess.Popen[Any]) -> None:
        self.stack.enter_context(running)  # waits for its end
        self.stack.callback(running.terminate)

    def run_sign_in(self) -> None:
        """Starts the stand-in for oauth2-proxy."""
        self.stack.enter_context(serving_sign_in(self.ports.sign_in))


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


class SignIn(BaseHTTPRequestHandler):
    """What oauth2-proxy answers to nginx: who this is, or a page on which people choose."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/oauth2/auth":
            person = self.headers.get("Cookie", "").partition("_oauth2_proxy=")[2]
            self._answer(202 if person else 401, **({HEADER: person} if person else {}))
        elif url.path == "/oauth2/callback":
            ((person,), (wanted,)) = (parse_qs(url.query)[name] for name in ("person", "rd"))
            self._answer(302, Location=wanted, Set_Cookie=f"_oauth2_proxy={person}; Path=/; Secure; HttpOnly")
        else:
            wanted = quote(self.headers["X-Auth-Request-Redirect"], safe="")
            links = [f'<a href="/oauth2/callback?person={one}&amp;rd={wanted}">{one}</a>' for one in (ANNA, CARL)]
            self._answer(200, f"<title>Sign in</title>{' '.join(links)}", Content_Type="text/html")

    def _answer(self, status: int, body: str = "", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    @override
    def log_message(self, *_: object) -> None:
        """Stays quiet."""


@contextmanager
def serving_sign_in(port: int) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", port), SignIn) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
