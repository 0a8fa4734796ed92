"""Personal data inside an event's JSON: encrypted for a subject, readable with its key alone.

An encrypted value is a JSON string, a *token*, in the place of the value:

    outbox-personal:1:<id of the key>:<nonce, ciphertext and tag>

AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits, over the value's JSON; the event's id
is authenticated with it, so that a token means nothing in another event. The last part is base64url
without padding (RFC 4648, section 5). Who has no key passes tokens on as the text that they are.

A key is asked for in the transaction that writes the row. Until then the values are kept beside the
event (`Secrets`), and `[personal]` stands in their places.
"""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, starmap, zip_longest
from typing import TYPE_CHECKING, Any, Final

from outbox.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from outbox.envelope import Envelope
    from outbox.keys import SubjectKey

PREFIX: Final = "outbox-personal:"
REDACTED: Final = "[personal]"
"""What stands in the place of a personal value for those who cannot read it."""
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12

_TAG_BYTES: Final = 16
_MARK: Final = PREFIX.encode()
_KEY_ID: Final = "[0-9a-f]{32}"
_SEALED: Final = "[A-Za-z0-9_-]{38,}"
SEALED_PATTERN: Final = f"^{PREFIX}1:{_KEY_ID}:{_SEALED}$"
"""What a token is, as a JSON Schema has it."""
_TEXT: Final = re.compile(SEALED_PATTERN[1:-1])
# In the bytes of any JSON. A quote inside a string has a backslash before it, and one that ends a
# string has no letter after it; so this one begins a string. It is a value where no colon follows.
# What is looked back at comes second: a pattern that begins with letters is found 20 times faster.
_BEGIN: Final = f'"{PREFIX}1:'
_TOKEN: Final = re.compile(
    rf'{_BEGIN}(?<!\\{_BEGIN})({_KEY_ID}):({_SEALED})"(?![ \t\r\n]*:)'.encode()
)
_PLACE: Final = f'"{REDACTED}"'.encode()


@dataclass(frozen=True, slots=True)
class Secrets:
    """The personal values of one event, which are still to be encrypted."""

    subjects: Sequence[str]
    """The person of each."""
    _values: Sequence[bytes] = field(repr=False)
    """The JSON of each."""
    _rest: Sequence[bytes] = field(repr=False)
    """The JSON around them, one piece more than there are values."""

    @property
    def growth(self) -> int:
        """How many bytes longer the event's data will be once its tokens are in it."""
        return sum(_token_length(len(value)) - len(_PLACE) for value in self._values)

    def seal(self, envelope: Envelope, keys: Mapping[str, SubjectKey]) -> Envelope:
        """Put the tokens into an event, by the keys of its subjects."""
        pairs = zip(self.subjects, self._values, strict=True)
        tokens = [_token(keys[subject], envelope.id, value) for subject, value in pairs]
        return replace(envelope, data=_joined(self._rest, tokens))


class Collector:
    """Takes the personal values out of one event's JSON.

    While the event is serialised, a value is written as the list of a mark, a number, the value
    itself and the mark. So its JSON is what the event's class writes, whatever that has set. The
    mark is random: no text of a user can be taken for it.
    """

    __slots__ = ("_fields", "_mark", "_rest", "_subject_fields", "_values", "is_hiding")

    def __init__(self) -> None:
        """Start empty."""
        self.is_hiding = False
        """A value is being serialised, so that what is in it is hidden with it."""
        self._fields: list[tuple[str | None, object]] = []
        self._mark = ""

    def __bool__(self) -> bool:
        """Tell whether there is a personal value."""
        return bool(self._fields)

    def hide(self, subject_field: str | None, value: object, owner: object = None) -> list[Any]:
        """Return what is to be serialised in a value's place.

        `subject_field` names the field that says whose it is, of the object that has the value or
        else of the event; None is the key field.
        """
        if not self._mark:
            self._mark = f"{PREFIX}0:{os.urandom(16).hex()}"
        self._fields.append((subject_field, owner))
        return [self._mark, len(self._fields) - 1, value, self._mark]

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Take the values out of the event's JSON; return it without them, and in clear.

        Raises `ValueError` where a serializer of the application has made something else of them.
        """
        mark = f'"{self._mark}"'.encode()
        pieces = data.split(mark)
        rest, hidden = pieces[::2], pieces[1::2]
        last = len(rest) - 1
        self._rest = [
            piece[(number > 0) : len(piece) - (number < last)] for number, piece in enumerate(rest)
        ]
        parts = [piece[1:-1].partition(b",") for piece in hidden]
        self._values = [value for _, _, value in parts]
        clear = _joined(self._rest, self._values)
        written = [b"[%b,%b,%b,%b]" % (mark, number, value, mark) for number, _, value in parts]
        is_whole = _joined(self._rest, written) == data and self._mark.encode() not in clear
        if not is_whole or not all(number.isdigit() for number, _, _ in parts):
            raise ValueError("a serializer has made something else of a personal value")
        self._subject_fields = [self._fields[int(number)] for number, _, _ in parts]
        return _joined(self._rest, [_PLACE] * last), clear

    def secrets(self, subject_of: Callable[[str | None, object], str]) -> Secrets:
        """Return what was taken, each with its subject by the name of the field and its owner."""
        return Secrets([*starmap(subject_of, self._subject_fields)], self._values, self._rest)


def _joined(rest: Sequence[bytes], values: Iterable[bytes]) -> bytes:
    return b"".join(chain.from_iterable(zip_longest(rest, values, fillvalue=b"")))


def is_token(value: object) -> bool:
    """Tell whether a value stands in the place of a personal one."""
    return isinstance(value, str) and _TEXT.fullmatch(value) is not None


def has_tokens(data: bytes) -> bool:
    """Tell, at once, whether an event's data may have personal values."""
    return _MARK in data


def has_token(data: bytes) -> bool:
    """Tell whether a text in an event's JSON has the form of a token."""
    return _MARK in data and _TOKEN.search(data) is not None


def _token(key: SubjectKey, event_id: str, value: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    sealed = nonce + aes(key.secret).encrypt(nonce, value, event_id.encode())
    text = base64.urlsafe_b64encode(sealed).rstrip(b"=")
    return b'%b%b:%b"' % (_BEGIN.encode(), key.id.encode(), text)


def _token_length(value_length: int) -> int:
    """Return how many bytes the token of a value has, with its quotes."""
    letters = -(-(NONCE_BYTES + value_length + _TAG_BYTES) * 4 // 3)
    return len(f'{_BEGIN}:"') + 2 * 16 + letters


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
    try:
        sealed = base64.urlsafe_b64decode(token[2] + b"=" * (-len(token[2]) % 4))
        return aes(secret).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], event_id)
    except (InvalidTag, ValueError):
        return token[0]  # somebody wrote it by hand, or moved it here from another event


def without_tokens(data: bytes, instead: bytes = b"null") -> bytes:
    """Return an event's data with other JSON in the place of what cannot be read."""
    return _TOKEN.sub(instead, data) if has_tokens(data) else data


def aes(secret: bytes) -> AESGCM:
    """Make the cipher; raises `ConfigurationError` where the library is not installed."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # optional
    except ImportError as exc:
        raise ConfigurationError(
            "personal data needs the package cryptography: pip install 'outbox-relay[personal]'"
        ) from exc
    return AESGCM(secret)
