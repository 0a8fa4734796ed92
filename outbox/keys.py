"""The keys of personal data: one for each subject, in a table or wherever a key store keeps them.

    master key ──wraps──▶ subject's key ──encrypts──▶ the personal fields of its events
    settings              outbox_personal_key         every table, topic and file

To forget a person is to delete that key: what was encrypted with it is noise from then on, in each
copy that was ever made. Sources: envelope encryption as in NIST SP 800-57 part 1, section 6.2;
AES-256-GCM wraps the keys, with the key's id authenticated.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from outbox import clock
from outbox.chunks import rows_with
from outbox.dialect import is_mysql
from outbox.engine import make_engine
from outbox.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    InvalidEventError,
    UsageError,
)
from outbox.sealing import KEY_BYTES, NONCE_BYTES, aes
from outbox.table import outbox_personal_key as table

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from outbox.settings import Settings

__all__ = ["KeyStore", "MasterKeys", "SubjectKey", "TableKeyStore", "key_store", "use_key_store"]

CHUNK: Final = 500
"""Keys that one transaction wraps anew, at most."""
ATTEMPTS: Final = 10
"""How often a key is made that others forget before it is read."""
MAX_SUBJECT_BYTES: Final = 500
"""The longest name of a subject: an index of MariaDB has to take it."""


@dataclass(frozen=True, slots=True)
class SubjectKey:
    """The key of one subject."""

    id: str
    """32 hexadecimal digits; it stands in every token."""
    secret: bytes = field(repr=False)
    """32 bytes."""


class KeyStore(Protocol):
    """Where the keys of subjects are; all methods are safe in any thread."""

    def provide(
        self, connection: sa.Connection, subjects: Collection[str], /
    ) -> Mapping[str, SubjectKey]:
        """Return a key for each subject, made where it has none.

        It is called when an event is about to be written, with the connection of the
        transaction, which a store that keeps its keys elsewhere need not use.
        """
        ...

    def find(self, ids: Collection[str], /) -> Mapping[str, bytes]:
        """Return the secrets that there are, by key id; one that is absent was forgotten.

        Raises `DatabaseUnavailableError` where it cannot tell now.
        """
        ...

    def forget(self, subject: str, /) -> int:
        """Delete the keys of a subject for good; return how many there were."""
        ...


class MasterKeys:
    """The key that wraps the keys of subjects, and those that it followed."""

    def __init__(self, current: str, former: Sequence[str] = ()) -> None:
        """Take keys of 32 bytes in base64: `openssl rand -base64 32` makes one.

        Raises `ConfigurationError` for what is none, which the message does not show, and where the
        library that encrypts is not installed.
        """
        if isinstance(former, str):
            raise ConfigurationError("the former master keys are a list: MasterKeys(new, [old])")
        keys = [_master_key(text) for text in (current, *former)]
        aes(keys[0])  # at the start, and not with the first event
        self._by_id = {_fingerprint(key): key for key in keys}
        self.current: Final = _fingerprint(keys[0])
        """The id of the key that wraps."""

    def wrap(self, key: SubjectKey) -> tuple[str, bytes]:
        """Encrypt a subject's key; return the master key's id and the result."""
        nonce = os.urandom(NONCE_BYTES)
        cipher = aes(self._by_id[self.current])
        return self.current, nonce + cipher.encrypt(nonce, key.secret, key.id.encode())

    def unwrap(self, master_id: str, key_id: str, wrapped: bytes) -> bytes:
        """Decrypt a subject's key; raises `ConfigurationError` where its master key is not here."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # an optional dependency

        master = self._by_id.get(master_id)
        if master is None:
            raise ConfigurationError(
                f"the personal key {key_id} is wrapped by the master key {master_id}, which is"
                " none of personal.master_key and personal.former_master_keys: add it to the latter"
            )
        try:
            found: bytes = aes(master).decrypt(
                wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], key_id.encode()
            )
        except InvalidTag:
            raise ConfigurationError(
                f"the personal key {key_id} was changed in the database: its master key does not"
                " open it; restore its row of outbox_personal_key, or forget the person"
            ) from None
        return found

    def __repr__(self) -> str:
        """Name the keys by their ids, which tell nothing of them."""
        return f"MasterKeys({', '.join(self._by_id)})"


