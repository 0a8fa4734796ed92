"""`outbox audit` as an operator and a third party have it."""

from __future__ import annotations

import csv
import json
import stat
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from outbox.audit.record import MEMBERS
from outbox.table import outbox_audit, outbox_event
from tests.acceptance.cli import Program

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from subprocess import CompletedProcess

    from tests.fix_s3 import Bucket

COUNT = 12
ROUTE = {"OUTBOX_ROUTES__AUDIT__TRANSPORT": "audit"}


class Trail(Program):
    """A program whose trail has some records."""

    def audit(self, *arguments: str, **environment: str) -> CompletedProcess[str]:
        return self.call("audit", *arguments, **environment)

    def done(self, *arguments: str, **environment: str) -> str:
        done = self.audit(*arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def verdict(self, *arguments: str) -> dict[str, object]:
        done = self.audit("verify", "--json", *arguments)
        found: dict[str, object] = json.loads(done.stdout)
        assert done.returncode == (0 if found["ok"] else 1)
        return found

    def grow(self, count: int = COUNT) -> None:
        row = {"type": "shop.order.placed", "partition_key": "o-1", "data": b'{"a": 1}'}
        row["headers"] = {"actor": "user:42"}  # type: ignore[assignment]  # of another type
        with self.engine.begin() as connection:
            connection.execute(sa.insert(outbox_event), [row] * count)
        done = self.call("relay", "--drain")
        assert done.returncode == 0, done.stderr

    def sql(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(statement)

    def ids(self) -> list[str]:
        with self.engine.connect() as connection:
            query = sa.select(outbox_audit.c.event_id).order_by(outbox_audit.c.position)
            return list(connection.scalars(query))

    @property
    def engine(self) -> sa.Engine:
        return sa.create_engine(self.environment["OUTBOX_DATABASE_URL"], poolclass=sa.NullPool)


@pytest.fixture
def trail(tmp_path: Path, sqlite_url: str) -> Trail:
    made = Trail(tmp_path, {"OUTBOX_DATABASE_URL": sqlite_url, **ROUTE})
    made.grow()
    return made


@pytest.fixture
def sealed(trail: Trail) -> Trail:
    """The same with a pair of keys and two seals, of 12 and 5 records, in the folder `seals`."""
    trail.done("keygen", "--key", "key.pem", "--public-key", "key.pub")
    trail.done("seal", "--key", "key.pem", "--to", "seals")
    trail.grow(5)
    trail.done("seal", "--key", "key.pem", "--to", "seals")
    return trail


SEALS = ("--seal", "seals", "--public-key", "key.pub")


def test_an_intact_trail_is_said_to_be_so(trail: Trail) -> None:
    assert trail.done("verify") == (
        "intact: 12 records, positions 1 to 12\n"
        "no seal was given: what is missing at the end, or was computed anew, is not noticed\n"
    )
    found = trail.verdict()
    assert (found["records"], found["first_position"], found["last_position"]) == (12, 1, 12)


def test_an_empty_trail_is_intact(tmp_path: Path, sqlite_url: str) -> None:
    empty = Trail(tmp_path, {"OUTBOX_DATABASE_URL": sqlite_url})
    assert empty.done("verify").startswith("intact: 0 records\n")


def test_one_altered_row_is_named_in_a_sentence_and_as_json(trail: Trail) -> None:
    trail.sql("UPDATE outbox_audit SET actor = 'user:1' WHERE position = 7")
    done = trail.audit("verify")
    event = trail.ids()[6]
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: the audit trail is broken at position 7 (event {event}): changed: its hash is"
        " not that of its content\n"
    )
    assert trail.verdict() == {
        "ok": False,
        "kind": "changed",
        "position": 7,
        "last_position": None,
        "event_id": event,
        "reason": "its hash is not that of its content",
    }


def test_a_walk_goes_on_where_the_last_one_ended(trail: Trail) -> None:
    assert trail.verdict("--checkpoint", "walk.json")["records"] == 12
    trail.grow(3)
    found = trail.verdict("--checkpoint", "walk.json")
    assert (found["records"], found["first_position"]) == (3, 13)
    assert trail.verdict("--checkpoint", "walk.json")["records"] == 0
    assert trail.verdict("--from", "14")["records"] == 2


def test_what_was_verified_once_cannot_go_unnoticed(trail: Trail) -> None:
    trail.done("verify", "--checkpoint", "walk.json")
    before = (trail.folder / "walk.json").read_text()
    trail.sql("DELETE FROM outbox_audit WHERE position > 9")
    for _ in range(2):  # the note stays
        found = trail.verdict("--checkpoint", "walk.json")
        assert (found["kind"], found["position"]) == ("truncated", 10)
        assert "what was verified at" in str(found["reason"])
        assert (trail.folder / "walk.json").read_text() == before


def test_seals_tell_what_is_missing_at_the_end(sealed: Trail) -> None:
    assert "sealed up to position 17 (seal 2)" in sealed.done("verify", *SEALS)
    assert sealed.verdict(*SEALS)["sealed_position"] == 17
    sealed.sql("DELETE FROM outbox_audit WHERE position > 14")
    assert sealed.verdict()["ok"]
    found = sealed.verdict(*SEALS)
    assert (found["kind"], found["position"], found["last_position"]) == ("truncated", 15, 17)


def test_seals_tell_a_trail_that_was_computed_anew(sealed: Trail) -> None:
    """A relay does it, from an outbox that a superuser has altered before."""
    sealed.sql("DELETE FROM outbox_audit")
    sealed.sql('UPDATE outbox_event SET headers = \'{"actor": "user:1"}\' WHERE seq = 14')
    sealed.sql("UPDATE outbox_checkpoint SET position = NULL, version = version + 1")
    assert sealed.call("relay", "--drain").returncode == 0
    assert sealed.verdict()["records"] == 17
    found = sealed.verdict(*SEALS)
    assert (found["kind"], found["position"], found["last_position"]) == ("rewritten", 13, 17)


def test_a_seal_that_was_altered_or_taken_away_is_told(sealed: Trail) -> None:
    path = sealed.folder / "seals" / "seal-00000001.json"
    kept = path.read_text()
    path.write_text(kept.replace('"last_position": 12', '"last_position": 11'))
    done = sealed.audit("verify", *SEALS)
    assert (done.returncode, "seal 1 was altered" in done.stderr) == (1, True)
    path.write_text(kept)
    sealed.grow(1)
    sealed.done("seal", "--key", "key.pem", "--to", "seals")
    (sealed.folder / "seals" / "seal-00000002.json").unlink()
    done = sealed.audit("verify", *SEALS)
    assert (done.returncode, "seal 2 is missing" in done.stderr) == (1, True)


def test_seals_need_a_key_that_is_trusted(sealed: Trail) -> None:
    done = sealed.audit("verify", "--seal", "seals")
    assert (done.returncode, "--public-key" in done.stderr) == (2, True)
    sealed.done("keygen", "--key", "other.pem", "--public-key", "other.pub")
    done = sealed.audit("verify", "--seal", "seals", "--public-key", "other.pub")
    assert (done.returncode, "signed with another key" in done.stderr) == (1, True)
    found = sealed.verdict(*SEALS, "--public-key", "other.pub")
    assert found["ok"], "keys may change in the course of time"


def test_the_sealer_follows_no_seal_but_its_own(sealed: Trail) -> None:
    """Whoever can write to the folder would have a trail signed that begins with their seal."""
    sealed.done("keygen", "--key", "thief.pem", "--public-key", "thief.pub")
    sealed.sql("DELETE FROM outbox_audit WHERE position > 12")
    for path in (sealed.folder / "seals").iterdir():
        path.unlink()
    sealed.done("seal", "--key", "thief.pem", "--to", "seals")
    sealed.grow(3)
    done = sealed.audit("seal", "--key", "key.pem", "--to", "seals")
    assert (done.returncode, "seal 1 was signed with another key" in done.stderr) == (1, True)
    # Unless it is told to: a key may be followed by another one.
    sealed.done("seal", "--key", "key.pem", "--to", "seals", "--public-key", "thief.pub")
    found = sealed.verdict(*SEALS, "--public-key", "thief.pub")
    assert found["sealed_position"] == 15
    said = sealed.done("verify", "--seal", "seals/seal-00000002.json", "--public-key", "key.pub")
    assert "sealed up to position 15 (seal 2)" in said


def test_sealing_goes_on_behind_a_broken_record(sealed: Trail) -> None:
    sealed.grow(3)
    sealed.sql("UPDATE outbox_audit SET actor = 'x' WHERE position = 18")
    key = ("--key", "key.pem")
    assert "position 18" in sealed.audit("seal", *key, "--to", "seals").stderr
    done = sealed.audit("seal", *key, "--to", "seals", "--from", "19")
    assert (done.returncode, "name a new place by --to" in done.stderr) == (2, True)
    said = sealed.done("seal", *key, "--to", "after", "--from", "19")
    assert said == "after/seal-00000001.json: positions 19 to 20 are sealed\n"
    sealed.grow(1)
    assert "positions 21 to 21" in sealed.done("seal", *key, "--to", "after")
    after = ("--seal", "after", "--public-key", "key.pub")
    assert sealed.verdict(*after)["position"] == 18
    assert sealed.verdict(*after, "--from", "19")["sealed_position"] == 21
    assert (
        "no record at position 98"
        in sealed.audit(*("seal", *key, "--to", "far", "--from", "99")).stderr
    )


def test_a_folder_of_seals_may_have_any_name(sealed: Trail) -> None:
    (sealed.folder / "seals").rename(sealed.folder / "seals.json")
    sealed.grow(1)
    said = sealed.done("seal", "--key", "key.pem", "--to", "seals.json")
    assert said.startswith("seals.json/seal-00000003.json: positions 18")


def test_a_seal_that_is_none_keeps_no_record_from_being_proven(sealed: Trail) -> None:
    first = json.loads((sealed.folder / "seals" / "seal-00000001.json").read_text())
    junk = {**first, "number": 0, "merkle_root": "00" * 32}
    (sealed.folder / "seals" / "seal-00000000.json").write_text(json.dumps(junk))
    for more in ((), ("--public-key", "key.pub")):
        proof = json.loads(sealed.done("prove", sealed.ids()[2], "--seal", "seals", *more))
        assert proof["seal"] == first
    only = ("--seal", "seals/seal-00000000.json")
    done = sealed.audit("prove", sealed.ids()[2], *only, "--public-key", "key.pub")
    assert (done.returncode, "seal 0 was altered" in done.stderr) == (1, True)


def test_a_seal_may_be_one_file(sealed: Trail) -> None:
    sealed.grow(2)
    out = sealed.done(
        *("seal", "--key", "key.pem", "--to", "third.json"),
        *("--former", "seals/seal-00000002.json", "--json"),
    )
    made = json.loads(out)
    assert (made["file"], made["number"], made["first_position"]) == ("third.json", 3, 18)
    assert sealed.verdict(*SEALS, "--seal", "third.json")["sealed_position"] == 19
    done = sealed.audit("seal", "--key", "key.pem", "--to", "third.json")
    assert (done.returncode, "is there already" in done.stderr) == (1, True)


def test_seals_may_be_in_a_bucket(trail: Trail, bucket: Bucket) -> None:
    options = bucket.options
    trail.environment |= {
        "AWS_ACCESS_KEY_ID": options["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": options["secret_access_key"],
        "AWS_DEFAULT_REGION": options["region"],
        "AWS_ENDPOINT_URL": options["endpoint_url"],
    }
    place = f"s3://{bucket.name}/audit/seals"
    trail.done("keygen", "--key", "key.pem", "--public-key", "key.pub")
    assert trail.audit("verify", "--seal", place, "--public-key", "key.pub").returncode == 1
    first = trail.done("seal", "--key", "key.pem", "--to", place)
    assert first == f"{place}/seal-00000001.json: positions 1 to 12 are sealed\n"
    trail.grow(5)
    trail.done("seal", "--key", "key.pem", "--to", f"{place}/")
    assert bucket.object_keys() == [f"audit/seals/seal-0000000{number}.json" for number in (1, 2)]
    seals = ("--seal", place, "--public-key", "key.pub")
    assert trail.verdict(*seals)["sealed_position"] == 17
    proof = trail.done("prove", trail.ids()[15], "--seal", f"{place}/seal-00000002.json")
    assert json.loads(proof)["record"]["position"] == 16

    # A seal is never overwritten, nor one that is missing taken for none.
    bucket.client.put_object(Bucket=bucket.name, Key="audit/seals/seal-00000003.json", Body=b"{}")
    trail.grow(1)
    again = trail.audit("seal", "--key", "key.pem", "--to", f"{place}/seal-00000002.json")
    assert "is there already, and a seal is never overwritten" in again.stderr
    for arguments, said in [
        (seals, "seal-00000003.json is no seal of an audit trail"),
        (("--seal", f"{place}/seal-00000009.json", *seals[2:]), "there is no seal s3://"),
        (("--seal", "s3://x", *seals[2:]), "bucket"),
        (("--seal", "s3://no-such-bucket-of-ours/", *seals[2:]), "create it, or correct `bucket`"),
    ]:
        done = trail.audit("verify", *arguments)
        assert done.returncode != 0
        assert said in done.stderr, done.stderr
        assert options["secret_access_key"] not in done.stderr
    trail.sql("DELETE FROM outbox_audit WHERE position > 3")
    bucket.client.delete_object(Bucket=bucket.name, Key="audit/seals/seal-00000003.json")
    assert trail.verdict(*seals)["kind"] == "truncated"


def test_nothing_new_is_not_sealed(sealed: Trail) -> None:
    done = sealed.audit("seal", "--key", "key.pem", "--to", "seals")
    assert (done.returncode, "nothing to seal" in done.stderr) == (1, True)


def test_keys_are_never_printed(trail: Trail) -> None:
    done = trail.audit("keygen", "--key", "key.pem", "--public-key", "key.pub")
    assert done.stdout == "key.pem seals: keep it secret; key.pub checks: hand it out\n"
    assert stat.S_IMODE((trail.folder / "key.pem").stat().st_mode) == 0o600
    done = trail.audit("keygen", "--key", "key.pem", "--public-key", "new.pub")
    assert (done.returncode, "key.pem is there already" in done.stderr) == (1, True)
    done = trail.audit("seal", "--key", "key.pub", "--to", "seals")
    assert (done.returncode, "key.pub is no private key" in done.stderr) == (2, True)


def test_a_private_key_that_others_may_read_is_warned_of(trail: Trail) -> None:
    trail.done("keygen", "--key", "key.pem", "--public-key", "key.pub")
    (trail.folder / "key.pem").chmod(0o640)
    done = trail.audit("seal", "--key", "key.pem", "--to", "seals", "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, True)
    assert done.stderr.startswith("warning: others than its owner may use the private key key.pem:")


def test_a_third_party_checks_a_proof_without_database_or_settings(
    sealed: Trail, tmp_path: Path
) -> None:
    (tmp_path / "proof.json").write_text(sealed.done("prove", sealed.ids()[14], "--seal", "seals"))
    elsewhere = Program(tmp_path)
    done = elsewhere.call("audit", "check-proof", "proof.json", "--public-key", "key.pub")
    assert done.returncode == 0, done.stderr
    assert "by seal 2" in done.stdout
    assert sealed.ids()[14] in done.stdout
    done = elsewhere.call("audit", "check-proof", "proof.json", "--public-key", "key.pub", "--json")
    assert json.loads(done.stdout)["record"]["position"] == 15
    (tmp_path / "data").write_bytes(b'{"a": 1}')
    arguments = ["audit", "check-proof", "proof.json", "--public-key", "key.pub", "--data", "data"]
    assert elsewhere.call(*arguments).returncode == 0
    done = elsewhere.call(*arguments, "--content-type", "text/plain")
    assert (done.returncode, "is not the data of the event" in done.stderr) == (1, True)
    forged = (tmp_path / "proof.json").read_text().replace("user:42", "user:43")
    (tmp_path / "proof.json").write_text(forged)
    done = elsewhere.call("audit", "check-proof", "proof.json", "--public-key", "key.pub")
    assert (done.returncode, "the proof does not hold" in done.stderr) == (1, True)


def test_a_script_tells_what_is_wrong_from_what_could_not_be_looked_at(sealed: Trail) -> None:
    proof = sealed.folder / "proof.json"
    proof.write_text(sealed.done("prove", sealed.ids()[2], "--seal", "seals"))
    (sealed.folder / "other").write_bytes(b"other")
    check = ("check-proof", "proof.json", "--public-key", "key.pub", "--json")
    seal = ("seal", "--key", "key.pem", "--to", "seals", "--json")
    done = sealed.audit(*check, "--data", "other")
    assert (done.returncode, json.loads(done.stdout)["ok"], done.stderr) == (1, False, "")
    assert "is not the data of the event" in json.loads(done.stdout)["reason"]
    proof.write_text(proof.read_text().replace("user:42", "user:43"))
    done = sealed.audit(*check)
    assert (done.returncode, json.loads(done.stdout)["ok"], done.stderr) == (1, False, "")
    proof.write_text("no proof")
    nothing_new = sealed.audit(*seal)
    sealed.grow(1)
    sealed.sql("UPDATE outbox_audit SET actor = 'x' WHERE position = 18")
    done = sealed.audit(*seal)
    assert (done.returncode, json.loads(done.stdout)["kind"], done.stderr) == (1, "changed", "")
    sealed.sql("DROP TABLE outbox_audit")
    for done in (sealed.audit(*check), nothing_new, sealed.audit("verify", "--json")):
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_what_cannot_be_proven_says_why(sealed: Trail) -> None:
    done = sealed.audit("prove", "nobody", "--seal", "seals")
    assert (done.returncode, "has no event 'nobody'" in done.stderr) == (1, True)
    sealed.grow(1)
    last = sealed.ids()[-1]
    done = sealed.audit("prove", last, "--seal", "seals")
    assert (done.returncode, "position 18 is in none of these seals" in done.stderr) == (1, True)
    done = sealed.audit("prove", last)
    assert (done.returncode, "--seal" in done.stderr) == (2, True)
    sealed.sql("UPDATE outbox_audit SET actor = 'x' WHERE position = 3")
    done = sealed.audit("prove", sealed.ids()[2], "--seal", "seals")
    assert (done.returncode, "are not those of seal 1" in done.stderr) == (1, True)


def test_an_event_that_is_there_twice_has_to_be_chosen(sealed: Trail) -> None:
    first = sealed.ids()[0]
    sealed.sql(
        "INSERT INTO outbox_event (id, type, data, partition_key)"
        f" VALUES ('{first}', 'shop.order.placed', '{{}}', 'o-1')"
    )
    assert sealed.call("relay", "--drain").returncode == 0
    done = sealed.audit("prove", first, "--seal", "seals")
    assert (done.returncode, "--position or --source: 1 (/outbox), 18" in done.stderr) == (2, True)
    assert sealed.audit("prove", first, "--seal", "seals", "--position", "1").returncode == 0


def test_an_export_can_be_verified_by_itself(trail: Trail) -> None:
    trail.done("export", "--output", "all.jsonl")
    assert trail.verdict("--file", "all.jsonl")["records"] == 12
    lines = trail.done("export", "--from", "4", "--to", "9").splitlines()
    assert [json.loads(line)["position"] for line in lines] == [4, 5, 6, 7, 8, 9]
    (trail.folder / "part.jsonl").write_text("\n".join(lines) + "\n")
    found = trail.verdict("--file", "part.jsonl")
    assert (found["ok"], found["first_position"], found["last_position"]) == (True, 4, 9)
    for changed, kind, position in [
        ([*lines[:2], *lines[3:]], "removed", 6),
        ([*lines[:2], lines[2].replace("user:42", "user:43"), *lines[3:]], "changed", 6),
        ([*lines[:3], lines[2], *lines[3:]], "inserted", 6),
    ]:
        (trail.folder / "part.jsonl").write_text("\n".join(changed) + "\n")
        found = trail.verdict("--file", "part.jsonl")
        assert (found["kind"], found["position"]) == (kind, position)
    (trail.folder / "part.jsonl").write_text("\n".join([*lines, "{}"]) + "\n")
    done = trail.audit("verify", "--file", "part.jsonl")
    assert (done.returncode, "line 7 of part.jsonl is no record" in done.stderr) == (1, True)


def test_a_record_that_says_two_things_is_none(sealed: Trail) -> None:
    """Of a member that stands there twice, one reader takes the first and another one the last."""
    sealed.done("export", "--output", "all.jsonl")
    proof = sealed.done("prove", sealed.ids()[2], "--seal", "seals")
    (sealed.folder / "proof.json").write_text(proof.replace('"actor"', '"actor":"x","actor"', 1))
    done = sealed.audit("check-proof", "proof.json", "--public-key", "key.pub")
    assert (done.returncode, "'actor' stands there twice" in done.stderr) == (1, True)
    path = sealed.folder / "all.jsonl"
    lines = [json.dumps(json.loads(line)) + "\n" for line in path.read_text().splitlines()]
    path.write_text("".join(lines))
    assert sealed.verdict("--file", "all.jsonl")["ok"], "another program wrote it anew"
    path.write_text("".join(lines).replace('"actor"', '"act\\u006fr": "x", "actor"', 1))
    done = sealed.audit("verify", "--file", "all.jsonl")
    assert (done.returncode, "line 1 of all.jsonl" in done.stderr) == (1, True)
    assert "'actor' stands there twice" in done.stderr


def test_an_export_is_verified_with_seals(sealed: Trail) -> None:
    sealed.done("export", "--output", "all.jsonl")
    assert sealed.verdict("--file", "all.jsonl", *SEALS)["sealed_position"] == 17
    lines = (sealed.folder / "all.jsonl").read_text().splitlines()
    (sealed.folder / "all.jsonl").write_text("\n".join(lines[:15]) + "\n")
    found = sealed.verdict("--file", "all.jsonl", *SEALS)
    assert (found["kind"], found["position"]) == ("truncated", 16)


def test_a_part_of_the_trail_is_verified_as_such(sealed: Trail) -> None:
    """A file has neither what stood before it nor, where that is said, what follows."""
    sealed.done("export", "--from", "3", "--to", "6", "--output", "part.jsonl")
    part = ("--file", "part.jsonl")
    said = sealed.done("verify", *part)
    assert "positions 3 to 6" in said
    assert "part.jsonl begins at position 3: what stood before is not in it" in said
    assert sealed.verdict(*part, *SEALS)["kind"] == "truncated"
    assert "is verified with --to" in sealed.audit("verify", *part, *SEALS).stderr
    found = sealed.verdict(*part, *SEALS, "--to", "6")
    assert (found["records"], found["sealed_position"]) == (4, None)
    assert "no seal ends in it" in sealed.done("verify", *part, *SEALS, "--to", "6")
    found = sealed.verdict(*part, "--to", "7")
    assert (found["kind"], found["position"]) == ("truncated", 7)
    assert sealed.verdict(*part, "--from", "5", "--to", "5")["records"] == 1

    # A checkpoint goes from one file to the next, and notices what is missing in between.
    walk = ("--checkpoint", "walk.json")
    assert sealed.verdict(*part, *walk)["records"] == 4
    sealed.done("export", "--from", "7", "--to", "12", "--output", "next.jsonl")
    sealed.done("export", "--from", "13", "--output", "last.jsonl")
    found = sealed.verdict("--file", "last.jsonl", *walk)
    assert (found["kind"], found["position"], found["last_position"]) == ("removed", 7, 12)
    assert sealed.verdict("--file", "next.jsonl", *walk)["records"] == 6
    assert sealed.verdict("--file", "last.jsonl", *walk)["records"] == 5
    assert sealed.verdict("--file", "last.jsonl", *SEALS, "--from", "15")["sealed_position"] == 17
    assert sealed.verdict("--file", "last.jsonl", *SEALS)["sealed_position"] == 17


def test_lines_that_change_places_are_reordered(trail: Trail) -> None:
    lines = trail.done("export").splitlines()
    lines[2:4] = lines[3], lines[2]
    (trail.folder / "all.jsonl").write_text("\n".join(lines) + "\n")
    found = trail.verdict("--file", "all.jsonl")
    assert (found["kind"], found["position"]) == ("reordered", 3)
    assert found["reason"] == "it belongs here, and stands behind position 4"


def test_a_walk_may_end_before_the_trail_does(sealed: Trail) -> None:
    sealed.sql("UPDATE outbox_audit SET actor = 'user:1' WHERE position = 14")
    found = sealed.verdict(*SEALS, "--to", "13")
    assert (found["last_position"], found["sealed_position"]) == (13, 12)
    assert sealed.verdict("--to", "14")["kind"] == "changed"
    sealed.sql("DELETE FROM outbox_audit WHERE position = 5")
    assert sealed.verdict("--to", "5")["kind"] == "removed"


def test_a_table_of_records_has_every_member(trail: Trail) -> None:
    trail.done("export", "--format", "csv", "--output", "all.csv")
    with (trail.folder / "all.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["position"] for row in rows] == [str(number) for number in range(1, 13)]
    assert tuple(rows[0]) == MEMBERS
    assert rows[0]["actor"] == "user:42"


def test_no_cell_is_a_formula_or_moves_the_cursor(trail: Trail) -> None:
    trail.sql("UPDATE outbox_audit SET actor = '=1+1' || char(27) WHERE position = 5")
    rows = list(csv.DictReader(trail.done("export", "--format", "csv").splitlines()))
    assert rows[4]["actor"] == r"'=1+1\x1b"
    assert rows[4]["position"] == "5"
    trail.sql("UPDATE outbox_audit SET actor = 'a' || char(155) || 'b' WHERE position = 5")
    code, shown = trail.on_terminal("audit", "export", "--from", "5", "--to", "5")
    assert (code, r"a\u009bb" in shown, "\x9b" in shown) == (0, True, False)
    trail.done("export", "--output", "all.jsonl")
    assert trail.verdict("--file", "all.jsonl")["position"] == 5


def test_an_export_of_a_broken_trail_is_evidence_and_says_so(trail: Trail) -> None:
    trail.sql("DELETE FROM outbox_audit WHERE position BETWEEN 5 AND 6")
    done = trail.audit("export", "--output", "all.jsonl")
    assert (done.returncode, "position 7 follows 4" in done.stderr) == (1, True)
    assert len((trail.folder / "all.jsonl").read_text().splitlines()) == 10
    assert trail.audit("export", "--to", "4").returncode == 0
    assert trail.audit("export", "--from", "7").returncode == 0
    assert "position 7 follows 5" in trail.audit("export", "--from", "6").stderr
    with trail.engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
        connection.exec_driver_sql("UPDATE outbox_audit SET position = -3 WHERE position = 12")
    assert json.loads(trail.audit("export").stdout.splitlines()[0])["position"] == -3


def test_a_file_is_exported_as_a_whole_or_not_at_all(trail: Trail) -> None:
    (trail.folder / "all.jsonl").write_text("before")
    trail.sql("ALTER TABLE outbox_audit RENAME COLUMN actor TO who")
    assert trail.audit("export", "--output", "all.jsonl").returncode == 1
    assert (trail.folder / "all.jsonl").read_text() == "before"
    assert not [path for path in trail.folder.iterdir() if path.name.startswith(".all")]


def test_records_are_chosen_by_time(trail: Trail) -> None:
    trail.sql("UPDATE outbox_audit SET time = '2020-01-01T00:00:00.000000Z' WHERE position <= 3")
    first = json.loads(trail.done("export", "--since", "2021-01-01").splitlines()[0])
    assert first["position"] == 4
    lines = trail.done("export", "--until", "2021-01-01").splitlines()
    assert [json.loads(line)["position"] for line in lines] == [1, 2, 3]
    assert trail.done("export", "--since", "2999-01-01") == ""
    assert trail.done("export", "--until", "2019-01-01") == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "--from", "5", "--checkpoint", "x"], "use one"),
        (["verify", "--route", "none"], "there is no route 'none'"),
        (["verify", "--route", "other"], "route other is no audit trail"),
        (["verify", "--seal", "none", "--public-key", "none.pub"], "there is no seal in none"),
        (["export", "--format", "xml"], "--format is jsonl or csv"),
        (["check-proof", "none", "--public-key", "key.pub"], "cannot read"),
        (["verify", "--checkpoint", "bad.json"], "bad.json is no checkpoint"),
        (["verify", "--checkpoint", "far.json"], "far.json is no checkpoint"),
        (["verify", "--checkpoint", "large"], "the checkpoint large: File too large"),
        (["seal", "--key", "large", "--to", "x"], "cannot read the private key large: File too"),
        (["keygen", "--key", "kk", "--public-key", "./kk"], "name one file: each key has its own"),
        (["verify", "--from", "99"], "no record at position 98"),
        (["verify", "--from", "13"], "no record at position 13: the trail ends before it"),
        (["verify", "--file", "empty.jsonl"], "empty.jsonl holds no record"),
        (["export", "--from", "13"], "no record at position 13: the trail ends at 12"),
        (["export", "--from", "12", "--to", "13", "--output", "x"], "but the trail ends at 12"),
        (["verify", "--from", f"{10**20}"], "less than or equal to 9223372036854775807"),
        (["export", "--to", f"{10**20}"], "less than or equal to 9223372036854775807"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_told(
    trail: Trail, arguments: list[str], message: str
) -> None:
    (trail.folder / "bad.json").write_text("{}")
    (trail.folder / "empty.jsonl").touch()
    (trail.folder / "large").write_bytes(b" " * 65_537)
    far = {"format": "outbox-audit-checkpoint/1", "position": 2**63, "hash": "00" * 32}
    (trail.folder / "far.json").write_text(json.dumps(far | {"verified_at": "now"}))
    trail.done("keygen", "--key", "key.pem", "--public-key", "key.pub")
    other = {"OUTBOX_ROUTES__OTHER__TRANSPORT": "memory"}
    done = trail.audit(*arguments, **other)
    assert done.returncode in {1, 2}
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "--from", "10", "--to", "5"], "--from 10 is behind --to 5"),
        (["verify", "--checkpoint", "walk.json", "--to", "5"], "is at position 12, behind --to 5"),
        (["verify", "--file", "part.jsonl", "--to", "5"], "begins at position 7, behind --to 5"),
        (["export", "--from", "9", "--to", "5"], "--from 9 is behind --to 5"),
        (["export", "--since", "2030-01-01", "--until", "2029-01-01"], "is later than --until"),
    ],
)
def test_a_range_without_positions_is_no_range(
    trail: Trail, arguments: list[str], message: str
) -> None:
    trail.done("verify", "--checkpoint", "walk.json")
    trail.done("export", "--from", "7", "--output", "part.jsonl")
    done = trail.audit(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert trail.verdict("--checkpoint", "walk.json", "--to", "12")["records"] == 0


def test_the_trail_of_a_route_elsewhere_is_found(trail: Trail, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    assert trail.call("migrate", OUTBOX_DATABASE_URL=url).returncode == 0
    other: Mapping[str, str] = {
        "OUTBOX_ROUTES__FAR__TRANSPORT": "audit",
        "OUTBOX_ROUTES__FAR__DATABASE_URL": url,
    }
    assert trail.call("relay", "--drain", "--route", "far", **other).returncode == 0
    done = trail.audit("verify", **other)
    assert (done.returncode, "choose by --route one of audit, far" in done.stderr) == (2, True)
    trail.sql("DELETE FROM outbox_audit")
    assert "12 records" in trail.done("verify", "--route", "far", **other)
    assert "0 records" in trail.done("verify", "--route", "audit", **other)


def test_on_a_terminal_a_bar_shows_how_far_it_is(trail: Trail) -> None:
    code, shown = trail.on_terminal("audit", "verify")
    assert code == 0
    assert "intact: 12 records" in shown
