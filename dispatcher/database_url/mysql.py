"""The parameters of a MySQL or MariaDB URL. The words of ours are those of MySQL's own clients, with underscores."""

from collections.abc import Mapping

from dispatcher.database_url.query import Translation, refuse_unknown
from dispatcher.database_url.tls import Tls, is_tls, read_tls, squeeze

MODES = {
    Tls.OFF: "DISABLED",
    Tls.PREFERRED: "PREFERRED",
    Tls.REQUIRED: "REQUIRED",
    Tls.AUTHORITY: "VERIFY_CA",
    Tls.HOST: "VERIFY_IDENTITY",
}
"""The values of `ssl_mode`."""
_FILE_PARAMETERS = ("ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_key_password", "ssl_cipher")
_FILES = {
    **{squeeze(name): name for name in _FILE_PARAMETERS},
    **dict.fromkeys(("sslrootcert", "serversslcert"), "ssl_ca"),
}
"""Our names by those of other clients, squeezed."""
_SOCKETS = {"unix_socket", "socket", "socketPath"}
_NUMBERS = {"connect_timeout"}
_TEXTS = {"user", "password", "bind_address", "program_name", "read_default_file", "read_default_group"}
_OURS = {*_SOCKETS, *_NUMBERS, *_TEXTS}
FOREIGN = {
    # Prisma
    *("connection_limit", "pool_timeout", "socket_timeout", "statement_cache_size"),
    *("max_connection_lifetime", "max_idle_connection_lifetime"),
    # mysql2 and mysql of Node
    *("connectionLimit", "waitForConnections", "queueLimit", "maxIdle", "idleTimeout", "acquireTimeout", "timezone"),
    *("multipleStatements", "dateStrings", "supportBigNumbers", "bigNumberStrings", "decimalNumbers", "debug"),
    *("trace", "flags", "namedPlaceholders", "enableKeepAlive", "keepAliveInitialDelay", "connectTimeout"),
    *("charset", "collation", "insecureAuth", "stringifyObjects", "typeCast"),
    # JDBC
    *("serverTimezone", "connectionTimeZone", "useUnicode", "characterEncoding", "allowPublicKeyRetrieval"),
    *("autoReconnect", "socketTimeout", "useLegacyDatetimeCode", "zeroDateTimeBehavior", "rewriteBatchedStatements"),
    *("cachePrepStmts", "useServerPrepStmts", "tinyInt1isBit", "allowMultiQueries", "nullCatalogMeansCurrent"),
    *("createDatabaseIfNotExist", "enabledTLSProtocols", "tcpKeepAlive", "connectionCollation", "sessionVariables"),
    # Go
    *("parseTime", "loc", "timeout", "readTimeout", "writeTimeout", "interpolateParams", "allowNativePasswords"),
    *("clientFoundRows", "maxAllowedPacket", "checkConnLiveness", "multiStatements", "columnsWithAlias"),
    # Rails, and providers that write for it
    *("reconnect", "pool", "encoding", "checkout_timeout", "prepared_statements", "variables", "adapter"),
    # Django, SQLAlchemy, PyMySQL
    *("conn_max_age", "conn_health_checks", "pool_size", "pool_recycle", "max_overflow", "read_timeout"),
    *("write_timeout", "local_infile", "init_command", "use_unicode", "client_flag", "compress", "max_allowed_packet"),
}
"""The parameters of other clients: pools, caches, and settings of a session, all of which the dispatcher sets itself."""


def translate(given: Mapping[str, str]) -> Translation:
    """Returns the parameters in our words: `ssl_mode`, `ssl_ca`, `unix_socket` and so on. Raises ValueError."""
    files = {name for name in given if squeeze(name) in _FILES}
    unknown = {name for name in given if name not in _OURS | FOREIGN | files and not is_tls(name)}
    refuse_unknown(given, unknown, {*_OURS, *FOREIGN, *_FILES.values(), "ssl_mode"})
    for name in _NUMBERS & given.keys():
        if not (given[name].isascii() and given[name].isdigit()):
            raise ValueError(f"has a parameter {name} that is not a whole number")
    ours = {"unix_socket" if name in _SOCKETS else name: value for name, value in given.items() if name in _OURS}
    ignored = {name: value for name, value in given.items() if name in FOREIGN}
    return Translation({**ours, **_protect(given, files)}, ignored)


def _protect(given: Mapping[str, str], files: set[str]) -> dict[str, str]:
    """Returns the parameters of TLS. A file of authorities means that the server is verified, as with PostgreSQL's drivers."""
    ours = {_FILES[squeeze(name)]: given[name] for name in files}
    if "ssl_cert" in ours and "ssl_key" not in ours:  # Prisma's sslcert is the authority's certificate
        ours.setdefault("ssl_ca", ours.pop("ssl_cert"))
    level = read_tls(given)
    if ours.get("ssl_ca") == "system":
        del ours["ssl_ca"]
        level = Tls.HOST if level is None else level
    if level is Tls.OFF:
        return {"ssl_mode": MODES[level]}
    if ours.keys() & {"ssl_ca", "ssl_capath"}:
        level = _verify(given, level)
    elif ours:
        level = max(level or Tls.REQUIRED, Tls.REQUIRED)
    return ours if level is None else {**ours, "ssl_mode": MODES[level]}


def _verify(given: Mapping[str, str], level: Tls | None) -> Tls:
    if level is not None:
        return max(level, Tls.AUTHORITY)
    may_differ = {squeeze(name) for name, value in given.items() if value.lower() in ("false", "0")}
    return Tls.AUTHORITY if may_differ & {"sslcheckhostname", "sslverifyidentity"} else Tls.HOST
