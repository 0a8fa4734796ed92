from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.errors import DecodeError
from outbox.transports.s3.group import balance, drop, empty, read_state, settle


def test_the_first_member_takes_all() -> None:
    state = balance(empty(5), "a", ())
    assert state.owned_by("a") == [0, 1, 2, 3, 4]


def test_a_member_gives_up_what_is_more_than_its_share_when_it_is_not_busy_with_it() -> None:
    state = balance(balance(empty(4), "a", ()), "b", ())
    assert state.owned_by("b") == []
    assert state.surplus_of("a") == [2, 3]
    state = balance(state, "a", [3])
    assert state.owned_by("a") == [0, 1, 3]
    assert state.surplus_of("a") == [3]
    state = balance(balance(state, "a", ()), "b", ())
    assert (state.owned_by("a"), state.owned_by("b")) == ([0, 1], [2, 3])


def test_nobody_takes_from_another_member() -> None:
    state = balance(balance(empty(4), "a", ()), "b", ())
    assert balance(state, "b", ()).owners == state.owners


def test_what_a_dropped_member_had_is_free() -> None:
    state = balance(balance(empty(4), "a", ()), "b", ())
    state = balance(drop(state, {"a"}), "b", ())
    assert list(state.members) == ["b"]
    assert state.owned_by("b") == [0, 1, 2, 3]


def test_only_an_owner_moves_an_offset_and_never_back() -> None:
    state = balance(empty(2), "a", ())
    state = settle(state, "a", {0: 7, 1: 9})
    assert settle(state, "b", {0: 100}).offsets == state.offsets
    assert settle(state, "a", {0: 3}).offsets == [7, 9]


def test_a_state_survives_the_round_trip() -> None:
    state = settle(balance(empty(3), "a", ()), "a", {1: 5})
    assert read_state(state.to_bytes()) == state


@pytest.mark.parametrize("stored", [b"", b"[]", b'{"version": 2}', b'{"version": 1}', b"nonsense"])
def test_what_is_no_state_is_refused(stored: bytes) -> None:
    with pytest.raises(DecodeError):
        read_state(stored)


@given(st.integers(1, 40), st.lists(st.sampled_from("abcdef"), min_size=1, max_size=40))
def test_members_that_go_on_come_to_equal_shares(partitions: int, turns: list[str]) -> None:
    state = empty(partitions)
    for member in [*turns, *sorted(set(turns)) * 3]:
        state = balance(state, member, ())
    shares = [len(state.owned_by(member)) for member in set(turns)]
    assert sum(shares) == partitions
    assert max(shares) - min(shares) <= 1
