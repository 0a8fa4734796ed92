"""SCRAM over TLS and mutual TLS as docs/guide/kafka.md has them, and each mistake it lists."""

from __future__ import annotations

import json
import tomllib
import uuid
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from outbox import testing
from outbox.errors import ConfigurationError, OutboxError
from outbox.transport import Retry
from outbox.transports import kafka
from tests.acceptance.cli import Program, insert
from tests.pages import block, page
from tests.secure_kafka import (
    EXPIRED,
    FOREIGN,
    LOGIN,
    MUTUAL,
    Papers,
    secure_kafka,
    set_password,
)
from tests.waiting import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tools.servers import KafkaServer

pytestmark = pytest.mark.kafka

PAGE: Final = page("guide/kafka.md", "Properties of librdkafka")
ROWS: Final = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if " | `" in line]
TOLD: Final = {mistake: said.partition("`")[2].partition("`")[0] for mistake, said in ROWS}
"""What the page says of each mistake."""
SECONDS: Final = 10.0
"""Far more than a mistake takes to be told, and less than anybody would call silence."""
PASSWORD, PASSPHRASE, WRONG = "swordfish-4711", "opensesame-0815", "not-this-one-2342"
SECRETS: Final = (PASSWORD, PASSPHRASE, WRONG)
WITHOUT_LOGIN: Final[dict[str, None]] = dict.fromkeys(
    ("sasl_mechanism", "sasl_username", "sasl_password")
)
WITHOUT_CERTIFICATE: Final[dict[str, None]] = dict.fromkeys(
    ("ssl_certificate_location", "ssl_key_location", "ssl_key_password")
)
TYPE: Final = "shop.order.placed"
CONSUMER: Final = f"""
import outbox
import sqlalchemy as sa
from pydantic import BaseModel

@outbox.event("{TYPE}", key="order_id")
class OrderPlaced(BaseModel):
    order_id: str

engine = sa.create_engine("URL")

def consumer(name):
    made = outbox.Consumer(name, database=engine)

    @made.on(OrderPlaced)
    def charge(event: OrderPlaced, context: outbox.Context) -> None:
        print("charged", event.order_id, flush=True)

    return made

login, mutual = consumer("login"), consumer("mutual")
"""


@dataclass(frozen=True)
class Scene:
    """The broker, the certificates, and the page's two ways to log in."""

    server: KafkaServer
    papers: Papers

    def route(self, listener: str, **client: str | None) -> dict[str, Any]:
        """Settings of a route as the page has them for a listener; None takes one away."""
        marker = "ssl_key_location" if listener == MUTUAL else "SCRAM"
        shown = block(PAGE, "toml", marker).replace("/etc/ssl", str(self.papers.folder))
        own: dict[str, str] = tomllib.loads(shown)["routes"]["kafka"]["client"]
        own |= (
            {"ssl_key_password": PASSPHRASE} if listener == MUTUAL else {"sasl_password": PASSWORD}
        )
        changed = {name: value for name, value in (own | client).items() if value is not None}
        address = self.server.listener(listener)
        return {"transport": "kafka", "bootstrap_servers": address, "client": changed}

    def plain(self) -> dict[str, Any]:
        """Settings for TLS and a password, and the port that knows neither."""
        return self.route(LOGIN) | {"bootstrap_servers": self.server.bootstrap_servers}

    def mistaken(self, mistake: str) -> dict[str, Any]:
        """Settings of a route with one mistake of the page."""
        papers = self.papers
        made: dict[str, Callable[[], dict[str, Any]]] = {
            "wrong password": lambda: self.route(LOGIN, sasl_password=WRONG),
            "unknown user": lambda: self.route(LOGIN, sasl_username="nobody"),
            "wrong SASL mechanism": lambda: self.route(LOGIN, sasl_mechanism="PLAIN"),
            "no login where one is needed": lambda: self.route(
                LOGIN, security_protocol="SSL", **WITHOUT_LOGIN
            ),
            "a login where there is none": lambda: self.route(
                MUTUAL, **self.route(LOGIN)["client"]
            ),
            "plain client, TLS listener": lambda: self.route(
                LOGIN, security_protocol=None, **WITHOUT_LOGIN
            ),
            "TLS client, plain listener": self.plain,
            "a CA that did not sign the broker's certificate": lambda: self.route(
                LOGIN, ssl_ca_location=str(papers.other_ca)
            ),
            "host name that is not in the certificate": lambda: self.route(FOREIGN),
            "expired certificate": lambda: self.route(EXPIRED),
            "no client certificate where one is needed": lambda: self.route(
                MUTUAL, **WITHOUT_CERTIFICATE
            ),
            "missing CA file": lambda: self.route(
                LOGIN, ssl_ca_location=str(papers.folder / "none.pem")
            ),
            "wrong passphrase of the key": lambda: self.route(MUTUAL, ssl_key_password=WRONG),
            "key of another certificate": lambda: self.route(
                MUTUAL, ssl_key_location=str(papers.identity(LOGIN))
            ),
        }
        return made[mistake]()

    def told(self, mistake: str) -> str:
        """What the page says of it, with our folder."""
        return TOLD[mistake].replace("/etc/ssl", str(self.papers.folder))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    papers = Papers(tmp_path_factory.mktemp("papers"), PASSPHRASE)
    with secure_kafka(papers, {"relay": PASSWORD}) as server:
        yield Scene(server, papers)


