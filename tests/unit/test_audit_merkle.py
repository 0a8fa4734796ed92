"""Merkle trees against the vectors of Certificate Transparency and the words of RFC 6962."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.audit.merkle import EMPTY, Path, Tree, audit_path, leaf_hash, root_by_path, tree_hash

# Of the reference implementation's tests (merkle_tree_test.cc).
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATHS = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}

Leaves = st.lists(st.binary(max_size=8), min_size=1, max_size=70)


@pytest.mark.parametrize("size", range(9))
def test_the_roots_are_those_of_the_reference_implementation(size: int) -> None:
    assert tree_hash(LEAVES[:size]).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size"), PATHS)
def test_the_paths_are_those_of_the_reference_implementation(index: int, size: int) -> None:
    assert [each.hex() for each in audit_path(index, LEAVES[:size])] == PATHS[index, size]


def mth(leaves: list[bytes]) -> bytes:
    """The definition of RFC 6962, section 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    """The definition of section 2.1.1, word for word."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


@given(Leaves, st.data())
def test_roots_and_paths_are_those_of_the_definition(
    leaves: list[bytes], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    found = audit_path(index, leaves)
    assert (tree_hash(leaves), found) == (mth(leaves), path(index, leaves))
    assert root_by_path(leaves[index], index, len(leaves), found) == mth(leaves)


@given(Leaves, st.data())
def test_no_path_leads_from_another_leaf_or_place_to_the_root(
    leaves: list[bytes], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    found, root, size = audit_path(index, leaves), tree_hash(leaves), len(leaves)
    assert root_by_path(leaves[index] + b"x", index, size, found) != root
    for place in range(size):
        if leaves[place] != leaves[index]:
            assert root_by_path(leaves[index], place, size, found) != root
    if found:
        broken = [*found]
        where = data.draw(st.integers(0, len(found) - 1))
        broken[where] = bytes(byte ^ 1 for byte in broken[where])
        assert root_by_path(leaves[index], index, size, broken) != root
        assert root_by_path(leaves[index], index, size, found[:-1]) is None
    assert root_by_path(leaves[index], index, size, [*found, bytes(32)]) is None
    assert root_by_path(leaves[index], size, size, found) is None
    assert root_by_path(leaves[index], -1, size, found) is None


def test_a_tree_without_leaves_has_the_root_of_nothing() -> None:
    assert Tree().root() == EMPTY


def test_a_node_passes_for_no_leaf() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert tree_hash([left + right]) != tree_hash([b"a", b"b"])


def test_a_path_keeps_no_leaves() -> None:
    place = Path(700, 1_000)
    for number in range(1_000):
        place.append(b"%d" % number)
    assert len(place.hashes()) == 10
    assert root_by_path(b"700", 700, 1_000, place.hashes()) == tree_hash(
        b"%d" % number for number in range(1_000)
    )


@pytest.mark.parametrize("index", [-1, 3])
def test_there_is_no_path_of_a_leaf_that_is_not_there(index: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        Path(index, 3)
