"""S3: one server a session, a bucket for each test.

The server is the one at OUTBOX_TEST_S3 (`http://KEY:SECRET@host:port`), or is started when the
first test asks for it.
"""

from __future__ import annotations

import os
import re
import uuid
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.absence import mark, own_server, shared_server, whereabouts
from tools.buckets import options_of, plain_client
from tools.servers import S3Server, s3
from tools.servers.s3 import JARS

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "OUTBOX_TEST_S3"
UNFINISHED: Final = re.compile(r"-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
"""What S3Proxy calls a file while it is written, and lists it by."""


@dataclass(frozen=True)
class Bucket:
    """A bucket of a test's own, and a plain client that looks into it."""

    name: str
    url: str
    """Of the server, with the keys."""

    @property
    def options(self) -> dict[str, Any]:
        """What a route needs to use it."""
        return options_of(self.url, self.name)

    @cached_property
    def client(self) -> Any:
        """Safe in several threads."""
        return plain_client(self.url)

    def object_keys(self, prefix: str = "") -> list[str]:
        """Return the keys of all objects, in order."""
        pages = self.client.get_paginator("list_objects_v2").paginate
        return [
            item["Key"]
            for page in pages(Bucket=self.name, Prefix=prefix)
            for item in page.get("Contents", ())
            if not UNFINISHED.search(item["Key"])
        ]

    def data_keys(self) -> list[str]:
        """Return those of the events, without the log and the groups."""
        return [key for key in self.object_keys() if not key.startswith(("_log/", "_groups/"))]

    def read(self, key: str) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return body


def new_bucket(url: str) -> Bucket:
    """Make an empty bucket."""
    bucket = Bucket(f"outbox-test-{uuid.uuid4().hex}", url)
    bucket.client.create_bucket(Bucket=bucket.name)
    return bucket


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark(items, frozenset({"s3_server", "own_s3"}), "s3")


def pytest_report_header() -> str:
    # It has the keys in it.
    given = f"given by {VARIABLE}" if os.environ.get(VARIABLE) else None
    return whereabouts("s3", given, JARS.find)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of the session's server; tests share it, so none may stop it."""
    yield from shared_server(VARIABLE, JARS.find, s3, lambda server: server.url())


@pytest.fixture
def bucket(s3_server: str) -> Bucket:
    """An empty bucket."""
    return new_bucket(s3_server)


@pytest.fixture
def own_s3() -> Iterator[S3Server]:
    """A server of the test's own, to stop, kill and freeze."""
    with own_server(JARS.find, s3) as server:
        yield server
