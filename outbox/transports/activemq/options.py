"""The settings of a route on ActiveMQ."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SecretStr,
    model_validator,
)

from outbox.errors import ConfigurationError
from outbox.transports.topic import TemplateText

_LAST_PORT: Final = 65_535


def _addresses(text: str) -> list[tuple[str, int]]:
    found = []
    for part in text.split(","):
        host, _, port = part.strip().rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) <= _LAST_PORT:
            msg = f"{part.strip()!r} is no address such as broker-1:61613"
            raise ValueError(msg)
        found.append((host.removeprefix("[").removesuffix("]"), int(port)))
    return found


def _checked(text: str) -> str:
    if "@" in text:  # addresses are shown in errors and documents
        raise ValueError("an address has no login: set username and password")
    _addresses(text)
    return text


def _line(text: str) -> str:
    if set("\n\r\0") & set(text):
        raise ValueError("contains the end of a line")
    return text


def _secret_line(text: SecretStr) -> SecretStr:
    _line(text.get_secret_value())
    return text


class Tls(BaseModel):
    """How connections are encrypted, and who may be at the other end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ca_file: Path | None = None
    """PEM file with the certificates that the broker's is checked against; by default those of
    the operating system."""
    certificate_file: Path | None = None
    """PEM file with the client's own certificate, where the broker asks for one."""
    key_file: Path | None = None
    """PEM file with its key; by default it stands in the same file."""
    key_password: SecretStr | None = None
    verify: bool = True
    """Whether the broker's certificate, and the name in it, are checked at all."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.certificate_file is None and (self.key_file or self.key_password):
            raise ValueError("key_file and key_password need a certificate_file")
        return self

    def context(self, route: str) -> ssl.SSLContext:
        """Return what connections are wrapped with.

        Raises `ConfigurationError` that names the setting whose file cannot be used.
        """
        where = f"routes.{route}.tls"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.ca_file is None:
            context.load_default_certs()
        else:
            try:
                context.load_verify_locations(self.ca_file)
            except OSError as exc:
                raise _unusable(f"{where}.ca_file", self.ca_file, exc) from None
        if self.certificate_file is not None:
            self._load_own(context, where)
        return context

    def _load_own(self, context: ssl.SSLContext, where: str) -> None:
        password = None if self.key_password is None else self.key_password.get_secret_value()
        path = str(self.certificate_file)
        try:
            # Never None: OpenSSL would ask for it at the terminal.
            context.load_cert_chain(path, self.key_file, password or "")
        except OSError as exc:
            setting = f"{where}.certificate_file, key_file or key_password"
            raise _unusable(setting, self.certificate_file, exc) from None


def _unusable(setting: str, path: Path | None, exc: OSError) -> ConfigurationError:
    return ConfigurationError(f"{setting}: {path} cannot be used: {exc.strerror or exc}")


class Options(BaseModel):
    """The settings of a route on ActiveMQ; no password is ever shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    brokers: Annotated[str, AfterValidator(_checked)]
    """Addresses at which brokers speak STOMP: `host:port,host:port`. The first one that answers
    is used, and the next one when it does not answer any more."""
    topic: TemplateText = "{type_prefix}"
    """Template of the topic's name."""
    destination: Literal["virtual-topic", "queue"] = "virtual-topic"
    """Each group receives everything, or a queue of the topic's name that its only group
    empties."""
    groups: list[str] = []
    """The consumers of a virtual topic. For those the relay makes sure that their queues are
    there before it publishes: a group that is not named here would lose what was published before
    its first worker ran, so it may not receive."""
    username: Annotated[str, AfterValidator(_line)] | None = None
    password: Annotated[SecretStr, AfterValidator(_secret_line)] | None = None
    tls: Tls | None = None
    """Encrypts, where there is such a table, even an empty one."""
    heart_beat_seconds: Annotated[float, Field(ge=0.1, le=600)] = 10.0
    """How often each side shows that it is alive; after twice that time without a sign the
    connection is given up."""
    in_flight: PositiveInt = 1_000
    """Events that are published in one transaction of the broker, at most."""
    prefetch: PositiveInt = 1_000
    """Events that the broker sends to a worker ahead of their acknowledgement, at most."""
    max_message_bytes: PositiveInt = 100_000_000
    """The largest event that the broker takes; a larger one becomes a dead letter, unsent."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.destination == "virtual-topic" and not all(self.groups or [""]):
            raise ValueError(
                "groups: name the consumers that receive from this route. ActiveMQ keeps nothing"
                " for a consumer whose queue is not there yet, so the relay makes it first"
            )
        if self.destination == "queue" and self.groups:
            raise ValueError("groups: a plain queue has one group, whatever its name: name none")
        if self.password is not None and self.username is None:
            raise ValueError("password: it needs a username")
        return self

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The brokers in the order in which they are tried: host and port."""
        return _addresses(self.brokers)
