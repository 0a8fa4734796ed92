"""Seals as objects of an S3 bucket, best one with object lock.

Credentials are those that boto3 finds by itself (environment, profile, role), and not those of a
route: whoever relays need not be able to seal. `AWS_ENDPOINT_URL` names a server that is not
Amazon's.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pydantic import ValidationError

from outbox.audit.places import PATTERN, name_of, of_text, to_text
from outbox.audit.seal import SealError
from outbox.errors import ConfigurationError
from outbox.settings import describe
from outbox.transports.s3.options import Options
from outbox.transports.s3.store import Patience, Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.audit.seal import Seal

PATIENCE: Final = Patience(connect_seconds=5, read_seconds=30)
SECONDS: Final = 120.0
"""How long a request is made again where the server does not answer, or is busy."""
PAGE: Final = 1_000
"""Keys that are listed at once."""


class Bucket:
    """Seals below a prefix of a bucket, or a single one, as `s3://bucket/prefix` names them.

    Methods raise `OutboxError` where the server does not answer or refuses.
    """

    def __init__(self, url: str) -> None:
        """Read the URL, and connect when first asked; raises `ConfigurationError`."""
        parts = urlsplit(url)
        path = parts.path.lstrip("/")
        folder, slash, name = path.rpartition("/") if path.endswith(".json") else (path, "", "")
        server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        found = {"bucket": parts.netloc, "prefix": folder + slash, "endpoint_url": server}
        try:
            self._options = Options.model_validate(found)
        except ValidationError as exc:
            raise ConfigurationError(describe(exc, url)) from None
        self._name = name
        self._url = f"s3://{parts.netloc}/{self._options.prefix}"

    def read(self) -> list[Seal]:
        """See `Place.read`."""
        with closing(self._store()) as store, ThreadPoolExecutor(self._options.concurrency) as pool:
            names = [self._name] if self._name else list(self._names(store))
            return list(pool.map(lambda name: self._read(store, name), names))

    def series(self) -> list[Seal]:
        """See `Place.series`."""
        return [] if self._name else self.read()

    def write(self, seal: Seal) -> str:
        """See `Place.write`."""
        name = self._name or name_of(seal)
        with closing(self._store()) as store:
            if not store.create(name, to_text(seal), _deadline()):
                raise SealError(
                    f"{self._url}{name} is there already, and a seal is never overwritten"
                )
        return f"{self._url}{name}"

    def _store(self) -> Store:
        return Store(self._options, PATIENCE)

    def _names(self, store: Store) -> Iterator[str]:
        after = ""
        while found := store.keys("seal-", after, _deadline(), limit=PAGE):
            yield from (name for name in found if fnmatchcase(name, PATTERN) and "/" not in name)
            after = found[-1]

    def _read(self, store: Store, name: str) -> Seal:
        text = store.get(name, _deadline())
        if text is None:
            raise SealError(f"there is no seal {self._url}{name}")
        return of_text(text, f"{self._url}{name}")


def _deadline() -> float:
    return time.monotonic() + SECONDS
