"""What an operator has to mend on S3 is told by the setting that is wrong, without any secret."""

from __future__ import annotations

import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from outbox.errors import BrokerUnavailableError, DestinationRefusedError, OutboxError
from outbox.testing import by_key, collect, expected, numbered, publish_all
from outbox.transport import PUBLISHED, Retry
from outbox.transports import s3
from outbox.transports.s3.errors import translate
from tests.s3_proxy import proxy
from tools.servers.process import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fix_s3 import Bucket

WRONG = "a-wrong-secret"


def refusal(used: Bucket, **changed: Any) -> str:
    """Return what a publisher and a subscriber say, which is the same kind of error."""
    options = s3.Options(**(used.options | changed))
    with closing(s3.publisher("route", options, 3.0)) as publisher:
        (outcome,) = publisher.publish(numbered("t", 1))
        assert isinstance(outcome, Retry)
        assert isinstance(outcome.error, DestinationRefusedError)
        with pytest.raises(DestinationRefusedError):
            publisher.take_over("route-1")
    subscriber = s3.subscriber("route", options, "g", ["t"])
    with closing(subscriber), pytest.raises(DestinationRefusedError):
        subscriber.receive(1, 0.1)
    return str(outcome.error)


def test_a_wrong_secret_names_its_setting_and_is_not_shown(bucket: Bucket) -> None:
    said = refusal(bucket, secret_access_key=WRONG)
    assert "secret_access_key" in said
    assert WRONG not in said


def test_an_unknown_key_names_its_setting(bucket: Bucket) -> None:
    assert "access_key_id" in refusal(bucket, access_key_id="nobody")


def test_a_missing_bucket_names_its_setting(bucket: Bucket) -> None:
    said = refusal(bucket, bucket="no-such-bucket-here")
    assert "`bucket`" in said
    assert "no-such-bucket-here" in said


def test_no_credentials_at_all_name_their_settings(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    said = refusal(bucket, access_key_id=None, secret_access_key=None)
    assert "access_key_id" in said


def test_credentials_are_found_by_the_usual_chain(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bucket.options["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket.options["secret_access_key"])
    options = s3.Options(**(bucket.options | {"access_key_id": None, "secret_access_key": None}))
    with closing(s3.publisher("route", options, 3.0)) as publisher:
        assert list(publisher.publish(numbered("t", 1))) == [PUBLISHED]


def test_a_server_that_is_not_there_is_an_outage(bucket: Bucket) -> None:
    options = s3.Options(**(bucket.options | {"endpoint_url": f"http://127.0.0.1:{free_port()}"}))
    with closing(s3.publisher("route", options, 1.0)) as publisher:
        (outcome,) = publisher.publish(numbered("t", 1))
        assert isinstance(outcome, Retry)
        assert isinstance(outcome.error, BrokerUnavailableError)


def test_slow_down_for_long_is_an_outage_that_ends(bucket: Bucket) -> None:
    events = numbered("t", 4)
    with proxy(bucket.url) as between:
        options = s3.Options(**(bucket.options | {"endpoint_url": between.endpoint_url}))
        between.refuses = lambda _method, _path: True
        with (
            closing(s3.publisher("route", options, 1.0)) as publisher,
            closing(s3.subscriber("route", options, "g", ["t"])) as subscriber,
        ):
            outcomes = publisher.publish(events)
            assert all(isinstance(outcome, Retry) for outcome in outcomes)
            with pytest.raises(BrokerUnavailableError):
                subscriber.receive(1, 0.1)
            between.refuses = lambda _method, _path: False
            publish_all(publisher, events)
            assert by_key(collect(subscriber, 4)) == expected(events)


@pytest.mark.parametrize(
    ("code", "status", "kind", "named"),
    [
        ("KMS.NotFoundException", 400, DestinationRefusedError, "kms_key_id"),
        ("KMS.DisabledException", 400, DestinationRefusedError, "kms_key_id"),
        ("AccessDenied", 403, DestinationRefusedError, "s3:PutObject"),
        ("ExpiredToken", 400, DestinationRefusedError, "session_token"),
        ("PermanentRedirect", 301, DestinationRefusedError, "region"),
        ("RequestTimeTooSkewed", 403, DestinationRefusedError, "clock"),
        ("NotImplemented", 501, DestinationRefusedError, "server_side_encryption"),
        ("SomethingNew", 400, DestinationRefusedError, "SomethingNew"),
        ("SlowDown", 503, BrokerUnavailableError, "busy"),
        ("TooManyRequests", 429, BrokerUnavailableError, "busy"),
        ("ConditionalRequestConflict", 409, BrokerUnavailableError, "busy"),
        ("InternalError", 500, BrokerUnavailableError, "out of order"),
    ],
)
def test_a_code_that_the_test_server_never_gives_is_translated(
    code: str, status: int, kind: type[OutboxError], named: str
) -> None:
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = translate(ClientError(answer, "PutObject"), s3.Options(bucket="events"))
    assert type(error) is kind
    assert named in str(error)


@contextmanager
def sts(bucket: Bucket, *, is_open: bool) -> Iterator[tuple[str, list[str]]]:
    """Answer AssumeRole, with the bucket's own keys or a refusal; the list gets the requests."""
    options = bucket.options
    granted = (
        "<AssumeRoleResponse><AssumeRoleResult><Credentials>"
        f"<AccessKeyId>{options['access_key_id']}</AccessKeyId>"
        f"<SecretAccessKey>{options['secret_access_key']}</SecretAccessKey>"
        "<SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>"
        "</Credentials></AssumeRoleResult></AssumeRoleResponse>"
    )
    denied = "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            body = (granted if is_open else denied).encode()
            self.send_response_only(200 if is_open else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_every_object_is_encrypted_as_the_settings_say(bucket: Bucket) -> None:
    with proxy(bucket.url) as between:
        asked = {"server_side_encryption": "aws:kms", "kms_key_id": "alias/events"}
        options = s3.Options(**(bucket.options | {"endpoint_url": between.endpoint_url} | asked))
        with (
            closing(s3.publisher("route", options, 3.0)) as publisher,
            closing(s3.subscriber("route", options, "g", ["t"])) as subscriber,
        ):
            publisher.take_over("route-1")
            publish_all(publisher, numbered("t", 3))
            subscriber.ack(collect(subscriber, 3))
        puts = [h for (m, _), h in zip(between.seen, between.headers, strict=True) if m == "PUT"]
    assert len(puts) >= 7, "objects, entries and states of the group"
    for headers in puts:
        assert headers["x-amz-server-side-encryption"] == "aws:kms"
        assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/events"


ROLE = {"role_arn": "arn:aws:iam::123456789012:role/relay", "external_id": "the-external-id"}


def test_a_role_is_assumed_with_the_given_keys(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sts(bucket, is_open=True) as (url, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        options = s3.Options(**(bucket.options | ROLE | {"secret_access_key": WRONG}))
        with closing(s3.publisher("route", options, 3.0)) as publisher:
            assert list(publisher.publish(numbered("t", 1))) == [PUBLISHED]
    assert len(asked) == 1
    assert "RoleArn=arn" in asked[0]
    assert "ExternalId=the-external-id" in asked[0]


def test_a_role_that_may_not_be_assumed_names_its_setting(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sts(bucket, is_open=False) as (url, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        said = refusal(bucket, **ROLE)
    assert "role_arn" in said
    assert "the-external-id" not in said
