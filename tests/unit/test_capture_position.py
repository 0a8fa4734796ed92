from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.errors import ConfigurationError, ForeignPositionError
from relay.capture.gap import Gap
from relay.capture.position import (
    LatePass,
    PortablePosition,
    SerialPosition,
    Server,
    SnapshotPosition,
    read_portable,
    read_serial,
    read_snapshot,
    rewind,
)
from relay.progress import Mark, Progress, read_progress

if TYPE_CHECKING:
    from collections.abc import Callable

SERVER = Server("7711492834830054049", "87e8f70e-4af7-4399-a08f-981d999d35d9")
PLAIN = SnapshotPosition(7, "10:12:10", None, SERVER)
PORTABLE = PortablePosition(9, (Gap(2, 4, 1_790_000_000), Gap(7, 7, 1_790_000_005)), SERVER)
PASSING = SnapshotPosition(7, "10:12:10,11", LatePass("12:12:", (10, 11), cursor=3), SERVER)


@pytest.mark.parametrize(
    ("position", "read"),
    [
        (PLAIN, read_snapshot),
        (PASSING, read_snapshot),
        (PORTABLE, read_portable),
        (SerialPosition(3), read_serial),
    ],
)
def test_a_position_survives_a_checkpoint_and_a_record_of_the_broker(
    position: Any, read: Callable[[Any], Any]
) -> None:
    """By the writer of JSON of each: the broker's takes plain lists and numbers alone."""
    assert read(json.loads(json.dumps(position.to_json()))) == position
    progress = Progress(Mark("lineage", 1, 2), position.to_json())
    assert read(read_progress(progress.to_bytes()).position) == position


@pytest.mark.parametrize(
    "change",
    [{"floor": None}, {"gaps": None}, {"gaps": [[1, 2]]}, {"gaps": [["a", 1, 2]]}, {"server": {}}],
)
def test_what_is_no_portable_position_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_portable(PORTABLE.to_json() | change)


def test_what_is_delivered_for_good_ends_before_the_first_gap() -> None:
    assert PORTABLE.settled_floor == 1
    assert PortablePosition(9, (), SERVER).settled_floor == 9


@pytest.mark.parametrize(
    ("seq", "floor", "gaps"),
    [(20, 9, [(2, 4), (7, 7)]), (8, 8, [(2, 4), (7, 7)]), (3, 3, [(2, 3)]), (1, 1, [])],
)
def test_a_rewound_portable_position_keeps_what_is_missing_below(
    seq: int, floor: int, gaps: list[tuple[int, int]]
) -> None:
    rewound = rewind(PORTABLE, seq)
    assert isinstance(rewound, PortablePosition)
    assert (rewound.floor, [gap[:2] for gap in rewound.gaps]) == (floor, gaps)


def test_a_position_of_another_kind_of_database_is_foreign() -> None:
    with pytest.raises(ForeignPositionError, match="another kind of database"):
        read_snapshot(SerialPosition(3).to_json())
    with pytest.raises(ForeignPositionError, match="another kind of database"):
        read_serial(PLAIN.to_json())
    with pytest.raises(ForeignPositionError, match="another kind of database"):
        read_portable(PLAIN.to_json())


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "other"},
        {"floor": "x"},
        {"snapshot": "1:2"},
        {"snapshot": "1:2:x"},
        {"snapshot": None},
        {"server": None},
        {"late": {"target": "1:1:"}},
    ],
)
def test_what_is_no_position_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_snapshot(PLAIN.to_json() | change)


def test_what_is_no_serial_position_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_serial({"kind": "serial"})


def delivered(position: SnapshotPosition, rows: dict[int, int]) -> set[int]:
    """What a position says of rows (number → transaction), by its definition."""
    late = position.late
    return {
        seq
        for seq, xid in rows.items()
        if (seq <= position.floor and visible(xid, position.snapshot))
        or (late and seq <= late.cursor and xid in late.transactions)
    }


def visible(xid: int, snapshot: str) -> bool:
    _, xmax, running = snapshot.split(":")
    return xid < int(xmax) and str(xid) not in running.split(",")


@given(
    rows=st.dictionaries(st.integers(1, 12), st.integers(8, 12), max_size=12),
    floor=st.integers(0, 12),
    cursor=st.integers(0, 12),
    seq=st.integers(0, 14),
    passing=st.booleans(),
)
def test_rewinding_takes_back_exactly_what_is_numbered_above(
    rows: dict[int, int], floor: int, cursor: int, seq: int, *, passing: bool
) -> None:
    late = LatePass("12:12:", (9, 11), cursor=min(cursor, floor)) if passing else None
    position = SnapshotPosition(floor, "9:12:9,11", late, SERVER)
    rewound = rewind(position, seq)
    assert isinstance(rewound, SnapshotPosition)
    assert delivered(rewound, rows) == {n for n in delivered(position, rows) if n <= seq}


def test_rewinding_a_serial_position_lowers_its_floor() -> None:
    assert rewind(SerialPosition(7), 3) == SerialPosition(3)
    assert rewind(SerialPosition(3), 7) == SerialPosition(3)


def test_a_position_of_no_known_kind_cannot_be_rewound() -> None:
    class Unknown:
        def to_json(self) -> dict[str, Any]:
            return {}

    with pytest.raises(TypeError, match="Unknown"):
        rewind(Unknown(), 3)