class TableKeyStore:
    """Keeps the keys in `outbox_personal_key`, wrapped by a master key.

    Keys are made in the transaction that writes the event, in the database of the outbox. They are
    found and forgotten in transactions of the store's own, through `database`: an Engine or a URL;
    a process that only emits needs none.
    """

    def __init__(
        self, master_keys: MasterKeys, database: sa.Engine | str | sa.URL | None = None
    ) -> None:
        """Take the master keys and the database to find keys in."""
        self._master_keys = master_keys
        self._engine = (
            database
            if database is None or isinstance(database, sa.Engine)
            else make_engine(sa.make_url(database), "outbox keys")
        )

    def provide(
        self, connection: sa.Connection, subjects: Collection[str], /
    ) -> Mapping[str, SubjectKey]:
        """See `KeyStore`; raises `InvalidEventError` for a subject longer than 500 bytes.

        Raises `DatabaseUnavailableError` where others forget a subject again and again meanwhile.
        """
        missing = sorted(set(subjects))
        for subject in missing:
            if len(subject.encode()) > MAX_SUBJECT_BYTES:
                raise InvalidEventError(
                    f"the subject of personal data is longer than {MAX_SUBJECT_BYTES} bytes"
                )
        found = self._active(connection, missing)
        for _ in range(ATTEMPTS):
            missing = [subject for subject in missing if subject not in found]
            if not missing:
                return found
            # In their order, so that two transactions do not wait for each other.
            rows = [self._new(subject) for subject in missing]
            connection.execute(_insert(connection), rows)
            # Not what was made here: another transaction may have been first. Its key may be
            # forgotten by now, and then there is one to be made after all.
            found |= self._active(connection, missing, is_late=True)
        raise DatabaseUnavailableError(
            "the keys of personal data are forgotten as fast as they are made: try again"
        )

    def find(self, ids: Collection[str], /) -> Mapping[str, bytes]:
        """See `KeyStore`; it cannot tell what a key is that none of the master keys opens."""
        found: dict[str, bytes] = {}
        try:
            with self._own().connect() as connection:
                for row in rows_with(connection, _FIND, table.c.id, ids):
                    found[row.id] = self._unwrap_later(row)
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as exc:
            raise DatabaseUnavailableError(
                f"the keys of personal data cannot be read now: {getattr(exc, 'orig', exc)}"
            ) from exc
        return found

    def forget(self, subject: str, /) -> int:
        """See `KeyStore`; a row without a key stays, and says when it was deleted."""
        with self._own().begin() as connection:
            return delete_key(connection, subject)

    def rewrap(self) -> int:
        """Wrap the keys of former master keys by the current one; return how many there were.

        Each 500 of them are a transaction. A key that is forgotten meanwhile stays forgotten.
        """
        former = _FIND.where(table.c.master_key != self._master_keys.current)
        change = sa.update(table).where(
            table.c.id == sa.bindparam("key_id"), table.c.wrapped_key == sa.bindparam("former")
        )
        count, last = 0, ""
        while True:
            with self._own().begin() as connection:
                page = former.where(table.c.id > last).order_by(table.c.id).limit(CHUNK)
                rows = connection.execute(page).all()
                for row in rows:
                    master, wrapped = self._master_keys.wrap(SubjectKey(row.id, self._unwrap(row)))
                    values = {"master_key": master, "wrapped_key": wrapped}
                    known = {"key_id": row.id, "former": row.wrapped_key}
                    count += connection.execute(change, values | known).rowcount
            if not rows:
                return count
            last = rows[-1].id

    def _own(self) -> sa.Engine:
        if self._engine is None:
            raise ConfigurationError(
                "this key store was made without a database, so it can only make keys: give"
                " TableKeyStore(…, database=…) the database of the outbox"
            )
        return self._engine

    def _active(
        self, connection: sa.Connection, subjects: Sequence[str], *, is_late: bool = False
    ) -> dict[str, SubjectKey]:
        query = _FIND.where(table.c.retired == "")
        if is_late and is_mysql(connection.dialect):
            # Else it would read as of the transaction's first statement.
            query = query.with_for_update(read=True)
        return {
            row.subject: SubjectKey(row.id, self._unwrap(row))
            for row in rows_with(connection, query, table.c.subject, subjects)
        }

    def _unwrap(self, row: Any) -> bytes:
        return self._master_keys.unwrap(row.master_key, row.id, bytes(row.wrapped_key))

    def _unwrap_later(self, row: Any) -> bytes:
        """Return a key, or let a reader wait: to go on without one that exists would lose data."""
        try:
            return self._unwrap(row)
        except ConfigurationError as exc:
            raise DatabaseUnavailableError(str(exc)) from exc

    def _new(self, subject: str) -> dict[str, Any]:
        key = _new_key()
        master, wrapped = self._master_keys.wrap(key)
        return {
            "id": key.id,
            "subject": subject,
            "retired": "",
            "master_key": master,
            "wrapped_key": wrapped,
        }


