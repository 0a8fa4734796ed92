"""One member of a group on one topic: the group's state in the bucket, and how it is changed."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from outbox.errors import ConfigurationError, DecodeError, TransientError
from outbox.transports.s3 import group as groups

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from outbox.transports.s3.chain import Chain
    from outbox.transports.s3.group import State

log = logging.getLogger(__name__)

REQUEST_SECONDS: Final = 8.0
"""How long a request of a member may take, with its repetitions."""
_BEATS: Final = 3
"""Signs of life within the time after which silence counts as death."""
_LOOK_SECONDS: Final = 5.0
"""The longest time between two looks at the state."""


class Membership:
    """Joins at the first `sync`; used from one thread.

    A member trusts what it owns for `member_seconds` from the moment at which it began to write
    its last sign of life. Others wait as long from the moment at which they saw that sign, each
    by its own clock; so nobody takes over what somebody still trusts to have.
    """

    def __init__(self, chain: Chain, name: str, partitions: int, member_seconds: float) -> None:
        self._chain = chain
        self._name = name
        self._partitions = partitions
        self._member_seconds = member_seconds
        self._member = uuid.uuid4().hex
        self._version = 0
        self._state = groups.empty(partitions)
        self._seen: dict[str, tuple[int, float]] = {}
        self._has_joined = False
        self._looked_at = self._wrote_at = -float("inf")

    @property
    def owned(self) -> dict[int, int]:
        """Return the member's partitions, and where each of them began or was settled last."""
        if not self._has_joined:
            return {}
        return {
            number: self._state.offsets[number] for number in self._state.owned_by(self._member)
        }

    @property
    def surplus(self) -> list[int]:
        """Return those that it is to give up as soon as nothing of them is in its hands."""
        return self._state.surplus_of(self._member) if self._has_joined else []

    @property
    def is_trusted(self) -> bool:
        """Whether nobody can have taken over what it owns."""
        return time.monotonic() < self._wrote_at + self._member_seconds

    @property
    def is_due(self) -> bool:
        """Whether it is time to look at the state again, or to give a sign of life."""
        now = time.monotonic()
        look = min(_LOOK_SECONDS, self._member_seconds / (2 * _BEATS))
        return now - self._looked_at >= look or self._must_beat(now)

    def seconds_since_written(self) -> float:
        """Return how long ago the last sign of life was written."""
        return time.monotonic() - self._wrote_at

    def sync(self, done: Mapping[int, int], busy: Collection[int], *, must_write: bool) -> bool:
        """Join or go on; note how far partitions are done; give up and take partitions.

        Returns False where the group had dropped this member: then it has joined anew, and what
        it owned before is lost. Raises `TransientError`, or `ConfigurationError` where the group
        shares the topic by another number of partitions.
        """
        was_kept = True
        while True:
            started_at = time.monotonic()
            self._look(started_at)
            if self._has_joined and self._member not in self._state.members:
                log.warning("dropped from the group after a silence: %s", self._name)
                self._has_joined, was_kept = False, False
                done, busy = {}, ()
            wanted = groups.drop(self._state, self._silent(started_at))
            wanted = groups.settle(wanted, self._member, done)
            wanted = groups.balance(wanted, self._member, busy)
            changes = wanted.owners != self._state.owners or wanted.members.keys() != (
                self._state.members.keys()
            )
            if not (changes or must_write or self._must_beat(started_at)):
                return was_kept
            if self._replace(wanted):
                self._wrote_at, self._has_joined = started_at, True
                return was_kept

    def leave(self, done: Mapping[int, int]) -> None:
        """Leave the group; what was owned is free at once. Raises `TransientError`."""
        while self._has_joined:
            self._look(time.monotonic())
            if self._member not in self._state.members:
                return
            wanted = groups.settle(self._state, self._member, done)
            if self._replace(groups.drop(wanted, {self._member})):
                self._has_joined = False

    def _must_beat(self, now: float) -> bool:
        return now - self._wrote_at >= self._member_seconds / _BEATS

    def _silent(self, now: float) -> set[str]:
        """Return the other members that gave no sign for too long, as seen from here."""
        seen = {}
        for name, beat in self._state.members.items():
            last = self._seen.get(name)
            seen[name] = last if last is not None and last[0] == beat else (beat, now)
        self._seen = seen
        silent = {name for name, (_, at) in seen.items() if now - at >= self._member_seconds}
        return silent - {self._member}

    def _look(self, now: float) -> None:
        """Read the last state, if there is a newer one."""
        newest = self._chain.last(self._version, _deadline())
        if newest > self._version:
            stored = self._chain.get(newest, _deadline())
            if stored is None:
                # Replaced and deleted in this very moment.
                return self._look(now)
            try:
                self._state = groups.read_state(stored)
            except DecodeError as exc:
                raise ConfigurationError(f"{self._chain.key(newest)}: {exc}") from exc
            self._version = newest
        found = len(self._state.owners)
        if found != self._partitions:
            raise ConfigurationError(
                f"the group shares {self._name} by {found} partitions, not {self._partitions}:"
                " correct `partitions`, or choose another group"
            )
        self._looked_at = now
        return None

    def _replace(self, state: State) -> bool:
        """Store the state behind the one that was read; False where another member was faster."""
        state = replace(state, nonce=f"{self._member}-{uuid.uuid4().hex}")
        number = self._version + 1
        if not self._chain.create(number, state.to_bytes(), _deadline()):
            return False
        # A number may be free because it was used and deleted long ago: then there are later ones.
        if self._chain.first_after(number, _deadline()) is not None:
            return False
        previous, self._version, self._state = self._version, number, state
        if previous > 1:
            self._forget(previous - 1)
        return True

    def _forget(self, number: int) -> None:
        try:
            self._chain.delete(number, _deadline())
        except TransientError as exc:
            log.info("an old state of the group stays", extra={"error": str(exc)})


def _deadline() -> float:
    return time.monotonic() + REQUEST_SECONDS
