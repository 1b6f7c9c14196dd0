"""Encrypted connections, with servers that take no others: what each spelling of a URL verifies."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import URL
from sqlalchemy.exc import OperationalError

from dispatcher.database import migration
from dispatcher.database.errors import first_line, is_unreachable
from dispatcher.database.notifier import Notifier, trigger_sql
from dispatcher.database.transactions import open_database
from dispatcher.inspection.checks import Level, examine
from dispatcher.settings.settings import Settings
from tests.conftest import not_tested
from tests.contract.servers import (
    CERTIFIED_HOST,
    MARIADB,
    POSTGRESQL,
    own_mariadb,
    own_mariadb_with_tls,
    own_postgresql_with_tls,
)

pytestmark = pytest.mark.gate

PASSWORD = "s3cret%/?"
CIPHER = {
    "postgresql": "SELECT cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
    "mysql": "SELECT variable_value FROM information_schema.session_status WHERE variable_name = 'Ssl_cipher'",
}


@dataclass(frozen=True)
class Server:
    """A server that requires TLS. Its certificate is for `localhost`, not for 127.0.0.1."""

    url: URL
    authority: Path

    def written(self, parameters: str, host: str = CERTIFIED_HOST) -> str:
        """Its URL with these parameters, where FILE stands for the file of its authority."""
        text = self.url.set(host=host).render_as_string(hide_password=False)
        return f"{text}?{parameters.replace('FILE', str(self.authority))}"


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Server]:
    if POSTGRESQL is None:
        not_tested("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with own_postgresql_with_tls(PASSWORD) as (url, authority):
        yield Server(url, authority)


@pytest.fixture(scope="module")
def mysql() -> Iterator[Server]:
    if MARIADB is None:
        not_tested("mariadbd is not installed (Debian: apt-get install mariadb-server)")
    with own_mariadb_with_tls(PASSWORD) as (url, authority):
        yield Server(url, authority)


@pytest.fixture(params=["postgresql", "mysql"])
def own_server(request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(request.param)
    return server


def connect(url: str) -> str:
    """Returns the cipher of a connection, or the reason why there is none."""
    database = open_database(url)
    try:
        with database.read() as connection:
            return str(connection.execute(sa.text(CIPHER[database.dialect.name])).scalar_one())
    except OperationalError as error:
        return first_line(error) if is_unreachable(error) else f"not refused by the driver: {error}"
    finally:
        database.close()


UNVERIFIED = {
    "postgresql": ["", "sslmode=require", "sslmode=no-verify", "sslmode=prefer&sslaccept=accept_invalid_certs"],
    "mysql": [
        "",
        "ssl-mode=REQUIRED",
        "ssl-mode=PREFERRED",
        'ssl={"rejectUnauthorized":false}',
        "useSSL=true",
        "tls=skip-verify",
    ],
}
CERTIFIED = {
    "postgresql": ["sslmode=verify-ca&sslrootcert=FILE", "sslmode=require&sslrootcert=FILE"],
    "mysql": [
        "ssl-mode=VERIFY_CA&ssl-ca=FILE",
        "ssl-mode=REQUIRED&ssl-ca=FILE",
        "ssl_ca=FILE&ssl_check_hostname=false",
    ],
}
VERIFIED = {
    "postgresql": ["sslmode=verify-full&sslrootcert=FILE", "ssl=true&sslrootcert=FILE"],
    "mysql": [
        "ssl_ca=FILE",
        "ssl-ca=FILE&ssl-mode=VERIFY_IDENTITY",
        "sslcert=FILE&sslaccept=strict",
        "ssl=true&sslca=FILE",
    ],
}
SYSTEM = {
    "postgresql": [
        "sslmode=verify-full&sslrootcert=system",
        "sslrootcert=system",
        "ssl=true",
        "sslmode=require&sslaccept=strict",
        'ssl={"rejectUnauthorized":true}',
    ],
    "mysql": [
        'ssl={"rejectUnauthorized":true}',
        "sslaccept=strict",
        "ssl-mode=VERIFY_IDENTITY",
        "ssl=true",
        "tls=true",
    ],
}
OFF = {"postgresql": ["sslmode=disable", "ssl=false"], "mysql": ["ssl-mode=DISABLED", "ssl=false", "useSSL=false"]}


def of(own_server: Server, parameters: dict[str, list[str]]) -> list[str]:
    return parameters[own_server.url.get_backend_name()]


def is_cipher(text: str) -> bool:
    return text.startswith(("TLS_", "ECDHE"))


def test_any_server_is_trusted_unless_the_url_asks_for_more(own_server: Server) -> None:
    for parameters in of(own_server, UNVERIFIED):
        assert is_cipher(connect(own_server.written(parameters, host="127.0.0.1"))), parameters


def test_a_server_of_the_authority_may_have_another_name(own_server: Server) -> None:
    for parameters in of(own_server, CERTIFIED):
        assert is_cipher(connect(own_server.written(parameters, host="127.0.0.1"))), parameters
        others = parameters.replace("FILE", "/etc/ssl/certs/ca-certificates.crt")
        assert "certificate verify failed" in connect(own_server.written(others)).lower(), parameters


def test_a_verified_server_has_the_name_of_its_certificate(own_server: Server) -> None:
    for parameters in of(own_server, VERIFIED):
        assert is_cipher(connect(own_server.written(parameters))), parameters
        refusal = connect(own_server.written(parameters, host="127.0.0.1"))
        assert "127.0.0.1" in refusal, parameters
        assert not is_cipher(refusal), parameters


def test_without_a_file_the_authorities_of_this_machine_count(
    own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parameters in of(own_server, SYSTEM):
        assert "certificate verify failed" in connect(own_server.written(parameters)).lower(), parameters
    monkeypatch.setenv("SSL_CERT_FILE", str(own_server.authority))
    for parameters in of(own_server, SYSTEM):
        assert is_cipher(connect(own_server.written(parameters))), parameters
        assert not is_cipher(connect(own_server.written(parameters, host="127.0.0.1"))), parameters


def test_a_server_that_requires_tls_refuses_a_connection_without(own_server: Server) -> None:
    for parameters in of(own_server, OFF):
        assert not is_cipher(connect(own_server.written(parameters))), parameters


def test_a_server_without_tls_is_refused_where_tls_is_required() -> None:
    if MARIADB is None:
        not_tested("mariadbd is not installed (Debian: apt-get install mariadb-server)")
    with own_mariadb(1, "--skip-ssl") as url:
        plain = Server(url, Path("/nowhere"))
        assert connect(plain.written("ssl-mode=PREFERRED")) == ""
        for parameters in ("ssl-mode=REQUIRED", "ssl=true", "sslaccept=strict"):
            assert "SSL is required" in connect(plain.written(parameters)), parameters


def test_check_finds_nothing_to_say_against_a_verified_server(own_server: Server) -> None:
    url = own_server.written(of(own_server, VERIFIED)[0])
    database = open_database(url)
    migration.migrate(database)
    settings = Settings(
        database_url=SecretStr(url), vercel_token=SecretStr("t0ken"), vercel_base_url="https://127.0.0.1:9"
    )
    findings = {finding.check: finding for finding in examine(settings)}
    assert {findings[check].level for check in ("database", "isolation", "privileges", "schema")} == {Level.OK}
    assert findings["database"].what == f"{settings.database.place} answers"
    assert PASSWORD not in str(findings)
    migration.downgrade(database)
    database.close()


def test_several_hosts_are_tried_in_turn_until_one_takes_writes(postgresql: Server) -> None:
    port = postgresql.url.port
    text = postgresql.written("target_session_attrs=read-write&sslmode=verify-full&sslrootcert=FILE")
    assert is_cipher(connect(text.replace(f"localhost:{port}", f"127.0.0.1:1,localhost:{port}")))


async def test_notifications_travel_encrypted_too(postgresql: Server) -> None:
    database = open_database(postgresql.written("sslmode=verify-full&sslrootcert=FILE"))
    migration.migrate(database)
    with database.engine.begin() as connection:
        connection.exec_driver_sql(trigger_sql())
    notifier = await Notifier.connect(database)
    assert await notifier.arm()
    await notifier.close()
    migration.downgrade(database)
    database.close()
