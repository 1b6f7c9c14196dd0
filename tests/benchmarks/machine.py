"""The servers that the benchmarks start: PostgreSQL, MariaDB, and nginx as the sink that receives every request."""

import os
import platform
import pwd
import re
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
_NGINX = """
worker_processes 1;
daemon off;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
    log_format times '$msec $uri';
    access_log {directory}/requests times buffer=32k flush=100ms;
    ssl_certificate {directory}/certificate.pem;
    ssl_certificate_key {directory}/certificate.pem;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 100000000;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        listen 127.0.0.1:{tls_port} ssl backlog=1024;
        location / {{ default_type application/json; return 201 '{{"ok":true}}'; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A database."""

    url: str
    pid: int | None = None
    """Its process, or an ancestor of its processes; None if it runs within its clients."""


@dataclass(frozen=True, slots=True)
class Sink:
    """Answers 201 to everything, and logs when each request arrived."""

    url: str
    tls_url: str
    ca_file: Path
    """The authority that signed its certificate."""
    log: Path

    def forget(self) -> None:
        """Starts a new count."""
        time.sleep(0.2)  # until nginx has written the requests of the old one
        os.truncate(self.log, 0)

    def arrivals(self, expected: int, seconds: float = 5) -> list[tuple[float, str]]:
        """Waits for the expected number of requests since `forget`; returns the time (epoch seconds) and path of each.

        Raises AssertionError if fewer arrive within `seconds`, or if more do.
        """
        deadline = time.monotonic() + seconds
        while (count := len(lines := self.log.read_text().splitlines())) < expected and time.monotonic() < deadline:
            time.sleep(0.05)
        assert count == expected, f"{count} requests arrived at the sink, {expected} were expected"
        return sorted((float(at), path) for at, _, path in (line.partition(" ") for line in lines))

    def rate(self, expected: int) -> float:
        """Returns requests per second, from the first to the last."""
        arrivals = self.arrivals(expected)
        return (len(arrivals) - 1) / max(arrivals[-1][0] - arrivals[0][0], 0.001)


@dataclass(frozen=True, slots=True)
class Machine:
    """The setup on which a scenario is measured."""

    databases: Mapping[str, Server]
    """By name."""
    sink: Sink
    rounds: int
    share: float
    """The fraction of the events that is used."""
    quick: bool
    """Whether the run only checks that the scenarios work; slow parts are then left out."""

    def size(self, full: int) -> int:
        """Returns this fraction of a full number of events."""
        return int(full * self.share)


@contextmanager
def sink() -> Iterator[Sink]:
    """Yields a running nginx. Raises MissingProgram."""
    program, port, tls_port = find("nginx", "nginx-light"), free_port(), free_port()
    with _directory() as directory:
        (directory / "nginx.conf").write_text(_NGINX.format(directory=directory, port=port, tls_port=tls_port))
        authority, ca_file = trustme.CA(), directory / "ca.pem"
        authority.cert_pem.write_to_path(ca_file)
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(directory / "certificate.pem")
        command = [
            program,
            "-c",
            str(directory / "nginx.conf"),
            "-p",
            str(directory),
            "-e",
            str(directory / "error.log"),
        ]
        with _running(command, port):
            yield Sink(f"http://127.0.0.1:{port}", f"https://127.0.0.1:{tls_port}", ca_file, directory / "requests")


@contextmanager
def postgresql(*settings: str) -> Iterator[Server]:
    """Yields a PostgreSQL in a directory of its own, with these settings besides the defaults. Raises MissingProgram."""
    programs, port = _postgresql_programs(), free_port()
    with _directory() as directory:
        data = directory / "data"
        as_owner = _as_user("postgres", directory)
        _do(*as_owner, f"{programs}/initdb", "-D", str(data), "-A", "trust", "-U", "postgres")
        options = ["-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        options += [part for setting in settings for part in ("-c", setting)]
        with _running([*as_owner, f"{programs}/postgres", "-D", str(data), *options], port) as pid:
            # It listens before it is ready.
            _wait([f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)])
            yield Server(f"postgresql://postgres@127.0.0.1:{port}/postgres", pid)


@contextmanager
def mariadb() -> Iterator[Server]:
    """Yields a MariaDB in a directory of its own. Raises MissingProgram."""
    server, install, port = (
        find("mariadbd", "mariadb-server"),
        find("mariadb-install-db", "mariadb-server"),
        free_port(),
    )
    with _directory() as directory:
        _as_user("mysql", directory)
        user = ["--user=mysql"] if os.geteuid() == 0 else []
        own = [f"--datadir={directory}/data", *user]
        normal = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        _do(install, "--no-defaults", *own, *normal)
        command = [
            server,
            "--no-defaults",
            *own,
            f"--port={port}",
            "--bind-address=127.0.0.1",
            f"--socket={directory}/s",
        ]
        with _running(command, port) as pid:
            _do("mariadb", "--no-defaults", "-h127.0.0.1", f"-P{port}", "-uroot", "-e", "CREATE DATABASE bench")
            yield Server(f"mysql://root@127.0.0.1:{port}/bench", pid)


class MissingProgram(Exception):
    """A program is not installed. The message names the package that contains it."""


def find(program: str, package: str) -> str:
    """Returns the program's path. Raises MissingProgram."""
    path = shutil.which(program, path=_PATH)
    if path is None:
        raise MissingProgram(f"{program} is not installed. Debian: apt-get install {package}")
    return path


def free_port() -> int:
    """Returns a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def versions() -> str:
    """Returns the versions of the software, for the reader of the table."""
    programs = [[find("nginx", "nginx-light"), "-v"], [str(_postgresql_programs() / "postgres"), "-V"]]
    programs += [[path, "-V"] for path in [shutil.which("mariadbd", path=_PATH)] if path]
    outputs = [subprocess.run(program, check=True, capture_output=True, text=True) for program in programs]
    matches = [re.search(r"\d+(\.\d+)+", one.stdout + one.stderr) for one in outputs]
    names = ("nginx", "PostgreSQL", "MariaDB")
    servers = ", ".join(f"{name} {version[0]}" for name, version in zip(names, matches, strict=False) if version)
    python = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    return f"{os.cpu_count()} cores shared by dispatcher, database and sink; {python}, {servers}."


def _postgresql_programs() -> Path:
    directories = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    return directories[-1] if directories else Path(find("initdb", "postgresql")).parent


def _do(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")


def _wait(probe: Sequence[str], seconds: float = 60) -> None:
    """Repeats the command until it succeeds. Raises AssertionError if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while subprocess.run(probe, check=False, cwd="/").returncode != 0:
        assert time.monotonic() < deadline, f"{probe} keeps failing"
        time.sleep(0.05)


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dispatcher-bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _as_user(user: str, directory: Path) -> list[str]:
    """Returns the prefix that runs a command as this user: PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return []
    shutil.chown(directory, user)
    return ["runuser", "-u", pwd.getpwnam(user).pw_name, "--"]


@contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[int]:
    """Yields its process id."""
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    try:
        wait_for(port, running)
        yield running.pid
    finally:
        running.terminate()
        running.wait(30)


def wait_for(port: int, running: subprocess.Popen[bytes], seconds: float = 60) -> None:
    """Waits until the program listens. Raises RuntimeError if it does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and running.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{running.args!r} does not listen on port {port}")
