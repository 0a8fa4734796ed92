"""What the tests of personal data share: an event about a person, and key stores."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import sqlalchemy as sa
from pydantic import BaseModel

import outbox
from outbox.codec import ROW_COLUMNS, from_row
from outbox.keys import TableKeyStore, key_store
from outbox.table import outbox_event, outbox_personal_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.envelope import Envelope

MASTER: Final = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
OTHER_MASTER: Final = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI="
NAME: Final = "Ada Lovelace"
TYPE: Final = "tests.personal.registered"


class Address(BaseModel):
    street: Annotated[str, outbox.Personal]
    city: str


@outbox.event(TYPE, key="customer_id")
class Registered(BaseModel):
    customer_id: str
    name: Annotated[str, outbox.Personal]
    year: Annotated[int | None, outbox.Personal] = None
    addresses: list[Address] = []
    friend_id: str | None = None
    friend: Annotated[str | None, outbox.Personal(subject="friend_id")] = None


def ada(**values: Any) -> Registered:
    address = Address(street="St James's Square 12", city="London")
    return Registered(
        **{"customer_id": "c-1", "name": NAME, "year": 1815, "addresses": [address]} | values
    )


def stored(engine: sa.Engine) -> list[Envelope]:
    """Return the events as a consumer receives them."""
    columns = [outbox_event.c[name] for name in ROW_COLUMNS]
    with engine.connect() as connection:
        rows = connection.execute(sa.select(*columns).order_by(outbox_event.c.seq))
        return [from_row(**{**row._mapping, "source": "/tests"}) for row in rows]


@contextmanager
def using(store: outbox.KeyStore | None) -> Iterator[None]:
    """Let this process use a key store while the block lasts."""
    former = key_store()
    outbox.use_key_store(store)
    try:
        yield
    finally:
        outbox.use_key_store(former)


def check_rights(app: sa.Engine, worker: sa.Engine) -> None:
    """Let one role emit, also in a snapshot from before, and another one read the keys."""
    keys = outbox.MasterKeys(MASTER)
    with using(TableKeyStore(keys)):
        for level in ("READ COMMITTED", "REPEATABLE READ"):
            with app.connect() as plain:
                connection = plain.execution_options(isolation_level=level)
                with connection.begin():
                    connection.execute(sa.select(outbox_personal_key.c.id)).all()
                    outbox.emit(connection, ada(customer_id=level))
    with worker.connect() as connection:
        ids = connection.scalars(sa.select(outbox_personal_key.c.id)).all()
    assert len(TableKeyStore(keys, worker).find(ids)) == 2
