from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from outbox.codec import from_headers
from outbox.errors import ConfigurationError
from outbox.settings import RouteSettings
from outbox.structured import decode, encode
from outbox.testing import envelope
from outbox.transports import transport_of
from outbox.transports.s3.compress import compress, decompress
from outbox.transports.s3.entry import Entry, Listed, read_entry
from outbox.transports.s3.options import Options


def round_trip(body: bytes) -> Any:
    message = decode(body, "t")
    return from_headers(message.key, message.headers, message.data, topic="t")


@pytest.mark.parametrize(
    "data", [b"{}", b' {"a" : 1.0}\n', b'"}"', b"[1,\n2]", b"12345678901234567890123", b"null"]
)
def test_json_stands_in_the_object_byte_by_byte(data: bytes) -> None:
    event = envelope("t", 'k,"data":', data, subject=',"data":', headers={"x": ',"data":7}'})
    body = encode(event, on_one_line=False)
    assert json.loads(body)["data"] == json.loads(data)
    assert round_trip(body) == event


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"NaN", "application/json"),
        (b'{"a": 1}', "text/plain"),
        (b"\xff\x00", "application/octet-stream"),
        ("é".encode(), "text/plain; charset=utf-8"),
    ],
)
def test_all_else_is_base64(data: bytes, content_type: str) -> None:
    event = envelope("t", "k", data, content_type=content_type)
    body = encode(event, on_one_line=True)
    assert "data_base64" in json.loads(body)
    assert round_trip(body) == event


@pytest.mark.parametrize(
    "content_type", ["application/json", "APPLICATION/JSON ; charset=utf-8", "a/problem+json"]
)
def test_any_media_type_of_json_is_json(content_type: str) -> None:
    body = encode(envelope("t", content_type=content_type), on_one_line=False)
    assert json.loads(body)["data"] == {}


def test_a_line_has_no_line_break() -> None:
    body = encode(envelope("t", data=b'{\r\n "a": "\\n"\n}'), on_one_line=True)
    assert b"\n" not in body
    assert json.loads(body)["data"] == {"a": "\n"}


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data_base64": "!"}', b"nonsense"])
def test_what_is_no_event_is_told(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(body, "t")


@pytest.mark.parametrize("how", ["none", "gzip", "zstd"])
def test_equal_bodies_are_stored_equal_and_come_back(how: Any) -> None:
    suffix = {"none": "", "gzip": ".gz", "zstd": ".zst"}[how]
    stored = compress(b"body" * 100, how)
    assert stored == compress(b"body" * 100, how)
    assert decompress(stored, "key" + suffix) == b"body" * 100
    if suffix:
        with pytest.raises(ValueError, match="cannot be decompressed"):
            decompress(b"damaged", "key" + suffix)


def test_an_entry_survives_the_round_trip() -> None:
    entry = Entry(
        nonce="n",
        identity="i",
        progress=b"\x00\xff",
        latest={"i": 3},
        topics=["t"],
        objects=[("key", 7)],
        events=[Listed(0, 0, 0, 2**32 - 1)],
    )
    assert read_entry(entry.to_bytes()) == entry


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"bucket": "x"}, "bucket"),
        ({"prefix": "/a"}, "slash"),
        ({"prefix": "_log"}, "_log/"),
        ({"access_key_id": "a"}, "need each other"),
        ({"session_token": "a"}, "needs access_key_id"),
        ({"external_id": "a"}, "needs role_arn"),
        ({"kms_key_id": "a"}, "aws:kms"),
        ({"key": "{type}"}, "overwrite"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_settings_that_cannot_work_are_refused(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Options.model_validate({"bucket": "events", **changed})


def test_no_secret_is_shown() -> None:
    secrets = {"secret_access_key": "s-1", "session_token": "s-2", "external_id": "s-3"}
    options = Options.model_validate(
        {"bucket": "events", "access_key_id": "id", "role_arn": "arn:role", **secrets}
    )
    assert not any(secret in f"{options!r} {options}" for secret in secrets.values())


def test_a_prefix_is_a_folder() -> None:
    assert Options(bucket="events", prefix="a/b").prefix == "a/b/"
    assert Options(bucket="events").prefix == ""


def test_a_missing_driver_says_which_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("outbox.transports.s3")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "boto3", None)
    settings = RouteSettings.model_validate({"transport": "s3", "bucket": "events"})
    with pytest.raises(ConfigurationError, match=r"\(boto3\): pip install 'outbox-relay\[s3\]'"):
        transport_of("archive", settings)
