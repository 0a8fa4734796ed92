"""How the members of a group share the partitions of a topic, decided without I/O.

The state of a group is one value that members replace by compare-and-set. It says who is there,
whose each partition is, and how far each is done. Members take what is free and give up what is
more than their share; nobody takes from another one, unless that one has been silent for long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from outbox.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class State:
    """What a group knows of one topic."""

    members: Mapping[str, int]
    """Their names, and a number that grows while they live."""
    owners: Sequence[str | None]
    """By partition."""
    offsets: Sequence[int]
    """By partition: where its next owner begins."""
    nonce: str = ""
    """Tells values of one writer from those of any other."""

    def to_bytes(self) -> bytes:
        """Write it as JSON."""
        return orjson.dumps(
            {
                "version": VERSION,
                "nonce": self.nonce,
                "members": dict(self.members),
                "owners": list(self.owners),
                "offsets": list(self.offsets),
            }
        )

    def owned_by(self, member: str) -> list[int]:
        """Return a member's partitions, in order."""
        return [number for number, owner in enumerate(self.owners) if owner == member]

    def surplus_of(self, member: str) -> list[int]:
        """Return those of a member's partitions that are more than its share."""
        return self.owned_by(member)[_share(self.members, member, len(self.owners)) :]


def empty(partitions: int) -> State:
    """Return the state of a group that nobody has joined yet."""
    return State({}, [None] * partitions, [0] * partitions)


def read_state(stored: bytes) -> State:
    """Read a state; raises `DecodeError` where it is none of this version."""
    try:
        found: dict[str, Any] = orjson.loads(stored)
        if found["version"] != VERSION:
            raise DecodeError(f"a group has a state of version {found['version']}, not {VERSION}")
        return State(found["members"], found["owners"], found["offsets"], found["nonce"])
    except (KeyError, TypeError, ValueError) as exc:
        raise DecodeError(f"a group has a state that cannot be read: {exc!r}") from exc


def settle(state: State, member: str, done: Mapping[int, int]) -> State:
    """Note how far a member is done with partitions of its own; all others stay as they are."""
    offsets = [
        max(offset, done.get(number, 0)) if owner == member else offset
        for number, (owner, offset) in enumerate(zip(state.owners, state.offsets, strict=True))
    ]
    return replace(state, offsets=offsets)


def drop(state: State, members: Collection[str]) -> State:
    """Let members leave; what they had is free."""
    return replace(
        state,
        members={name: beat for name, beat in state.members.items() if name not in members},
        owners=[None if owner in members else owner for owner in state.owners],
    )


def balance(state: State, member: str, busy: Collection[int]) -> State:
    """Let a member, which joins if it has not, give up its surplus, or take what is free.

    `busy` partitions of its own are kept for now: it has events of them in its hands.
    """
    members = {**state.members, member: state.members.get(member, 0) + 1}
    state = replace(state, members=members)
    owners = list(state.owners)
    for number in state.surplus_of(member):
        if number not in busy:
            owners[number] = None
    wanted = _share(members, member, len(owners)) - len(state.owned_by(member))
    for number, owner in enumerate(state.owners):
        if owner is None and wanted > 0:
            owners[number] = member
            wanted -= 1
    return replace(state, owners=owners)


def _share(members: Mapping[str, int], member: str, partitions: int) -> int:
    place = sorted(members).index(member)
    share, rest = divmod(partitions, len(members))
    return share + (place < rest)
