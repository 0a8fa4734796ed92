"""Merkle trees as in RFC 6962, section 2.1: a root for many leaves, and short proofs for each.

Leaves and nodes are hashed with different prefixes, so that no node passes for a leaf. A tree of n
leaves divides at the largest power of two below n.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EMPTY = sha256(b"").digest()
"""The root of a tree without leaves."""


def leaf_hash(data: bytes) -> bytes:
    """Hash a leaf."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash a node of two trees."""
    return sha256(b"\x01" + left + right).digest()


class Tree:
    """A root of leaves that come one after another; keeps a hash for each bit of their number."""

    def __init__(self) -> None:
        self.size = 0
        self._complete: list[bytes] = []
        """The roots of the complete trees, the largest first: one for each bit of `size`."""

    def append(self, data: bytes) -> None:
        """Add a leaf."""
        root = leaf_hash(data)
        size = self.size
        while size & 1:
            root = node_hash(self._complete.pop(), root)
            size >>= 1
        self._complete.append(root)
        self.size += 1

    def root(self) -> bytes:
        """Return the tree hash of the leaves so far (RFC 6962, MTH)."""
        if not self._complete:
            return EMPTY
        *others, root = self._complete
        for left in reversed(others):
            root = node_hash(left, root)
        return root


class Path:
    """The audit path of one leaf, while the leaves come one after another.

    It keeps the roots of the trees beside the leaf's way to the root, and no leaves.
    """

    def __init__(self, index: int, size: int) -> None:
        """Take the place of the leaf, from 0 on, in a tree of so many."""
        if not 0 <= index < size:
            msg = f"there is no leaf {index} in a tree of {size}"
            raise ValueError(msg)
        # From the leaf to the root, as (start, end) of the tree beside it.
        self._spans = _beside(index, size)
        self._trees = {start: Tree() for start, _ in self._spans}
        self._span_at = sorted(self._spans)
        self._count = 0
        self._current = 0

    def append(self, data: bytes) -> None:
        """Take the next leaf."""
        spans = self._span_at
        if self._current < len(spans) and self._count >= spans[self._current][1]:
            self._current += 1
        if self._current < len(spans) and self._count >= spans[self._current][0]:
            self._trees[spans[self._current][0]].append(data)
        self._count += 1

    def hashes(self) -> list[bytes]:
        """Return the path, from the leaf's sibling to the child of the root (RFC 6962, PATH)."""
        return [self._trees[start].root() for start, _ in self._spans]


def audit_path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Return the audit path of one of these leaves."""
    path = Path(index, len(leaves))
    for leaf in leaves:
        path.append(leaf)
    return path.hashes()


def tree_hash(leaves: Iterable[bytes]) -> bytes:
    """Return the root of these leaves."""
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root()


def root_by_path(data: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that a leaf has by its audit path; None where the path is of another length.

    The algorithm of RFC 9162, section 2.1.3.2, which verifies the paths of RFC 6962.
    """
    if not 0 <= index < size:
        return None
    here, last = index, size - 1
    root = leaf_hash(data)
    for beside in path:
        if last == 0:
            return None
        if here & 1 or here == last:
            root = node_hash(beside, root)
            while not here & 1 and here != 0:
                here >>= 1
                last >>= 1
        else:
            root = node_hash(root, beside)
        here >>= 1
        last >>= 1
    return root if last == 0 else None


def _beside(index: int, size: int) -> list[tuple[int, int]]:
    """Return the trees beside the way from a leaf to the root, the leaf's sibling first."""
    spans: list[tuple[int, int]] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + (1 << (end - start - 1).bit_length() - 1)
        if index < middle:
            spans.append((middle, end))
            end = middle
        else:
            spans.append((start, middle))
            start = middle
    return spans[::-1]
