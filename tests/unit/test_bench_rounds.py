"""Which turns count, and who comes first in a round."""

from __future__ import annotations

from functools import partial

from outbox.bench.rounds import is_warm, taken


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


def test_a_contender_is_warm_once_two_turns_were_hardly_faster() -> None:
    assert not is_warm([])
    assert not is_warm([98.0, 98.0])
    assert is_warm([98.0, 98.0, 98.0])
    falling = [98.0, 57.0, 38.0, 23.0, 20.5, 14.5]
    assert not any(is_warm(falling[:count]) for count in range(len(falling) + 1))
    assert not is_warm([*falling, 14.0])
    assert is_warm([*falling, 14.0, 18.0])
    assert not is_warm([*falling, 18.0, 13.0]), "which was a tenth better"
