"""Who comes first in a round."""

from __future__ import annotations

from functools import partial

from outbox.bench.rounds import taken


def test_whoever_comes_first_in_a_round_comes_last_in_the_next() -> None:
    order: list[str] = []

    def turn(name: str) -> dict[str, float]:
        order.append(name)
        return {"place": len(order)}

    contenders = {name: partial(turn, name) for name in "abc"}
    rounds = [taken(contenders, number) for number in range(4)]
    assert "".join(order) == "abcbcacababc"
    assert [list(each) for each in rounds] == [["a", "b", "c"]] * 4, (
        "but they are told in one order"
    )
    assert [each["a"]["place"] for each in rounds] == [1, 6, 8, 10]
