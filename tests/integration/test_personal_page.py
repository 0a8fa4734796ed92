"""What docs/guide/personal-data.md shows works as it stands there."""

from __future__ import annotations

import os
import tomllib
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import BaseModel

import outbox
from outbox.errors import EventDefinitionError
from outbox.event import catalogue
from outbox.keys import key_store, store_of
from outbox.settings import Settings
from tests.pages import block, page
from tests.personal import MASTER, stored, using

if TYPE_CHECKING:
    import sqlalchemy as sa

PAGE = "guide/personal-data.md"


def run(containing: str, names: dict[str, Any]) -> None:
    """Run a block of the page."""
    code = compile(block(page(PAGE), "python", containing), PAGE, "exec", dont_inherit=True)
    exec(code, names)  # noqa: S102  # a page of ours


def test_the_example_is_encrypted_read_and_forgotten(
    sqlite_engine: sa.Engine, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {"__name__": "shop.events"}
    run("CustomerRegistered", names)
    cls = names["CustomerRegistered"]
    assert {str(field) for field in catalogue.of(cls).personal} == {"/name", "/born", "/referrer"}
    monkeypatch.setenv("SHOP_MASTER_KEY", MASTER)
    settings = tomllib.loads(block(page(PAGE), "toml", "[personal]"))["personal"]
    settings |= {"master_key": MASTER, "database_url": sqlite_url}
    with using(None):
        run("use_key_store", {"outbox": outbox, "os": os})
        assert key_store() is not None
        with sqlite_engine.begin() as connection:
            outbox.emit(connection, cls(customer_id="c-1", name="Ada"))
    (envelope,) = stored(sqlite_engine)
    assert b"Ada" not in envelope.data
    made = Settings.model_validate({"database_url": "sqlite://", "personal": settings})
    store = store_of(made)
    assert store is not None
    assert store.forget("c-1") == 1
    assert MASTER not in repr(made)


def test_a_field_that_cannot_be_absent_is_refused_at_import() -> None:
    message = r"\.Born has the personal field /year, which is neither a str nor admits None"
    with pytest.raises(EventDefinitionError, match=message):

        @outbox.event("tests.personal.born", key="customer_id")
        class Born(BaseModel):
            customer_id: str
            year: Annotated[int, outbox.Personal]


def test_the_name_of_the_person_cannot_be_personal_itself() -> None:
    class Named(BaseModel):
        email: Annotated[str, outbox.Personal]

    with pytest.raises(EventDefinitionError, match="stays in clear"):
        outbox.event("tests.personal.named", key="email")(Named)
