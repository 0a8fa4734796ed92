"""What is handed out, settled and given back, without a broker."""

from __future__ import annotations

from outbox.transport import Message
from outbox.transports.activemq.inbound import Inbound, Item, in_order


def item(number: int, queue: str = "a", producer: str = "ID:1", **changed: object) -> Item:
    values = {
        "message": Message("t", None, (), b"%d" % number),
        "queue": queue,
        "message_id": f"{producer}:{number}",
        "ack_id": str(number),
        "subscription": "1",
        "is_redelivered": True,
        "sent_at": 100,
    }
    return Item(**(values | changed))  # type: ignore[arg-type]  # attributes by name


def handed_out(inbound: Inbound) -> list[Item]:
    found = []
    while (next_ := inbound.next()) is not None:
        found.append(next_)
    return found


def test_what_is_given_back_comes_again_in_order_with_what_followed_it() -> None:
    items = [item(n) for n in range(6)]
    inbound = Inbound()
    inbound.add(items[:5])
    assert handed_out(inbound) == items[:5]
    inbound.add(items[5:])
    inbound.settle(items[2])
    inbound.give_back([items[3], items[1]])
    inbound.give_back([items[1]])
    assert handed_out(inbound) == [items[1], items[3], items[4], items[5]]
    assert not inbound.is_clear


def test_another_queue_is_not_given_back() -> None:
    items = [item(1), item(2, "b"), item(3)]
    inbound = Inbound()
    inbound.add(items)
    handed_out(inbound)
    inbound.give_back([items[0]])
    assert handed_out(inbound) == [items[0], items[2]]


def test_it_is_clear_when_everything_is_settled() -> None:
    one = item(1)
    inbound = Inbound()
    inbound.add([one])
    assert not inbound.is_clear
    handed_out(inbound)
    assert not inbound.is_clear
    inbound.settle(one)
    inbound.settle(one)
    assert inbound.is_clear


def test_what_was_given_back_to_the_broker_is_sorted_and_stands_first() -> None:
    later = [item(n, producer="ID:0", sent_at=200 + n) for n in (9, 10)]
    earlier = [item(n, sent_at=100 + n) for n in (9, 10, 11)]
    new = [item(1, is_redelivered=False), item(0, is_redelivered=False)]
    mixed = [later[1], earlier[2], new[0], earlier[0], later[0], new[1], earlier[1]]
    assert in_order(mixed) == [*earlier, *later, *new]
