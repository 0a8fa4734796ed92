from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from outbox.errors import ConfigurationError
from outbox.settings import RouteSettings
from outbox.testing import envelope
from outbox.transports import kafka, transport_of
from outbox.transports.kafka.publishing import KafkaPublisher
from outbox.transports.kafka.transactional import TransactionalKafkaPublisher


def options(**settings: Any) -> kafka.Options:
    return kafka.Options(bootstrap_servers="127.0.0.1:1", **settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable.idempotence", False),
        ("acks", 1),
        ("request.required.acks", "0"),
        ("enable.auto.commit", "true"),
        ("auto.offset.reset", "latest"),
        ("partitioner", "random"),
        ("message.timeout.ms", 1),
        ("transactional.id", "t"),
        ("group.id", "g"),
        ("bootstrap.servers", "h"),
        ("enable_auto_offset_store", True),
    ],
)
@pytest.mark.parametrize("side", ["client", "producer", "consumer"])
def test_a_property_that_breaks_a_guarantee_is_refused_by_name(
    side: str, name: str, value: object
) -> None:
    settings = RouteSettings.model_validate(
        {"transport": "kafka", "bootstrap_servers": "h:1", side: {name: value}}
    )
    with pytest.raises(ConfigurationError) as caught:
        transport_of("orders", settings)
    assert f"routes.orders.{side}" in str(caught.value)
    assert name.replace("_", ".") in str(caught.value)


def test_an_unknown_property_is_a_configuration_error_that_names_it() -> None:
    chosen = options(client={"no.such.thing": 1})
    with pytest.raises(ConfigurationError, match=r"no\.such\.thing"):
        KafkaPublisher("route", chosen, 1).publish([envelope("t")])
    with pytest.raises(ConfigurationError, match=r"no\.such\.thing"):
        TransactionalKafkaPublisher("route", chosen, 1).take_over("i")


def test_a_login_in_an_address_is_refused_and_not_shown() -> None:
    settings = {"transport": "kafka", "bootstrap_servers": "SASL_SSL://me:hush@one:1"}
    with pytest.raises(ConfigurationError, match="sasl_username and sasl_password") as caught:
        transport_of("orders", RouteSettings.model_validate(settings))
    assert "hush" not in str(caught.value)


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="servers"):
        options(servers="h:1")


def test_properties_reach_their_side_with_dots_or_underscores() -> None:
    chosen = options(
        client={"security.protocol": "SSL", "log_level": 3},
        producer={"compression_type": "zstd", "enable.idempotence": True},
        consumer={"fetch.min.bytes": 7},
    )
    producer = chosen.producer_config(timeout_ms=1000, largest_batch=None)
    consumer = chosen.consumer_config("group")
    assert producer["security.protocol"] == consumer["security.protocol"] == "SSL"
    assert producer["log_level"] == "3"
    assert producer["compression.type"] == "zstd"
    assert "compression.type" not in consumer
    assert consumer["fetch.min.bytes"] == "7"
    assert chosen.compresses


def test_a_batch_fits_into_the_strictest_topic_and_is_never_made_larger() -> None:
    chosen = options(producer={"batch.size": 5000})
    assert chosen.producer_config(timeout_ms=1, largest_batch=None)["batch.size"] == "5000"
    assert chosen.producer_config(timeout_ms=1, largest_batch=18_000)["batch.size"] == "5000"
    assert chosen.producer_config(timeout_ms=1, largest_batch=900)["batch.size"] == "900"


def test_the_newer_group_protocol_gets_no_property_that_it_refuses() -> None:
    config = options(consumer={"group.protocol": "consumer"}).consumer_config("group")
    assert "session.timeout.ms" not in config
    assert "partition.assignment.strategy" not in config


def test_a_secret_is_in_no_text(caplog: pytest.LogCaptureFixture) -> None:
    secret = "sword fish"
    keys = {"sasl.password": secret, "ssl.key.pem": secret}
    chosen = options(client={"security.protocol": "SSL", **keys})
    assert secret not in repr(chosen) + str(chosen) + chosen.model_dump_json()
    with pytest.raises(ConfigurationError) as caught:
        kafka.subscriber("route", chosen, "g", ["t"]).receive(1, 0.1)
    assert secret not in str(caught.value) + caplog.text


def test_a_route_does_not_show_the_settings_of_its_transport() -> None:
    settings = RouteSettings.model_validate(
        {"transport": "kafka", "client": {"sasl.password": "swordfish"}}
    )
    assert "swordfish" not in repr(settings) + str(settings)
