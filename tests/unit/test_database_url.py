"""Database URLs as applications and providers write them: every spelling leads to the driver's own parameters, or is refused."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.database.engine import UnusableDatabaseUrl, dialect_of, open_engine
from dispatcher.database_url.address import Address, family_of, read_address
from dispatcher.database_url.hosts import Host
from dispatcher.settings.settings import SettingsError
from tests.unit.loading import CANARY, load, refuse

NEON = "postgresql://app:hush@ep-cool-darkness-123456-pooler.us-east-2.aws.neon.tech/app"
SUPABASE = "postgres://postgres.ref:hush@aws-0-eu-central-1.pooler.supabase.com:6543/postgres"
PLANETSCALE = "mysql://u:hush@aws.connect.psdb.cloud/app"
SYSTEM = {"sslmode": "verify-full", "sslrootcert": "system"}
WRITTEN = {
    # Neon, also through Vercel's integration
    f"{NEON}?sslmode=require&channel_binding=require": ({"sslmode": "require", "channel_binding": "require"}, ""),
    f"{NEON}?channel_binding=require&connect_timeout=15&sslmode=require": (
        {"channel_binding": "require", "connect_timeout": "15", "sslmode": "require"},
        "",
    ),
    f"{NEON}?options=endpoint%3Dep-cool": ({"options": "endpoint=ep-cool"}, ""),
    f"{NEON}?pgbouncer=true&connect_timeout=15&sslmode=require": (
        {"connect_timeout": "15", "sslmode": "require"},
        "pgbouncer",
    ),
    # Supabase, for Prisma and through Vercel's integration
    f"{SUPABASE}?pgbouncer=true&connection_limit=1": ({}, "pgbouncer connection_limit"),
    f"{SUPABASE}?sslmode=require&supa=base-pooler.x": ({"sslmode": "require"}, "supa"),
    f"{SUPABASE}?workaround=supabase-pooler.vercel": ({}, "workaround"),
    # RDS and Aurora
    "postgresql://app:hush@db.x.eu-central-1.rds.amazonaws.com:5432/app?sslmode=verify-full&sslrootcert=/etc/ssl/rds.pem": (
        {"sslmode": "verify-full", "sslrootcert": "/etc/ssl/rds.pem"},
        "",
    ),
    "mysql://app:hush@db.x.eu-central-1.rds.amazonaws.com/app?ssl-mode=VERIFY_IDENTITY&ssl-ca=/etc/ssl/rds.pem": (
        {"ssl_mode": "VERIFY_IDENTITY", "ssl_ca": "/etc/ssl/rds.pem"},
        "",
    ),
    # Cloud SQL
    "postgresql://app:hush@/app?host=/cloudsql/project:region:instance": ({}, ""),
    "mysql+pymysql://app:hush@/app?unix_socket=/cloudsql/project:region:instance": (
        {"unix_socket": "/cloudsql/project:region:instance"},
        "",
    ),
    "mysql://app:hush@localhost/app?socket=/cloudsql/p:r:i": ({"unix_socket": "/cloudsql/p:r:i"}, ""),
    # PlanetScale
    f'{PLANETSCALE}?ssl={{"rejectUnauthorized":true}}': ({"ssl_mode": "VERIFY_IDENTITY"}, ""),
    f"{PLANETSCALE}?ssl=%7B%22rejectUnauthorized%22%3Atrue%7D": ({"ssl_mode": "VERIFY_IDENTITY"}, ""),
    f"{PLANETSCALE}?sslaccept=strict": ({"ssl_mode": "VERIFY_IDENTITY"}, ""),
    f"{PLANETSCALE}?ssl_mode=verify_identity": ({"ssl_mode": "VERIFY_IDENTITY"}, ""),
    "postgresql://u:hush@aws-eu-central-1.pg.psdb.cloud:6432/postgres?sslmode=verify-full&sslrootcert=system": (
        SYSTEM,
        "",
    ),
    # DigitalOcean and Aiven
    "mysql://doadmin:hush@db.ondigitalocean.com:25060/defaultdb?ssl-mode=REQUIRED": ({"ssl_mode": "REQUIRED"}, ""),
    "postgresql://doadmin:hush@db.ondigitalocean.com:25061/pool?sslmode=require": ({"sslmode": "require"}, ""),
    # Heroku, with what its applications add
    "postgres://u:hush@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d?sslmode=no-verify": ({"sslmode": "require"}, ""),
    "postgres://u:hush@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d?ssl=true&sslmode=no-verify": (
        {"sslmode": "require"},
        "",
    ),
    "mysql://u:hush@us-cdbr-east-06.cleardb.net/heroku_1?reconnect=true": ({}, "reconnect"),
    # Prisma
    "postgresql://u:hush@db.prisma.io:5432/postgres?sslmode=require&schema=public": ({"sslmode": "require"}, "schema"),
    "mysql://u:hush@h/d?sslcert=/ca.pem&sslaccept=strict": ({"ssl_ca": "/ca.pem", "ssl_mode": "VERIFY_IDENTITY"}, ""),
    # Node's drivers, JDBC, Go, Rails, Python
    "postgres://h/d?ssl=true": (SYSTEM, ""),
    "postgres://h/d?sslrootcert=system": (SYSTEM, ""),
    "postgres://h/d?ssl=false": ({"sslmode": "disable"}, ""),
    "postgres://h/d?ssl=prefer&max=10": ({"sslmode": "prefer"}, "max"),
    'postgres://h/d?ssl={"rejectUnauthorized":false}': ({"sslmode": "require"}, ""),
    "postgres://h/d?uselibpqcompat=true&sslmode=VERIFY_CA": ({"sslmode": "verify-ca"}, "uselibpqcompat"),
    "postgres://h/d?sslmode=require&sslaccept=strict": (SYSTEM, ""),
    "postgres://h/d?sslaccept=accept_invalid_certs": ({}, ""),
    "postgres://h/d?pool_max_conns=10&search_path=app": ({}, "pool_max_conns search_path"),
    "mysql://h/d?ssl=true": ({"ssl_mode": "VERIFY_IDENTITY"}, ""),
    "mysql://h/d?ssl=0": ({"ssl_mode": "DISABLED"}, ""),
    'mysql://h/d?ssl={"minVersion":"TLSv1.2","rejectUnauthorized":false}': ({"ssl_mode": "REQUIRED"}, ""),
    "mysql://h/d?useSSL=true&requireSSL=true&serverTimezone=UTC": ({"ssl_mode": "REQUIRED"}, "serverTimezone"),
    "mysql://h/d?useSSL=true&verifyServerCertificate=true": ({"ssl_mode": "VERIFY_CA"}, ""),
    "mysql://h/d?useSSL=false&allowPublicKeyRetrieval=true": ({"ssl_mode": "DISABLED"}, "allowPublicKeyRetrieval"),
    "mariadb://h/d?sslMode=trust": ({"ssl_mode": "REQUIRED"}, ""),
    "mysql://h/d?tls=skip-verify&parseTime=true": ({"ssl_mode": "REQUIRED"}, "parseTime"),
    "mysql://h/d?tls=preferred": ({"ssl_mode": "PREFERRED"}, ""),
    "mysql://h/d?sslca=/ca.pem&sslcert=/c.pem&sslkey=/k.pem": (
        {"ssl_ca": "/ca.pem", "ssl_cert": "/c.pem", "ssl_key": "/k.pem", "ssl_mode": "VERIFY_IDENTITY"},
        "",
    ),
    "mysql://h/d?ssl_cert=/c.pem&ssl_key=/k.pem&ssl_key_password=x": (
        {"ssl_cert": "/c.pem", "ssl_key": "/k.pem", "ssl_key_password": "x", "ssl_mode": "REQUIRED"},
        "",
    ),
    "mysql+aiomysql://h/d?ssl_ca=/ca.pem&charset=utf8mb4": (
        {"ssl_ca": "/ca.pem", "ssl_mode": "VERIFY_IDENTITY"},
        "charset",
    ),
    "mysql://h/d?ssl_ca=/ca.pem&ssl_check_hostname=false": ({"ssl_ca": "/ca.pem", "ssl_mode": "VERIFY_CA"}, ""),
    "mysql://h/d?ssl-ca=/ca.pem&ssl-mode=REQUIRED": ({"ssl_ca": "/ca.pem", "ssl_mode": "VERIFY_CA"}, ""),
    "mysql://h/d?ssl_verify_cert=true&ssl_verify_identity=true": ({"ssl_mode": "VERIFY_IDENTITY"}, ""),
    "mysql://h/d?sslrootcert=system": ({"ssl_mode": "VERIFY_IDENTITY"}, ""),
    "mysql://h/d?ssl_disabled=true&ssl_ca=/ca.pem": ({"ssl_mode": "DISABLED"}, ""),
    "mysql://h/d?ssl_disabled=false": ({}, ""),
    "mysql://h/d?connect_timeout=9": ({"connect_timeout": "9"}, ""),
}


@pytest.mark.parametrize("url", WRITTEN)
def test_parameters_are_translated_for_the_driver_and_those_of_other_clients_are_ignored(url: str) -> None:
    parameters, ignored = WRITTEN[url]
    address = read_address(url)
    assert address.parameters == parameters
    assert list(address.ignored) == ignored.split()


@pytest.mark.parametrize("url", WRITTEN)
def test_what_an_engine_shows_of_its_url_can_be_read_again(url: str) -> None:
    engine = open_engine(url)
    assert open_engine(engine.url.render_as_string(hide_password=False)).url == engine.url


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgres://db.example.com/d", [("db.example.com", None)]),
        ("postgres://a:5432,b:5433/d?target_session_attrs=read-write", [("a", 5432), ("b", 5433)]),
        ("postgres://u:hush@a,b:5433/d", [("a", None), ("b", 5433)]),
        ("postgres://[::1]:5432,[fe80::1%25eth0]/d", [("::1", 5432), ("fe80::1%eth0", None)]),
        ("postgres:///d?host=a:1&host=b:2", [("a", 1), ("b", 2)]),
        ("postgres:///d?host=a,b&port=1,2", [("a", 1), ("b", 2)]),
        ("postgres:///d?host=a,b&port=1", [("a", 1), ("b", 1)]),
        ("postgres://ignored/d?host=a", [("a", None)]),
        ("postgres://u@%2Fcloudsql%2Fp%3Ar%3Ai/d", [("/cloudsql/p:r:i", None)]),
        ("postgres:///d?port=5433", [("", 5433)]),
        ("postgres:///d", []),
        ("mysql://db:3307/d", [("db", 3307)]),
    ],
)
def test_hosts_are_read_in_every_form(url: str, hosts: list[tuple[str, int | None]]) -> None:
    assert read_address(url).hosts == tuple(Host(*host) for host in hosts)


def test_several_hosts_reach_libpq() -> None:
    engine = open_engine("postgres://app:s3cret%40@a:5432,[::1]/d?target_session_attrs=read-write")
    _, options = engine.dialect.create_connect_args(engine.url)
    expected = {"host": "a,::1", "port": "5432,", "user": "app", "password": "s3cret@", "dbname": "d"}
    assert {name: options[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgres://h/d?sslmod=require", "has an unknown parameter after the ?, sslmod: did you mean sslmode?"),
        ("postgres://h/d?foo=1", "has an unknown parameter after the ?, foo: remove it, or see deploy/databases.md"),
        ("mysql://h/d?foo=1", "has an unknown parameter after the ?, foo: remove it"),
        ("mysql://h/d?ssl_cafile=/x", "has an unknown parameter after the ?, ssl_cafile: did you mean ssl_ca"),
        ("postgres://h/d?sslmode=yes", "has a parameter sslmode with an unknown value: write one of allow, disable"),
        ("mysql://h/d?ssl=Amazon RDS", "has a parameter ssl with an unknown value: write one of"),
        ('mysql://h/d?ssl={"ca":"x"}', "has a parameter ssl that cannot be read: write"),
        ("mysql://h/d?ssl={", "has a parameter ssl that cannot be read: write"),
        ("mysql://h/d?useSSL=maybe", "has a parameter useSSL with an unknown value: write one of"),
        ("mysql://h/d?useSSL=true&ssl_disabled=true", "asks for TLS with one parameter and refuses it with another"),
        ("mysql://root@h:3306", "names no database: write its name after the host"),
        ("mysql://h/?connect_timeout=5", "names no database: write its name after the host"),
        ("mysql://a,b/d", "names several hosts, of which the MySQL driver takes one"),
        ("mysql://h/d?connect_timeout=soon", "has a parameter connect_timeout that is not a whole number"),
        ("postgres://h/d?connect_timeout=-1", "has a parameter connect_timeout that is not a whole number"),
        ("postgres://h/d?target_session_attrs=write", "has a parameter target_session_attrs with an unknown value"),
        (
            "postgres://h/d?sslmode=require&sslrootcert=system",
            "has sslrootcert=system, which needs sslmode=verify-full",
        ),
        ("postgres://h/d?sslcert=a&sslcert=b", "has a parameter twice: sslcert"),
        ("postgres://h/d?foo", "has something after the ? that is not name=value"),
        ("postgres://h/d?password=a&b", "has a password with an & in it: write %26 for it"),
        ("postgres://h:port/d", "has a host or port that cannot be read"),
        ("postgres://h:0/d", "has a port that is not a number between 1 and 65535"),
        ("postgres://h:99999/d", "has a port that is not a number between 1 and 65535"),
        ("postgres:///d?host=a:1&port=2", "names ports twice"),
        ("postgres:///d?host=a,b,c&port=1,2", "does not name as many ports as hosts"),
        ("postgres://h%0A/d", "holds a line break"),
        ("postgres://h/d?options=%0A", "holds a line break"),
        ("postgres://a?b@h/d", "holds a ? in the user's name, or an @ in a parameter"),
        ("prisma+postgres://accelerate.prisma-data.net/?api_key=x", "is the address of Prisma's proxy"),
        ("jdbc:postgresql://h/d", "must begin with postgresql://, mysql:// or sqlite:///"),
        ("postgresql+://h/d", "cannot be read: write scheme://user:password@host:port/name"),
        ("sqlite://", "names an in-memory SQLite database, which only one process sees: write sqlite:///dispatcher.db"),
        ("sqlite:///:memory:", "names an in-memory SQLite database"),
        ("sqlite://dispatcher.db", "names no file: write sqlite:///dispatcher.db"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_at_the_door(url: str, problem: str) -> None:
    assert refuse({"DATABASE_URL": url}).startswith(f"DISPATCHER_DATABASE_URL {problem}")
    with pytest.raises(UnusableDatabaseUrl) as refusal:
        open_engine(url)
    assert str(refusal.value).startswith("the database URL ")


@given(st.sampled_from(["?", "&", "=", "/", ":", "&a=", "?a=", "%", "#", "+"]), st.sampled_from(list(WRITTEN)))
def test_no_refusal_shows_a_part_of_a_password(character: str, url: str) -> None:
    scheme, _, rest = url.partition("://")
    address = rest.rpartition("@")[2]
    password = f"{CANARY}{character}{CANARY}"
    for written in (f"{scheme}://u:{password}@{address}", f"{url}{'&' if '?' in url else '?'}password={password}"):
        try:
            shown = f"{load({'DATABASE_URL': written})!r} {read_address(written)!r} {read_address(written).place}"
        except (ValueError, SettingsError) as refusal:
            shown = str(refusal)
        assert CANARY not in shown


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("postgres://db.example.com/d", "db.example.com"),
        ("postgres://localhost,db.example.com/d?sslmode=require", "db.example.com"),
        ("postgres://db.example.com/d?sslmode=verify-full&sslrootcert=/x", None),
        ("postgres://db.example.com/d?ssl=true", None),
        ("postgres://localhost/d", None),
        ("mysql://db.example.com/d", "db.example.com"),
        ("mysql://db.example.com/d?ssl-mode=REQUIRED", "db.example.com"),
        ("mysql://db.example.com/d?useSSL=true", "db.example.com"),
        ("mysql://db.example.com/d?ssl-mode=REQUIRED&ssl-ca=/x", None),
        ('mysql://db.example.com/d?ssl={"rejectUnauthorized":true}', None),
        ("mysql://db.example.com/d?socket=/run/mysqld.sock", None),
    ],
)
def test_a_remote_host_that_is_not_verified_is_known(url: str, host: str | None) -> None:
    assert dialect_of(url).unverified_host(open_engine(url).url) == host


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgres://u:hush@db.example.com:5432/app?sslmode=require", "postgresql://db.example.com:5432/app"),
        ("postgres://u:hush@a:1,[::1]:2/app", "postgresql://a:1,[::1]:2/app"),
        ("postgres://u:hush@/app?host=/cloudsql/p:r:i", "postgresql:///cloudsql/p:r:i/app"),
        ("mariadb://u:hush@h/app", "mysql://h/app"),
        ("mysql://u:hush@/app?unix_socket=/run/m.sock", "mysql:///run/m.sock/app"),
        ("sqlite:////var/lib/app.db?timeout=1", "sqlite:////var/lib/app.db"),
        ("sqlite:///file:app.db?mode=rw&uri=true", "sqlite:///file:app.db"),
    ],
)
def test_a_database_is_named_by_family_host_and_name(url: str, place: str) -> None:
    assert read_address(url).place == place


def test_the_path_of_a_file_is_shown_whole(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(directory)
    assert read_address("sqlite:///app.db").place == f"sqlite:///{directory}/app.db"


def test_the_password_is_not_in_the_representation() -> None:
    assert CANARY not in repr(read_address(f"postgres://u:{CANARY}@h/d?sslpassword={CANARY}"))
    assert read_address("postgres://u:s3cret%2F@h/d").password == "s3cret/"
    assert read_address("postgres://h").password is None


def test_families() -> None:
    assert [family_of(url) for url in ("postgres://x", "MariaDB+x://y", "sqlite:///x", "oracle://x", "")] == [
        "postgresql",
        "mysql",
        "sqlite",
        None,
        None,
    ]
    assert read_address("sqlite:////x.db") == Address("sqlite", database="/x.db")


def test_the_machines_authorities_are_named_to_libpq_which_looks_elsewhere(
    monkeypatch: pytest.MonkeyPatch, ca_file: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", ca_file)
    assert open_engine("postgres://h/d?ssl=true").url.query["sslrootcert"] == ca_file
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    assert ssl.get_default_verify_paths().cafile is None
    assert open_engine("postgres://h/d?ssl=true").url.query["sslrootcert"] == "system"


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [("", 5), ("?connect_timeout=15", 15), ("?connect_timeout=0", 5), ("?connect_timeout=900", 30)],
)
def test_the_urls_own_limit_for_connecting_counts_up_to_a_point(asked: str, seconds: int) -> None:
    for url in (f"postgres://h/d{asked}", f"mysql://h/d{asked}"):
        assert dialect_of(url).connect_limit(open_engine(url).url) == seconds
