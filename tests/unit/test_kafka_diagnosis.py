from __future__ import annotations

import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from outbox.errors import BrokerUnavailableError, DestinationRefusedError
from outbox.transports.kafka.client import explained
from outbox.transports.kafka.diagnosis import (
    Greeting,
    Wanted,
    _place,
    diagnose,
    judge,
    read_greeting,
    wrong_setting,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TAKEN, UNSUPPORTED, NO_LOGIN = 0, 33, 34
SCRAM = {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512"}
ANSWER = struct.pack(">ihih", 0, UNSUPPORTED, 2, 5) + b"PLAIN" + struct.pack(">h", 4) + b"GSSA"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def config(listener: socket.socket) -> dict[str, str]:
    host, port = listener.getsockname()
    return {"bootstrap.servers": f"{host}:{port}"}


@pytest.mark.parametrize(
    ("client", "code", "words"),
    [
        (SCRAM, TAKEN, None),
        (SCRAM, UNSUPPORTED, "set sasl_mechanism to one that it takes: PLAIN, OTHER"),
        (SCRAM, NO_LOGIN, "set security_protocol to SSL"),
        ({"security.protocol": "ssl"}, NO_LOGIN, None),
        ({"security.protocol": "ssl"}, UNSUPPORTED, "set security_protocol to SASL_SSL"),
        ({}, UNSUPPORTED, "set security_protocol to SASL_PLAINTEXT"),
        ({}, NO_LOGIN, None),
    ],
)
def test_an_answer_is_judged_by_its_code(
    client: dict[str, str], code: int, words: str | None
) -> None:
    told = judge(Wanted.by(client), Greeting(code, ["PLAIN", "OTHER"]), "broker:1")
    assert (told is None) if words is None else (told is not None and words in told)


def test_an_answer_has_a_code_and_the_mechanisms_that_are_taken() -> None:
    assert read_greeting(ANSWER) == (UNSUPPORTED, ["PLAIN", "GSSA"])


@pytest.mark.parametrize("size", range(len(ANSWER)))
def test_an_answer_that_was_cut_off_is_none(size: int) -> None:
    with pytest.raises(struct.error):
        read_greeting(ANSWER[:size])


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("broker", ("broker", 9092)),
        ("broker:9093", ("broker", 9093)),
        ("[::1]:9093", ("::1", 9093)),
        ("SASL_SSL://broker:9093", ("broker", 9093)),
    ],
)
def test_addresses_are_read_as_librdkafka_reads_them(address: str, place: tuple[str, int]) -> None:
    assert _place(address) == place


def test_a_broker_that_takes_connections_and_says_nothing_proves_nothing(
    listener: socket.socket,
) -> None:
    assert diagnose(config(listener), 0.2) is None


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(20)])
def test_an_answer_of_something_else_proves_nothing(listener: socket.socket, answer: bytes) -> None:
    def serve() -> None:
        for _ in range(3):  # the look, the greeting, and the same over TLS
            connection, _ = listener.accept()
            with connection:
                connection.sendall(answer)

    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    assert diagnose(config(listener), 5.0) is None
    serving.join(5.0)
    assert not serving.is_alive()


def test_nobody_at_the_address_is_an_outage(listener: socket.socket) -> None:
    address = config(listener)
    listener.close()
    error = BrokerUnavailableError("it does not answer")
    assert explained(error, address, 1.0) is error


def test_a_refusal_that_is_not_about_connecting_is_left_alone() -> None:
    error = DestinationRefusedError("there is no such topic")
    assert explained(error, {}, 1.0) is error


def test_a_login_without_a_mechanism_is_told_as_such() -> None:
    assert "sasl_mechanism is missing" in (wrong_setting({"security.protocol": "SASL_SSL"}) or "")


def test_a_certificate_without_its_key_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "relay.pem"
    path.touch()
    told = wrong_setting({"security.protocol": "ssl", "ssl.certificate.location": str(path)})
    assert "ssl_key_location is missing" in (told or "")
