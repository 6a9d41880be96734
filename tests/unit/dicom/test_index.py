"""The index of headers: a second scan reads only what changed, whatever happens to the index, and it names nobody."""

import os
import random
import sqlite3
import stat
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from pydicom import uid
from support.dicom_maker import Grid, classic, enhanced, write

from fedsite.dicom import index as indexes
from fedsite.dicom import records
from fedsite.dicom import scan as scanning
from fedsite.dicom.header.frames import Read, read_frames
from fedsite.dicom.header.values import tolerant_reading
from fedsite.dicom.index import Index
from fedsite.dicom.model import Frame, Instance, Inventory
from fedsite.dicom.scan import scan
from fedsite.dicom.source.walk import Group
from fedsite.site.pseudonyms import Pseudonyms

PSEUDONYMS = Pseudonyms(b"k" * 32)
LONG_AGO = 1_600_000_000


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path / "state" / "index" / "headers.db", b"i" * 32)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "Zaphod^Beeblebrox"
    grid = Grid(columns=20, rows=18, slices=5)
    write(source / "classic", classic("MR", grid, PatientID="PAT-4711"))
    write(source / "enhanced", [enhanced("MR", [grid])], syntax=uid.ImplicitVRLittleEndian)
    write(source / "broken", classic("CT", grid, ImagePositionPatient=["nan", "0", "3"]))
    (source / "notes").write_text("no DICOM")
    (source / "gone").symlink_to(source / "nowhere")
    settle(source)
    return source


