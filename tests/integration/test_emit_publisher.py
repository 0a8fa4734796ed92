"""EventPublisher: the transaction that surrounds the call."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

import outbox
from outbox.errors import EventTooLargeError, NoTransactionError
from tests.emitting import Happened, Order, Shop, read

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["postgres", "mariadb"])
def shop(request: pytest.FixtureRequest) -> Shop:
    return Shop(request.getfixturevalue(f"{request.param}_engine"))


@pytest.fixture
def publisher(shop: Shop) -> outbox.EventPublisher:
    return outbox.EventPublisher(shop.engine)


@pytest.fixture
def configured(shop: Shop) -> Iterator[outbox.EventPublisher]:
    settings = outbox.Settings(
        database_url=shop.engine.url.render_as_string(hide_password=False),
        source="/shop",
        max_record_bytes=1_000,
    )
    publisher = outbox.EventPublisher(settings)
    yield publisher
    publisher.close()


def test_an_event_commits_with_the_surrounding_transaction(
    shop: Shop, publisher: outbox.EventPublisher
) -> None:
    def deep_below() -> None:
        publisher.publish(Happened(name="a"), subject="s", headers={"h": "v"})

    with publisher.transaction() as session:
        session.add(Order(name="x"))
        deep_below()
        assert shop.names() == []
    [envelope] = read(shop.engine)
    assert (envelope.subject, envelope.headers) == ("s", {"h": "v"})
    assert shop.orders() == 1


def test_an_error_takes_state_and_events_back(shop: Shop, publisher: outbox.EventPublisher) -> None:
    with suppress(ZeroDivisionError), publisher.transaction() as session:
        session.add(Order(name="x"))
        publisher.publish(Happened(name="a"))
        raise ZeroDivisionError
    assert shop.names() == []
    assert shop.orders() == 0
    with pytest.raises(NoTransactionError):
        publisher.publish(Happened(name="b"))


def test_a_transaction_inside_is_a_savepoint_of_the_one_outside(
    shop: Shop, publisher: outbox.EventPublisher
) -> None:
    with publisher.transaction() as outer:
        publisher.publish(Happened(name="a"))
        with publisher.transaction() as inner:
            assert inner is outer
            publisher.publish(Happened(name="b"))
        assert shop.names() == []
        with suppress(ZeroDivisionError), publisher.transaction():
            publisher.publish(Happened(name="c"))
            raise ZeroDivisionError
        publisher.publish(Happened(name="d"))
    assert shop.names() == ["a", "b", "d"]


def test_without_a_transaction_it_raises(publisher: outbox.EventPublisher) -> None:
    with pytest.raises(NoTransactionError, match=r"with publisher.transaction\(\)"):
        publisher.publish(Happened(name="a"))


def test_a_thread_and_another_publisher_have_transactions_of_their_own(
    shop: Shop, publisher: outbox.EventPublisher
) -> None:
    errors: list[Exception] = []

    def publish() -> None:
        try:
            publisher.publish(Happened(name="thread"))
        except NoTransactionError as exc:
            errors.append(exc)

    other = outbox.EventPublisher(shop.engine)
    with publisher.transaction():
        thread = threading.Thread(target=publish)
        thread.start()
        thread.join()
        with pytest.raises(NoTransactionError):
            other.publish(Happened(name="other"))
        with other.transaction():
            other.publish(Happened(name="first"))
            publisher.publish(Happened(name="second"))
        assert shop.names() == ["first"]
    assert len(errors) == 1
    assert shop.names() == ["first", "second"]


def test_the_settings_give_database_source_and_limit(
    shop: Shop, configured: outbox.EventPublisher
) -> None:
    with configured.transaction():
        configured.publish(Happened(name="a"))
        configured.publish(Happened(name="b"), source="/other")
        with pytest.raises(EventTooLargeError, match="1,000"):
            configured.publish(Happened(name="x" * 1_000))
    assert [envelope.source for envelope in read(shop.engine)] == ["/shop", "/other"]


def test_without_settings_it_reads_them(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    url = shop.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("OUTBOX_DATABASE_URL", url)
    monkeypatch.setenv("OUTBOX_SOURCE", "/from/environment")
    publisher = outbox.EventPublisher()
    with publisher.transaction():
        publisher.publish(Happened(name="a"))
    publisher.close()
    assert [envelope.source for envelope in read(shop.engine)] == ["/from/environment"]
