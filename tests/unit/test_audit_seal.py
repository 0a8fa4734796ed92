"""Seals vouch for a head, and proofs for one record, by a key that nobody else has."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import rfc8785

from outbox.audit.chain import ChainBrokenError
from outbox.audit.merkle import tree_hash
from outbox.audit.places import Folder, place_of, read_all
from outbox.audit.proof import ProofError, check_proof, prove
from outbox.audit.record import hash_of, to_json
from outbox.audit.seal import Seal, SealError, check_seals, make_seal, read_seal
from outbox.audit.signing import (
    SigningKey,
    is_signed,
    make_keys,
    read_private_key,
    read_public_key,
)
from outbox.errors import ConfigurationError
from tests.auditing import Listed, records, rewrite

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 30


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    make_keys(tmp_path / "key.pem", tmp_path / "key.pub")
    return read_private_key(tmp_path / "key.pem")


@pytest.fixture
def chain() -> Listed:
    return Listed(records(COUNT))


@pytest.fixture
def seals(chain: Listed, key: SigningKey) -> list[Seal]:
    """Of positions 1 to 10, 11 to 17 and 18 to 30."""
    made: list[Seal] = []
    for end in (10, 17, COUNT):
        made.append(make_seal(Listed(chain.records[:end]), made[-1] if made else None, key))
    return made


def signed_anew(seal: Seal, key: SigningKey, **changed: Any) -> Seal:
    altered = replace(seal, **changed, public_key=key.public_key.hex())
    return replace(altered, signature=key.sign(altered.message()).hex())


def test_a_seal_says_what_it_vouches_for(chain: Listed, key: SigningKey) -> None:
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    seal = make_seal(chain, None, key, now=now)
    assert seal == Seal(
        number=1,
        first_position=1,
        last_position=COUNT,
        last_hash=chain.records[-1].hash.hex(),
        merkle_root=tree_hash(record.hash for record in chain.records).hex(),
        sealed_at="2026-05-01T12:00:00Z",
        former=None,
        public_key=key.public_key.hex(),
        signature=seal.signature,
    )
    members = {name: value for name, value in seal.to_json().items() if name != "signature"}
    assert seal.message() == rfc8785.dumps(members)
    assert is_signed(key.public_key, bytes.fromhex(seal.signature), rfc8785.dumps(members))
    assert read_seal(json.loads(json.dumps(seal.to_json())), "x") == seal


def test_seals_are_a_chain(seals: list[Seal], key: SigningKey) -> None:
    assert [(seal.number, seal.first_position, seal.last_position) for seal in seals] == [
        (1, 1, 10),
        (2, 11, 17),
        (3, 18, 30),
    ]
    assert seals[1].former == seals[0].digest()
    assert check_seals(seals[::-1] + seals[:1], [key.public_key], is_signed) == seals
    assert check_seals(seals[1:], [key.public_key], is_signed) == seals[1:]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", 9),
        ("first_position", 2),
        ("last_position", 31),
        ("last_hash", "00" * 32),
        ("merkle_root", "00" * 32),
        ("sealed_at", "2020-01-01T00:00:00Z"),
        ("former", "00" * 32),
        ("signature", "00" * 64),
    ],
)
def test_no_member_of_a_seal_can_be_altered(
    seals: list[Seal], key: SigningKey, name: str, value: Any
) -> None:
    altered = replace(seals[1], **{name: value})
    with pytest.raises(SealError, match="was altered"):
        check_seals([altered], [key.public_key], is_signed)


def test_a_seal_of_another_key_is_worth_nothing(
    seals: list[Seal], key: SigningKey, tmp_path: Path
) -> None:
    make_keys(tmp_path / "thief.pem", tmp_path / "thief.pub")
    thief = read_private_key(tmp_path / "thief.pem")
    with pytest.raises(SealError, match="seal 2 was signed with another key"):
        check_seals([signed_anew(seals[1], thief)], [key.public_key], is_signed)
    # Nor does it help to name the right key in it.
    forged = replace(signed_anew(seals[1], thief), public_key=key.public_key.hex())
    with pytest.raises(SealError, match="was altered"):
        check_seals([forged], [key.public_key], is_signed)


def test_a_seal_that_is_missing_or_does_not_follow_is_told(
    seals: list[Seal], key: SigningKey
) -> None:
    def check(*given: Seal) -> None:
        check_seals(given, [key.public_key], is_signed)

    with pytest.raises(SealError, match="seal 2 is missing"):
        check(seals[0], seals[2])
    with pytest.raises(SealError, match="seal 2 does not follow seal 1"):
        check(seals[0], signed_anew(seals[1], key, former="11" * 32))
    with pytest.raises(SealError, match="seal 2 does not follow seal 1"):
        check(seals[0], signed_anew(seals[1], key, first_position=12))
    with pytest.raises(SealError, match="two different seals with the number 2"):
        check(seals[1], signed_anew(seals[1], key, last_position=18))


def test_a_broken_trail_is_not_sealed(chain: Listed, seals: list[Seal], key: SigningKey) -> None:
    anew = Listed(rewrite(chain.records, 12))
    with pytest.raises(ChainBrokenError, match=r"positions 1 to 17: rewritten"):
        make_seal(anew, seals[1], key)
    cut = Listed(chain.records[:15])
    with pytest.raises(ChainBrokenError, match=r"positions 16 to 17: truncated"):
        make_seal(cut, seals[1], key)
    changed = [*chain.records[:20], chain.records[20]._replace(actor="x"), *chain.records[21:]]
    with pytest.raises(ChainBrokenError, match=r"position 21 .*changed"):
        make_seal(Listed(changed), seals[1], key)


def test_nothing_new_is_nothing_to_seal(chain: Listed, seals: list[Seal], key: SigningKey) -> None:
    with pytest.raises(SealError, match="nothing to seal: the trail ends at position 30"):
        make_seal(chain, seals[-1], key)


@pytest.mark.parametrize("position", [1, 10, 11, 17, 18, 24, 30])
def test_a_proof_holds_with_the_public_key_alone(
    chain: Listed, seals: list[Seal], key: SigningKey, position: int
) -> None:
    seal = next(each for each in seals if position <= each.last_position)
    record = chain.records[position - 1]
    proof = json.loads(json.dumps(prove(chain, record, seal)))
    assert check_proof(proof, [key.public_key], is_signed) == (record, seal)


@pytest.fixture
def proof(chain: Listed, seals: list[Seal]) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(prove(chain, chain.records[20], seals[2])))
    return made


def test_nothing_of_a_proof_can_be_altered(
    proof: dict[str, Any], key: SigningKey, chain: Listed
) -> None:
    other = chain.records[21]
    forged = other._replace(actor="x")
    for name, value, message in [
        ("record", {**proof["record"], "actor": "x"}, "hash is not that of its content"),
        ("record", to_json(other), "place is not in the seal's range"),
        ("leaf_index", 4, "place is not in the seal's range"),
        ("tree_size", 14, "place is not in the seal's range"),
        ("audit_path", proof["audit_path"][:-1], "does not lead to the seal's root"),
        ("audit_path", proof["audit_path"][::-1], "does not lead to the seal's root"),
        ("leaf_index", 3.0, "is no whole number"),
        ("tree_size", 13.0, "is no whole number"),
        ("tree_size", True, "is no whole number"),
        ("audit_path", ["00"], "place is not in the seal's range"),
        ("seal", {**proof["seal"], "merkle_root": "00" * 32}, "was altered"),
        ("format", "x", "no proof"),
        ("audit_path", None, "its member 'audit_path' is no list of hashes"),
        ("audit_path", ["zz"], "its member 'audit_path' is no list of hashes"),
        ("record", [], "no whole proof: a record is an object"),
        ("note", "x", "no whole proof: it lacks members, or has others"),
        ("seal", None, "its seal is no seal"),
    ]:
        with pytest.raises(ProofError, match=message):
            check_proof({**proof, name: value}, [key.public_key], is_signed)
    rehashed = to_json(chain.records[20]._replace(actor="x"))
    rehashed["hash"] = hash_of(chain.records[20]._replace(actor="x")).hex()
    with pytest.raises(ProofError, match="does not lead to the seal's root"):
        check_proof({**proof, "record": rehashed}, [key.public_key], is_signed)
    assert forged != other


@pytest.mark.parametrize("found", [None, [], "x", {}, {"format": "outbox-audit-proof/1"}])
def test_what_is_no_proof_is_told(found: object, key: SigningKey) -> None:
    with pytest.raises(ProofError, match=r"no (whole )?proof"):
        check_proof(found, [key.public_key], is_signed)


def test_another_program_finds_a_proof_to_hold_by_what_the_guide_says(
    proof: dict[str, Any], chain: Listed, seals: list[Seal]
) -> None:
    record = {name: value for name, value in proof["record"].items() if name != "hash"}
    leaf = sha256(rfc8785.dumps(record)).digest()
    assert leaf.hex() == proof["record"]["hash"]
    first, last = (proof["seal"][name] for name in ("first_position", "last_position"))
    assert (proof["leaf_index"], proof["tree_size"]) == (
        record["position"] - first,
        1 + last - first,
    )
    leaves = [record.hash for record in chain.records[first - 1 : last]]
    assert (leaf, rfc6962(leaves).hex()) == (leaves[3], proof["seal"]["merkle_root"])
    former = seals[1].to_json()
    assert sha256(rfc8785.dumps(former)).hexdigest() == proof["seal"]["former"]


def rfc6962(leaves: list[bytes]) -> bytes:
    """The tree hash as its definition has it."""
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\x01" + rfc6962(leaves[:half]) + rfc6962(leaves[half:])).digest()


def test_what_was_altered_cannot_be_proven(chain: Listed, seals: list[Seal]) -> None:
    anew = rewrite(chain.records, 20)
    with pytest.raises(ProofError, match="are not those of seal 3"):
        prove(Listed(anew), anew[25], seals[2])


def test_the_private_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    make_keys(tmp_path / "a.pem", tmp_path / "a.pub")
    assert stat.S_IMODE((tmp_path / "a.pem").stat().st_mode) == 0o600
    assert "PRIVATE" in (tmp_path / "a.pem").read_text()
    assert "PRIVATE" not in (tmp_path / "a.pub").read_text()
    assert read_private_key(tmp_path / "a.pem").public_key == read_public_key(tmp_path / "a.pub")


def test_no_key_is_overwritten(tmp_path: Path) -> None:
    make_keys(tmp_path / "a.pem", tmp_path / "a.pub")
    before = (tmp_path / "a.pem").read_bytes()
    with pytest.raises(ConfigurationError, match="is there already"):
        make_keys(tmp_path / "a.pem", tmp_path / "b.pub")
    with pytest.raises(ConfigurationError, match="is there already"):
        make_keys(tmp_path / "b.pem", tmp_path / "a.pub")
    assert (tmp_path / "a.pem").read_bytes() == before
    assert not (tmp_path / "b.pem").exists()


def test_what_is_no_key_is_told_and_not_shown(tmp_path: Path) -> None:
    make_keys(tmp_path / "a.pem", tmp_path / "a.pub")
    (tmp_path / "bad").write_text("sesame")
    for read, name, message in [
        (read_private_key, "a.pub", "no private key in PEM"),
        (read_public_key, "a.pem", "no public key in PEM"),
        (read_private_key, "bad", "no private key in PEM"),
        (read_public_key, "none", "cannot read the public key"),
    ]:
        with pytest.raises(ConfigurationError, match=message) as caught:
            read(tmp_path / name)
        assert "sesame" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="cannot write"):
        make_keys(tmp_path / "no" / "a.pem", tmp_path / "c.pub")


def test_another_program_finds_a_seal_to_be_signed(
    tmp_path: Path, key: SigningKey, chain: Listed
) -> None:
    """OpenSSL, with the public key as a file."""
    seal = make_seal(chain, None, key)
    (tmp_path / "message").write_bytes(seal.message())
    (tmp_path / "signature").write_bytes(bytes.fromhex(seal.signature))
    command: list[str | Path] = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-rawin",
        "-pubin",
        "-inkey",
        tmp_path / "key.pub",
    ]
    command += ["-in", tmp_path / "message", "-sigfile", tmp_path / "signature"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert base64.b64encode(key.public_key).decode() not in done.stdout


def test_seals_are_kept_as_files_that_nothing_overwrites(tmp_path: Path, seals: list[Seal]) -> None:
    folder = place_of(str(tmp_path / "seals"))
    names = [folder.write(seal) for seal in seals]
    assert names[0] == str(tmp_path / "seals" / "seal-00000001.json")
    assert folder.read() == seals
    with pytest.raises(SealError, match="is there already"):
        folder.write(seals[0])
    assert sorted(path.name for path in (tmp_path / "seals").iterdir()) == [
        f"seal-0000000{number}.json" for number in (1, 2, 3)
    ]
    place_of(str(tmp_path / "one.json")).write(seals[1])
    assert read_all([str(tmp_path / "one.json"), names[0]]) == [seals[1], seals[0]]


def test_a_place_without_seals_is_told(tmp_path: Path, seals: list[Seal]) -> None:
    with pytest.raises(SealError, match="there is no seal in"):
        read_all([str(tmp_path)])
    with pytest.raises(SealError, match="cannot read the seal"):
        read_all([str(tmp_path / "none.json")])
    twice = json.dumps(seals[0].to_json()).replace("{", '{"number": 7, ', 1)
    (tmp_path / "twice.json").write_text(twice)
    with pytest.raises(SealError, match="its member 'number' stands there twice"):
        read_all([str(tmp_path / "twice.json")])
    (tmp_path / "large.json").write_bytes(b" " * 65_537)
    with pytest.raises(SealError, match=r"cannot read the seal .*large\.json: File too large"):
        read_all([str(tmp_path / "large.json")])
    (tmp_path / "seal-1.json").write_text("{")
    with pytest.raises(SealError, match="it is no JSON"):
        Folder(tmp_path).read()
    (tmp_path / "file").touch()
    with pytest.raises(SealError, match="cannot make the folder"):
        Folder(tmp_path / "file" / "below").write(None)  # type: ignore[arg-type]  # never looked at


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "x"}, "no seal of an audit trail"),
        ({"more": 1}, "lacks members, or has others"),
        ({"number": "1"}, "number is no whole number"),
        ({"former": 1}, "former is no text"),
        ({"last_hash": "zz"}, "cannot be"),
        ({"signature": "00"}, "cannot be"),
        ({"first_position": 0}, "cannot be"),
        ({"last_position": 0}, "cannot be"),
        ({"last_position": 2**63}, "cannot be"),
    ],
)
def test_what_is_no_seal_says_why(
    seals: list[Seal], changed: dict[str, object], message: str
) -> None:
    with pytest.raises(SealError, match=message):
        read_seal({**seals[0].to_json(), **changed}, "seals/1")
