"""The story: the same orders for both shops, and the same misfortunes."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox.demo import naive, service
from outbox.demo.counting import Counts, count
from outbox.demo.narrator import Narrator
from outbox.demo.shop import Basket, CardDeclinedError, Customer
from outbox.demo.world import World
from outbox.errors import OutboxError

CUSTOMERS: Final = 12
TILLS: Final = 4
"""Orders placed at the same time."""
DECLINED: Final = 10
"""One basket in so many is paid by a card that the bank declines."""
SEED: Final = 7


@dataclass(frozen=True, slots=True)
class Plan:
    """How many orders each step places in each shop."""

    ordinary: int = 300
    in_outage: int = 80
    while_interrupted: int = 120
    repeated: int = 100


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the story ended."""

    naive: Counts
    outbox: Counts
    declined: int
    """Baskets that were rolled back, in each shop."""
    repeated: int
    """Messages that the broker delivered twice, in each shop."""

    def to_json(self) -> dict[str, object]:
        """Return every figure."""
        return {
            "naive": self.naive.to_json(),
            "outbox": self.outbox.to_json(),
            "orders_declined": self.declined,
            "messages_repeated": self.repeated,
        }


def tell(world: World, narrator: Narrator, plan: Plan) -> Comparison:
    """Let everything happen, and count what is left."""
    baskets = _baskets()
    tills = Tills(world, baskets)
    for books in (world.naive, world.outbox):
        _open_accounts(books.shop)
    narrator.say(f"Two shops take the same orders, on {world.place}.", "bold")
    with narrator.step(f"{plan.ordinary} orders at {TILLS} tills", 2 * plan.ordinary) as advance:
        tills.take(plan.ordinary, advance)
    narrator.note(f"every {DECLINED}th card was declined: these orders were rolled back")
    with narrator.step("a payment process is killed right after its commit"):
        tills.crash()
    narrator.note("its order is stored in both shops, its event in one")
    with (
        narrator.step(
            f"{plan.in_outage} orders while the broker is down", 2 * plan.in_outage
        ) as advance,
        world.outage(),
    ):
        tills.take(plan.in_outage, advance)
    narrator.note(
        f"{tills.unpublished} calls to the broker failed after their commit; emit makes none"
    )
    with (
        narrator.step(
            f"{plan.while_interrupted} orders while {world.interruption}",
            2 * plan.while_interrupted,
        ) as advance,
        world.interrupted(),
    ):
        tills.take(plan.while_interrupted, advance)
    with narrator.step(f"the broker delivers its last {plan.repeated} messages twice"):
        repeated = world.repeat(plan.repeated)
    with narrator.step("billing writes the last invoices"):
        world.finish()
    return Comparison(
        naive=count(world.naive.both),
        outbox=count(world.outbox.both),
        declined=tills.declined,
        repeated=repeated,
    )


class Tills:
    """Place baskets in both shops, several at a time."""

    def __init__(self, world: World, baskets: Iterator[Basket]) -> None:
        self._world = world
        self._baskets = baskets
        self.declined = 0
        self.unpublished = 0
        """Calls to the broker that failed."""

    def take(self, number: int, advance: Callable[[], None]) -> None:
        """Place the next baskets, first in one shop, then in the other."""
        baskets = [next(self._baskets) for _ in range(number)]
        self.declined += sum(basket.is_card_declined for basket in baskets)
        naively = partial(naive.place_order, self._world.naive.shop, self._world.publish)
        reliably = partial(service.place_order, self._world.outbox.shop)
        for place in (naively, reliably):
            with ThreadPoolExecutor(TILLS) as tills:
                for is_published in tills.map(partial(_place, place), baskets):
                    self.unpublished += not is_published
                    advance()

    def crash(self) -> None:
        """Place one basket in a process that dies right after its commit."""
        basket = next(basket for basket in self._baskets if not basket.is_card_declined)
        for kind, books in (("naive", self._world.naive), ("outbox", self._world.outbox)):
            url = books.shop.url.render_as_string(hide_password=False)
            arguments = [kind, basket.order_id, basket.customer_id, str(basket.total_cents)]
            subprocess.run(
                [sys.executable, "-m", "outbox.demo.crash", *arguments],
                input=url,
                text=True,
                check=False,
            )


def _place(place: Callable[[Basket], None], basket: Basket) -> bool:
    """Return False where the order is stored, but the call to the broker failed."""
    try:
        place(basket)
    except CardDeclinedError:
        return True
    except OutboxError:
        # The customer has paid, and the order stands: what else could the shop do now?
        return False
    return True


def _baskets() -> Iterator[Basket]:
    chance = random.Random(SEED)
    number = 0
    while True:
        number += 1
        yield Basket(
            order_id=f"o-{number}",
            customer_id=f"c-{chance.randrange(CUSTOMERS)}",
            total_cents=chance.randrange(100, 20_000),
            is_card_declined=number % DECLINED == 0,
        )


def _open_accounts(engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add_all(Customer(id=f"c-{number}", order_count=0) for number in range(CUSTOMERS))
