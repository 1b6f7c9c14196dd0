import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
import trustme

from dispatcher.database.transactions import Database
from dispatcher.outbox.tables import installation
from tests.cli.conftest import Ended, Terminal

TOKEN = "t0ken-of-the-test"


@pytest.fixture
def open_port() -> Iterator[int]:
    """A port that accepts connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def reachable(dispatcher: Terminal, open_port: int) -> Terminal:
    """Commands with a reachable Vercel address and a token."""
    settings = {"vercel_base_url": f"http://127.0.0.1:{open_port}", "allow_insecure_base_url": "true"}
    return Terminal(dispatcher.directory, settings | {"vercel_token": TOKEN})


def findings(ended: Ended) -> dict[str, tuple[str, str]]:
    """The level and the text of each check's finding."""
    return {row["check"]: (row["level"], row["what"]) for row in ended.rows if row["kind"] == "finding"}


def test_every_setting_is_shown_with_its_source_and_no_secret(reachable: Terminal, tmp_path: Path) -> None:
    (tmp_path / "lease").write_text("90s\n")
    ended = reachable("check", "--json", lease_file=str(tmp_path / "lease"), concurrency="8")
    settings = {row["name"]: (row["value"], row["source"]) for row in ended.rows if row["kind"] == "setting"}
    assert settings["DISPATCHER_LEASE"] == ("90s", f"file {tmp_path / 'lease'}")
    assert settings["DISPATCHER_CONCURRENCY"] == ("8", "environment")
    assert settings["DISPATCHER_MAX_ATTEMPTS"] == ("20", "default")
    assert settings["DISPATCHER_VERCEL_TOKEN"] == ("***", "environment")
    assert TOKEN not in ended.out + ended.err


def test_where_nothing_is_wrong_it_ends_with_0_and_sends_nothing(reachable: Terminal) -> None:
    ended = reachable("check")
    assert (ended.code, ended.err) == (0, "")
    assert "PROBLEM" not in ended.out
    assert "ok       schema       the tables are there" in ended.out
    assert "warning  base_url     " in ended.out


def test_an_unmigrated_database_is_a_problem(reachable: Terminal) -> None:
    (reachable.directory / "dispatcher.db").unlink()
    ended = reachable("check", "--json")
    assert ended.code == 1
    assert findings(ended)["schema"][0] == "problem"
    assert not (reachable.directory / "dispatcher.db").exists()
    (reachable.directory / "dispatcher.db").touch()
    ended = reachable("check", "--json")
    assert ended.code == 1
    assert "dispatcher migrate" in findings(ended)["schema"][1]


def test_without_any_source_of_credentials_the_settings_are_to_blame(dispatcher: Terminal) -> None:
    ended = dispatcher("check", "--json")
    assert ended.code == 2
    assert "no credentials are configured" in findings(ended)["settings"][1]


def test_a_token_with_a_line_break_is_refused_without_showing_it(reachable: Terminal) -> None:
    ended = reachable("check", vercel_token="t0k\nen")
    assert ended.code == 2
    assert "DISPATCHER_VERCEL_TOKEN holds white space, a line break" in ended.complaint
    assert "t0k" not in ended.err


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://me:hush@127.0.0.1:1/app", "cannot be reached"),
        ("mysql://me:hush@127.0.0.1:1/app", "cannot be reached"),
    ],
)
def test_a_database_that_cannot_be_reached_is_exit_code_75(reachable: Terminal, url: str, text: str) -> None:
    ended = reachable("check", "--json", database_url=url)
    assert ended.code == 75
    assert text in findings(ended)["database"][1]
    assert "hush" not in ended.out + ended.err
    assert "credentials" in findings(ended)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mysql://me:hush@127.0.0.1:1/app?foo=bar", "a parameter after the ? that"),
        ("mysql://me:hush@127.0.0.1:1/app?ssl=true", "a parameter after the ? that"),
        ("mysql://me:hush@127.0.0.1:1/app?connect_timeout=hush", "a parameter after the ? that"),
        (
            "mysql://me:hush@127.0.0.1:1/app?ssl_ca=/no/ca.pem",
            "a file that the database URL names cannot be read: No such file",
        ),
        ("sqlite://me:hush@host/db", "sqlite:///dispatcher.db"),
        ("sqlite:///dispatcher.db?timeout=hush", "a parameter after the ? that"),
    ],
)
@pytest.mark.parametrize("command", ["check", "status"])
def test_a_url_that_its_driver_does_not_take_is_one_line(
    reachable: Terminal, url: str, text: str, command: str
) -> None:
    ended = reachable(command, *(["--json"] if command == "check" else []), database_url=url)
    shown = findings(ended)["settings"][1] if command == "check" else ended.complaint
    assert ended.code == 2
    assert text in shown
    assert "hush" not in ended.out + ended.err