def program(folder: Path, url: str, routes: dict[str, dict[str, Any]]) -> Program:
    """The program with these routes; what is secret comes from the environment."""
    lines, secrets = [f'database_url = "{url}"'], {}
    for name, route in routes.items():
        client = dict(route["client"])
        for key in ("sasl_password", "ssl_key_password"):
            if key in client:
                variable = f"OUTBOX_ROUTES__{name.upper()}__CLIENT__{key.upper()}"
                secrets[variable] = client.pop(key)
        own = {key: value for key, value in route.items() if key != "client"}
        lines += [f"[routes.{name}]", *_lines(own), f"[routes.{name}.client]", *_lines(client)]
    (folder / "outbox.toml").write_text("\n".join(lines), encoding="utf-8")
    (folder / "shop.py").write_text(CONSUMER.replace("URL", url), encoding="utf-8")
    return Program(folder, secrets)


def _lines(values: dict[str, Any]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in values.items()]


def without_secrets(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """Return what was printed, in which there is no secret."""
    for secret in SECRETS:
        assert secret not in done.stdout + done.stderr
    return done


def test_the_right_settings_serve_both_guarantees_and_workers(
    scene: Scene, tmp_path: Path, postgres_url: str
) -> None:
    topics = {LOGIN: f"login-{uuid.uuid4().hex}", MUTUAL: f"mutual-{uuid.uuid4().hex}"}
    routes = {
        f"{listener}{number}".lower(): scene.route(listener)
        | {"topic": topic, "delivery": delivery}
        for listener, topic in topics.items()
        for number, delivery in enumerate(("exactly-once", "at-least-once"))
    }
    user = program(tmp_path, postgres_url, routes)
    for name in ("login", "mutual"):
        user.environment[f"OUTBOX_CONSUMERS__{name.upper()}__ROUTE"] = f"{name}0"
    insert(postgres_url, 3)
    relayed = without_secrets(user.run("relay", "--drain"))
    assert relayed.returncode == 0, relayed.stderr
    assert [line.partition(":")[2] for line in relayed.stdout.splitlines()] == [" 3 published"] * 4
    for name in ("login", "mutual"):
        consumed = without_secrets(user.run("consume", f"shop:{name}", "--until-idle", "4"))
        assert consumed.stdout.count("charged o-1") == 3, consumed.stderr
        assert "3 known already" in consumed.stdout
    examined = without_secrets(user.run("doctor"))
    assert examined.returncode == 0, examined.stdout
    assert examined.stdout.count("and the destination lets this client in") == 4


def test_each_mistake_is_told_wherever_an_operator_looks(
    scene: Scene, tmp_path: Path, postgres_url: str
) -> None:
    mistakes = {f"r{number}": mistake for number, mistake in enumerate(TOLD)}
    routes = {name: scene.mistaken(mistake) for name, mistake in mistakes.items()}
    user = program(tmp_path, postgres_url, routes)
    insert(postgres_url)
    drain = ("relay", "--drain", "--drain-timeout", "1", "--log-format", "json")
    relayed = without_secrets(user.run(*drain))
    assert relayed.returncode == 1
    *lines, last = relayed.stderr.splitlines()
    logged = [json.loads(line) for line in lines]
    state = without_secrets(user.run("status", "--json"))
    stored = {each["route"]: each["error"] for each in json.loads(state.stdout)["routes"]}
    examined = without_secrets(user.run("doctor", "--json"))
    assert examined.returncode == 1
    checks = {each["check"]: each for each in json.loads(examined.stdout)["checks"]}
    for name, mistake in mistakes.items():
        told = scene.told(mistake)
        own = [line for line in logged if line.get("route") == name and told in str(line)]
        assert [line["level"] for line in own][:1] == ["error"], (mistake, told, logged)
        assert told in last, mistake
        assert told in stored[name], mistake
        assert checks[f"route {name}"]["state"] == "failed"
        assert told in checks[f"route {name}"]["found"], mistake


@pytest.mark.parametrize("mistake", TOLD)
@pytest.mark.timeout(60)
def test_each_mistake_is_told_to_an_at_least_once_route_and_to_a_worker(
    scene: Scene, mistake: str, caplog: pytest.LogCaptureFixture
) -> None:
    route = {key: value for key, value in scene.mistaken(mistake).items() if key != "transport"}
    options = kafka.Options(**route, delivery="at-least-once")
    found = [published(options), received(options)]
    for error in found:
        assert scene.told(mistake) in str(error)
    for secret in SECRETS:
        assert secret not in caplog.text + "".join(map(str, found))


def published(options: kafka.Options) -> OutboxError:
    with closing(kafka.publisher("route", options, SECONDS)) as publisher:
        try:
            (outcome,) = publisher.publish([testing.envelope("mistaken")])
        except ConfigurationError as exc:
            return exc
    assert isinstance(outcome, Retry)
    return outcome.error


def received(options: kafka.Options) -> OutboxError:
    reader = kafka.subscriber("route", options, uuid.uuid4().hex, ["mistaken"])
    with closing(reader) as subscriber:

        def refused() -> OutboxError | None:
            try:
                assert not subscriber.receive(1, 0.5)
            except OutboxError as exc:
                return exc
            return None

        found = eventually(refused, SECONDS)
        # No quiet time in between looks as if it were over.
        again = [refused() for _ in range(2)]
    assert found is not None
    assert {str(each) for each in again} == {str(found)}
    return found


def test_relay_and_worker_go_on_by_themselves_once_the_broker_knows_the_password(
    scene: Scene, tmp_path: Path, postgres_url: str
) -> None:
    late = f"late-{uuid.uuid4().hex[:8]}"
    route = scene.route(LOGIN, sasl_username=late, sasl_password=WRONG)
    route |= {"topic": f"late-{uuid.uuid4().hex}", "retry_max_seconds": 1}
    user = program(tmp_path, postgres_url, {"kafka": route})
    insert(postgres_url)
    started = {
        "relay": user.start("relay"),
        "worker": user.start("consume", "shop:login"),
    }
    try:
        logs = {name: _Log(process.stderr) for name, process in started.items()}
        for log in logs.values():
            log.wait_for(TOLD["wrong password"])
        set_password(scene.server, late, WRONG)
        logs["relay"].wait_for("route goes on")
        printed = _Log(started["worker"].stdout)
        printed.wait_for("charged o-1")
        for process in started.values():
            process.terminate()
        assert [process.wait(30) for process in started.values()] == [0, 0]
    finally:
        for process in started.values():
            process.kill()
            process.communicate()
    for secret in SECRETS:
        assert all(secret not in log.text for log in logs.values())


class _Log:
    """What a process writes, read as it comes."""

    def __init__(self, stream: Any) -> None:
        self.text = ""
        self._stream = stream

    def wait_for(self, words: str) -> None:
        """Read until the words were written; the test's time-out ends what never comes."""
        while words not in self.text:
            line = self._stream.readline()
            assert line, f"it ended without {words!r}:\n{self.text}"
            self.text += line
