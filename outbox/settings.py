"""Settings: one frozen value, read once from `outbox.toml` and the environment."""

from __future__ import annotations

import os
import tomllib
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import sqlalchemy as sa
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)
from sqlalchemy.exc import ArgumentError

from outbox.age import read_age, read_moment
from outbox.errors import ConfigurationError
from outbox.formats.settings import SchemaSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic_core import ErrorDetails

DEFAULT_FILE = Path("outbox.toml")
MAX_RECORD_BYTES = 1_000_000
"""The largest record that Kafka takes by default (1,048,588 bytes), less room for its framing."""


def _start(value: object) -> Literal["beginning", "now"] | int | datetime:
    # A TOML file has dates and times of its own; in the environment all is text.
    found = value.isoformat() if isinstance(value, date) else value
    if isinstance(found, str) and found not in {"beginning", "now"}:
        try:
            found = int(found) if found.isdecimal() else read_moment(found)
        except ValueError:
            found = None
    match found:
        case "beginning" | "now":
            return found
        case datetime():
            return found
        case int() if found >= 1 and not isinstance(found, bool):
            return found
    msg = (
        "is neither beginning nor now, nor a time such as 2026-05-01T08:00 (UTC unless it has a"
        " zone), nor the sequence of an event"
    )
    raise ValueError(msg)


Start = Annotated[Literal["beginning", "now"] | int | datetime, PlainValidator(_start)]
"""Where a route that never ran starts: an int is the sequence of the first event, a time is with
the first event from then on."""


def _where(value: object) -> object:
    if not isinstance(value, dict):
        return value
    for name in value:
        if name in _NOT_FILTERED:
            msg = f"a route cannot choose events by {name}"
            raise ValueError(msg)
    return {name: [globs] if isinstance(globs, str) else globs for name, globs in value.items()}


_NOT_FILTERED: Final = {"type", "time", "sequence", "specversion", "data", "data_base64"}
"""`types` is for the type; by the others nobody divides events."""
Where = Annotated[dict[str, Annotated[list[str], Field(min_length=1)]], BeforeValidator(_where)]
"""Globs by the CloudEvents name of an attribute, or by the name of a header of one's own."""


class RouteSettings(BaseModel):
    """One route: which events go where, and how. What the transport needs stands beside it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    transport: str
    """Name of the transport: `kafka`, `activemq`, `memory`, or one of another package."""
    types: Annotated[list[str], Field(min_length=1)] = ["*"]
    """Globs over the event type, for instance `["shop.order.*"]`."""
    where: Where = {}
    """Globs over other attributes of the envelope, for instance `{"source": ["/eu/*"]}`; each one
    named has to be there and to match."""
    schemas: SchemaSettings | None = None
    """Other formats of the data than JSON, by a schema registry."""
    on_dead: Literal["park_key", "skip", "stop"] = "park_key"
    """What follows a dead letter: later events of its key are parked behind it, or not, or the
    route stops."""
    start: Start = "beginning"
    """Where a route that never ran starts: `beginning`, `now`, a time, or an event's sequence."""
    page_size: Annotated[int, Field(ge=1, le=50_000)] = 10_000
    """Rows read and published at once, at most."""
    lease_seconds: Annotated[float, Field(ge=1)] = 15.0
    """How long a relay may be silent before another one takes the route over."""
    retry_max_seconds: PositiveFloat = 10.0
    """The longest wait between two attempts while the destination does not take events."""

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        # What the transport is configured with may hold passwords, under names of its own.
        for name, value in super().__repr_args__():
            yield name, "…" if name in self.options else value

    @property
    def options(self) -> dict[str, Any]:
        """What the transport itself is configured with."""
        return dict(self.model_extra or {})


class ConsumerSettings(BaseModel):
    """One consumer: where it receives from, and how it handles failures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    route: str | None = None
    """The route whose broker it receives from; by default the first one."""
    topics: list[str] = []
    """By default the topics of the types that it handles."""
    batch_size: PositiveInt = 500
    """Events handled in one transaction, at most."""
    max_attempts: PositiveInt = 5
    """Attempts at one event before it becomes a dead letter."""
    retry_max_seconds: PositiveFloat = 5.0
    """The longest wait between two attempts."""
    lane_count: PositiveInt = 10
    """On an AsyncEngine, transactions of one batch that run at the same time, each with keys and
    a connection of its own."""
    lock_timeout_seconds: PositiveFloat = 10.0
    """How long a statement of the handler's transaction waits for a lock (PostgreSQL)."""


def _age(value: object) -> timedelta:
    age = value if isinstance(value, timedelta) else read_age(str(value))
    if age is None:
        msg = 'is no age such as "90s", "15m", "2h" or "30d"'
        raise ValueError(msg)
    return age


Age = Annotated[timedelta, BeforeValidator(_age)]
"""A number and its unit: `90s`, `15m`, `2h`, `30d`."""


