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
from dispatcher.settings.settings import Settings, describe
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
    """The level and the text of each check's worst finding."""
    return {row["check"]: (row["level"], row["what"]) for row in reversed(ended.rows) if row["kind"] == "finding"}


def test_every_setting_is_shown_with_its_source_and_no_secret(reachable: Terminal, tmp_path: Path) -> None:
    (tmp_path / "lease").write_text("90s\n")
    ended = reachable("check", "--json", "--all", lease_file=str(tmp_path / "lease"), concurrency="8")
    settings = settings_in(ended)
    assert settings["DISPATCHER_LEASE"] == ("90s", f"file {tmp_path / 'lease'}")
    assert settings["DISPATCHER_CONCURRENCY"] == ("8", "environment")
    assert settings["DISPATCHER_MAX_ATTEMPTS"] == ("20", "default")
    assert settings["DISPATCHER_VERCEL_TOKEN"] == ("***", "environment")
    assert TOKEN not in ended.out + ended.err


def settings_in(ended: Ended) -> dict[str, tuple[str | None, str]]:
    """The value and the source of each setting that is listed."""
    return {row["name"]: (row["value"], row["source"]) for row in ended.rows if row["kind"] == "setting"}


def test_only_what_is_set_is_listed_unless_all_is_asked_for(reachable: Terminal) -> None:
    some, every = (settings_in(reachable("check", "--json", *options, lease="90s")) for options in ([], ["--all"]))
    set_here = {"DATABASE_URL", "LEASE", "VERCEL_BASE_URL", "ALLOW_INSECURE_BASE_URL", "VERCEL_TOKEN"}
    assert set(some) == {f"DISPATCHER_{name}" for name in set_here}
    assert set(every) == {line.name for line in describe(Settings())}
    assert some.items() <= every.items()


def test_findings_come_first_the_worst_before_the_others_and_the_last_line_counts_them(reachable: Terminal) -> None:
    ended = reachable("check", vercel_base_url="http://127.0.0.1:1", lease="90s")
    lines = ended.out.splitlines()
    levels = [line.split(" ")[0] for line in lines[: lines.index("")]]
    assert levels == ["PROBLEM", "warning"] + ["ok"] * (len(levels) - 2)
    assert [line.split()[0] for line in lines[len(levels) + 1 : -2]] == [
        "SETTING",
        "DISPATCHER_DATABASE_URL",
        "DISPATCHER_VERCEL_BASE_URL",
        "DISPATCHER_ALLOW_INSECURE_BASE_URL",
        "DISPATCHER_VERCEL_TOKEN",
        "DISPATCHER_LEASE",
    ]
    assert lines[-2:] == ["", "1 problem, 1 warning"]


def test_the_last_object_counts_the_findings_too(reachable: Terminal) -> None:
    rows = reachable("check", "--json").rows
    assert rows[-1] == {"kind": "summary", "problems": 0, "warnings": 1}
    assert next(row["level"] for row in rows if row["kind"] == "finding") == "warning"


def test_without_any_setting_there_is_no_list_of_them(dispatcher: Terminal) -> None:
    environ = dispatcher.environ()
    del environ["DISPATCHER_DATABASE_URL"]
    ended = dispatcher.run_in(environ, "check")
    assert "SETTING" not in ended.out
    assert ended.code == 2


def test_where_nothing_is_wrong_it_ends_with_0_and_sends_nothing(reachable: Terminal) -> None:
    ended = reachable("check")
    assert (ended.code, ended.err) == (0, "")
    assert "PROBLEM" not in ended.out
    assert ended.out.splitlines()[-1] == "0 problems, 1 warning"
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
    assert findings(ended)["privileges"] == ("ok", "not tried: the tables are not there")


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
        ("mysql://me:hush@127.0.0.1:1/app?foo=hush", "has an unknown parameter after the ?, foo: remove it"),
        (
            "postgres://me:hush@127.0.0.1:1/app?pgbouncr=hush",
            "an unknown parameter after the ?, pgbouncr: did you mean",
        ),
        ("postgres://me:hush@127.0.0.1:1/app?sslmode=hush", "has a parameter sslmode with an unknown value"),
        ("sqlite://me:hush@host/db", "names no file: write sqlite:///dispatcher.db"),
    ],
)
@pytest.mark.parametrize("command", ["check", "status", "migrate", "run", "drain"])
def test_a_url_that_cannot_be_used_is_one_line(reachable: Terminal, url: str, text: str, command: str) -> None:
    ended = reachable(command, database_url=url)
    assert ended.code == 2
    assert text in ended.complaint
    assert "hush" not in ended.out + ended.err


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (
            "mysql://me:hush@127.0.0.1:1/app?ssl_ca=/no/ca.pem",
            "a file that the database URL names cannot be read: No such file",
        ),
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
        connection.execute(sa.insert(installation).values(installation_id="icfg_1", due_at=database.now()))
    settings = {name: value for name, value in reachable.settings.items() if name != "vercel_token"}
    ended = Terminal(reachable.directory, settings)("check", "--json", credentials_query=QUERY)
    level, what = findings(ended)["credentials"]
    assert (ended.code, level) == ((1, "problem") if text else (0, "ok"))
    assert (text or "icfg_1") in what


