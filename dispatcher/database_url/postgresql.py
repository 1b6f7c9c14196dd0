"""The parameters of a PostgreSQL URL: those of libpq go to the driver."""

from collections.abc import Mapping

from dispatcher.database_url.query import Translation, refuse_unknown
from dispatcher.database_url.tls import Tls, is_tls, read_tls

_MODES = {
    Tls.OFF: "disable",
    Tls.PREFERRED: "prefer",
    Tls.REQUIRED: "require",
    Tls.AUTHORITY: "verify-ca",
    Tls.HOST: "verify-full",
}
_SYSTEM = "system"
"""For libpq: the authorities that this machine trusts."""

_CHOICES = {
    "channel_binding": {"disable", "prefer", "require"},
    "gssdelegation": {"0", "1"},
    "gssencmode": {"disable", "prefer", "require"},
    "load_balance_hosts": {"disable", "random"},
    "sslcertmode": {"disable", "allow", "require"},
    "sslcompression": {"0", "1"},
    "sslnegotiation": {"postgres", "direct"},
    "sslsni": {"0", "1"},
    "target_session_attrs": {"any", "read-write", "read-only", "primary", "standby", "prefer-standby"},
}
_NUMBERS = {
    "connect_timeout",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "tcp_user_timeout",
}
_TEXTS = {
    *("user", "password", "passfile", "dbname", "hostaddr", "service", "options", "requirepeer", "require_auth"),
    *("application_name", "fallback_application_name", "client_encoding", "krbsrvname", "gsslib", "replication"),
    *("sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl", "sslcrldir", "sslkeylogfile"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version", "min_protocol_version", "max_protocol_version"),
    *("scram_client_key", "scram_server_key"),
    *("oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope"),
}
_LIBPQ = {*_CHOICES, *_NUMBERS, *_TEXTS}
SCHEMA_PARAMETERS = {"schema", "search_path", "currentSchema"}
"""Those by which other clients choose a schema."""
FOREIGN = {
    *SCHEMA_PARAMETERS,
    # Prisma
    *("pgbouncer", "connection_limit", "pool_timeout", "socket_timeout", "statement_cache_size"),
    *("max_connection_lifetime", "max_idle_connection_lifetime", "single_use_connections"),
    # Supabase, also as Vercel's integration writes it
    *("supa", "workaround"),
    # node-postgres, postgres.js and what is built on them
    *("uselibpqcompat", "max", "min", "idle_timeout", "max_lifetime", "prepare", "fetch_types", "keepAlive"),
    *("connectionTimeoutMillis", "idleTimeoutMillis", "query_timeout", "statement_timeout", "lock_timeout"),
    *("idle_in_transaction_session_timeout", "binary", "debug"),
    # pgx and lib/pq
    *("pool_max_conns", "pool_min_conns", "pool_min_idle_conns", "pool_max_conn_lifetime", "pool_max_conn_idle_time"),
    *("pool_max_conn_lifetime_jitter", "pool_health_check_period", "default_query_exec_mode", "binary_parameters"),
    *("statement_cache_capacity", "description_cache_capacity", "statement_cache_mode", "timezone", "TimeZone"),
    # Rails
    *("pool", "encoding", "prepared_statements", "statement_limit", "checkout_timeout", "reaping_frequency"),
    *("advisory_locks", "schema_search_path", "min_messages", "adapter"),
    # Django, SQLAlchemy, asyncpg
    *("conn_max_age", "conn_health_checks", "disable_server_side_cursors", "async_fallback", "command_timeout"),
    *("prepared_statement_cache_size", "max_cached_statement_lifetime", "pool_size", "max_overflow"),
    # JDBC
    *("ApplicationName", "prepareThreshold", "reWriteBatchedInserts", "tcpKeepAlive"),
    *("socketTimeout", "loginTimeout", "connectTimeout", "stringtype"),
}
"""The parameters of other clients: pools, caches, and settings of a session, all of which the dispatcher sets itself."""


def translate(given: Mapping[str, str]) -> Translation:
    """Returns the parameters for libpq. Raises ValueError."""
    unknown = {name for name in given if name not in _LIBPQ | FOREIGN and not is_tls(name)}
    refuse_unknown(given, unknown, {*_LIBPQ, *FOREIGN, "sslmode"})
    driver = {name: _check(name, value) for name, value in given.items() if name in _LIBPQ}
    level = read_tls(given)
    if level is None and driver.get("sslrootcert") == _SYSTEM:
        level = Tls.HOST  # libpq's own default with it
    if level is not None:
        driver["sslmode"] = _MODES[level]
        if level is Tls.HOST and given.get("sslmode") != "verify-full":  # other clients trust the machine's authorities
            driver.setdefault("sslrootcert", _SYSTEM)
    if driver.get("sslrootcert") == _SYSTEM and level is not Tls.HOST:
        raise ValueError("has sslrootcert=system, which needs sslmode=verify-full: write that, or name a file")
    return Translation(driver, {name: value for name, value in given.items() if name in FOREIGN})


def _check(name: str, value: str) -> str:
    choices = _CHOICES.get(name)
    if choices is not None and value not in choices:
        raise ValueError(f"has a parameter {name} with an unknown value: write one of {', '.join(sorted(choices))}")
    if name in _NUMBERS and not (value.isascii() and value.isdigit()):
        raise ValueError(f"has a parameter {name} that is not a whole number")
    return value