class RetentionSettings(BaseModel):
    """From which age on rows are deleted; what has no age is kept for ever."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: Age | None = None
    """Events that every route has delivered, by their `time`."""
    inbox: Age | None = None
    """What consumers have handled; longer than `events` and than the broker keeps its topics."""
    dead_letters: Age | None = None
    """Dead letters that were replayed or discarded, from then on."""

    @model_validator(mode="after")
    def _inbox_outlives_events(self) -> Self:
        if self.inbox is not None and self.events is not None and self.inbox <= self.events:
            msg = (
                "inbox has to be longer than events, because a route that is moved back sends"
                " stored events again, and the inbox is what tells that they were handled"
            )
            raise ValueError(msg)
        return self

    @property
    def is_on(self) -> bool:
        """Whether anything is ever deleted."""
        return any(age is not None for age in (self.events, self.inbox, self.dead_letters))


def _is_url(value: SecretStr) -> SecretStr:
    try:
        sa.make_url(value.get_secret_value())
    except ArgumentError:
        msg = "is no SQLAlchemy URL such as postgresql+psycopg://user@host/database"
        raise ValueError(msg) from None
    return value


DatabaseUrl = Annotated[SecretStr, AfterValidator(_is_url)]
"""A SQLAlchemy URL, which may have a password in it."""


class PersonalSettings(BaseModel):
    """How personal data in events is encrypted; see `outbox.keys`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    master_key: SecretStr | None = None
    """32 bytes in base64, which wrap the keys of subjects; without it this program can neither
    encrypt nor read personal data."""
    former_master_keys: list[SecretStr] = []
    """Those that it followed, until `outbox personal rewrap` has run."""
    database_url: DatabaseUrl | None = None
    """Where the keys are, by default with the outbox."""

    @model_validator(mode="after")
    def _has_a_current_key(self) -> Self:
        if self.master_key is None and self.former_master_keys:
            msg = "former_master_keys are there, and no master_key that followed them"
            raise ValueError(msg)
        return self


RESERVED: Final = "@"
"""What no route's name begins with: such rows of `outbox_checkpoint` are no routes."""


class Settings(BaseModel):
    """Everything that an operator may set; frozen, and without a secret in its repr.

    What a program makes itself is what it passes, whatever the environment says; `load` reads that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    database_url: DatabaseUrl
    """SQLAlchemy URL of the database that holds the outbox."""
    source: Annotated[str, Field(min_length=1, max_length=250)] = "/outbox"
    """CloudEvents `source` of events whose producer did not set one."""
    max_record_bytes: PositiveInt = MAX_RECORD_BYTES
    """Data and headers of one event, at most."""
    routes: dict[str, RouteSettings] = {}
    consumers: dict[str, ConsumerSettings] = {}
    retention: RetentionSettings = RetentionSettings()
    personal: PersonalSettings = PersonalSettings()

    @field_validator("routes")
    @classmethod
    def _are_no_reserved_names(cls, value: dict[str, RouteSettings]) -> dict[str, RouteSettings]:
        for name in value:
            if name.startswith(RESERVED):
                msg = f"the name of a route may not begin with {RESERVED!r}, as {name!r} does"
                raise ValueError(msg)
        return value

    @property
    def url(self) -> sa.URL:
        """The database's URL; its text hides the password."""
        return sa.make_url(self.database_url.get_secret_value())

    def route(self, name: str) -> RouteSettings:
        """Return a route by name, or raise `ConfigurationError` that lists those there are."""
        try:
            return self.routes[name]
        except KeyError:
            known = ", ".join(self.routes) or "none"
            msg = f"there is no route {name!r}; the settings have: {known}"
            raise ConfigurationError(msg) from None


class _Loaded(BaseSettings, Settings):
    """Settings of which the environment may say some."""

    model_config = SettingsConfigDict(
        env_prefix="OUTBOX_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, which `load` passes as the initial values."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings


def load(path: Path | None = None) -> Settings:
    """Read the settings from a TOML file and the environment.

    The environment wins: `OUTBOX_DATABASE_URL`, `OUTBOX_ROUTES__KAFKA__BOOTSTRAP_SERVERS` and so
    on. The file is `path`, or `OUTBOX_CONFIG`, or `outbox.toml` where that exists. Raises
    `ConfigurationError` that names the file and the setting.
    """
    named = path or (Path(os.environ["OUTBOX_CONFIG"]) if "OUTBOX_CONFIG" in os.environ else None)
    file = named or DEFAULT_FILE
    values: dict[str, Any] = {}
    if named is not None or file.exists():
        values = _read(file)
    try:
        # A plain value, equal to one that a program makes.
        return Settings(**dict(_Loaded(**values)))
    except ValidationError as exc:
        origin = str(file) if values else "the environment"
        raise ConfigurationError(describe(exc, origin)) from None
    except SettingsError as exc:
        msg = (
            "in the environment: a list or a table is no JSON; write for instance"
            """ OUTBOX_ROUTES__KAFKA__TYPES='["shop.*"]'"""
        )
        raise ConfigurationError(msg) from exc


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as exc:
        msg = f"cannot read the settings file {file}: {exc.strerror}"
        raise ConfigurationError(msg) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        msg = f"{file} is no valid TOML: {exc}"
        raise ConfigurationError(msg) from exc


def shown(url: sa.URL) -> str:
    """Write a database's URL for people: without a password, wherever it stands in the URL."""
    secret = [name for name in url.query if "password" in name]
    return url.difference_update_query(secret).render_as_string(hide_password=True)


def describe(error: ValidationError, origin: str, prefix: str = "") -> str:
    """Say which settings are wrong and why, without their values, which may be secret."""
    problems = [
        f"{prefix}{'.'.join(str(part) for part in problem['loc'])}: {_sentence(problem)}"
        for problem in error.errors(include_input=False, include_url=False)
    ]
    return f"in {origin}: " + "; ".join(problems)


def _sentence(problem: ErrorDetails) -> str:
    match problem["type"]:
        case "extra_forbidden":
            return "there is no such setting"
        case "missing":
            return "is missing"
        case _:
            return problem["msg"].removeprefix("Value error, ")
