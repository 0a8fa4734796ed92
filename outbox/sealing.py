"""Personal data inside an event's JSON: encrypted for a subject, readable with its key alone.

An encrypted value is a JSON string, a *token*, in the place of the value:

    outbox-personal:1:<id of the key>:<nonce, ciphertext and tag>

AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits, over the value's JSON; the event's id
is authenticated with it, so that a token means nothing in another event. The last part is base64url
without padding (RFC 4648, section 5). Who has no key passes tokens on as the text that they are.

Until the event's row is written, *placeholders* stand in their places (version 0), because a key is
asked for in the transaction that writes the row.
"""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from outbox.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from outbox.envelope import Envelope
    from outbox.keys import SubjectKey

PREFIX: Final = "outbox-personal:"
REDACTED: Final = "[personal]"
"""What stands in the place of a personal value for those who cannot read it."""
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12

_MARK: Final = PREFIX.encode()
_TOKEN: Final = re.compile(rb'"outbox-personal:1:([0-9a-f]{32}):([A-Za-z0-9_-]{38,})"')
SEALED_PATTERN: Final = "^outbox-personal:1:[0-9a-f]{32}:[A-Za-z0-9_-]{38,}$"
"""The same, as a JSON Schema has it."""
_ANY: Final = re.compile(rb'"outbox-personal:[01]:[0-9a-f]{32}:[A-Za-z0-9_-]+"')


class Secret(NamedTuple):
    """One value of an event that is still to be encrypted."""

    subject: str
    """The person."""
    placeholder: bytes
    """The JSON that stands in its place."""
    value: bytes
    """Its own JSON."""


@dataclass(slots=True)
class Collector:
    """Takes the personal values out of one event while it is serialised."""

    _values: list[tuple[str | None, bytes]] = field(default_factory=list, repr=False)
    # Random, so that no text of a user can be taken for a placeholder.
    _nonce: str = field(default_factory=lambda: os.urandom(16).hex(), repr=False)

    def hide(self, subject_field: str | None, value: bytes) -> str:
        """Keep a value's JSON, and return the text that stands in its place for now.

        `subject_field` names the event's field that says whose it is; None is the key field.
        """
        self._values.append((subject_field, value))
        return self._placeholder(len(self._values) - 1)

    def secrets(self, subject_of: Callable[[str | None], str]) -> tuple[Secret, ...]:
        """Return what was kept, each with its subject."""
        return tuple(
            Secret(subject_of(name), f'"{self._placeholder(index)}"'.encode(), value)
            for index, (name, value) in enumerate(self._values)
        )

    def _placeholder(self, index: int) -> str:
        return f"{PREFIX}0:{self._nonce}:{index}"


def is_token(value: object) -> bool:
    """Tell whether a value stands in the place of a personal one."""
    return (
        isinstance(value, str)
        and value.startswith(PREFIX)
        and _ANY.fullmatch(b'"%b"' % value.encode(errors="replace")) is not None
    )


def has_tokens(data: bytes) -> bool:
    """Tell, at once, whether an event's data may have personal values."""
    return _MARK in data


def seal(envelope: Envelope, secrets: Sequence[Secret], keys: Mapping[str, SubjectKey]) -> Envelope:
    """Put tokens in the place of an event's placeholders, by the keys of its subjects."""
    data = envelope.data
    for secret in secrets:
        key = keys[secret.subject]
        data = data.replace(secret.placeholder, _token(key, envelope.id, secret.value))
    return replace(envelope, data=data)


def _token(key: SubjectKey, event_id: str, value: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    sealed = nonce + aes(key.secret).encrypt(nonce, value, event_id.encode())
    text = base64.urlsafe_b64encode(sealed).rstrip(b"=")
    return b'"%b1:%b:%b"' % (PREFIX.encode(), key.id.encode(), text)


def key_ids(data: bytes) -> set[str]:
    """Return the ids of the keys that an event's data was encrypted with."""
    if not has_tokens(data):
        return set()
    return {match[1].decode() for match in _TOKEN.finditer(data)}


def opened(data: bytes, event_id: str, keys: Mapping[str, bytes]) -> bytes:
    """Return an event's data with the values that can be read; the other tokens stay."""
    return _TOKEN.sub(partial(_value, event_id.encode(), keys), data)


def _value(event_id: bytes, keys: Mapping[str, bytes], token: re.Match[bytes]) -> bytes:
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # an optional dependency

    secret = keys.get(token[1].decode())
    if secret is None:
        return token[0]
    sealed = base64.urlsafe_b64decode(token[2] + b"=" * (-len(token[2]) % 4))
    try:
        return aes(secret).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], event_id)
    except InvalidTag:
        return token[0]  # somebody wrote it by hand, or moved it here from another event


def without_tokens(data: bytes, instead: bytes = b"null") -> bytes:
    """Return an event's data with other JSON in the place of what cannot be read."""
    return _ANY.sub(instead, data) if has_tokens(data) else data


def aes(secret: bytes) -> AESGCM:
    """Make the cipher; raises `ConfigurationError` where the library is not installed."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # optional
    except ImportError as exc:
        raise ConfigurationError(
            "personal data needs the package cryptography: pip install 'outbox-relay[personal]'"
        ) from exc
    return AESGCM(secret)
