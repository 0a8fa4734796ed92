"""Login, rights and TLS: what is wrong is said, with the setting that is to be corrected."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from outbox.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    DestinationRefusedError,
    HeldBackError,
    RecordRefusedError,
)
from outbox.testing import by_key, collect, envelope, expected, numbered
from outbox.transport import PUBLISHED, Dead, Retry
from outbox.transports import activemq
from tests.absence import skipped_unless_ci
from tools.servers import activemq as run_activemq
from tools.servers.activemq import JARS
from tools.servers.certificates import find_openssl, make_certificate, make_trust

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tools.servers import ActiveMqServer

PASSWORD = "s:ecret \\ pass✓"
GROUP = "billing"
pytestmark = pytest.mark.activemq


@pytest.fixture(scope="module", autouse=True)
def jars() -> None:
    with skipped_unless_ci():
        JARS.find()
        find_openssl()


@pytest.fixture(scope="module")
def guarded() -> Iterator[ActiveMqServer]:
    """A broker on which users have to log in, and frames are small."""
    users = {"relay": PASSWORD, "guest": "guest"}
    with run_activemq(users=users, max_frame_bytes=400_000) as server:
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("certificates")
    found = {}
    for name in ("broker", "client", "stranger"):
        found[f"{name}-keys"], found[name] = make_certificate(folder, name)
    found["client-trust"] = make_trust(folder, "client", found["client"])
    return found


@pytest.fixture(scope="module")
def encrypted(files: dict[str, Path]) -> Iterator[ActiveMqServer]:
    with run_activemq(keys=files["broker-keys"]) as server:
        yield server


@pytest.fixture(scope="module")
def mutual(files: dict[str, Path]) -> Iterator[ActiveMqServer]:
    """A broker that wants to see a certificate of its clients."""
    with run_activemq(keys=files["broker-keys"], trusted=files["client-trust"]) as server:
        yield server


def options(server: ActiveMqServer, **changed: Any) -> activemq.Options:
    values = {"brokers": server.address, "groups": [GROUP]}
    return activemq.Options.model_validate(values | changed)


def refusal(options: activemq.Options, topic: str = "orders") -> str:
    """What is said of both sides; nothing is published, and nothing dead."""
    with closing(activemq.publisher("mq", options, 5)) as publisher:
        outcomes = publisher.publish(numbered(topic, 3))
    assert {type(o.error) for o in outcomes if isinstance(o, Retry)} == {DestinationRefusedError}
    assert all(isinstance(outcome, Retry) for outcome in outcomes)
    (text,) = {str(outcome.error) for outcome in outcomes if isinstance(outcome, Retry)}
    with (
        closing(activemq.subscriber("mq", options, GROUP, [topic])) as subscriber,
        pytest.raises(DestinationRefusedError) as raised,
    ):
        subscriber.receive(1, 1)
    assert PASSWORD not in text + str(raised.value) + repr(options)
    return f"{text}\n{raised.value}"


def round_trip(options: activemq.Options, topic: str) -> None:
    events = numbered(topic, 50)
    events.append(envelope(topic, "large", bytes(300_000)))
    with closing(activemq.publisher("mq", options, 10)) as publisher:
        assert publisher.publish(events) == [PUBLISHED] * 51
    with closing(activemq.subscriber("mq", options, GROUP, [topic])) as subscriber:
        deliveries = collect(subscriber, 51)
        subscriber.ack(deliveries)
        assert by_key(deliveries) == expected(events)


def test_with_the_right_password_everything_works(guarded: ActiveMqServer) -> None:
    round_trip(options(guarded, username="relay", password=PASSWORD), "orders.login")


@pytest.mark.parametrize(
    "login", [{"username": "relay", "password": "wrong"}, {"username": "nobody"}, {}]
)
def test_a_wrong_login_names_its_settings(guarded: ActiveMqServer, login: dict[str, str]) -> None:
    said = refusal(options(guarded, **login))
    assert said.count("routes.mq.username and routes.mq.password") == 2


def test_a_missing_right_names_the_destination_and_other_topics_go_on(
    guarded: ActiveMqServer,
) -> None:
    guest = options(guarded, username="guest", password="guest")
    said = refusal(guest, "closed.orders")
    assert said.count("Consumer.billing.VirtualTopic.closed.orders") >= 2
    assert said.count("routes.mq.username") == 2
    batch = [
        envelope("open.a", "k"),
        envelope("closed.a", "k"),
        envelope("open.a", "k"),
        envelope("open.a", "other"),
    ]
    with closing(activemq.publisher("mq", guest, 5)) as publisher:
        first, refused, held, other = publisher.publish(batch)
    assert first == other == PUBLISHED
    assert isinstance(refused, Retry)
    assert isinstance(refused.error, DestinationRefusedError)
    assert isinstance(held, Retry)
    assert isinstance(held.error, HeldBackError)


def test_a_queue_that_may_not_be_written_to_is_found_among_others(guarded: ActiveMqServer) -> None:
    guest = options(guarded, username="guest", password="guest", destination="queue", groups=[])
    name = "Consumer.any.VirtualTopic.open.queue"
    batch = [envelope(name, "a"), envelope("closed.b", "b"), envelope(name, "b")]
    with closing(activemq.publisher("mq", guest, 5)) as publisher:
        first, refused, held = publisher.publish(batch)
    assert first == PUBLISHED
    assert isinstance(refused, Retry)
    assert "'/queue/closed.b'" in str(refused.error)
    assert isinstance(held, Retry)
    assert isinstance(held.error, HeldBackError)


def test_what_is_too_large_for_the_broker_alone_is_dead_alone(guarded: ActiveMqServer) -> None:
    """Its settings say that it would fit."""
    relay = options(guarded, username="relay", password=PASSWORD)
    events = numbered("orders.large", 100, keys=10)
    events[40] = envelope("orders.large", "key-0", bytes(500_000))
    with closing(activemq.publisher("mq", relay, 40)) as publisher:
        outcomes = publisher.publish(events)
        dead = outcomes[40]
        assert isinstance(dead, Dead)
        assert isinstance(dead.error, RecordRefusedError)
        assert "max_message_bytes" in str(dead.error)
        held = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Retry)]
        assert held == [50, 60, 70, 80, 90]
        assert outcomes.count(PUBLISHED) == 94
        assert publisher.publish([events[i] for i in held]) == [PUBLISHED] * 5
    with closing(activemq.subscriber("mq", relay, GROUP, ["orders.large"])) as subscriber:
        arrived = by_key(collect(subscriber, 99))
    assert arrived == expected(events[:40] + events[41:])


@pytest.mark.parametrize("header", ["long", "x" * 12_000])
def test_a_header_that_the_broker_would_not_read_is_dead(
    guarded: ActiveMqServer, header: str
) -> None:
    relay = options(guarded, username="relay", password=PASSWORD)
    batch = [envelope("orders.h", "a", headers={header: "v" * 10_300}), envelope("orders.h", "b")]
    with closing(activemq.publisher("mq", relay, 10)) as publisher:
        dead, fine = publisher.publish(batch)
    assert isinstance(dead, Dead)
    assert fine == PUBLISHED


def test_over_tls_everything_works(encrypted: ActiveMqServer, files: dict[str, Path]) -> None:
    round_trip(options(encrypted, tls={"ca_file": f"{files['broker']}.crt"}), "orders.tls")
    round_trip(options(encrypted, tls={"verify": False}), "orders.tls.unverified")


def test_a_certificate_that_is_not_trusted_names_its_setting(
    encrypted: ActiveMqServer, files: dict[str, Path]
) -> None:
    for tls in ({"ca_file": f"{files['stranger']}.crt"}, {}):
        assert refusal(options(encrypted, tls=tls)).count("routes.mq.tls.ca_file") == 2


def test_a_broker_of_another_name_is_refused(
    encrypted: ActiveMqServer, files: dict[str, Path]
) -> None:
    tls = {"ca_file": f"{files['broker']}.crt"}
    elsewhere = options(encrypted, brokers=f"localhost:{encrypted.port}", tls=tls)
    assert refusal(elsewhere).count("routes.mq.brokers") == 2


def test_a_port_with_tls_tells_a_client_without(encrypted: ActiveMqServer) -> None:
    assert refusal(options(encrypted)).count("routes.mq.tls") == 2


def test_a_port_without_tls_tells_a_client_with_it(guarded: ActiveMqServer) -> None:
    """The broker waits for the rest of a frame, so it might as well be frozen."""
    with closing(activemq.publisher("mq", options(guarded, tls={}), 2)) as publisher:
        (outcome,) = publisher.publish(numbered("orders", 1))
    assert isinstance(outcome, Retry)
    assert isinstance(outcome.error, BrokerUnavailableError)
    assert "routes.mq.tls" in str(outcome.error)


def test_a_client_with_its_certificate_is_let_in(
    mutual: ActiveMqServer, files: dict[str, Path]
) -> None:
    tls = {"ca_file": f"{files['broker']}.crt", "certificate_file": str(files["client"])}
    round_trip(options(mutual, tls=tls), "orders.mutual")


def test_a_client_without_its_certificate_is_told(
    mutual: ActiveMqServer, files: dict[str, Path]
) -> None:
    for own in ({}, {"certificate_file": str(files["stranger"])}):
        tls = {"ca_file": f"{files['broker']}.crt", **own}
        assert refusal(options(mutual, tls=tls)).count("routes.mq.tls.certificate_file") == 2


@pytest.mark.parametrize("setting", ["ca_file", "certificate_file"])
def test_a_file_that_is_not_there_stops_the_start(
    encrypted: ActiveMqServer, tmp_path: Path, setting: str
) -> None:
    broken = options(encrypted, tls={setting: str(tmp_path / "absent.pem")})
    with pytest.raises(ConfigurationError, match=rf"routes\.mq\.tls\.{setting}.*absent\.pem"):
        activemq.publisher("mq", broken, 5)
    with pytest.raises(ConfigurationError, match=rf"routes\.mq\.tls\.{setting}.*absent\.pem"):
        activemq.subscriber("mq", broken, GROUP, ["orders"])
