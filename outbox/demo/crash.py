"""`python -m outbox.demo.crash SHOP ORDER CUSTOMER CENTS`: a payment process that dies.

It commits an order and is killed before it does anything else. The database's URL comes by
standard input, because it may hold a password.
"""

from __future__ import annotations

import os
import signal
import sys

import sqlalchemy as sa

from outbox.demo import naive, service
from outbox.demo.events import OrderPlaced
from outbox.demo.shop import Basket


def main() -> None:
    """Place the order, and die."""
    shop, order_id, customer_id, cents = sys.argv[1:]
    engine = sa.create_engine(sys.stdin.read())
    basket = Basket(order_id, customer_id, int(cents))
    if shop == "naive":
        naive.place_order(engine, die, basket)
    else:
        service.place_order(engine, basket)
        die()


def die(_event: OrderPlaced | None = None) -> None:
    """End as a process ends whose machine loses power: nothing is flushed, closed or caught."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
