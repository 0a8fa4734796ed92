"""`outbox doctor` asks ActiveMQ and S3 to let it in, and leaves nothing there."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import pytest

from outbox.testing import numbered, publish_all
from outbox.transports import s3
from tests.absence import skipped_unless_ci
from tests.acceptance.cli import Program
from tests.s3_proxy import proxy
from tools.buckets import options_of
from tools.servers import activemq as run_activemq
from tools.servers import s3 as run_s3
from tools.servers.activemq import JARS as ACTIVEMQ_JARS
from tools.servers.certificates import find_openssl, make_certificate
from tools.servers.process import free_port
from tools.servers.s3 import JARS as S3_JARS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fix_s3 import Bucket
    from tools.servers import ActiveMqServer, S3Server

PASSWORD: Final = "the-right-one"
WRONG: Final = "a-wrong-secret"
LET_IN: Final = "and the destination lets this client in"


@pytest.fixture
def program(tmp_path: Path, sqlite_url: str) -> Program:
    return Program(tmp_path, {"OUTBOX_DATABASE_URL": sqlite_url})


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A server's certificate for itself, the store of its key, and a stranger's certificate."""
    with skipped_unless_ci():
        find_openssl()
    folder = tmp_path_factory.mktemp("certificates")
    keys, own = make_certificate(folder, "server")
    _, stranger = make_certificate(folder, "stranger")
    return {"keys": keys, "own": own, "stranger": stranger}


@pytest.fixture(scope="module")
def guarded() -> Iterator[ActiveMqServer]:
    with skipped_unless_ci():
        ACTIVEMQ_JARS.find()
    with run_activemq(users={"relay": PASSWORD}) as server:
        yield server


@pytest.fixture(scope="module")
def encrypted(papers: dict[str, Path]) -> Iterator[ActiveMqServer]:
    with skipped_unless_ci():
        ACTIVEMQ_JARS.find()
    with run_activemq(keys=papers["keys"]) as server:
        yield server


@pytest.fixture(scope="module")
def encrypted_s3(papers: dict[str, Path]) -> Iterator[S3Server]:
    with skipped_unless_ci():
        S3_JARS.find()
    with run_s3(keys=papers["keys"]) as server:
        yield server


def said(program: Program, name: str, state: str, **options: Any) -> str:
    """Return what doctor finds of a route, with no secret in anything that it shows."""
    prefix = f"OUTBOX_ROUTES__{name.upper()}__"
    route = {prefix + key.upper(): _text(value) for key, value in options.items()}
    done = program.call("doctor", "--json", **route)
    checks = {each["check"]: each for each in json.loads(done.stdout)["checks"]}
    found = checks[f"route {name}"]
    assert found["state"] == state, found
    assert done.returncode == (1 if state == "failed" else 0), done.stderr
    for secret in (PASSWORD, WRONG):
        assert secret not in done.stdout + done.stderr
    return str(found["found"])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def mq(program: Program, state: str, brokers: str, **options: Any) -> str:
    groups = ["billing"]
    return said(
        program, "mq", state, transport="activemq", brokers=brokers, groups=groups, **options
    )


def archive(program: Program, state: str, options: dict[str, str], **changed: str) -> str:
    return said(program, "archive", state, transport="s3", **(options | changed))


def test_activemq_lets_in_whoever_knows_the_password(
    program: Program, guarded: ActiveMqServer
) -> None:
    assert LET_IN in mq(program, "ok", guarded.address, username="relay", password=PASSWORD)
    for login in ({"username": "relay", "password": WRONG}, {}):
        told = mq(program, "failed", guarded.address, **login)
        assert "correct routes.mq.username and routes.mq.password" in told


def test_the_second_broker_of_activemq_is_enough(program: Program, guarded: ActiveMqServer) -> None:
    brokers = f"127.0.0.1:{free_port()},{guarded.address}"
    assert LET_IN in mq(program, "ok", brokers, username="relay", password=PASSWORD)


def test_no_broker_of_activemq_answers(program: Program) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert f"{address} does not answer" in mq(program, "failed", address)


