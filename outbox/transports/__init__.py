"""Names of transports, and the modules that implement them; a driver is imported when asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from pydantic import BaseModel, ValidationError

from outbox.errors import ConfigurationError
from outbox.settings import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.settings import RouteSettings
    from outbox.transport import Publisher, Subscriber

MODULES: Final = {
    "kafka": "outbox.transports.kafka",
    "memory": "outbox.transports.memory",
}


class Transport(Protocol):
    """What the module of a transport offers; it raises `ConfigurationError` where it cannot."""

    Options: type[BaseModel]
    """The settings of a route that are the transport's own; forbids those that it does not know."""

    def publisher(self, route: str, options: Any, timeout: float, /) -> Publisher:
        """Make a publisher whose `publish` returns within `timeout` seconds."""
        ...

    def subscriber(
        self, route: str, options: Any, group: str, topics: Sequence[str], /
    ) -> Subscriber:
        """Make a member of a consumer group that receives from topics."""
        ...

    def topic_of(self, options: Any, event_type: str, /) -> str | None:
        """Return the topic of an event type; None where it depends on more than the type."""
        ...


def transport_of(route: str, settings: RouteSettings) -> tuple[Transport, BaseModel]:
    """Return a route's transport and its checked options, or raise `ConfigurationError`."""
    try:
        path = MODULES[settings.transport]
    except KeyError:
        known = ", ".join(sorted(MODULES))
        msg = f"routes.{route}.transport: there is no transport {settings.transport!r}; use {known}"
        raise ConfigurationError(msg) from None
    try:
        module = cast("Transport", import_module(path))
    except ImportError as exc:
        msg = (
            f"routes.{route}.transport: the driver of {settings.transport!r} is not installed"
            f" ({exc.name})"
        )
        raise ConfigurationError(msg) from exc
    try:
        return module, module.Options.model_validate(settings.options)
    except ValidationError as exc:
        raise ConfigurationError(describe(exc, "the settings", f"routes.{route}.")) from None
