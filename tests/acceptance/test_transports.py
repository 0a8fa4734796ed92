"""A package adds a transport, as docs/guide/transports.md says, and routes use it."""

from __future__ import annotations

import tomllib
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.cli import Program, insert
from tests.pages import block, page
from tests.webhook import MODULE, PAGE, ReceivingServer, code

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TYPE = "shop.order.placed"
TOPIC = "shop.order"
CONSUMER = f"""
import outbox
import sqlalchemy as sa
from pydantic import BaseModel

@outbox.event("{TYPE}", key="order_id")
class OrderPlaced(BaseModel):
    order_id: str

billing = outbox.Consumer("billing", database=sa.create_engine("sqlite://"))

@billing.on(OrderPlaced)
def charge(event: OrderPlaced, context: outbox.Context) -> None:
    pass
"""


def install(folder: Path, package: str, entry_points: str, **modules: str) -> None:
    """Put a package where Python finds it, as an installer does."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


def declared(module: str) -> str:
    """Return what the page's pyproject.toml declares, as it stands in an installed package."""
    found = tomllib.loads(block(page(PAGE), "toml", f'= "{module}"'))
    groups = found["project"]["entry-points"]
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *[f"{name} = {value}" for name, value in points.items()]]
    return "\n".join(lines) + "\n"


@pytest.fixture
def server() -> Iterator[ReceivingServer]:
    with closing(ReceivingServer()) as server:
        yield server


@pytest.fixture
def program(tmp_path: Path, sqlite_url: str, server: ReceivingServer) -> Program:
    """With the package of the page, and a route that uses it as the page says."""
    site = tmp_path / "site"
    site.mkdir()
    install(site, MODULE, declared(MODULE), **{MODULE: code()})
    route = block(page(PAGE), "toml", "routes.crm").replace(
        "https://crm.example.com/events", server.url
    )
    (tmp_path / "outbox.toml").write_text(f'database_url = "{sqlite_url}"\n{route}')
    return Program(tmp_path, {"PYTHONPATH": str(site)})


def test_a_route_publishes_by_what_another_package_adds(
    program: Program, sqlite_url: str, server: ReceivingServer
) -> None:
    numbers = insert(sqlite_url, 5)
    done = program.run("relay", "--drain")
    assert done.returncode == 0, done.stderr
    messages = server.topic(TOPIC)
    sequences = [dict(message.headers)["ce_sequence"] or b"" for message in messages]
    assert list(map(int, sequences)) == numbers
    assert {message.key for message in messages} == {b"c-1"}
    assert {message.data for message in messages} == {b'{"order_id": "o-1"}'}


def test_what_another_package_refuses_holds_the_route_and_says_why(
    program: Program, sqlite_url: str, server: ReceivingServer
) -> None:
    insert(sqlite_url)
    server.status = 403
    done = program.run("relay", "--drain", "--drain-timeout", "1")
    assert done.returncode == 1
    assert "/events/shop.order answers 403 Forbidden" in done.stderr
    assert server.messages == []
    server.status = 204
    assert program.run("relay", "--drain").returncode == 0
    assert len(server.topic(TOPIC)) == 1


def test_options_of_another_package_are_checked(program: Program) -> None:
    done = program.run("relay", OUTBOX_ROUTES__CRM__URL="nowhere", OUTBOX_ROUTES__CRM__COLOUR="red")
    assert done.returncode == 2
    assert "routes.crm.url" in done.stderr
    assert "routes.crm.colour" in done.stderr


def test_a_consumer_of_a_route_that_only_publishes_is_told_so(program: Program) -> None:
    (program.folder / "site" / "shop.py").write_text(CONSUMER)
    done = program.run("consume", "shop:billing")
    assert done.returncode == 2
    assert done.stderr == (
        "error: routes.crm.transport: no worker can receive by 'webhook': it has no function"
        " subscriber\n"
    )


@pytest.mark.parametrize(
    ("entry_points", "text", "said"),
    [
        (
            "[other.group]\nwebhook = broken\n",
            "",
            "there is no transport 'webhook'; use activemq, audit, kafka, memory, s3",
        ),
        (
            "[outbox.transports]\nfax = broken\n",
            "",
            "there is no transport 'webhook'; use activemq, audit, fax, kafka, memory, s3",
        ),
        (
            "[outbox.transports]\nwebhook = broken\n",
            "import a_driver_that_is_not_there\n",
            "the driver of 'webhook' is not installed (a_driver_that_is_not_there)",
        ),
        (
            "[outbox.transports]\nwebhook = broken:nothing\n",
            "",
            "'webhook' is to be broken:nothing: module 'broken' has no attribute 'nothing'",
        ),
        (
            "[outbox.transports]\nwebhook = broken\n",
            "Options = dict\n",
            "'webhook' has no pydantic model called Options",
        ),
        (
            "[outbox.transports]\nwebhook = broken\n",
            "from pydantic import BaseModel as Options\n",
            "'webhook' is no transport: it has no function publisher",
        ),
    ],
)
def test_a_package_that_offers_no_transport_is_named(
    tmp_path: Path, sqlite_url: str, entry_points: str, text: str, said: str
) -> None:
    install(tmp_path, "broken", entry_points, broken=text)
    environment = {
        "PYTHONPATH": str(tmp_path),
        "OUTBOX_DATABASE_URL": sqlite_url,
        "OUTBOX_ROUTES__CRM__TRANSPORT": "webhook",
    }
    done = Program(tmp_path, environment).run("relay", "--drain")
    assert done.returncode == 2
    assert done.stderr == f"error: routes.crm.transport: {said}\n"


def test_two_packages_with_one_name_are_both_named(program: Program) -> None:
    install(program.folder / "site", "other", "[outbox.transports]\nwebhook = other\n", other="")
    done = program.run("relay", "--drain")
    assert done.returncode == 2
    assert done.stderr.endswith(
        "two installed packages offer a transport 'webhook', other and outbox_webhook: uninstall"
        " one\n"
    )


def test_no_package_takes_a_name_of_our_own(tmp_path: Path, sqlite_url: str) -> None:
    install(tmp_path, "other", "[outbox.transports]\nkafka = other\n", other="")
    environment = {
        "PYTHONPATH": str(tmp_path),
        "OUTBOX_DATABASE_URL": sqlite_url,
        "OUTBOX_ROUTES__CRM__TRANSPORT": "kafka",
        "OUTBOX_ROUTES__CRM__BOOTSTRAP_SERVERS": "127.0.0.1:9",
    }
    done = Program(tmp_path, environment).run("doctor")
    assert "no broker of bootstrap_servers (127.0.0.1:9) answers" in done.stdout
