"""State and events in one transaction by hand: the ceiling of `outbox bench emit`.

It is what one writes who knows SQLAlchemy: flush the state, then one Core insert of all events,
with no column that has a default. Nothing is checked.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson
import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox.bench.shop import Order
from outbox.envelope import new_id
from outbox.table import outbox_event

if TYPE_CHECKING:
    from sqlalchemy import Engine


def place(engine: Engine, count: int, pad: str) -> None:
    """Place an order, and insert so many events."""
    with Session(engine) as session, session.begin():
        session.add(Order(name="x"))
        session.flush()
        rows = [
            {
                "id": new_id(),
                "type": "outbox.bench.order.placed",
                "partition_key": "o-1",
                "time": datetime.now(UTC),
                "data": orjson.dumps({"order_id": "o-1", "total_cents": number, "pad": pad}),
                "headers": {},
            }
            for number in range(count)
        ]
        session.execute(sa.insert(outbox_event), rows)
