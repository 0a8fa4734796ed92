"""Seals: the signed heads of a chain, kept where whoever rewrites the table cannot reach.

A seal says how far the chain went, what its last hash was, and the root of a Merkle tree over the
hashes of its range. It names the seal before it by a digest, so the seals are a chain as well.

As a file it is JSON; what is signed is its canonical form (RFC 8785) without the signature.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from outbox.audit.chain import LAST_POSITION, Anchor, Chain, Head, starting_at, verified
from outbox.audit.merkle import Tree
from outbox.codec import time_text
from outbox.errors import OutboxError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from outbox.audit.record import Record

FORMAT: Final = "outbox-audit-seal/1"


class SealError(OutboxError):
    """A seal is not what it should be, or there is nothing to be sealed."""


class Signer(Protocol):
    """A private key."""

    public_key: bytes

    def sign(self, message: bytes, /) -> bytes:
        """Return the signature of a message."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """One signed head; digests and keys in hexadecimal."""

    number: int
    """1, 2, 3, …"""
    first_position: int
    """Of its range: the first one behind the seal before it."""
    last_position: int
    last_hash: str
    merkle_root: str
    """Of a tree (RFC 6962) whose leaves are the hashes of the records of its range."""
    sealed_at: str
    """RFC 3339, by the clock of the machine that sealed."""
    former: str | None
    """SHA-256 of the seal before it, its signature included; None in the first one."""
    public_key: str
    """Ed25519, 32 bytes. It tells keys apart; whom it belongs to is not for a seal to say."""
    signature: str = ""

    @property
    def head(self) -> Head:
        """The head that it vouches for."""
        return Head(self.last_position, bytes.fromhex(self.last_hash))

    @property
    def anchor(self) -> Anchor:
        """The same, for a walk over the chain."""
        return Anchor(self.head, f"seal {self.number}")

    @property
    def size(self) -> int:
        """How many records its range has."""
        return self.last_position - self.first_position + 1

    def message(self) -> bytes:
        """Return what is signed."""
        members = self.to_json()
        del members["signature"]
        return _canonical(members)

    def digest(self) -> str:
        """Return what the next seal names it by."""
        return sha256(_canonical(self.to_json())).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of its file."""
        return {"format": FORMAT, **asdict(self)}


def read_seal(found: object, origin: str) -> Seal:
    """Read the JSON object of a seal; raises `SealError` that names its origin."""
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise SealError(f"{origin} is no seal of an audit trail ({FORMAT})")
    members = {name: value for name, value in found.items() if name != "format"}
    if members.keys() != Seal.__dataclass_fields__.keys():
        raise SealError(f"{origin} is no seal: it lacks members, or has others")
    for name, value in members.items():
        kind = int if name in {"number", "first_position", "last_position"} else str
        if type(value) is not kind and not (name == "former" and value is None):
            what = "text" if kind is str else "whole number"
            raise SealError(f"{origin} is no seal: {name} is no {what}")
    seal = Seal(**members)
    try:
        sizes = [len(bytes.fromhex(text)) for text in (seal.last_hash, seal.merkle_root)]
        keys = [len(bytes.fromhex(text)) for text in (seal.public_key, seal.signature)]
    except ValueError:
        sizes, keys = [], []
    is_range = 1 <= seal.first_position <= seal.last_position <= LAST_POSITION
    if sizes != [32, 32] or keys != [32, 64] or not is_range:
        raise SealError(f"{origin} is no seal: a hash, a key or its range cannot be")
    return seal


def check_seals(
    seals: Sequence[Seal],
    public_keys: Collection[bytes],
    is_signed: Callable[[bytes, bytes, bytes], bool],
) -> list[Seal]:
    """Return seals by their numbers, each once, after all of them were checked.

    Raises `SealError` where one was signed by none of the keys, or altered; or where it does not
    follow the one before it, or one between two of them is missing.
    """
    known = {key.hex() for key in public_keys}
    ordered = sorted(set(seals), key=lambda seal: (seal.number, seal.last_position))
    for seal in ordered:
        if seal.public_key not in known:
            raise SealError(
                f"seal {seal.number} was signed with another key ({seal.public_key[:16]}…) than"
                " those given"
            )
        signature = bytes.fromhex(seal.signature)
        if not is_signed(bytes.fromhex(seal.public_key), signature, seal.message()):
            raise SealError(f"seal {seal.number} was altered: its signature is not that of the key")
    for before, seal in itertools.pairwise(ordered):
        if seal.number == before.number:
            raise SealError(f"there are two different seals with the number {seal.number}")
        if seal.number != before.number + 1:
            raise SealError(f"seal {before.number + 1} is missing")
        if seal.former != before.digest() or seal.first_position != before.last_position + 1:
            raise SealError(f"seal {seal.number} does not follow seal {before.number}")
    return ordered


def make_seal(
    chain: Chain,
    former: Seal | None,
    key: Signer,
    *,
    start: Head | None = None,
    now: datetime | None = None,
    on_page: Callable[[Sequence[Record]], object] = len,
) -> Seal:
    """Verify what is behind the former seal, and seal it.

    Raises `ChainBrokenError` where the chain is not what it was, and `SealError` where nothing
    is there to be sealed. A first seal begins behind `start`, which is trusted; by default where
    the chain does. `now` is the time by default.
    """
    start = former.head if former is not None else start or chain.start
    anchors = [] if former is None else [former.anchor]
    if starting_at(chain, start, ()) != start:
        # Then the walk from the start finds out which record it is.
        for page in verified(chain, anchors=anchors):
            on_page(page)
    tree, head = Tree(), start
    for page in verified(chain, start):
        for record in page:
            tree.append(record.hash)
        head = Head(page[-1].position, page[-1].hash)
        on_page(page)
    if not tree.size:
        raise SealError(f"there is nothing to seal: the trail ends at position {head.position:,}")
    unsigned = Seal(
        number=1 if former is None else former.number + 1,
        first_position=start.position + 1,
        last_position=head.position,
        last_hash=head.hash.hex(),
        merkle_root=tree.root().hex(),
        sealed_at=time_text(now or datetime.now(UTC)),
        former=None if former is None else former.digest(),
        public_key=key.public_key.hex(),
    )
    signature = key.sign(unsigned.message()).hex()
    return Seal(**{**asdict(unsigned), "signature": signature})


def _canonical(members: Mapping[str, Any]) -> bytes:
    return orjson.dumps(members, option=orjson.OPT_SORT_KEYS)
