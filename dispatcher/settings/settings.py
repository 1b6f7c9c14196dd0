"""The settings: from environment variables (`DISPATCHER_…`) or files (`DISPATCHER_…_FILE`), checked before the start."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import override

from dispatcher.database_url.address import EXAMPLE_FILE, Address, read_address
from dispatcher.policy.rate_window import RateLimit
from dispatcher.settings.choices import AttemptLog, LogFormat, LogLevel, Wakeup
from dispatcher.settings.contradictions import find_contradictions
from dispatcher.settings.durations import DAY, HOUR, MINUTE
from dispatcher.settings.environment import Reading, read_environment, variable_name
from dispatcher.settings.masking import show
from dispatcher.settings.values import (
    MAX_PORT,
    MAX_PROCESSES,
    BaseUrl,
    Choice,
    ConsoleToken,
    CredentialsQuery,
    CredentialsUrl,
    DatabaseUrl,
    Flag,
    HeaderName,
    Host,
    Names,
    Networks,
    OauthParams,
    ParsedDuration,
    ParsedNumber,
    ParsedProcesses,
    PathPrefix,
    Port,
    Rate,
    SchemaName,
    Seconds,
    Secret,
    Text,
    Token,
    TokenUrl,
    explain_constraint,
)

__all__ = [
    "AttemptLog",
    "LogFormat",
    "LogLevel",
    "SettingLine",
    "Settings",
    "SettingsError",
    "Wakeup",
    "describe",
    "load_settings",
]

Wait = Annotated[Seconds, Field(ge=0.001, le=HOUR), ParsedDuration]
Delay = Annotated[Seconds, Field(ge=0.0, le=DAY), ParsedDuration]
Period = Annotated[Seconds, Field(ge=0.0, le=3_650 * DAY), ParsedDuration]


class SettingsError(Exception):
    """The settings cannot be used. The message is one line that names every problem and contains no secret."""


@dataclass(frozen=True, slots=True)
class SettingLine:
    """One setting as shown to a person: the variable, its redacted value (None: not set), its source."""

    name: str
    value: str | None
    source: str


class Settings(BaseSettings):
    """Every setting of the service; durations are in seconds. Created by `load_settings`, in tests also by keyword."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    database_url: Annotated[DatabaseUrl, Field(validate_default=False)] = SecretStr("")
    """Empty only where no database is needed: `load_settings` refuses to be without one."""
    database_schema: SchemaName | None = None

    vercel_base_url: BaseUrl = "https://api.vercel.com"
    allow_insecure_base_url: Flag = False
    trust_env_proxy: Flag = False
    ca_file: Text | None = None

    vercel_token: Token | None = None
    credentials_query: CredentialsQuery | None = None
    credentials_dir: Text | None = None
    credentials_url: CredentialsUrl | None = None
    credentials_url_token: Token | None = None
    oauth_token_url: TokenUrl | None = None
    oauth_client_id: Text | None = None
    oauth_client_secret: Secret | None = None
    oauth_params: OauthParams | None = None
    credentials_ttl: Delay = 5 * MINUTE
    credentials_connections: Annotated[int, Field(ge=1, le=100), ParsedNumber] = 8

    poll_interval: Wait = 0.2
    wakeup: Annotated[Wakeup, Choice] = Wakeup.POLL
    processes: Annotated[int, Field(ge=1, le=MAX_PROCESSES), ParsedProcesses] = 1
    concurrency: Annotated[int, Field(ge=1, le=10_000), ParsedNumber] = 64
    request_timeout: Wait = 10.0
    lease: Annotated[Seconds, Field(ge=1.0, le=DAY), ParsedDuration] = 60.0
    rate_limit: Rate = RateLimit(60, 60.0)
    global_rate_limit: Rate = None
    settle_delay: Delay = 0.0

    max_attempts: Annotated[int, Field(ge=1, le=1_000_000), ParsedNumber] = 20
    backoff_base: Wait = 2.0
    backoff_cap: Annotated[Seconds, Field(ge=0.001, le=30 * DAY), ParsedDuration] = HOUR
    auth_grace: Period = 24 * HOUR
    disabled_grace: Period = 30 * DAY
    attempt_log: Annotated[AttemptLog, Choice] = AttemptLog.ALL
    attempt_retention: Period = 7 * DAY
    dead_letter_retention: Period = 90 * DAY
    shutdown_grace: Annotated[Seconds, Field(ge=0.0, le=HOUR), ParsedDuration] = 25.0

    ops_host: Host = "127.0.0.1"
    ops_port: Port = 9464
    console_host: Host = "127.0.0.1"
    console_port: Annotated[int, Field(ge=0, le=MAX_PORT), ParsedNumber] = 9465
    console_token: ConsoleToken | None = None
    console_user_header: HeaderName | None = None
    console_trusted_proxies: Networks = (ip_network("127.0.0.0/8"), ip_network("::1"))
    console_operators: Names = ()
    console_url: BaseUrl | None = None
    console_prefix: PathPrefix | None = None
    console_label: Text | None = None
    log_format: Annotated[LogFormat, Choice] = LogFormat.AUTO
    log_level: Annotated[LogLevel, Choice] = LogLevel.INFO

    # The file that each field was read from; None: the variable itself.
    _files: dict[str, str | None] = PrivateAttr(default_factory=dict)

    @property
    def database(self) -> Address:
        """Where `database_url` leads. Raises ValueError if it is empty."""
        return read_address(self.database_url.get_secret_value())

    @property
    def logs_successes(self) -> bool:
        """Whether successful requests get a row in the log of attempts too."""
        return self.attempt_log is AttemptLog.ALL and self.attempt_retention > 0

    def file_of(self, field: str) -> Path | None:
        """Returns the file that the value of this field was read from; None if it came by other means."""
        file = self._files.get(field)
        return Path(file) if file else None

    @override
    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # the others come by keyword
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        **_others: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Drops pydantic's own sources: `load_settings` reads the environment, and more strictly than they do."""
        return (init_settings,)

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        if problems := list(find_contradictions(self)):
            raise ValueError("; ".join(problems))
        return self

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name in type(self).model_fields:
            yield name, show(name, getattr(self, name))


