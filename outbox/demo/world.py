"""Where the story happens: databases, a broker, relay and workers, and what befalls them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Protocol

import sqlalchemy as sa
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from outbox.demo.events import OrderPlaced
from outbox.envelope import Envelope, new_id
from outbox.errors import OutboxError
from outbox.settings import Settings
from outbox.transport import Published, Publisher


class DemoError(OutboxError):
    """Something that the demo rests on did not work."""


@dataclass(frozen=True, slots=True)
class Books:
    """The two databases of one shop."""

    shop: sa.Engine
    billing: sa.Engine
    both: sa.Engine
    """Sees the tables of the two others, to count over them."""

    def close(self) -> None:
        """Close every connection."""
        for engine in (self.shop, self.billing, self.both):
            engine.dispose()


class World(Protocol):
    """Both shops have one kind of broker, and the same happens to both."""

    naive: Books
    outbox: Books
    place: str
    """For the narration: which database and which broker."""
    interruption: str
    """For the narration: what `interrupted` does."""

    def publish(self, event: OrderPlaced) -> None:
        """Publish for the shop without an outbox; raises `OutboxError` where that fails."""
        ...

    def outage(self) -> AbstractContextManager[None]:
        """Keep the broker from everybody until the block ends."""
        ...

    def interrupted(self) -> AbstractContextManager[None]:
        """Stop what delivers, and start it again when the block ends."""
        ...

    def repeat(self, count: int) -> int:
        """Let the broker deliver each shop's last messages a second time; return how many."""
        ...

    def finish(self) -> None:
        """Wait until everything published is delivered and handled."""
        ...


class DemoSettings(Settings):
    """Settings that no environment variable changes: the demo must not touch a real database."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what the code says, and nothing else."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


class Direct:
    """Publishes events one by one, for the shop without an outbox; from any thread."""

    def __init__(self, publishers: Sequence[Publisher]) -> None:
        """Take one publisher for each thread that may publish at the same time."""
        self._publishers = publishers
        self._free: SimpleQueue[Publisher] = SimpleQueue()
        for publisher in publishers:
            self._free.put(publisher)

    def publish(self, event: OrderPlaced) -> None:
        """Wait for the broker's answer; raises `OutboxError` where it is no."""
        envelope = Envelope(
            id=new_id(),
            source="/shop",
            type="shop.order.placed",
            time=datetime.now(UTC),
            data=event.model_dump_json().encode(),
            partition_key=event.customer_id,
        )
        publisher = self._free.get()
        try:
            (outcome,) = publisher.publish([envelope])
        finally:
            self._free.put(publisher)
        if not isinstance(outcome, Published):
            raise outcome.error

    def close(self) -> None:
        """Close the publishers."""
        for publisher in self._publishers:
            publisher.close()
