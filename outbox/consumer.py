"""⑤ A consumer: the name of a group of workers, and the handlers that they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from outbox.engine import make_async_engine, make_engine, missing_driver
from outbox.errors import ConfigurationError
from outbox.handlers import Handlers

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

Function = TypeVar("Function", bound="Callable[..., Any]")


class Consumer:
    """A named group of workers that handles each event once, whatever is delivered twice.

    `database` is where its handlers write: an Engine, an AsyncEngine, or a URL, of which an
    engine is made when it is first needed. The inbox is in the same database, so that an
    event's inbox row commits with what its handler wrote.
    """

    def __init__(self, name: str, *, database: sa.Engine | AsyncEngine | str | sa.URL) -> None:
        """Take the name of the inbox and of the consumer group; it must never change."""
        self.name = name
        self.handlers = Handlers()
        self._database = database

    def on(self, event: type | str) -> Callable[[Function], Function]:
        """Register the decorated function, `handler(event, context)`, for events of a type.

        With a class registered by `@outbox.event` it is called with instances of that class,
        for events of that version. With a type's name it is called with the parsed JSON (the
        bytes where the event is not JSON), for every version. The function may be async.

        Several handlers of one type run one after the other, in the order of their
        registration, in one transaction. Raises `EventDefinitionError` at import for a function
        that cannot be called so, `UnregisteredEventError` for a class that is no event.
        """

        def register(function: Function) -> Function:
            self.handlers.add(event, function)
            return function

        return register

    @property
    def engine(self) -> sa.Engine | AsyncEngine:
        """The engine; raises `ConfigurationError` where the URL is none or lacks its driver."""
        if isinstance(self._database, str | sa.URL):
            self._database = _make_engine(self.name, self._database)
        return self._database


def _make_engine(name: str, database: str | sa.URL) -> sa.Engine | AsyncEngine:
    try:
        url = sa.make_url(database)
        if url.get_dialect().is_async:
            return make_async_engine(url, f"outbox consumer {name}")
        return make_engine(url, f"outbox consumer {name}")
    except (ArgumentError, NoSuchModuleError):
        raise ConfigurationError(
            f"the database of consumer {name!r} is no SQLAlchemy URL such as"
            " postgresql+psycopg://user@host/database"
        ) from None
    except ImportError as exc:
        raise ConfigurationError(
            f"the database of consumer {name!r} needs {missing_driver(exc)}"
        ) from exc
