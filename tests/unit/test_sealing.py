"""Tokens: what is in them, who can read them, and what is none."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.envelope import Envelope
from outbox.errors import ConfigurationError
from outbox.keys import MasterKeys, SubjectKey
from outbox.sealing import (
    PREFIX,
    Collector,
    has_token,
    has_tokens,
    is_token,
    key_ids,
    opened,
    without_tokens,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ADA = SubjectKey("a" * 32, b"A" * 32)
BOB = SubjectKey("b" * 32, b"B" * 32)
KEYS = {"ada": ADA, "bob": BOB}
SECRETS = {ADA.id: ADA.secret, BOB.id: BOB.secret}
MASTER = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
OTHER_MASTER = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI="

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def sealed(*personal: tuple[str, Any], event_id: str = "e-1", **others: Any) -> Envelope:
    """Return an event whose fields `p0`, `p1` … are personal, of these subjects."""
    collector = Collector()
    data = {
        f"p{number}": collector.hide(subject, value)
        for number, (subject, value) in enumerate(personal)
    }
    taken, clear = collector.take(orjson.dumps(data | others))
    assert orjson.loads(clear) == {f"p{n}": value for n, (_, value) in enumerate(personal)} | others
    envelope = Envelope(id=event_id, source="/s", type="t", time=datetime.now(UTC), data=taken)
    secrets = collector.secrets(lambda name, _: name or "")
    found = secrets.seal(envelope, KEYS)
    assert len(found.data) == len(taken) + secrets.growth
    return found


@given(values, values, st.text())
def test_what_was_sealed_is_read_with_the_keys(one: Any, other: Any, text: str) -> None:
    envelope = sealed(("ada", one), ("bob", other), text=text)
    assert key_ids(envelope.data) == {ADA.id, BOB.id}
    found = orjson.loads(opened(envelope.data, envelope.id, SECRETS))
    assert found == {"p0": one, "p1": other, "text": text}


def test_the_value_is_nowhere_in_clear_and_never_encrypted_alike() -> None:
    one, other = (sealed(("ada", "Ada Lovelace")).data for _ in range(2))
    assert b"Lovelace" not in one
    assert one != other


def test_without_its_key_a_value_stays_a_token() -> None:
    envelope = sealed(("ada", "Ada"), ("bob", "Bob"))
    found = orjson.loads(opened(envelope.data, envelope.id, {BOB.id: BOB.secret}))
    assert is_token(found["p0"])
    assert found["p1"] == "Bob"
    left = orjson.loads(without_tokens(orjson.dumps(found)))
    assert left == {"p0": None, "p1": "Bob"}


@pytest.mark.parametrize("secrets", [{ADA.id: b"C" * 32}, SECRETS])
def test_a_token_is_read_with_its_own_key_in_its_own_event_alone(secrets: dict[str, bytes]) -> None:
    envelope = sealed(("ada", "Ada"))
    event_id = envelope.id if secrets is not SECRETS else "e-2"
    assert opened(envelope.data, event_id, secrets) == envelope.data


@given(st.text())
def test_texts_of_users_are_no_tokens(text: str) -> None:
    data = orjson.dumps({"text": PREFIX + text, "more": f'"{PREFIX}1:{ADA.id}:{"A" * 60}"'})
    assert opened(data, "e-1", SECRETS) == data
    assert without_tokens(data) == data


def test_a_token_that_somebody_wrote_by_hand_is_left_alone() -> None:
    data = orjson.dumps({"text": f"{PREFIX}1:{ADA.id}:{'A' * 60}"})
    assert has_tokens(data)
    assert opened(data, "e-1", SECRETS) == data


HAND_WRITTEN = f"{PREFIX}1:{ADA.id}:"


@pytest.mark.parametrize("length", range(38, 46))
def test_a_token_of_any_length_that_somebody_wrote_is_left_alone(length: int) -> None:
    """Also of a length that base64 cannot have."""
    data = orjson.dumps({"text": HAND_WRITTEN + "A" * length})
    assert opened(data, "e-1", SECRETS) == data


@pytest.mark.parametrize(
    "value",
    [
        {"text": f'x"{HAND_WRITTEN}{"A" * 38}'},
        {"text": f'\\"{HAND_WRITTEN}{"A" * 38}"'},
        {"text": f'\\\\"{HAND_WRITTEN}{"A" * 38}", "'},
        {f"{HAND_WRITTEN}{'A' * 38}": "x"},
    ],
)
@pytest.mark.parametrize("option", [0, orjson.OPT_INDENT_2])
def test_a_token_inside_a_text_or_as_a_name_is_none(value: dict[str, str], option: int) -> None:
    data = orjson.dumps(value, option=option)
    assert not has_token(data)
    assert not has_token(data.replace(b'":', b'" \n:'))
    assert key_ids(data) == set()
    assert without_tokens(data) == data
    assert opened(data, "e-1", SECRETS) == data


def test_a_token_is_found_wherever_a_value_stands() -> None:
    token = f"{HAND_WRITTEN}{'A' * 38}"
    value = [token, {"a\\": token, "b": [token]}]
    for option in (0, orjson.OPT_INDENT_2):
        data = orjson.dumps(value, option=option)
        assert has_token(data)
        assert orjson.loads(without_tokens(data)) == [None, {"a\\": None, "b": [None]}]


def test_what_is_collected_is_not_shown_and_its_mark_cannot_be_guessed() -> None:
    one, other = Collector(), Collector()
    assert one.hide(None, "Ada")[0] != other.hide(None, "Ada")[0]
    one.take(orjson.dumps(one.hide(None, "Ada")))
    assert "Ada" not in f"{one!r} {one.secrets(lambda *_: 'c-1')!r}"


@pytest.mark.parametrize(
    "change",
    [str, lambda found: [*found, 1], lambda found: found[::-1], lambda found: found[1:], repr],
)
def test_a_value_that_something_else_was_made_of_is_refused(
    change: Callable[[list[Any]], Any],
) -> None:
    collector = Collector()
    kept = collector.hide(None, "Bob")
    changed = change(collector.hide(None, "Ada"))
    with pytest.raises(ValueError, match="something else of a personal value") as caught:
        collector.take(orjson.dumps({"kept": kept, "changed": changed}))
    assert "Ada" not in str(caught.value)


def test_a_wrapped_key_opens_with_its_master_key_and_under_its_own_id_alone() -> None:
    master = MasterKeys(MASTER)
    master_id, wrapped = master.wrap(ADA)
    assert ADA.secret not in wrapped
    assert master.unwrap(master_id, ADA.id, wrapped) == ADA.secret
    assert MasterKeys(OTHER_MASTER, [MASTER]).unwrap(master_id, ADA.id, wrapped) == ADA.secret
    with pytest.raises(ConfigurationError, match="was changed"):
        master.unwrap(master_id, BOB.id, wrapped)
    with pytest.raises(ConfigurationError, match="which is none of"):
        MasterKeys(OTHER_MASTER).unwrap(master_id, ADA.id, wrapped)


@pytest.mark.parametrize("text", ["", "secret", "QUFB", MASTER[:-2], "ß" * 44])
def test_what_is_no_master_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ConfigurationError, match="32 bytes in base64") as caught:
        MasterKeys(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("text", [None, b"secret", 5])
def test_a_master_key_is_a_text(text: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"is a str, not {type(text).__name__}") as caught:
        MasterKeys(text)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="a list"):
        MasterKeys(MASTER, OTHER_MASTER)


def test_the_library_that_encrypts_is_missed_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'outbox-relay\[personal\]'"):
        MasterKeys(MASTER)


def test_no_key_is_shown() -> None:
    shown = f"{MasterKeys(MASTER)} {ADA} {MasterKeys(MASTER)!r}"
    assert MASTER not in shown
    assert "AAAA" not in shown