class _Variables(PydanticBaseSettingsSource):
    """The texts of a `Reading`. pydantic's own source would ignore a misspelt variable and does not know `_FILE`."""

    def __init__(self, reading: Reading) -> None:
        super().__init__(Settings)
        self._reading = reading

    @override
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[str | None, str, bool]:
        return self._reading.texts.get(variable_name(field_name)), field_name, False

    @override
    def __call__(self) -> dict[str, str]:
        texts = (self.get_field_value(field, name) for name, field in Settings.model_fields.items())
        return {name: text for text, name, _ in texts if text is not None}


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Reads and checks the settings in `environ` (default: this process's environment). Raises SettingsError."""
    fields = {variable_name(field): field for field in Settings.model_fields}
    reading = read_environment(os.environ if environ is None else environ, fields)
    checked = _check(reading)
    problems = [*reading.unknown, *reading.unreadable, *_find_missing(reading)]
    if isinstance(checked, Settings) and not problems:
        checked._files.update({fields[name]: reading.files.get(name) for name in reading.texts})
        return checked
    raise SettingsError("; ".join([*problems, *([] if isinstance(checked, Settings) else checked)]))


def describe(settings: Settings) -> list[SettingLine]:
    """Returns each setting with its secrets redacted; its source is `default`, `environment`, `file PATH` or `argument`."""
    return [
        SettingLine(variable_name(field), show(field, getattr(settings, field)), _find_source(settings, field))
        for field in Settings.model_fields
    ]


def _check(reading: Reading) -> Settings | list[str]:
    try:
        return Settings(_build_sources=((_Variables(reading),), {}))  # type: ignore[call-arg]  # only the fields are typed
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_input=False)
    # While a value is unreadable, it is unknown whether the others contradict it.
    return [_explain(error, reading) for error in errors if error["loc"] or not reading.unreadable]


def _find_missing(reading: Reading) -> Iterator[str]:
    """A default would look healthy, with an empty database, while the events wait in another."""
    name = variable_name("database_url")
    if name not in reading.texts and not any(problem.startswith(name) for problem in reading.unreadable):
        yield f"{name} is not set: set it to the URL of your application's database, or, for a trial, to {EXAMPLE_FILE}"


def _explain(error: ErrorDetails, reading: Reading) -> str:
    if not error["loc"]:
        return str(error["ctx"]["error"])
    field = str(error["loc"][0])
    name = variable_name(field)
    is_ours = error["type"] == "value_error"
    problem = (
        error["ctx"]["error"] if is_ours else explain_constraint(Settings.model_fields[field], reading.texts[name])
    )
    return f"{reading.typed_names[name]} {problem}"


def _find_source(settings: Settings, field: str) -> str:
    if field in settings._files:
        file = settings._files[field]
        return "environment" if file is None else f"file {file}"
    return "argument" if field in settings.model_fields_set else "default"
