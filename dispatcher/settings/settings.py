"""Settings: from the environment (`DISPATCHER_…`) or from files (`DISPATCHER_…_FILE`), checked before the start."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import override

from dispatcher.policy.rate_window import RateLimit
from dispatcher.settings.durations import DAY, HOUR, MINUTE, format_duration, parse_duration
from dispatcher.settings.environment import PREFIX, Reading, read_environment
from dispatcher.settings.masking import MASK, mask_database_url, mask_query, mask_token_url
from dispatcher.settings.values import (
    LogFormat,
    LogLevel,
    Wakeup,
    duration_between,
    is_postgresql,
    number_between,
    one_of,
    optional,
    parse_base_url,
    parse_credentials_query,
    parse_database_url,
    parse_flag,
    parse_host,
    parse_oauth_params,
    parse_port,
    parse_rate_limit,
    parse_schema,
    parse_secret,
    parse_text,
    parse_token,
    parse_token_url,
)

__all__ = [
    "LogFormat",
    "LogLevel",
    "Seconds",
    "SettingLine",
    "Settings",
    "SettingsError",
    "Wakeup",
    "describe",
    "format_duration",
    "insecure_hosts",
    "load_settings",
    "parse_duration",
]

# A request is started only if the lease outlasts its deadline; with less than this to spare nothing would be sent.
LEASE_MARGIN = 1.0
# Their times are kept in the installation's row, as text of at most 64 KiB on MySQL and MariaDB.
MAX_REQUESTS_PER_WINDOW = 4_000
# Not the field's name: pydantic's BaseModel has a method called `schema`.
SCHEMA_VARIABLE = "SCHEMA"

Seconds = float
Wait = Annotated[Seconds, BeforeValidator(duration_between(0.001, HOUR))]
Delay = Annotated[Seconds, BeforeValidator(duration_between(0.0, DAY))]
Period = Annotated[Seconds, BeforeValidator(duration_between(0.0, 3_650 * DAY))]
Rate = Annotated[RateLimit | None, BeforeValidator(parse_rate_limit)]


class SettingsError(Exception):
    """The settings cannot be used. The text is one line that names every problem and never holds a secret."""


@dataclass(frozen=True, slots=True)
class SettingLine:
    """One setting as a person is shown it: the variable, its redacted value (None: not set), its source."""

    name: str
    value: str | None
    source: str


class Settings(BaseSettings):
    """Every setting of the service; durations are seconds. Made by `load_settings`, in tests also by keyword."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    database_url: Annotated[SecretStr, BeforeValidator(parse_database_url)] = SecretStr("sqlite:///dispatcher.db")
    database_schema: Annotated[str | None, BeforeValidator(optional(parse_schema))] = None

    vercel_base_url: Annotated[str, BeforeValidator(parse_base_url)] = "https://api.vercel.com"
    allow_insecure_base_url: Annotated[bool, BeforeValidator(parse_flag)] = False
    trust_env_proxy: Annotated[bool, BeforeValidator(parse_flag)] = False
    ca_file: Annotated[str | None, BeforeValidator(optional(parse_text))] = None

    vercel_token: Annotated[SecretStr | None, BeforeValidator(optional(parse_token))] = None
    credentials_query: Annotated[str | None, BeforeValidator(optional(parse_credentials_query))] = None
    credentials_dir: Annotated[str | None, BeforeValidator(optional(parse_text))] = None
    oauth_token_url: Annotated[str | None, BeforeValidator(optional(parse_token_url))] = None
    oauth_client_id: Annotated[str | None, BeforeValidator(optional(parse_text))] = None
    oauth_client_secret: Annotated[SecretStr | None, BeforeValidator(optional(parse_secret))] = None
    oauth_params: Annotated[Mapping[str, str] | None, BeforeValidator(optional(parse_oauth_params))] = None
    credentials_ttl: Delay = 5 * MINUTE

    poll_interval: Wait = 0.2
    wakeup: Annotated[Wakeup, BeforeValidator(one_of(Wakeup))] = Wakeup.POLL
    concurrency: Annotated[int, BeforeValidator(number_between(1, 10_000))] = 64
    request_timeout: Wait = 10.0
    lease: Annotated[Seconds, BeforeValidator(duration_between(1.0, DAY))] = 60.0
    rate_limit: Rate = RateLimit(60, 60.0)
    global_rate_limit: Rate = None
    settle_delay: Delay = 0.0

    max_attempts: Annotated[int, BeforeValidator(number_between(1, 1_000_000))] = 20
    backoff_base: Wait = 2.0
    backoff_cap: Annotated[Seconds, BeforeValidator(duration_between(0.001, 30 * DAY))] = HOUR
    auth_grace: Period = 24 * HOUR
    disabled_grace: Period = 30 * DAY
    attempt_retention: Period = 7 * DAY
    dead_letter_retention: Period = 90 * DAY
    shutdown_grace: Annotated[Seconds, BeforeValidator(duration_between(0.0, HOUR))] = 25.0

    ops_host: Annotated[str, BeforeValidator(parse_host)] = "127.0.0.1"
    ops_port: Annotated[int | None, BeforeValidator(parse_port)] = 9464
    log_format: Annotated[LogFormat, BeforeValidator(one_of(LogFormat))] = LogFormat.AUTO
    log_level: Annotated[LogLevel, BeforeValidator(one_of(LogLevel))] = LogLevel.INFO

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @override
    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # the others come by keyword
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        **_others: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """By keyword nothing comes from the environment: `load_settings` reads that, more strictly than the sources left out."""
        return (init_settings,)

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        problems = [*_find_contradictions(self), *_find_insecure_urls(self), *_find_credential_conflicts(self)]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name in type(self).model_fields:
            yield name, _show(name, getattr(self, name))


