"""Publishing to S3: one object an event and one place in the log, whoever dies and whenever."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from outbox.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    HeldBackError,
    InDoubtError,
)
from outbox.testing import by_key, collect, envelope, expected, numbered, publish_all
from outbox.transport import PUBLISHED, Dead, Retry
from outbox.transports import s3
from outbox.transports.s3.store import Patience, Store
from tests.killed_s3 import PLACES
from tests.once import World
from tests.s3_log import listed, stored
from tests.s3_proxy import proxy
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

    import sqlalchemy as sa

    from outbox.envelope import Envelope
    from outbox.transports.s3.publishing import S3Publisher
    from tests.fix_s3 import Bucket

TIMEOUT = 6.0


def make(bucket: Bucket, **changed: Any) -> S3Publisher:
    timeout = changed.pop("timeout", TIMEOUT)
    return s3.publisher("route", s3.Options(**(bucket.options | changed)), timeout)


def ids(events: Sequence[Envelope]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for event in events:
        keys.setdefault(event.partition_key or "", []).append(event.id)
    return keys


class S3World(World):
    """A database and a bucket."""

    def __init__(self, engine: sa.Engine, bucket: Bucket) -> None:
        super().__init__(engine, "")
        self.bucket = bucket

    program = "tests.killed_s3"

    def route(self) -> dict[str, Any]:
        return {"transport": "s3", "lease_seconds": 3, **self.bucket.options}


@pytest.fixture
def world(postgres_engine: sa.Engine, bucket: Bucket) -> S3World:
    return S3World(postgres_engine, bucket)


@pytest.mark.parametrize(
    ("step", "count"),
    [
        *(("take-over", 1), ("upload", 1), ("upload", 40), ("entry", 1), ("entry", 2)),
        *(("listed", 2), ("listed", 3), ("settle", 1), ("settle", 2)),
    ],
)
def test_a_relay_that_is_killed_at_a_step_leaves_one_object_and_one_place_an_event(
    world: S3World, step: str, count: int
) -> None:
    assert step in PLACES
    world.emit(*"abcab" * 12)
    world.run_and_die(step, count, meanwhile="ca", page_size=25)
    world.emit(*"cba" * 5)
    world.drain()
    assert listed(world.bucket) == world.emitted
    assert stored(world.bucket) == sorted(id_ for each in world.emitted.values() for id_ in each)


def test_a_relay_that_was_replaced_lists_nothing_more(bucket: Bucket) -> None:
    first, second = numbered("t", 20), numbered("t", 20, first=20)
    with closing(make(bucket)) as zombie, closing(make(bucket)) as heir:
        assert zombie.take_over("route-1") is None
        assert set(zombie.publish_with(first, b"1")) == {PUBLISHED}
        assert heir.take_over("route-1") == b"1"
        with pytest.raises(InDoubtError, match="another relay"):
            zombie.publish_with(second, b"zombie")
        with pytest.raises(InDoubtError):
            zombie.publish_with(second, b"zombie")
        assert set(heir.publish_with(second, b"2")) == {PUBLISHED}
        assert zombie.take_over("route-1") == b"2"
    assert listed(bucket) == ids(first + second)


def test_routes_share_a_log_and_each_finds_its_own_progress(bucket: Bucket) -> None:
    batches = {name: numbered(name, 5, keys=1) for name in ("one", "two")}
    with closing(make(bucket)) as one, closing(make(bucket)) as two:
        assert one.take_over("one") is None
        assert two.take_over("two") is None
        for number in range(3):
            for name, publisher in (("one", one), ("two", two)):
                assert set(publisher.publish_with(batches[name], b"%d" % number)) == {PUBLISHED}
        assert one.take_over("one") == b"2"
        assert two.take_over("two") == b"2"
    assert len(listed(bucket)["key-0"]) == 30


def test_writers_that_race_for_the_log_lose_nothing(bucket: Bucket) -> None:
    """Each batch is listed once and whole, by whatever number."""
    batches = [[envelope("t", f"writer-{w}", b"1") for _ in range(20)] for w in range(4)]

    def write(batch: list[Envelope]) -> None:
        with closing(make(bucket)) as publisher:
            for event in batch:
                publish_all(publisher, [event])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, batches))
    assert listed(bucket) == ids([event for batch in batches for event in batch])
    assert len(bucket.object_keys("_log/")) == 80


def test_an_entry_whose_answer_is_lost_is_recognised(bucket: Bucket) -> None:
    with proxy(bucket.url) as between:
        lost: list[str] = []

        def lose(method: str, path: str) -> bool:
            if method == "PUT" and "_log/" in path and not lost:
                lost.append(path)
                return True
            return False

        between.loses = lose
        with closing(make(bucket, endpoint_url=between.endpoint_url)) as publisher:
            events = numbered("t", 3)
            assert list(publisher.publish(events)) == [PUBLISHED] * 3
    assert lost
    assert listed(bucket) == ids(events)


def test_an_entry_that_nobody_confirms_is_in_doubt_and_found_by_the_next_take_over(
    bucket: Bucket,
) -> None:
    with (
        proxy(bucket.url) as between,
        closing(make(bucket, endpoint_url=between.endpoint_url)) as publisher,
    ):
        publisher.take_over("route-1")
        between.loses = lambda method, path: method == "PUT" and "_log/" in path
        between.refuses = lambda method, path: method == "GET" and "_log/" in path
        events = numbered("t", 3)
        with pytest.raises(InDoubtError):
            publisher.publish_with(events, b"committed")
        between.loses = between.refuses = lambda _method, _path: False
        assert publisher.take_over("route-1") == b"committed"
    assert listed(bucket) == ids(events)


def test_an_object_that_is_not_stored_holds_back_its_key_alone(bucket: Bucket) -> None:
    with proxy(bucket.url) as between:
        events = [envelope("t", "ab"[n % 2], b"%d" % n, sequence=n) for n in range(6)]
        between.refuses = lambda method, path: method == "PUT" and f"{2:020d}" in path
        options = {"endpoint_url": between.endpoint_url, "concurrency": 1, "timeout": 5.0}
        with closing(make(bucket, **options)) as publisher:
            # One object after the other, so that those of b are stored before the refused one.
            batch = [events[i] for i in (0, 1, 3, 5, 2, 4)]
            outcomes = publisher.publish(batch)
            assert outcomes[:4] == [PUBLISHED] * 4
            refused, held = outcomes[4:]
            assert isinstance(refused, Retry)
            assert isinstance(refused.error, BrokerUnavailableError)
            assert isinstance(held, Retry)
            assert isinstance(held.error, HeldBackError)
            between.refuses = lambda _method, _path: False
            assert list(publisher.publish([events[2], events[4]])) == [PUBLISHED] * 2
        assert between.refused > 1, "it was not tried again"
    assert listed(bucket) == ids(batch)


def test_a_transaction_with_a_failed_object_lists_nothing(bucket: Bucket) -> None:
    with (
        proxy(bucket.url) as between,
        closing(make(bucket, endpoint_url=between.endpoint_url, timeout=5.0)) as publisher,
    ):
        publisher.take_over("route-1")
        events = numbered("t", 10)
        between.refuses = lambda method, path: method == "PUT" and events[7].id in path
        assert all(isinstance(o, Retry) for o in publisher.publish_with(events, b"1"))
        assert not listed(bucket)
        between.refuses = lambda _method, _path: False
        between.seen.clear()
        assert list(publisher.publish_with(events, b"1")) == [PUBLISHED] * 10
        again = [path for method, path in between.seen if method == "PUT" and "_log" not in path]
        assert any(events[7].id in path for path in again)
        assert len(again) < 10, "what was stored is stored again"
    assert listed(bucket) == ids(events)


def test_a_transaction_with_a_dead_event_lists_nothing_and_names_it(bucket: Bucket) -> None:
    with closing(make(bucket, max_object_bytes=1_000_000)) as publisher:
        publisher.take_over("route-1")
        batch = [envelope("t", "a", b"1"), envelope("t", "b", bytes(1_000_000))]
        outcomes = publisher.publish_with(batch, b"1")
        assert isinstance(outcomes[0], Retry)
        assert isinstance(outcomes[1], Dead)
        assert "max_object_bytes" in str(outcomes[1].error)
    assert not listed(bucket)


def test_a_burst_of_slow_down_is_waited_out(bucket: Bucket) -> None:
    with (
        proxy(bucket.url) as between,
        closing(make(bucket, endpoint_url=between.endpoint_url)) as publisher,
    ):
        turns = iter(range(10_000))
        between.refuses = lambda _method, _path: next(turns) % 3 == 0
        events = numbered("t", 60)
        publish_all(publisher, events)
        assert between.refused > 10
    assert sorted(listed(bucket)) == sorted(ids(events))


@pytest.mark.parametrize("key", ["there", "absent"])
def test_an_answer_that_breaks_off_is_asked_for_again(bucket: Bucket, key: str) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key="there", Body=b"{}")
    patience = Patience(connect_seconds=1, read_seconds=1)
    with proxy(bucket.url) as between:
        options = s3.Options(**(bucket.options | {"endpoint_url": between.endpoint_url}))
        with closing(Store(options, patience)) as store:
            turns = iter(range(100))
            between.cuts = lambda _method, _path: next(turns) < 2
            assert store.get(key, time.monotonic() + 30) == {"there": b"{}", "absent": None}[key]
            between.cuts = lambda _method, _path: True
            with pytest.raises(BrokerUnavailableError, match="cannot be reached"):
                store.get(key, time.monotonic() + 4)
    assert len(between.seen) > 3


def test_a_server_that_ignores_conditions_is_refused(bucket: Bucket) -> None:
    with (
        proxy(bucket.url) as between,
        closing(make(bucket, endpoint_url=between.endpoint_url)) as publisher,
    ):
        between.ignores_conditions = True
        with pytest.raises(ConfigurationError, match="If-None-Match"):
            publisher.take_over("route-1")


def test_a_publish_is_back_in_time_and_the_next_one_goes_on(bucket: Bucket) -> None:
    """More objects than fit into the time: those that were stored are not stored again."""
    with closing(make(bucket, timeout=1.0, concurrency=2)) as publisher:
        publisher.take_over("route-1")
        events = numbered("t", 2_000)
        started_at = time.monotonic()
        outcomes = publisher.publish_with(events, b"1")
        # All of them take much longer; a busy machine takes its part as well.
        assert time.monotonic() - started_at < 3.0
        assert all(isinstance(o, Retry) for o in outcomes)
        assert all(isinstance(o.error, HeldBackError) for o in outcomes if isinstance(o, Retry))
        counts = {len(bucket.data_keys())}

        def goes_on() -> bool:
            publisher.publish_with(events, b"1")
            counts.add(len(bucket.data_keys()))
            return len(counts - {0}) > 1  # on a busy machine the first time may be over at once

        eventually(goes_on)
    assert not listed(bucket)


def test_an_object_that_lands_late_is_received(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that is stored and not yet listed is not passed over by a later one."""
    late, early = numbered("t", 3, keys=1), numbered("t", 3, keys=1, first=3)
    may_list, is_stored = threading.Event(), threading.Event()
    with (
        closing(make(bucket)) as slow,
        closing(make(bucket)) as quick,
        closing(s3.subscriber("route", s3.Options(**bucket.options), "g", ["t"])) as subscriber,
        ThreadPoolExecutor(1) as pool,
    ):
        original = slow._append

        def wait(*arguments: Any) -> None:
            is_stored.set()
            assert may_list.wait(30)
            original(*arguments)

        monkeypatch.setattr(slow, "_append", wait)
        publishing = pool.submit(slow.publish, late)
        assert is_stored.wait(30)
        assert set(quick.publish(early)) == {PUBLISHED}
        deliveries = collect(subscriber, 3)
        assert by_key(deliveries) == expected(early)
        subscriber.ack(deliveries)
        assert not subscriber.receive(10, 0.3)
        may_list.set()
        assert set(publishing.result(30)) == {PUBLISHED}
        assert by_key(collect(subscriber, 3)) == expected(late)


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_lines_are_batched_by_day_and_count_and_can_be_read_by_anybody(
    bucket: Bucket, compression: str
) -> None:
    events = [envelope("t", f"k{n % 7}", b'{\n "n": %d}' % n, sequence=n + 1) for n in range(250)]
    with closing(
        make(bucket, format="jsonl", compression=compression, batch_events=100)
    ) as publisher:
        assert set(publisher.publish(events)) == {PUBLISHED}
        assert set(publisher.publish(events[:1])) == {PUBLISHED}
    suffix = {"none": ".jsonl", "gzip": ".jsonl.gz", "zstd": ".jsonl.zst"}[compression]
    # The one that was published again is alone in an object of its own, and overwrites nothing.
    assert len(bucket.data_keys()) == 4
    assert all(key.endswith(suffix) for key in bucket.data_keys())
    day = f"suite.case.ran/{events[0].time:%Y/%m/%d}/"
    assert all(key.startswith(day) for key in bucket.data_keys())
    with closing(s3.subscriber("r", s3.Options(**bucket.options), "g", ["t"])) as subscriber:
        first = [json.loads(d.message.data)["n"] for d in collect(subscriber, 251)]
    assert sorted(first) == sorted([*range(250), 0])