@pytest.mark.parametrize(
    ("due", "idle", "code", "expected"),
    [
        ([], ["icfg_1", "icfg_2"], 0, [("warning", "none of the installations that were tried has a token")]),
        ([], ["icfg_1", "icfg_t"], 0, [("ok", "no token for icfg_1, but no event"), ("ok", "a token for icfg_t")]),
        (["icfg_1"], ["icfg_t"], 1, [("problem", "finds no row for icfg_1"), ("ok", "a token for icfg_t")]),
        (["icfg_t"], ["icfg_1"], 0, [("ok", "no token for icfg_1, but no event"), ("ok", "a token for icfg_t")]),
        (["icfg_1", "icfg_2"], [], 1, [("problem", "no row for icfg_1"), ("problem", "no row for icfg_2")]),
    ],
)
def test_an_idle_installation_without_a_token_is_no_problem(
    reachable: Terminal,
    database: Database,
    due: list[str],
    idle: list[str],
    code: int,
    expected: list[tuple[str, str]],
) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE partner (id TEXT, token TEXT)")
        connection.exec_driver_sql("INSERT INTO partner VALUES ('icfg_t', 't0ken')")
        rows = [{"installation_id": one, "due_at": database.now()} for one in due]
        rows += [{"installation_id": one, "due_at": None} for one in idle]
        connection.execute(sa.insert(installation), rows)
    settings = {name: value for name, value in reachable.settings.items() if name != "vercel_token"}
    ended = Terminal(reachable.directory, settings)("check", "--json", credentials_query=QUERY)
    found = [(row["level"], row["what"]) for row in ended.rows if row.get("check") == "credentials"]
    assert ended.code == code
    assert [level for level, _ in found] == [level for level, _ in expected]
    assert all(text in what for (_, what), (_, text) in zip(found, expected, strict=True)), found


def test_a_malformed_installation_id_is_refused(reachable: Terminal) -> None:
    ended = reachable("check", "--installation", "../icfg_1")
    assert (ended.code, ended.out) == (2, "")
    assert "--installation '../icfg_1' is not an installation id" in ended.complaint


def test_an_idle_installation_that_is_named_has_to_have_a_token(reachable: Terminal, database: Database) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE partner (id TEXT, token TEXT)")
        connection.execute(sa.insert(installation).values(installation_id="icfg_1"))
    settings = {name: value for name, value in reachable.settings.items() if name != "vercel_token"}
    ended = Terminal(reachable.directory, settings)(
        "check", "--json", "--installation", "icfg_1", credentials_query=QUERY
    )
    assert (ended.code, findings(ended)["credentials"][0]) == (1, "problem")


def test_a_source_that_is_away_is_one_problem_whatever_is_tried(reachable: Terminal, database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.insert(installation), [{"installation_id": f"icfg_{number}"} for number in range(3)])
    settings = {name: value for name, value in reachable.settings.items() if name != "vercel_token"}
    away = Terminal(reachable.directory, settings)
    ended = away("check", "--json", credentials_url="http://127.0.0.1:1/{installation_id}", credentials_url_token=TOKEN)
    found = [(row["level"], row["what"]) for row in ended.rows if row.get("check") == "credentials"]
    assert ended.code == 1
    assert [level for level, _ in found] == ["problem"]
    assert "the token service failed 3 times: cannot connect to 127.0.0.1" in found[0][1]
    assert TOKEN not in ended.out + ended.err


def test_a_token_service_on_this_machine_behind_a_proxy_is_a_warning(
    reachable: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:2")
    monkeypatch.setenv("no_proxy", "")
    settings = {name: value for name, value in reachable.settings.items() if name != "vercel_token"}
    proxied = Terminal(reachable.directory, settings | {"credentials_url": "http://localhost:1/{installation_id}"})
    for exceptions, level in (("", "warning"), ("localhost", "ok")):
        monkeypatch.setenv("no_proxy", exceptions)
        ended = proxied("check", "--json", trust_env_proxy="true")
        assert findings(ended)["proxy"][0] == level
        assert ("add localhost to NO_PROXY" in findings(ended)["proxy"][1]) is (level == "warning")


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


@pytest.mark.parametrize(
    ("parameters", "settings", "level", "text"),
    [
        (
            "pgbouncer=true&connection_limit=hush",
            {},
            "ok",
            "that are for other clients are ignored: pgbouncer, connection_limit",
        ),
        ("schema=public", {}, "ok", "are ignored: schema"),
        ("schema=app", {}, "warning", "DISPATCHER_SCHEMA names the schema"),
        ("schema=app", {"schema": "vercel"}, "ok", "are ignored: schema"),
    ],
)
def test_the_parameters_of_other_clients_are_listed(
    reachable: Terminal, parameters: str, settings: dict[str, str], level: str, text: str
) -> None:
    ended = reachable("check", "--json", database_url=f"postgres://me@127.0.0.1:1/app?{parameters}", **settings)
    found = findings(ended)["url"]
    assert (found[0], text in found[1]) == (level, True)
    assert "hush" not in ended.out + ended.err


def test_the_database_is_named_without_its_user(reachable: Terminal) -> None:
    assert findings(reachable("check", "--json"))["database"] == (
        "ok",
        f"sqlite:///{reachable.directory}/dispatcher.db answers",
    )
    ended = reachable("check", "--json", database_url="postgres://me:hush@127.0.0.1:1/app")
    assert findings(ended)["database"][1].startswith("postgresql://127.0.0.1:1/app cannot be reached")


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