class _Variables(PydanticBaseSettingsSource):
    """What the environment said. pydantic's own source would pass over a misspelt variable and know no `_FILE`."""

    def __init__(self, reading: Reading) -> None:
        super().__init__(Settings)
        self._reading = reading

    @override
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[str | None, str, bool]:
        return self._reading.texts.get(variable_name(field_name)), field_name, False

    @override
    def __call__(self) -> dict[str, str]:
        found = (self.get_field_value(field, name) for name, field in Settings.model_fields.items())
        return {name: text for text, name, _ in found if text is not None}


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read and check the settings of `environ` (default: of this process). Raises SettingsError."""
    fields = {variable_name(field): field for field in Settings.model_fields}
    reading = read_environment(os.environ if environ is None else environ, fields)
    checked = _check(reading)
    problems = [*reading.unknown, *reading.unreadable]
    if isinstance(checked, Settings) and not problems:
        checked._sources.update({fields[name]: source for name, source in reading.sources.items()})
        return checked
    raise SettingsError("; ".join([*problems, *([] if isinstance(checked, Settings) else checked)]))


def describe(settings: Settings) -> list[SettingLine]:
    """Each setting with its secrets redacted; the source is `default`, `environment`, `file PATH` or `argument`."""
    return [
        SettingLine(variable_name(field), _show(field, getattr(settings, field)), _find_source(settings, field))
        for field in Settings.model_fields
    ]


def variable_name(field: str) -> str:
    """The environment variable of a field: `lease` → `DISPATCHER_LEASE`."""
    return PREFIX + (SCHEMA_VARIABLE if field == "database_schema" else field.upper())


def _check(reading: Reading) -> Settings | list[str]:
    try:
        return Settings(_build_sources=((_Variables(reading),), {}))  # type: ignore[call-arg]  # only the fields are typed
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_input=False)
    # Where a value could not even be read, nothing can be said about how the others go together.
    return [_say(error, reading) for error in errors if error["loc"] or not reading.unreadable]


def _say(error: ErrorDetails, reading: Reading) -> str:
    problem = str(error["ctx"]["error"])
    if not error["loc"]:
        return problem
    return f"{reading.typed_names[variable_name(str(error['loc'][0]))]} {problem}"


def _find_contradictions(settings: Settings) -> Iterator[str]:
    if settings.lease < settings.request_timeout + LEASE_MARGIN:
        least = format_duration(settings.request_timeout + LEASE_MARGIN)
        yield f"DISPATCHER_LEASE must be at least {least}, which is DISPATCHER_REQUEST_TIMEOUT plus 1s: lengthen it"
    if settings.backoff_cap < settings.backoff_base:
        yield "DISPATCHER_BACKOFF_CAP must not be shorter than DISPATCHER_BACKOFF_BASE: lengthen it"
    if settings.rate_limit is not None and settings.rate_limit.requests > MAX_REQUESTS_PER_WINDOW:
        most = f"at most {MAX_REQUESTS_PER_WINDOW} requests, whose times an installation's row holds"
        yield f"DISPATCHER_RATE_LIMIT must name {most}: name fewer in a shorter time, such as 100/1s"
    if is_postgresql(settings.database_url):
        return
    if settings.wakeup is Wakeup.NOTIFY:
        yield "DISPATCHER_WAKEUP=notify needs a postgresql:// URL in DISPATCHER_DATABASE_URL: set it to poll"
    if settings.database_schema is not None:
        yield "DISPATCHER_SCHEMA needs a postgresql:// URL in DISPATCHER_DATABASE_URL: unset it"


def insecure_hosts(settings: Settings) -> list[tuple[str, str]]:
    """Each variable whose URL sends tokens in clear text, with its host."""
    urls = {field: getattr(settings, field) for field in ("vercel_base_url", "oauth_token_url")}
    return [
        (variable_name(field), urlsplit(url).hostname or "")
        for field, url in urls.items()
        if url is not None and not url.lower().startswith("https://")
    ]


def _find_insecure_urls(settings: Settings) -> Iterator[str]:
    if settings.allow_insecure_base_url:
        return
    for name, _ in insecure_hosts(settings):
        yield f"{name} must begin with https:// (for tests: {PREFIX}ALLOW_INSECURE_BASE_URL=true)"


def _find_credential_conflicts(settings: Settings) -> Iterator[str]:
    oauth = {
        variable_name(field): getattr(settings, field)
        for field in ("oauth_token_url", "oauth_client_id", "oauth_client_secret")
    }
    missing = [name for name, value in oauth.items() if value is None]
    wants_oauth = len(missing) < len(oauth) or settings.oauth_params is not None
    if wants_oauth and missing:
        yield f"the OAuth settings are incomplete: set {', '.join(missing)} as well, or none of DISPATCHER_OAUTH_…"
    sources = [
        variable_name(field)
        for field in ("vercel_token", "credentials_query", "credentials_dir")
        if getattr(settings, field) is not None
    ]
    if wants_oauth:
        sources.append("DISPATCHER_OAUTH_…")
    if len(sources) > 1:
        yield f"{', '.join(sources)} are several sources of credentials: keep one of them"


def _find_source(settings: Settings, field: str) -> str:
    return settings._sources.get(field, "argument" if field in settings.model_fields_set else "default")


def _show(field: str, value: object) -> str | None:
    match value:
        case SecretStr():
            return mask_database_url(value.get_secret_value()) if field == "database_url" else MASK
        case Mapping():
            return ", ".join(f"{name}={MASK}" for name in value)
        case bool():
            return str(value).lower()
        case float():
            return format_duration(value)
        case None:
            return "off" if field in ("rate_limit", "global_rate_limit", "ops_port") else None
    mask = {"oauth_token_url": mask_token_url, "credentials_query": mask_query}.get(field, str)
    return mask(str(value))
