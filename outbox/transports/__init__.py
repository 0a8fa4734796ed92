"""Names of transports, and the modules that implement them; a driver is imported when asked for.

Besides those of this package a name may be an entry point of the group `outbox.transports`, which
any installed package can have.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from pydantic import BaseModel, ValidationError

from outbox.errors import ConfigurationError
from outbox.settings import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    import sqlalchemy as sa

    from outbox.settings import RouteSettings
    from outbox.transport import Publisher, Subscriber

GROUP: Final = "outbox.transports"
"""Of the entry points by which other packages add transports."""
MODULES: Final = {
    "activemq": "outbox.transports.activemq",
    "audit": "outbox.transports.audit",
    "kafka": "outbox.transports.kafka",
    "memory": "outbox.transports.memory",
    "s3": "outbox.transports.s3",
}
"""Those of this package; no other package can take their names."""


EXTRAS: Final = frozenset({"s3"})
"""Those whose driver comes with the extra of the same name."""


class SendingTransport(Protocol):
    """What the module of a transport offers; it raises `ConfigurationError` where it cannot."""

    Options: type[BaseModel]
    """The settings of a route that are the transport's own; forbids those that it does not know."""

    def publisher(self, route: str, options: Any, timeout: float, /) -> Publisher:
        """Make a publisher whose `publish` returns within `timeout` seconds."""
        ...


class Transport(SendingTransport, Protocol):
    """What it offers besides, where workers can receive from it too."""

    def subscriber(
        self, route: str, options: Any, group: str, topics: Sequence[str], /
    ) -> Subscriber:
        """Make a member of a consumer group that receives from topics."""
        ...

    def topic_of(self, options: Any, event_type: str, /) -> str | None:
        """Return the topic of an event type; None where it depends on more than the type."""
        ...


class ProbedTransport(SendingTransport, Protocol):
    """What it may offer besides, so that `outbox doctor` can look further than the settings."""

    def probe(self, route: str, options: Any, timeout: float, /) -> None:
        """Return when the destination has let this client in; raise `OutboxError` otherwise.

        It takes at most `timeout` seconds, and changes nothing.
        """
        ...


class StoringTransport(SendingTransport, Protocol):
    """What it may offer besides, where it keeps events in a database."""

    def beside(self, options: Any, database: sa.URL, /) -> BaseModel:
        """Return the options with the relay's database where they name none of their own."""
        ...


def transport_of(
    route: str, settings: RouteSettings, database: sa.URL | None = None
) -> tuple[SendingTransport, BaseModel]:
    """Return a route's transport and its checked options, or raise `ConfigurationError`.

    `database` is the relay's, for a transport that keeps events in one.
    """
    name, where = settings.transport, f"routes.{route}.transport"
    try:
        module = _load(name, where)
    except ImportError as exc:
        remedy = f": pip install 'outbox-relay[{name}]'" if name in EXTRAS else ""
        raise ConfigurationError(
            f"{where}: the driver of {name!r} is not installed ({exc.name}){remedy}"
        ) from exc
    options = getattr(module, "Options", None)
    if not (isinstance(options, type) and issubclass(options, BaseModel)):
        raise ConfigurationError(f"{where}: {name!r} has no pydantic model called Options")
    _require(module, "publisher", f"{where}: {name!r} is no transport")
    try:
        made = options.model_validate(settings.options)
    except ValidationError as exc:
        raise ConfigurationError(describe(exc, "the settings", f"routes.{route}.")) from None
    if database is not None and hasattr(module, "beside"):
        made = cast("StoringTransport", module).beside(made, database)
    return cast("SendingTransport", module), made


def receiving_transport_of(route: str, settings: RouteSettings) -> tuple[Transport, BaseModel]:
    """Return the same for a worker; raises `ConfigurationError` where it only publishes, too."""
    transport, options = transport_of(route, settings)
    for needed in ("subscriber", "topic_of"):
        why = f"routes.{route}.transport: no worker can receive by {settings.transport!r}"
        _require(transport, needed, why)
    return cast("Transport", transport), options


def probe(
    route: str, settings: RouteSettings, timeout: float, database: sa.URL | None = None
) -> bool:
    """Look whether a route's destination lets this client in; raises `OutboxError` if it does not.

    Returns False where the transport has no `probe`, so that only the settings were looked at.
    `database` is the relay's.
    """
    transport, options = transport_of(route, settings, database)
    if not hasattr(transport, "probe"):
        return False
    cast("ProbedTransport", transport).probe(route, options, timeout)
    return True


def _load(name: str, where: str) -> object:
    path = MODULES.get(name)
    if path is not None:
        return import_module(path)
    found = {each.value: each for each in entry_points(group=GROUP, name=name)}
    if not found:
        known = ", ".join(sorted({*MODULES, *entry_points(group=GROUP).names}))
        raise ConfigurationError(f"{where}: there is no transport {name!r}; use {known}")
    if len(found) > 1:
        both = " and ".join(sorted(found))
        raise ConfigurationError(
            f"{where}: two installed packages offer a transport {name!r}, {both}: uninstall one"
        )
    (point,) = found.values()
    try:
        return point.load()
    except AttributeError as exc:
        raise ConfigurationError(f"{where}: {name!r} is to be {point.value}: {exc}") from exc


def _require(module: object, needed: str, what: str) -> None:
    if not callable(getattr(module, needed, None)):
        raise ConfigurationError(f"{what}: it has no function {needed}")