def delete_key(connection: sa.Connection, subject: str) -> int:
    """Delete the key of a subject in `outbox_personal_key`; return how many there were, 0 or 1.

    Its row stays without the key, and says when it was deleted. No master key is needed.
    """
    gone = (
        sa.update(table)
        .where(table.c.subject == subject, table.c.retired == "")
        .values(wrapped_key=None, master_key=None, retired=table.c.id, forgotten_at=clock.now())
    )
    return connection.execute(gone).rowcount


_FIND: Final = sa.select(
    table.c.subject, table.c.id, table.c.master_key, table.c.wrapped_key
).where(table.c.wrapped_key.is_not(None))


def _insert(connection: sa.Connection) -> sa.Insert:
    """Make an INSERT that leaves a key alone that is there already, and needs no other right."""
    if is_mysql(connection.dialect):
        return sa.insert(table).prefix_with("IGNORE")
    if connection.dialect.name == "sqlite":
        return sa.insert(table).prefix_with("OR IGNORE")
    return postgresql.insert(table).on_conflict_do_nothing()


def _new_key() -> SubjectKey:
    return SubjectKey(uuid.uuid4().hex, os.urandom(KEY_BYTES))


def _master_key(text: object) -> bytes:
    if not isinstance(text, str):
        raise ConfigurationError(
            f"a master key of personal data is a str, not {type(text).__name__}: is its setting or"
            " variable of the environment there?"
        )
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigurationError(
            "a master key of personal data has to be 32 bytes in base64: `openssl rand -base64 32`"
            " makes one"
        )
    return key


def _fingerprint(key: bytes) -> str:
    """Return what a master key is known by: it tells nothing of the key."""
    return hashlib.sha256(b"outbox master key" + key).hexdigest()[:16]


def store_of(settings: Settings, **options: Any) -> TableKeyStore | None:
    """Make the key store that settings describe; None where they have no master key.

    `options` are for its engine. Raises `ConfigurationError` for keys that are none.
    """
    own = settings.personal
    if own.master_key is None:
        return None
    former = [key.get_secret_value() for key in own.former_master_keys]
    keys = MasterKeys(own.master_key.get_secret_value(), former)
    return TableKeyStore(keys, engine_of(settings, **options))


def engine_of(settings: Settings, **options: Any) -> sa.Engine:
    """Make the engine of the database that has the keys, which is connected to when it is used."""
    own = settings.personal.database_url
    url = settings.url if own is None else sa.make_url(own.get_secret_value())
    return make_engine(url, "outbox keys", **options)


_store: KeyStore | None = None


def use_key_store(store: KeyStore | None) -> None:
    """Let this process encrypt and read personal data with the keys of a store; None ends that.

    `outbox consume` does it by its settings; an application calls it when it starts. Raises
    `UsageError` for what has not the methods of a `KeyStore`.
    """
    given: object = store  # what is given may be anything
    methods = [getattr(given, name, None) for name in ("provide", "find", "forget")]
    if given is not None and (isinstance(given, type) or not all(map(callable, methods))):
        what = "a class" if isinstance(given, type) else type(given).__name__
        raise UsageError(
            f"{what} is no key store: outbox.use_key_store takes an object such as"
            " outbox.TableKeyStore(outbox.MasterKeys(…))"
        )
    global _store  # noqa: PLW0603  # one for the process, as its catalogue is
    _store = store


def require_key_store() -> KeyStore:
    """Return the key store of this process, or raise `ConfigurationError`."""
    if _store is None:
        raise ConfigurationError(
            "an event has personal data, and this process has no keys for it: call"
            " outbox.use_key_store(outbox.TableKeyStore(outbox.MasterKeys(…))) when it starts"
        )
    return _store


def key_store() -> KeyStore | None:
    """Return the key store of this process; None where it may not read personal data."""
    return _store
