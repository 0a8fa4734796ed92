"""Frames of STOMP, without a broker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.transports.activemq.frames import Frame, FrameError, Parser, encode

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def parsed(data: bytes, step: int = 1_000_000) -> list[Frame]:
    parser, frames = Parser(), []
    for start in range(0, len(data), step):
        parser.feed(data[start : start + step])
        while (frame := parser.next()) is not None:
            frames.append(frame)
    return frames


@given(st.dictionaries(TEXT, TEXT), st.binary(), st.integers(1, 50))
def test_what_was_encoded_is_parsed_however_it_is_cut(
    headers: dict[str, str], body: bytes, step: int
) -> None:
    headers.pop("content-length", None)
    headers["content-length"] = str(len(body))
    data = b"\n\n" + encode("MESSAGE", headers.items(), body) * 2
    assert parsed(data, step) == [Frame("MESSAGE", headers, body)] * 2


def test_headers_of_the_login_are_not_escaped() -> None:
    assert encode("CONNECT", [("passcode", "a:b\\c")]) == b"CONNECT\npasscode:a:b\\c\n\n\0"
    assert parsed(b"CONNECTED\nsession:a:b\\c\n\n\0")[0].headers == {"session": "a:b\\c"}


def test_of_a_repeated_header_the_first_one_counts() -> None:
    assert parsed(b"MESSAGE\na:1\na:2\n\n\0")[0].headers == {"a": "1"}


def test_a_body_without_a_length_ends_with_the_first_nul() -> None:
    assert [frame.body for frame in parsed(b"ERROR\n\none\0\r\n\nERROR\n\ntwo\0")] == [
        b"one",
        b"two",
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"\x15\x03\x03\x00\x02\x02\x50",
        b"HTTP/1.1 400 Bad Request\r\nX: y\n\n\0",
        b"ERROR\nno colon\n\n\0",
        b"ERROR\na:\\t\n\n\0",
        b"ERROR\ncontent-length:x\n\n\0",
        b"ERROR\ncontent-length:1\n\nab\0",
        b"ERROR\na:\xff\n\n\0",
        b"A" * 1_000_001,
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        parsed(data)
