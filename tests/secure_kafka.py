"""A broker as it is in production: passwords by SCRAM over TLS, and client certificates."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import trustme
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tests.absence import skipped_unless_ci
from tools.servers import kafka
from tools.servers.kafka import JARS
from tools.servers.process import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tools.servers import KafkaServer

LOGIN: Final = "LOGIN"
"""The listener for SCRAM over TLS."""
MUTUAL: Final = "MUTUAL"
"""The one that asks for a client's certificate."""
FOREIGN: Final = "FOREIGN"
"""The one whose certificate has another host's name."""
EXPIRED: Final = "EXPIRED"
"""The one whose certificate has expired."""
_LISTENERS: Final = {LOGIN: "SASL_SSL", MUTUAL: "SSL", FOREIGN: "SASL_SSL", EXPIRED: "SASL_SSL"}
_MODULE: Final = "org.apache.kafka.common.security.scram.ScramLoginModule"
_PAST: Final = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Papers:
    """Certificates in one folder: a CA, what it signed for a client, and a CA nobody knows."""

    folder: Path
    passphrase: str

    def __post_init__(self) -> None:
        ca = trustme.CA()
        ca.cert_pem.write_to_path(self.ca)
        trustme.CA().cert_pem.write_to_path(self.other_ca)
        identities = {
            LOGIN: ca.issue_cert(LOOPBACK),
            FOREIGN: ca.issue_cert("broker.example"),
            EXPIRED: ca.issue_cert(LOOPBACK, not_before=_PAST, not_after=_PAST),
        }
        for name, made in identities.items():
            self.identity(name).write_bytes(_key(made) + _chain(made))
        client = ca.issue_cert("relay@shop.example")
        self.certificate.write_bytes(_chain(client))
        self.key.write_bytes(_key(client, self.passphrase))

    @property
    def ca(self) -> Path:
        return self.folder / "kafka-ca.pem"

    @property
    def other_ca(self) -> Path:
        return self.folder / "other-ca.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "relay.pem"

    @property
    def key(self) -> Path:
        return self.folder / "relay.key"

    def identity(self, listener: str) -> Path:
        """Key and certificate of a listener, as the broker reads them."""
        return self.folder / f"{listener.lower()}.pem"


def _key(made: trustme.LeafCert, passphrase: str | None = None) -> bytes:
    key = load_pem_private_key(made.private_key_pem.bytes(), None)
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _chain(made: trustme.LeafCert) -> bytes:
    return b"".join(pem.bytes() for pem in made.cert_chain_pems)


@contextmanager
def secure_kafka(papers: Papers, users: dict[str, str]) -> Iterator[KafkaServer]:
    """Run it; `users` have passwords, and the plain port is open to whoever administers it."""
    with skipped_unless_ci():
        JARS.find()
    properties = {"sasl.enabled.mechanisms": "SCRAM-SHA-512"}
    for listener, protocol in _LISTENERS.items():
        prefix = f"listener.name.{listener.lower()}."
        identity = papers.identity(LOGIN if listener == MUTUAL else listener)
        properties[prefix + "ssl.keystore.type"] = "PEM"
        properties[prefix + "ssl.keystore.location"] = str(identity)
        if protocol == "SASL_SSL":
            properties[prefix + "scram-sha-512.sasl.jaas.config"] = f"{_MODULE} required;"
    prefix = f"listener.name.{MUTUAL.lower()}."
    properties[prefix + "ssl.client.auth"] = "required"
    properties[prefix + "ssl.truststore.type"] = "PEM"
    properties[prefix + "ssl.truststore.location"] = str(papers.ca)
    with kafka(properties=properties, listeners=_LISTENERS, users=users) as server:
        yield server


def set_password(server: KafkaServer, user: str, password: str) -> None:
    """Give a user another password, as an operator of the broker does."""
    admin = AdminClient({"bootstrap.servers": server.bootstrap_servers})
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    change = UserScramCredentialUpsertion(user, info, password.encode())
    admin.alter_user_scram_credentials([change])[user].result()