def test_a_machine_without_certificate_authorities_is_one_line(
    reachable: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_FILE", "")
    ended = reachable("check", "--json")
    assert ended.code == 2
    assert "no certificate authority is found" in findings(ended)["settings"][1]


@pytest.mark.parametrize("command", ["check", "drain"])
def test_a_file_of_authorities_that_is_not_there_is_one_line(reachable: Terminal, command: str) -> None:
    ended = reachable(command, "--json", ca_file="/no/such.pem")
    shown = findings(ended)["settings"][1] if command == "check" else ended.complaint
    assert ended.code == 2
    assert "DISPATCHER_CA_FILE names no file (/no/such.pem)" in shown


@pytest.mark.parametrize("trusted", ["true", "false"])
def test_the_proxy_is_named_and_its_password_is_not(
    reachable: Terminal, monkeypatch: pytest.MonkeyPatch, trusted: str
) -> None:
    monkeypatch.setenv("http_proxy", f"http://me:{TOKEN}@127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    ended = reachable("check", "--json", trust_env_proxy=trusted)
    assert ended.code == 0
    assert ("through the proxy http://***@127.0.0.1:1" in findings(ended)["proxy"][1]) is (trusted == "true")
    assert TOKEN not in ended.out + ended.err


def test_a_driver_that_is_missing_is_named_with_what_installs_it(reachable: Terminal) -> None:
    (reachable.directory / "psycopg.py").write_text("raise ModuleNotFoundError(\"no psycopg\", name='psycopg')\n")
    environ = reachable.environ(database_url="postgresql://me@127.0.0.1:1/app") | {"PYTHONPATH": "."}
    ended = reachable.in_process(environ, "check", "--json")
    assert ended.code == 2
    assert "install the wheel with its extra [postgres]" in findings(ended)["settings"][1]


QUERY = "SELECT token FROM partner WHERE id = :installation_id"


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], "finds no row for icfg_1"),
        ([("icfg_1", "to\nken")], "holds no bearer token"),
        ([("icfg_1", "")], "is empty"),
        ([("icfg_1", "t0ken")], None),
    ],
)
def test_a_credentials_query_is_tried_for_the_installations_that_are_known(
    reachable: Terminal, database: Database, rows: list[tuple[str, str]], text: str | None
) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE partner (id TEXT, token TEXT)")
        for row in rows:
            connection.exec_driver_sql("INSERT INTO partner VALUES (?, ?)", row)
        connection.execute(sa.insert(installation).values(installation_id="icfg_1"))
    settings = {name: value for name, value in reachable.settings.items() if name != "vercel_token"}
    ended = Terminal(reachable.directory, settings)("check", "--json", credentials_query=QUERY)
    level, what = findings(ended)["credentials"]
    assert (ended.code, level) == ((1, "problem") if text else (0, "ok"))
    assert (text or "icfg_1") in what


def test_a_query_that_the_database_refuses_is_a_problem(reachable: Terminal) -> None:
    settings = {name: value for name, value in reachable.settings.items() if name != "vercel_token"}
    ended = Terminal(reachable.directory, settings)(
        "check", "--installation", "icfg_1", "--json", credentials_query=QUERY
    )
    assert ended.code == 1
    assert "DISPATCHER_CREDENTIALS_QUERY failed (SQLITE_ERROR, OperationalError)" in findings(ended)["credentials"][1]


def test_a_remote_database_without_verified_tls_is_a_warning(reachable: Terminal) -> None:
    ended = reachable("check", "--json", database_url="postgres://app@db.invalid/app")
    level, what = findings(ended)["tls"]
    assert (level, "sslmode=verify-full" in what) == ("warning", True)
    assert "tls" not in findings(reachable("check", "--json", database_url="postgres://app@127.0.0.1:1/app"))


def test_neither_half_a_password_nor_the_key_of_a_query_is_shown(reachable: Terminal) -> None:
    settings = {name: value for name, value in reachable.settings.items() if name != "vercel_token"}
    settings["credentials_query"] = "SELECT d(token, 'MASTERKEY') FROM t WHERE id = :installation_id"
    hidden = Terminal(reachable.directory, settings)
    ended = hidden("check", "--json", database_url="postgres://app:S3CRET?HALF@127.0.0.1:1/app")
    shown = {row["name"]: row["value"] for row in ended.rows if row["kind"] == "setting"}
    assert shown["DISPATCHER_DATABASE_URL"] == "postgres://app:***@127.0.0.1:1/app"
    assert shown["DISPATCHER_CREDENTIALS_QUERY"] == "SELECT d(token, '***') FROM t WHERE id = :installation_id"
    ended = hidden("check", database_url="postgres://us/er:S3CRET?HALF@127.0.0.1:1/app")
    assert (ended.code, "write %2F" in ended.complaint) == (2, True)
    assert not [part for part in ("S3CRET", "HALF") if part in ended.out + ended.err]


def test_an_address_that_does_not_answer_is_a_problem(reachable: Terminal) -> None:
    ended = reachable("check", "--json", vercel_base_url="http://127.0.0.1:1")
    assert ended.code == 1
    assert "127.0.0.1 port 1 cannot be reached" in findings(ended)["base_url"][1]


def test_an_address_without_tls_is_refused_unless_it_is_allowed(reachable: Terminal) -> None:
    ended = reachable("check", vercel_base_url="http://api.vercel.com", allow_insecure_base_url="false")
    assert ended.code == 2
    assert "https://" in ended.complaint


def test_a_path_after_vercels_address_is_a_problem(reachable: Terminal) -> None:
    ended = reachable("check", vercel_base_url="https://api.vercel.com/v1")
    assert ended.code == 1
    assert "must end after api.vercel.com" in ended.out


@pytest.mark.parametrize(
    ("trust", "expected"), [("SSL_CERT_FILE", "ok"), ("DISPATCHER_CA_FILE", "ok"), (None, "problem")]
)
def test_tls_is_tried_and_nothing_is_sent(
    reachable: Terminal, tmp_path: Path, trust: str | None, expected: str
) -> None:
    authority, received = trustme.CA(), bytearray()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            try:
                with context.wrap_socket(listening.accept()[0], server_side=True) as connection:
                    received.extend(connection.recv(1))
            except OSError:
                pass  # the client does not trust us

        server = threading.Thread(target=answer)
        server.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        environ = reachable.environ(vercel_base_url=url)
        trusted = {trust: str(tmp_path / "ca.pem")} if trust else {}
        ended = reachable.in_process(environ | trusted, "check", "--json")
        server.join(20)
    level, what = findings(ended)["base_url"]
    assert (level, "DISPATCHER_CA_FILE" in what) == (expected, expected == "problem")
    assert not received
