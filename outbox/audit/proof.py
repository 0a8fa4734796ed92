"""Inclusion proofs: that a record stood in the trail when a seal was made, for whoever has the key.

record ─▶ its hash ─▶ a leaf ─▶ audit path ─▶ Merkle root ─▶ signature of the seal ─▶ public key
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from outbox.audit.merkle import Path, Tree, root_by_path
from outbox.audit.record import HASH_BYTES, Record, from_json, is_intact, to_json, typed
from outbox.audit.seal import Seal, SealError, check_seals, read_seal
from outbox.errors import OutboxError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from outbox.audit.chain import Chain

FORMAT: Final = "outbox-audit-proof/1"
MEMBERS: Final = {"format", "record", "leaf_index", "tree_size", "audit_path", "seal"}
"""The names of what a proof has."""


class ProofError(OutboxError):
    """A proof does not prove what it says, or none can be made."""


class Proven(NamedTuple):
    """What a proof proves."""

    record: Record
    seal: Seal


def prove(chain: Chain, record: Record, seal: Seal) -> dict[str, Any]:
    """Return the proof that a record of a seal's range is in its tree, as a JSON object.

    Raises `ProofError` where the records are not those that were sealed.
    """
    path, tree = Path(record.position - seal.first_position, seal.size), Tree()
    for page in chain.pages(seal.first_position - 1):
        for each in page[: seal.size - tree.size]:
            path.append(each.hash)
            tree.append(each.hash)
        if tree.size == seal.size:
            break
    if tree.root().hex() != seal.merkle_root or not is_intact(record):
        raise ProofError(
            f"the records {seal.first_position:,} to {seal.last_position:,} are not those of seal"
            f" {seal.number}: see `outbox audit verify --seal`"
        )
    return {
        "format": FORMAT,
        "record": to_json(record),
        "leaf_index": record.position - seal.first_position,
        "tree_size": seal.size,
        "audit_path": [each.hex() for each in path.hashes()],
        "seal": seal.to_json(),
    }


def _path(found: object) -> list[bytes]:
    """Return the hashes of an audit path; raises `ValueError` where it is none."""
    texts: list[Any] = found if isinstance(found, list) else [None]
    try:
        return [bytes.fromhex(text) for text in texts]
    except (TypeError, ValueError):
        msg = "its member 'audit_path' is no list of hashes in hexadecimal"
        raise ValueError(msg) from None


def check_proof(
    found: object,
    public_keys: Collection[bytes],
    is_signed: Callable[[bytes, bytes, bytes], bool],
) -> Proven:
    """Return what a proof proves; raises `ProofError` where it is not so."""
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ProofError(f"this is no proof of an audit trail ({FORMAT})")
    if found.keys() != MEMBERS:
        raise ProofError("this is no whole proof: it lacks members, or has others")
    try:
        record = from_json(found["record"])
        path = _path(found["audit_path"])
        index, size = (typed(found, name, int) for name in ("leaf_index", "tree_size"))
        seal = read_seal(found["seal"], "its seal")
        check_seals([seal], public_keys, is_signed)
    except SealError as exc:
        raise ProofError(f"the proof does not hold: {exc}") from exc
    except ValueError as exc:
        raise ProofError(f"this is no whole proof: {exc}") from exc
    if not is_intact(record):
        raise ProofError("the proof does not hold: the record's hash is not that of its content")
    is_place = (index, size) == (record.position - seal.first_position, seal.size)
    if not is_place or any(len(each) != HASH_BYTES for each in path):
        raise ProofError("the proof does not hold: the record's place is not in the seal's range")
    if root_by_path(record.hash, index, size, path) != bytes.fromhex(seal.merkle_root):
        raise ProofError("the proof does not hold: the audit path does not lead to the seal's root")
    return Proven(record, seal)
