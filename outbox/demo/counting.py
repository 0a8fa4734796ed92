"""What became of the orders, counted by SQL from the shop's and billing's databases."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import sqlalchemy as sa


@dataclass(frozen=True, slots=True)
class Counts:
    """One shop's figures."""

    orders_committed: int
    events_delivered: int
    """Orders that have an invoice."""
    events_lost: int
    """Orders that have none."""
    doubled_effects: int
    """Invoices beyond the first of an order."""
    phantom_effects: int
    """Orders that have an invoice but were rolled back."""
    out_of_order: int
    """Invoices that came after one of the same customer's later orders."""

    @property
    def is_perfect(self) -> bool:
        """Every committed order has exactly one invoice, in order, and no other order has one."""
        wrong = (
            self.events_lost,
            self.doubled_effects,
            self.phantom_effects,
            self.out_of_order,
        )
        return not any(wrong) and self.events_delivered == self.orders_committed > 0

    def to_json(self) -> dict[str, int | bool]:
        """Return the figures and the verdict."""
        return {**asdict(self), "is_perfect": self.is_perfect}


COUNTS: Final = sa.text("""\
WITH first_invoice AS (
    SELECT order_id, customer_id, number, min(id) AS id
      FROM invoice
     GROUP BY order_id, customer_id, number
), arrival AS (
    SELECT number, max(number) OVER (
               PARTITION BY customer_id ORDER BY id
               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
           ) AS highest_before
      FROM first_invoice
)
SELECT (SELECT count(*) FROM orders),
       (SELECT count(*) FROM orders WHERE id IN (SELECT order_id FROM invoice)),
       (SELECT count(*) FROM orders WHERE id NOT IN (SELECT order_id FROM invoice)),
       (SELECT count(*) - count(DISTINCT order_id) FROM invoice),
       (SELECT count(DISTINCT order_id) FROM invoice WHERE order_id NOT IN (SELECT id FROM orders)),
       (SELECT count(*) FROM arrival WHERE number < highest_before)
""")


def count(both: sa.Engine) -> Counts:
    """Count over an engine that sees the tables of the shop and of billing."""
    with both.connect() as connection:
        return Counts(*connection.execute(COUNTS).one())
