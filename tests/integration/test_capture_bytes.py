"""A page is bounded by bytes as well as by rows, whatever was read before."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from outbox.rows import Rows
from relay.capture import Capture, open_capture, snapshot
from relay.capture.connection import ReadConnection
from relay.capture.sizing import PAGE_BYTES
from tests.capturing import Reader, Writer, writers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import sqlalchemy as sa

    from outbox.rows import Row
    from relay.capture import Page

BYTES = 10_000
INSERT = """
INSERT INTO outbox_event (type, data) VALUES ('t', convert_to(repeat('x', %s), 'UTF8'))
"""
SIZES = [100] * 50 + [4_000] * 20 + [100] * 50 + [30_000] + [100] * 20 + [9_000, 30_000] * 2


@pytest.fixture
def capture(postgres_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Capture]:
    monkeypatch.setattr(snapshot, "PAGE_BYTES", BYTES)
    opened = open_capture(postgres_engine)
    yield opened
    opened.close()


@pytest.fixture
def writer(postgres_url: str) -> Iterator[Writer]:
    with writers(postgres_url, 1) as (made,):
        yield made


def emit(writer: Writer, sizes: list[int]) -> None:
    for size in sizes:
        writer.run(INSERT, size)


def drain(reader: Reader) -> list[int]:
    """Read all there is; return the bytes of each page of more than one row."""
    sizes: list[int] = []
    while True:
        page: Page = reader.page()
        reader.settle(page)
        if len(page.envelopes) > 1:
            sizes.append(Rows.of(page.envelopes).data_size())
        if page.is_last:
            return sizes


def test_fresh_rows_come_in_pages_of_so_many_bytes(capture: Capture, writer: Writer) -> None:
    emit(writer, SIZES)
    writer.commit()
    reader = Reader(capture, limit=100)
    assert max(drain(reader)) <= BYTES
    assert reader.delivered == list(range(1, len(SIZES) + 1))


def test_a_page_of_events_as_large_as_the_last_one_is_read_once(
    postgres_engine: sa.Engine, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    emit(writer, [PAGE_BYTES // 10] * 60)
    writer.commit()
    reads = []
    page = ReadConnection.page

    def counted(self: ReadConnection, parameters: Mapping[str, object]) -> list[Row]:
        reads.append(parameters["fresh"])
        return page(self, parameters)

    monkeypatch.setattr(ReadConnection, "page", counted)
    with closing(open_capture(postgres_engine)) as capture:
        reader = Reader(capture, limit=100)
        drain(reader)
    assert reader.delivered == list(range(1, 61))
    assert reads == [100, 10, *[9] * 6]


def test_late_rows_come_in_pages_of_so_many_bytes(
    capture: Capture, writer: Writer, postgres_url: str
) -> None:
    emit(writer, SIZES)
    with writers(postgres_url, 1) as (other,):
        other.emit()
        other.commit()
    reader = Reader(capture, limit=100)
    reader.drain()
    assert reader.delivered == [len(SIZES) + 1]
    writer.commit()
    assert max(drain(reader)) <= BYTES
    assert reader.delivered[1:] == list(range(1, len(SIZES) + 1))


def test_a_row_that_is_larger_than_a_page_comes_alone(capture: Capture, writer: Writer) -> None:
    emit(writer, [3 * BYTES] * 3)
    writer.commit()
    reader = Reader(capture, limit=100)
    assert [reader.read(), reader.read(), reader.read()] == [[1], [2], [3]]
    assert reader.read() == []