def settle(folder: Path) -> None:
    """As if nothing had been written for long."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (LONG_AGO, LONG_AGO))


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch, index: Index) -> Callable[[Path], tuple[Inventory, int]]:
    """Scans with the index; gives what was found, and how many files were read for it."""
    opened: list[str] = []

    def counting(path: str, member: str = "") -> Read:
        opened.append(path + member)
        return read_frames(path, member)

    monkeypatch.setattr(scanning, "read_frames", counting)

    def scanned(source: Path) -> tuple[Inventory, int]:
        opened.clear()
        return scan(source, PSEUDONYMS, index=index), len(opened)

    return scanned


def described(inventory: Inventory) -> object:
    """Everything that a scan finds, but for the identity of its objects."""

    def plain(value: object) -> object:
        if isinstance(value, Frame | Instance):
            return [(field.name, plain(getattr(value, field.name))) for field in fields(value)]
        return repr(value)

    volumes = [
        (repr(volume), volume.affine.tobytes(), sorted(volume.keys), [plain(frame) for frame in volume.frames])
        for volume in inventory.volumes
    ]
    return volumes, inventory.findings, inventory.files


def test_a_second_scan_reads_nothing_and_finds_the_same(source: Path, scanned: Callable[..., object]) -> None:
    (first, read), (second, again) = scanned(source), scanned(source)
    assert (read, again) == (13, 1), "a link that leads nowhere may lead somewhere next time"
    assert described(first) == described(second) == described(scan(source, PSEUDONYMS))
    assert [volume.verdict for volume in first.volumes].count("accepted") == 2


def test_only_what_changed_is_read(source: Path, scanned: Callable[..., object]) -> None:
    scanned(source)
    changed, touched, removed = sorted((source / "classic").iterdir())[:3]
    changed.write_bytes(changed.read_bytes() + b"\0\0")
    os.utime(changed, (LONG_AGO, LONG_AGO))
    os.utime(touched, (LONG_AGO, LONG_AGO + 1))
    removed.unlink()
    write(source / "new", classic("CT", Grid(slices=4)))
    settle(source / "new")
    (source / "notes").rename(source / "renamed")
    inventory, read = scanned(source)
    assert read == 1 + 2 + 4 + 1
    assert described(inventory) == described(scan(source, PSEUDONYMS))
    assert scanned(source)[1] == 1


def test_what_was_changed_just_now_is_read_again(source: Path, scanned: Callable[..., object]) -> None:
    now = time.time()
    os.utime(source / "notes", (now, now))
    scanned(source)
    assert scanned(source)[1] == 2


def test_members_of_archives(tmp_path: Path, source: Path, scanned: Callable[..., object]) -> None:
    with zipfile.ZipFile(tmp_path / "export", "w") as archive:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                archive.write(path, str(path.relative_to(source)))
    os.utime(tmp_path / "export", (LONG_AGO, LONG_AGO))
    (first, read), (second, again) = scanned(tmp_path / "export"), scanned(tmp_path / "export")
    assert (read, again) == (13, 0)
    assert described(first) == described(second)
    os.utime(tmp_path / "export", (LONG_AGO, LONG_AGO + 1))
    assert scanned(tmp_path / "export")[1] == 13


def test_what_is_not_met_any_more_is_forgotten(source: Path, index: Index, scanned: Callable[..., object]) -> None:
    scanned(source)
    rows = _rows(index, "headers")
    for path in (source / "classic").iterdir():
        path.unlink()
    scanned(source)
    assert _rows(index, "headers") == rows - 1


def test_a_source_that_nobody_scans_is_forgotten(
    tmp_path: Path, source: Path, index: Index, scanned: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "other", classic())
    settle(tmp_path / "other")
    scanned(tmp_path / "other")
    scanned(source)
    before = _rows(index, "headers")
    later = time.time() + (indexes.FORGOTTEN_DAYS + 2) * 86_400
    monkeypatch.setattr(time, "time", lambda: later)
    scanned(source)
    assert (_rows(index, "headers"), _rows(index, "sources")) == (before - 1, 1)


def test_a_scan_that_is_cut_off_keeps_what_it_read(
    source: Path, index: Index, scanned: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "BATCH", 1)

    def cut_off(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(source, PSEUDONYMS, cut_off, index=index)
    assert scanned(source)[1] < 13


@pytest.mark.parametrize("damage", ["truncated", "rubbish", "zeros", "flipped", "empty", "another table", "a folder"])
def test_a_damaged_index_is_made_anew(source: Path, index: Index, scanned: Callable[..., object], damage: str) -> None:
    (first, _) = scanned(source)
    content = index.path.read_bytes()
    if damage == "another table":
        with sqlite3.connect(index.path) as database:
            database.execute("alter table headers rename column content to body")
        database.close()
    elif damage == "a folder":
        index.path.unlink()
        index.path.mkdir()
    else:
        flipped = bytearray(content)
        flipped[-300:] = bytes(byte ^ 255 for byte in flipped[-300:])
        index.path.write_bytes(
            {
                "truncated": content[: len(content) // 2],
                "rubbish": random.Random(1).randbytes(len(content)),
                "zeros": bytes(len(content)),
                "flipped": bytes(flipped),
                "empty": b"",
            }[damage]
        )
    assert described(scanned(source)[0]) == described(first)
    again, read = scanned(source)
    assert described(again) == described(first)
    assert read == (13 if damage == "a folder" else 1)


def test_damage_within_rows(source: Path, index: Index, scanned: Callable[..., object]) -> None:
    (first, _) = scanned(source)
    with sqlite3.connect(index.path) as database:
        names = [name for (name,) in database.execute("select name from headers order by name")]
        for name, content in zip(names, (b"", b"x" * 100, None, random.Random(1).randbytes(5)), strict=False):
            database.execute("update or ignore headers set content = ? where name = ?", (content or 5, name))
    database.close()
    assert described(scanned(source)[0]) == described(first)
    assert scanned(source)[1] == 1


def test_a_row_under_another_name_is_not_taken(source: Path, index: Index, scanned: Callable[..., object]) -> None:
    """Rows that somebody exchanged are not what they say."""
    (first, _) = scanned(source)
    with sqlite3.connect(index.path) as database:
        (a, one), (b, two) = database.execute("select name, content from headers limit 2")
        database.executemany("update headers set content = ? where name = ?", [(two, a), (one, b)])
    database.close()
    assert described(scanned(source)[0]) == described(first)


def test_another_version_reads_anew(
    source: Path, scanned: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, _) = scanned(source)
    monkeypatch.setattr(indexes, "_version", lambda: b"another")
    second, read = scanned(source)
    assert (read, described(second)) == (13, described(first))
    assert scanned(source)[1] == 1


def test_another_key_reads_anew(source: Path, index: Index) -> None:
    first = scan(source, PSEUDONYMS, index=index)
    second = scan(source, PSEUDONYMS, index=Index(index.path, b"j" * 32))
    assert described(first) == described(second)


def test_two_scans_at_once(source: Path, index: Index) -> None:
    expected = described(scan(source, PSEUDONYMS))
    found: list[object] = []
    # Within one `tolerant_reading`, whose switches belong to the process: in truth the two are processes.
    with tolerant_reading():
        runs = [
            threading.Thread(target=lambda: found.append(described(scan(source, PSEUDONYMS, index=index))))
            for _ in range(4)
        ]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
    assert found == [expected] * 4


def test_a_locked_index_is_done_without(
    source: Path, index: Index, scanned: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, _) = scanned(source)
    monkeypatch.setattr(indexes, "BUSY_SECONDS", 0.05)
    holder = sqlite3.connect(index.path, isolation_level=None)
    holder.execute("pragma locking_mode = exclusive")
    holder.execute("begin exclusive")
    second, _ = scanned(source)
    holder.execute("rollback")
    holder.close()
    assert described(second) == described(first)
    assert scanned(source)[1] == 1, "what was held is still there"


def test_a_place_that_cannot_be_written_is_done_without(tmp_path: Path, source: Path) -> None:
    (tmp_path / "file").touch()
    index = Index(tmp_path / "file" / "headers.db", b"i" * 32)
    assert described(scan(source, PSEUDONYMS, index=index)) == described(scan(source, PSEUDONYMS))


def test_nothing_of_a_patient_in_the_clear(source: Path, index: Index, scanned: Callable[..., object]) -> None:
    inventory, _ = scanned(source)
    secrets = {"Zaphod", "PAT-4711", "notes", "classic", "SIEMENS"}
    secrets |= {key for volume in inventory.volumes for key in volume.keys}
    secrets |= {frame.instance.sop_instance for volume in inventory.volumes for frame in volume.frames}
    written = [path for path in index.path.parent.iterdir() if path.is_file()]
    assert index.path in written
    for path in written:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(index.path.parent.stat().st_mode) == 0o700
    assert "i" * 8 not in repr(index)


def test_records_come_back_as_they_were(source: Path) -> None:
    paths = [(str(path), "") for path in sorted(source.rglob("*")) if path.is_file()]
    with tolerant_reading():
        reads = [read_frames(*place) for place in paths]
    again = list(records.unpack(records.pack(reads), paths))

    def plain(read: Read) -> object:
        if isinstance(read, str):
            return read
        return [
            [(name, getattr(frame, name)) for name in Frame.__dataclass_fields__ if name != "instance"]
            + [(name, getattr(frame.instance, name)) for name in Instance.__dataclass_fields__]
            for frame in read
        ]

    assert repr([plain(read) for read in again]) == repr([plain(read) for read in reads])
    frames = [frame for read in again if not isinstance(read, str) for frame in read]
    assert len({id(frame.instance.study) for frame in frames}) == len({frame.instance.study for frame in frames})


def test_a_file_that_comes_or_goes_moves_few_others(tmp_path: Path) -> None:
    def groups(numbers: range) -> set[Group]:
        return set(scanning.walk.groups(str(tmp_path), [f"IM{number:06d}" for number in numbers]))

    before, after = groups(range(1, 20_000)), groups(range(20_000))
    assert 20 < len(before) < 80
    assert len(before - after) == 1
    assert [name for group in sorted(after, key=lambda each: each.names) for name in group.names] == [
        f"IM{number:06d}" for number in range(20_000)
    ]


def _rows(index: Index, table: str) -> int:
    with sqlite3.connect(index.path) as database:
        ((count,),) = database.execute(f"select count(*) from {table}")
    database.close()
    return count
