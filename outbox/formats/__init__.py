"""Data in other formats than JSON: Avro, Protobuf and JSON Schema, by a schema registry.

    emit ─▶ JSON in the row ─▶ relay ─▶ `convert` ─▶ broker ─▶ `unpack` ─▶ JSON ─▶ handler
                                          ▲                       ▲
                                          └──── `registry` ───────┘   a schema is asked for once

An application emits, and its handlers take, what they always do: nothing on the way of a commit
knows of a registry, and the relay needs no class of the application. The bytes between are those of
Confluent's serializers, so that any of their consumers reads them (`wire`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from outbox.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

    from outbox.formats.settings import SchemaSettings
    from outbox.formats.unpack import Unpacker
    from outbox.transport import Publisher

__all__ = ["check", "converting", "probe", "unpacker"]

REGISTRY_SHARE: Final = 0.25
"""Of a publisher's time-out, for what converting takes."""
_PHASES: Final = 3
"""Of a request that each have the time-out of their own: to connect, to write and to read."""


def check(route: str, settings: SchemaSettings, options: BaseModel) -> None:
    """Raise `ConfigurationError` where a route's events could never be converted."""
    from outbox.formats.codec import require  # noqa: PLC0415  # needs an extra

    where = f"routes.{route}.schemas"
    for name in sorted({settings.format, *settings.formats.values()} - {"json"}):
        require(name, where)
    if settings.subject != "record" and getattr(options, "topic", None) is None:
        raise ConfigurationError(
            f"{where}.subject: the transport of {route!r} has no topic that a subject could be"
            " named by; use record"
        )


def converting(
    route: str,
    settings: SchemaSettings,
    options: BaseModel,
    make: Callable[[float], Publisher],
    timeout: float,
) -> Publisher:
    """Make a publisher that converts what it publishes; `make` is for the one that it rests on.

    Its `publish` returns within `timeout` seconds, too. Raises `ConfigurationError` as `check`.
    """
    check(route, settings, options)
    from outbox.formats.convert import Converter  # noqa: PLC0415  # needs an extra
    from outbox.formats.publishing import wrap  # noqa: PLC0415  # the same
    from outbox.formats.registry import Registry  # noqa: PLC0415  # the same

    share = timeout * REGISTRY_SHARE
    registry = Registry(f"routes.{route}.schemas", settings, share / _PHASES)
    topic: str | None = getattr(options, "topic", None)
    converter = Converter(settings, registry, topic, share)
    return wrap(make(timeout - share), converter)


def probe(route: str, settings: SchemaSettings, options: BaseModel, timeout: float) -> None:
    """Return when the registry has let this client in; raise `OutboxError` otherwise."""
    check(route, settings, options)
    from outbox.formats.registry import Registry  # noqa: PLC0415  # needs an extra

    registry = Registry(f"routes.{route}.schemas", settings, timeout)
    try:
        registry.ping()
    finally:
        registry.close()


def unpacker(route: str, settings: SchemaSettings) -> Unpacker:
    """Return what makes JSON of the events that a worker of this route receives."""
    from outbox.formats.codec import require  # noqa: PLC0415  # needs an extra

    where = f"routes.{route}.schemas"
    for name in sorted({settings.format, *settings.formats.values(), "json"}):
        require(name, where)
    from outbox.formats.registry import Registry  # noqa: PLC0415  # needs an extra
    from outbox.formats.unpack import UNPACK_SECONDS, Unpacker  # noqa: PLC0415  # the same

    return Unpacker(Registry(where, settings, UNPACK_SECONDS))