def test_certificates_of_activemq_are_looked_at(
    program: Program,
    guarded: ActiveMqServer,
    encrypted: ActiveMqServer,
    papers: dict[str, Path],
) -> None:
    trusting = {"ca_file": f"{papers['own']}.crt"}
    assert LET_IN in mq(program, "ok", encrypted.address, tls=trusting)
    wrong = {"ca_file": f"{papers['stranger']}.crt"}
    assert "correct routes.mq.tls.ca_file" in mq(program, "failed", encrypted.address, tls=wrong)
    absent = {"ca_file": "/nowhere.pem"}
    told = mq(program, "failed", encrypted.address, tls=absent)
    assert told.startswith("routes.mq.tls.ca_file: /nowhere.pem cannot be used")
    assert "needs the table routes.mq.tls" in mq(program, "failed", encrypted.address)
    assert "remove the table routes.mq.tls" in mq(program, "failed", guarded.address, tls={})


def test_a_bucket_that_can_be_used_stays_as_it_is(program: Program, bucket: Bucket) -> None:
    assert LET_IN in archive(program, "ok", bucket.options, prefix="events")
    assert bucket.object_keys() == []
    options = s3.Options(**bucket.options)
    with closing(s3.publisher("archive", options, 5.0)) as publisher:
        publish_all(publisher, numbered("t", 3))
    before = {key: bucket.read(key) for key in bucket.object_keys()}
    assert LET_IN in archive(program, "ok", bucket.options)
    assert {key: bucket.read(key) for key in bucket.object_keys()} == before


def test_wrong_keys_and_a_missing_bucket_are_told(program: Program, bucket: Bucket) -> None:
    told = archive(program, "failed", bucket.options, secret_access_key=WRONG)
    assert "correct access_key_id and secret_access_key" in told
    told = archive(program, "failed", bucket.options, access_key_id="nobody")
    assert "correct access_key_id and secret_access_key" in told
    told = archive(program, "failed", bucket.options, bucket="no-such-bucket-here")
    assert "create it, or correct `bucket`" in told


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("GET", "list-type", "grant s3:ListBucket on it"),
        ("GET", "_probe", "grant s3:GetObject and s3:ListBucket on it"),
        ("PUT", "_probe", "grant s3:PutObject on it"),
    ],
)
def test_each_right_that_is_missing_is_told(
    program: Program, bucket: Bucket, method: str, path: str, right: str
) -> None:
    with proxy(bucket.url) as between:
        between.denies = lambda asked, where: asked == method and path in where
        told = archive(program, "failed", bucket.options, endpoint_url=between.endpoint_url)
    assert right in told


def test_a_server_that_ignores_conditions_is_told(program: Program, bucket: Bucket) -> None:
    with closing(s3.publisher("archive", s3.Options(**bucket.options), 5.0)) as publisher:
        publish_all(publisher, numbered("t", 1))
    with proxy(bucket.url) as between:
        between.ignores_conditions = True
        told = archive(program, "failed", bucket.options, endpoint_url=between.endpoint_url)
    assert "ignores If-None-Match" in told


def test_what_a_server_stores_that_looks_at_no_digest_is_deleted(
    program: Program, bucket: Bucket
) -> None:
    with proxy(bucket.url) as between:
        between.ignores_digests = True
        assert LET_IN in archive(program, "ok", bucket.options, endpoint_url=between.endpoint_url)
        assert between.seen[-1] == ("DELETE", f"/{bucket.name}/_probe")


def test_no_s3_server_answers(program: Program, bucket: Bucket) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    told = archive(program, "failed", bucket.options, endpoint_url=url)
    assert f"cannot be reached at {url}" in told
    assert "correct endpoint_url" in told


def test_certificates_of_s3_are_looked_at(
    program: Program, bucket: Bucket, encrypted_s3: S3Server, papers: dict[str, Path]
) -> None:
    options = options_of(encrypted_s3.url(), "events")
    assert "correct endpoint_url, or the cert" in archive(program, "failed", options)
    program.environment["AWS_CA_BUNDLE"] = f"{papers['own']}.crt"
    # Nobody made it there; what matters is that the server has answered.
    assert "create it, or correct `bucket`" in archive(program, "failed", options)
    plain = options["endpoint_url"].replace("https", "http")
    assert "correct endpoint_url" in archive(program, "failed", options, endpoint_url=plain)
    tls = bucket.options["endpoint_url"].replace("http", "https")
    assert "TLS failed" in archive(program, "failed", bucket.options, endpoint_url=tls)
