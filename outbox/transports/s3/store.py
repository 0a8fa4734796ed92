"""Objects of one bucket: stored, created once, read and listed, until a deadline."""

from __future__ import annotations

import base64
import random
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from outbox.errors import BrokerUnavailableError, DestinationRefusedError, OutboxError
from outbox.transports.s3.client import make_client
from outbox.transports.s3.errors import ABSENT, CALL_ERRORS, DAMAGED, TAKEN, code_of, translate

if TYPE_CHECKING:
    from collections.abc import Callable

    from outbox.transports.s3.options import Options

Found = TypeVar("Found")

_FIRST_WAIT_SECONDS: Final = 0.05
_LONGEST_WAIT_SECONDS: Final = 2.0
_NOBODYS_DIGEST: Final = base64.b64encode(bytes(16)).decode()


class Patience(NamedTuple):
    """How long one attempt of a request may take."""

    connect_seconds: float
    read_seconds: float

    @property
    def seconds(self) -> float:
        """Both."""
        return self.connect_seconds + self.read_seconds


class Store:
    """The objects below a route's prefix; safe in several threads.

    No attempt is made that might not be over before the deadline, a moment of `time.monotonic`.
    A request that the server is too busy for, or does not answer, is made again until then, with
    longer and longer pauses. Methods raise `BrokerUnavailableError`,
    `DestinationRefusedError` or `RecordRefusedError`.
    """

    def __init__(self, options: Options, patience: Patience) -> None:
        self._options = options
        self._patience = patience
        self._client = make_client(
            options, connect_seconds=patience.connect_seconds, read_seconds=patience.read_seconds
        )
        self._closed = threading.Event()

    def close(self) -> None:
        """Close the connections; pauses end at once. Idempotent."""
        self._closed.set()
        self._client.close()

    def put(self, key: str, body: bytes, content_type: str, deadline: float) -> None:
        """Store an object, or another version of it."""
        self._call(lambda: self._put(key, body, content_type), deadline)

    def create(self, key: str, body: bytes, deadline: float) -> bool:
        """Store an object if there is none of this key; tell whether it is this one that is there.

        Whoever creates a key has to be told by its body. The answer to an earlier attempt may
        have been lost, so an object that is there already is read and compared. Where it raises
        `BrokerUnavailableError`, the object may have been stored, or may be any moment now.
        """
        if self._call(lambda: self._create(key, body), deadline):
            return True
        return self.get(key, deadline) == body

    def honours_conditions(self, key: str, body: bytes, deadline: float) -> bool:
        """Whether the server turns an object away that is there already; stores the same again."""
        return not self._call(lambda: self._create(key, body), deadline)

    def get(self, key: str, deadline: float) -> bytes | None:
        """Return an object; None where there is none."""
        return self._call(lambda: self._get(key), deadline)

    def try_to_put(self, key: str, deadline: float) -> None:
        """Return where an object could be stored; none is, as its digest is that of another one.

        What a client may do is looked at before what it sends.
        """
        if not self._call(lambda: self._put_damaged(key), deadline):
            return
        # A server that looks at no digest has taken it.
        try:
            self.delete(key, deadline)
        except OutboxError as exc:
            whole = self._options.prefix + key
            raise DestinationRefusedError(
                f"the server stored {whole} though its digest is wrong, and does not delete it"
                f" again: delete it by hand ({exc})"
            ) from exc

    def keys(self, prefix: str, after: str, deadline: float, *, limit: int = 1_000) -> list[str]:
        """Return the first keys that begin with a prefix and stand behind a key, in order."""
        return self._call(lambda: self._list(prefix, after, limit), deadline)

    def delete(self, key: str, deadline: float) -> None:
        """Delete an object, if it is there."""
        self._call(lambda: self._delete(key), deadline)

    def _call(self, request: Callable[[], Found], deadline: float) -> Found:
        wait = _FIRST_WAIT_SECONDS
        if time.monotonic() + self._patience.seconds > deadline:
            raise BrokerUnavailableError("there is no time left for another request")
        while True:
            try:
                return request()
            except CALL_ERRORS as exc:
                error = translate(exc, self._options)
                pause = wait * random.uniform(0.5, 1)  # noqa: S311  # spreads attempts out
                is_late = time.monotonic() + pause + self._patience.seconds > deadline
                if not isinstance(error, BrokerUnavailableError) or is_late:
                    raise error from exc
            if self._closed.wait(pause):
                raise BrokerUnavailableError("the client was closed meanwhile")
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    def _put(self, key: str, body: bytes, content_type: str) -> None:
        self._client.put_object(
            Bucket=self._options.bucket,
            Key=self._options.prefix + key,
            Body=body,
            ContentType=content_type,
            **self._options.encryption,
        )

    def _put_damaged(self, key: str) -> bool:
        try:
            self._client.put_object(
                Bucket=self._options.bucket,
                Key=self._options.prefix + key,
                Body=b"{}",
                ContentMD5=_NOBODYS_DIGEST,
                **self._options.encryption,
            )
        except CALL_ERRORS as exc:
            if code_of(exc) in DAMAGED:
                return False
            raise
        return True

    def _create(self, key: str, body: bytes) -> bool:
        try:
            self._client.put_object(
                Bucket=self._options.bucket,
                Key=self._options.prefix + key,
                Body=body,
                ContentType="application/json",
                IfNoneMatch="*",
                **self._options.encryption,
            )
        except CALL_ERRORS as exc:
            if code_of(exc) in TAKEN:
                return False
            raise
        return True

    def _get(self, key: str) -> bytes | None:
        try:
            found = self._client.get_object(
                Bucket=self._options.bucket, Key=self._options.prefix + key
            )
            body: bytes = found["Body"].read()
        except CALL_ERRORS as exc:
            if code_of(exc) in ABSENT:
                return None
            raise
        return body

    def _list(self, prefix: str, after: str, limit: int) -> list[str]:
        own = self._options.prefix
        found: dict[str, Any] = self._client.list_objects_v2(
            Bucket=self._options.bucket,
            Prefix=own + prefix,
            StartAfter=own + after,
            MaxKeys=limit,
        )
        return [item["Key"].removeprefix(own) for item in found.get("Contents", ())]

    def _delete(self, key: str) -> None:
        self._client.delete_object(Bucket=self._options.bucket, Key=self._options.prefix + key)
