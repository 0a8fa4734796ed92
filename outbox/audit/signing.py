"""Ed25519 keys as PEM files; the one module that needs `cryptography`, the extra `audit`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from outbox.audit.small import read_small
from outbox.errors import ConfigurationError

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )
except ImportError as exc:
    raise ConfigurationError(
        f"seals need the package {exc.name!r}, which is not installed:"
        " pip install 'outbox-relay[audit]'"
    ) from exc

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644


class SigningKey:
    """A private key; its text never shows it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()
        """The 32 bytes of the public key."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self._key.sign(message)


def is_signed(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Tell whether a signature is that of the key and the message."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):  # ValueError: it is no key
        return False
    return True


def make_keys(private: Path, public: Path) -> None:
    """Make a new pair: PKCS #8 that only the owner may read, and SubjectPublicKeyInfo.

    Raises `ConfigurationError` where one of the files is there already: nothing is overwritten.
    """
    key = Ed25519PrivateKey.generate()
    _write(
        private,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        PRIVATE_MODE,
    )
    try:
        _write(
            public,
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
            PUBLIC_MODE,
        )
    except ConfigurationError:
        private.unlink()
        raise


def read_private_key(path: Path) -> SigningKey:
    """Read a private key; raises `ConfigurationError` that names the file and shows none of it."""
    key = _read(path, lambda text: serialization.load_pem_private_key(text, None), "private")
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{path} is no private key of Ed25519 (`outbox audit keygen`)")
    return SigningKey(key)


def is_exposed(path: Path) -> bool:
    """Tell whether others than its owner may read a file or write to it; raises `OSError`."""
    return os.name == "posix" and bool(path.stat().st_mode & 0o077)


def read_public_key(path: Path) -> bytes:
    """Read a public key's 32 bytes; raises `ConfigurationError` that names the file."""
    key = _read(path, serialization.load_pem_public_key, "public")
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"{path} is no public key of Ed25519 (`outbox audit keygen`)")
    return key.public_bytes_raw()


def _read(path: Path, load: Callable[[bytes], object], kind: str) -> object:
    try:
        return load(read_small(path))
    except OSError as exc:
        raise ConfigurationError(f"cannot read the {kind} key {path}: {exc.strerror}") from exc
    except (ValueError, TypeError):  # TypeError: it is encrypted; what they say may quote the file
        raise ConfigurationError(
            f"{path} is no {kind} key in PEM, or it has a passphrase (`outbox audit keygen`)"
        ) from None


def _write(path: Path, text: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as exc:
        raise ConfigurationError(
            f"{path} is there already: choose another name, since what it sealed needs it"
        ) from exc
    except OSError as exc:
        raise ConfigurationError(f"cannot write {path}: {exc.strerror}") from exc
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
