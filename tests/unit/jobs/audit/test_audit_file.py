"""An exported audit holds on any machine, and says so when anything in it was changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from example_site import make_site

from fedsite.errors import DataNotFit, FedsiteError, RecordsDamaged, SourceMissing
from fedsite.jobs.audit import audit_file, checkpoints
from fedsite.jobs.site import open_state
from fedsite.site.chain import ZERO, canonical_json, hash_of
from fedsite.site.state import State
from fedsite.wire import signing


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("site"), rounds=1, cases=2)


@pytest.fixture(scope="module")
def exported(config: Path) -> Path:
    path = config.with_name("audit.jsonl")
    audit_file.export(config, path)
    return path


def told(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    try:
        audit_file.verify(path)
    except (RecordsDamaged, DataNotFit) as error:
        return error.message
    return "nothing"


def test_what_is_exported_is_whole_and_private(config: Path, exported: Path) -> None:
    assert exported.stat().st_mode & 0o777 == 0o600
    found = audit_file.verify(exported)
    with open_state(config) as state:
        key = checkpoints.public_key(state)
        events = [record.body for record in state.records("audit")]
    assert found["key"] == key
    assert (found["site"], found["federation"]) == ("st-example", "example")
    assert found["records"] == {"ledger": 4, "audit": len(events)}
    assert [one["event"] for one in events][-2:] == ["audit key", "audit exported"]
    assert events[-2]["key"] == key
    assert audit_file.verify(exported, key=key)["key"] == key
    with pytest.raises(RecordsDamaged, match="another audit key"):
        audit_file.verify(exported, key="0" * 64)


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.exhaustive), 7])
def test_a_bit_flipped_in_any_byte_names_the_record(tmp_path: Path, stride: int) -> None:
    """Of the shortest export that there is: each byte costs a whole verification."""
    path = tmp_path / "flipped"
    ledger = audit_file.export(make_site(tmp_path, rounds=0, cases=1), path)["records"]["ledger"]
    content, begin = path.read_bytes(), 0
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines):
        name = f"ecord {number} of the ledger" if number <= ledger else f"ecord {number - ledger} of the audit"
        if number == len(lines) - 1:
            name = "checkpoint"
        for place in {*range(begin, begin + len(line), stride), begin + len(line) - 1}:
            flipped = bytearray(content)
            flipped[place] ^= 1 << place % 8
            found = told(path, bytes(flipped))
            if number == 0:
                assert found != "nothing", place
            else:
                last = number == len(lines) - 2 and place == begin + len(line) - 1  # parts it from the checkpoint
                assert ("checkpoint" if last else name) in found, (place - begin, line, found)
        begin += len(line)


def rewritten(lines: list[bytes], change: Callable[[list[dict[str, object]]], None]) -> list[bytes]:
    """The audit with changed bodies, chained anew as whoever holds the file can; the checkpoint stays."""
    rows = [json.loads(line) for line in lines[1:-1]]
    audit = [row for row in rows if row["chain"] == "audit"]
    bodies = [json.loads(row["body"]) for row in audit]
    change(bodies)
    previous = ZERO
    for row, body in zip(audit, bodies, strict=True):
        row |= {"body": canonical_json(body), "previous": previous}
        row["hash"] = previous = hash_of(row["sequence"], previous, row["time"], row["body"])
    return [lines[0], *(canonical_json(row).encode() + b"\n" for row in rows), lines[-1]]


HARMS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "the last record less": (lambda lines: [*lines[:-2], lines[-1]], "cannot be read"),
    "a record less": (lambda lines: lines[:3] + lines[4:], "Record 3 of the ledger is missing"),
    "two exchanged": (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "Record 2 of the ledger is missing"),
    "no checkpoint": (lambda lines: lines[:-1], "checkpoint at the end"),
    "a line more": (lambda lines: [*lines[:-1], b"{}\n", lines[-1]], "something between"),
    "another count": (lambda lines: [lines[0].replace(b'"ledger":4', b'"ledger":3'), *lines[1:]], "first line"),
    "chained anew": (lambda lines: rewritten(lines, lambda bodies: bodies[0].update(operator="nobody")), "was altered"),
    "a repeated key": (lambda lines: [*lines[:1], lines[1].replace(b'{"', b'{"x":1,"', 1), *lines[2:]], "Record 1 of"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_changed_file_is_told(exported: Path, tmp_path: Path, harm: str) -> None:
    change, complaint = HARMS[harm]
    assert complaint in told(tmp_path / "changed", b"".join(change(exported.read_bytes().splitlines(keepends=True))))


def test_a_file_signed_by_somebody_else_is_told_by_the_key(exported: Path, tmp_path: Path) -> None:
    """It is whole in itself: that is why the key must come by another way than the file."""
    lines = rewritten(exported.read_bytes().splitlines(keepends=True), lambda bodies: bodies[0].update(operator="x"))
    forger = Ed25519PrivateKey.from_private_bytes(b"f" * 32)
    old = audit_file.checkpoint_of(exported)
    head = json.loads(lines[-2])["hash"]
    update = {"key": signing.public_key(forger).ed25519, "audit": old.audit.model_copy(update={"head": head})}
    envelope = signing.sign(old.model_copy(update=update).to_bytes(), checkpoints.KIND, [forger])
    forged = tmp_path / "forged"
    assert told(forged, b"".join([*lines[:-1], checkpoints.to_text(envelope).encode() + b"\n"])) == "nothing"
    for demand in ({"key": old.key}, {"since": exported}):
        with pytest.raises(RecordsDamaged, match="another audit key"):
            audit_file.verify(forged, **demand)


def test_an_earlier_export_must_lie_on_the_chain(config: Path, exported: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    audit_file.export(config, later)
    before, after = audit_file.verify(exported), audit_file.verify(later, since=exported)
    assert after["records"] == {"ledger": 4, "audit": before["records"]["audit"] + 1}
    with pytest.raises(RecordsDamaged, match="9 of the audit is missing, which the earlier export"):
        audit_file.verify(exported, since=later)


def test_a_damaged_site_exports_nothing(config: Path, tmp_path: Path) -> None:
    folder = config.parent / "state"
    shutil.copytree(folder, tmp_path / "kept")
    (folder / "records.head").unlink()
    with pytest.raises(RecordsDamaged, match="gone"):
        audit_file.export(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    shutil.copy(tmp_path / "kept" / "records.head", folder)


def test_a_new_key_is_written_down(config: Path) -> None:
    with State.open(config.parent / "state") as state:
        before = checkpoints.public_key(state)
        assert checkpoints.public_key(state) == before
        seed = state.folder / "identity" / checkpoints.SEED
        assert seed.stat().st_mode & 0o777 == 0o600
        kept = seed.read_bytes()
        seed.unlink()
        after = checkpoints.public_key(state)
        assert after != before
        told = [record.body["key"] for record in state.records("audit") if record.body["event"] == "audit key"]
        assert told[-2:] == [before, after]
        seed.write_bytes(kept)
        seed.chmod(0o600)


@pytest.mark.parametrize(("content", "error"), [(b"hello\n", DataNotFit), (b"", DataNotFit), (None, SourceMissing)])
def test_what_is_no_export(tmp_path: Path, content: bytes | None, error: type[FedsiteError]) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(error):
        audit_file.verify(tmp_path / "file")
