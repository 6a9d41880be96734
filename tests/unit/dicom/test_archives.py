"""Zip archives and DICOMDIRs as sources: read without unpacking, within bounds, every oddity a finding."""

import os
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from support.dicom_maker import Grid, change, classic, compress, enhanced, write

from fedsite.dicom.checks import VolumeRefused
from fedsite.dicom.model import Inventory
from fedsite.dicom.scan import scan
from fedsite.dicom.source import archives, opening
from fedsite.dicom.voxels.reading import read_volume
from fedsite.errors import SourceMissing
from fedsite.site.pseudonyms import Pseudonyms

PSEUDONYMS = Pseudonyms(b"k" * 32)


def pack(archive: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(archive, "w", method) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return archive


def series(folder: Path, images: list[Dataset] | None = None, **options: str) -> dict[str, bytes]:
    """The files of a series, by names as they may stand in an archive."""
    return {f"ward/{path.name}": path.read_bytes() for path in write(folder, images or classic(), **options)}


def ids(inventory: Inventory) -> dict[str, str]:
    return {each.id: each.message for each in inventory.findings}


@pytest.mark.parametrize("method", sorted(archives.METHODS))
@pytest.mark.parametrize("kind", ["native", "compressed", "enhanced", "deflated"])
def test_an_archive_is_read_like_the_folder(tmp_path: Path, kind: str, method: int) -> None:
    grid = Grid(rows=32, columns=32, slices=4)
    images = {
        "native": lambda: classic("CT", grid),
        "compressed": lambda: compress(classic("CT", grid), uid.JPEG2000Lossless),
        "enhanced": lambda: [enhanced("MR", [grid])],
        "deflated": lambda: classic("MR", grid),
    }[kind]()
    syntax = uid.DeflatedExplicitVRLittleEndian if kind == "deflated" else uid.ExplicitVRLittleEndian
    files = series(tmp_path / "folder", images, syntax=syntax)
    inventory = scan(pack(tmp_path / "export", files, method), PSEUDONYMS)
    (packed,), (plain,) = inventory.volumes, scan(tmp_path / "folder", PSEUDONYMS).volumes
    assert (packed.verdict, packed.id, packed.findings) == ("accepted", plain.id, plain.findings)
    assert {frame.instance.member for frame in packed.frames} == files.keys()
    np.testing.assert_array_equal(packed.affine, plain.affine)
    np.testing.assert_array_equal(read_volume(packed), read_volume(plain))
    assert inventory.files == len(files)


def test_a_series_split_over_archives_and_folders(tmp_path: Path) -> None:
    files = series(tmp_path / "whole", classic(grid=Grid(slices=6)))
    names = sorted(files)
    source = tmp_path / "source"
    source.mkdir()
    pack(source / "1.zip", {name: files[name] for name in names[:2]})
    pack(source / "no name that says so", {name: files[name] for name in names[2:4]}, zipfile.ZIP_STORED)
    for name in names[4:]:
        (source / Path(name).name).write_bytes(files[name])
    steps: list[tuple[int, int]] = []
    inventory = scan(source, PSEUDONYMS, lambda done, total: steps.append((done, total)))
    assert [(volume.verdict, volume.shape[2]) for volume in inventory.volumes] == [("accepted", 6)]
    assert inventory.findings == ()
    assert [done for done, _ in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[-1] == (6, inventory.files) == (6, 6)


def test_rubbish_in_an_archive_is_passed_over(tmp_path: Path) -> None:
    files = series(tmp_path / "a") | {"notes.txt": b"x" * 500, "empty": b"", "folder/": b""}
    assert ids(scan(pack(tmp_path / "z", files), PSEUDONYMS)) == {
        "not-dicom": "1 file(s) are not DICOM.",
        "empty-file": "1 file(s) are empty.",
    }


def test_no_archive_within_an_archive(tmp_path: Path) -> None:
    files = series(tmp_path / "a")
    inner = pack(tmp_path / "inner", files).read_bytes()
    inventory = scan(pack(tmp_path / "outer", {"inner.zip": inner, **files}), PSEUDONYMS)
    assert ids(inventory) == {"nested-archive": "1 zip archive(s) lie within other archives."}
    assert [volume.verdict for volume in inventory.volumes] == ["accepted"]


@pytest.mark.parametrize("name", ["../IM1", "a/../../IM1", "/etc/IM1", "C:/IM1", "..\\IM1", "\\\\server\\IM1", "a/.."])
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    files = series(tmp_path / "a")
    last = sorted(files)[-1]
    archive = pack(tmp_path / "z", files | {name: files.pop(last)})
    inventory = scan(archive, PSEUDONYMS)
    assert ids(inventory)["archive-names"].startswith("1 file(s)")
    assert inventory.files == 4


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(tmp_path: Path) -> None:
    files = list(series(tmp_path / "a").items())
    with zipfile.ZipFile(tmp_path / "z", "w") as packed:
        for name, content in [*files, files[0]]:
            packed.writestr(name, content)
    inventory = scan(tmp_path / "z", PSEUDONYMS)
    assert ids(inventory)["archive-names"].startswith("2 file(s)")


def test_encrypted_members(tmp_path: Path) -> None:
    archive = pack(tmp_path / "z", series(tmp_path / "a"))
    content = bytearray(archive.read_bytes())
    for place in _all(content, b"PK\x01\x02"):
        content[place + 8] |= 1
    archive.write_bytes(content)
    inventory = scan(archive, PSEUDONYMS)
    assert ids(inventory) == {"encrypted-archive": "5 file(s) in zip archives are encrypted."}
    assert inventory.volumes == ()


def test_a_compression_that_is_not_known(tmp_path: Path) -> None:
    archive = pack(tmp_path / "z", series(tmp_path / "a"))
    content = bytearray(archive.read_bytes())
    (first, *_) = _all(content, b"PK\x01\x02")
    content[first + 10 : first + 12] = struct.pack("<H", 9)  # Deflate64
    archive.write_bytes(content)
    assert ids(scan(archive, PSEUDONYMS))["archive-method"].startswith("1 file(s)")


def test_archives_that_break_off_or_are_none(tmp_path: Path) -> None:
    content = pack(tmp_path / "z", series(tmp_path / "a")).read_bytes()
    source = tmp_path / "source"
    source.mkdir()
    (source / "short").write_bytes(content[: len(content) // 2])
    (source / "head").write_bytes(b"PK\x03\x04" + bytes(200))
    (source / "end").write_bytes(b"PK\x03\x04" + b"PK\x05\x06" + b"\xff" * 18)
    pack(source / "empty", {})
    inventory = scan(source, PSEUDONYMS)
    assert ids(inventory) == {"damaged-archive": "3 zip archive(s), or files within them, are damaged."}


def test_a_damaged_member(tmp_path: Path) -> None:
    archive = pack(tmp_path / "z", series(tmp_path / "a"))
    content = bytearray(archive.read_bytes())
    content[60:160] = bytes(100)  # within the first member's deflated header
    archive.write_bytes(content)
    assert ids(scan(archive, PSEUDONYMS))["damaged-archive"].startswith("1 zip")


def test_a_bit_that_flips_in_a_members_pixels(tmp_path: Path) -> None:
    files = series(tmp_path / "a", classic(grid=Grid(rows=128, columns=128)))
    archive = pack(tmp_path / "z", files, zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    stored = next(iter(files.values()))
    content[content.index(stored) + len(stored) - 5] ^= 4
    archive.write_bytes(content)
    (volume,) = scan(archive, PSEUDONYMS).volumes
    assert volume.verdict == "accepted"
    with pytest.raises(VolumeRefused):
        read_volume(volume)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "RATIO_COUNTS_FROM", 1 << 20)
    archive = pack(tmp_path / "z", series(tmp_path / "a") | {"zeros": bytes(8 << 20)})
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    inventory = scan(archive, PSEUDONYMS)
    assert ids(inventory).keys() == {"archive-too-large"}
    assert inventory.volumes == ()


def test_blank_images_are_no_bomb(tmp_path: Path) -> None:
    grid = Grid(rows=512, columns=512, slices=3)
    images = classic("MR", grid, np.zeros((3, 512, 512), np.uint16))
    inventory = scan(pack(tmp_path / "z", series(tmp_path / "a", images)), PSEUDONYMS)
    assert (inventory.volumes[0].verdict, inventory.findings) == ("accepted", ())


@pytest.mark.parametrize(("bound", "least"), [("MAX_MEMBERS", 4), ("MAX_BYTES", 1000), ("MAX_DIRECTORY_BYTES", 100)])
def test_bounds(tmp_path: Path, bound: str, least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tmp_path / "z", series(tmp_path / "a"))
    assert ids(scan(archive, PSEUDONYMS)) == {}
    monkeypatch.setattr(archives, bound, least)
    assert ids(scan(archive, PSEUDONYMS)).keys() == {"archive-too-large"}


def test_a_directory_of_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    archive = pack(tmp_path / "z", series(tmp_path / "a"))
    content = bytearray(archive.read_bytes())
    end = content.rindex(b"PK\x05\x06")
    assert content.count(b"PK\x06\x06") == 1
    content[end + 12 : end + 16] = b"\xff" * 4
    archive.write_bytes(content)
    assert [volume.verdict for volume in scan(archive, PSEUDONYMS).volumes] == ["accepted"]


def test_a_member_is_inflated_no_further_than_declared(tmp_path: Path) -> None:
    archive = pack(tmp_path / "z", {"a": b"\0" * 100_000})
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 24 :][:4] = struct.pack("<L", 10)
    place = content.rindex(b"PK\x01\x02") + 24
    content[place : place + 4] = struct.pack("<L", 10)
    archive.write_bytes(content)
    with opening.open_file(str(archive), "a") as file, pytest.raises(zipfile.BadZipFile):
        file.read()


def test_a_forked_process_opens_the_archive_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = str(pack(tmp_path / "z", {"a": b"1"}))
    here = opening.archive(archive)
    assert opening.archive(archive) is here
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert opening.archive(archive) is not here


def _all(content: bytes | bytearray, signature: bytes) -> list[int]:
    places, start = [], 0
    while (start := content.find(signature, start)) >= 0:
        places.append(start)
        start += 1
    return places


# --- DICOMDIR --------------------------------------------------------------------------------------------------------


def dicomdir(folder: Path, file_ids: list[list[str] | str]) -> Path:
    """A DICOMDIR that names the files, as simple as it may be."""
    directory = Dataset()
    directory.DirectoryRecordSequence = []
    for file_id in file_ids:
        record = Dataset()
        change(record, {"ReferencedFileID": file_id, "DirectoryRecordType": "IMAGE"})
        directory.DirectoryRecordSequence.append(record)
    directory.DirectoryRecordSequence.append(Dataset())  # a PATIENT record names no file
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    directory.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    directory.save_as(folder / "DICOMDIR", enforce_file_format=True)
    return folder / "DICOMDIR"


def test_a_dicomdir_as_source(tmp_path: Path) -> None:
    """Lower case, as Linux mounts a CD, is found; what the directory does not name is not looked at."""
    paths = write(tmp_path / "dicom" / "se0", classic())
    (tmp_path / "other").write_bytes(random.Random(1).randbytes(200))
    names = [["DICOM", "SE0", path.name] for path in paths]
    names[0][2] += ".;1"
    source = dicomdir(tmp_path, names)
    inventory = scan(source, PSEUDONYMS)
    assert ([volume.verdict for volume in inventory.volumes], inventory.findings) == (["accepted"], ())
    assert inventory.files == 5
    assert ids(scan(tmp_path, PSEUDONYMS)).keys() == {"media-directory", "not-dicom"}


def test_a_dicomdir_that_names_itself(tmp_path: Path) -> None:
    source = dicomdir(tmp_path, [["DICOMDIR"]])
    assert ids(scan(source, PSEUDONYMS)).keys() == {"media-directory"}


def test_a_dicomdir_in_an_archive_is_passed_over(tmp_path: Path) -> None:
    directory = dicomdir(tmp_path, [["A"]]).read_bytes()
    inventory = scan(pack(tmp_path / "z", series(tmp_path / "a") | {"DICOMDIR": directory}), PSEUDONYMS)
    assert ids(inventory).keys() == {"media-directory"}
    assert [volume.verdict for volume in inventory.volumes] == ["accepted"]


def test_what_a_dicomdir_names_and_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "cd").mkdir()
    paths = write(tmp_path / "cd" / "A", classic())
    (tmp_path / "outside").write_bytes(paths[0].read_bytes())
    ways_out = [["..", "outside"], "../outside", ["A", "..", "..", "outside"], str(tmp_path / "outside"), ["A", "GONE"]]
    source = dicomdir(tmp_path / "cd", [*([path.parent.name, path.name] for path in paths), *ways_out])
    inventory = scan(source, PSEUDONYMS)
    assert ids(inventory).keys() == {"missing-file"}
    assert ids(inventory)["missing-file"].startswith("5 file(s)")
    assert [volume.verdict for volume in inventory.volumes] == ["accepted"]


def test_a_damaged_dicomdir(tmp_path: Path) -> None:
    source = dicomdir(tmp_path, [["A"]])
    content = source.read_bytes()
    source.write_bytes(content[: content.index(b"\x04\x00\x20\x12") + 9])
    assert ids(scan(source, PSEUDONYMS)).keys() <= {"damaged-header", "media-directory"}


def test_a_source_that_is_no_dicom_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"PK nothing of the kind" * 10)
    assert ids(scan(tmp_path / "a", PSEUDONYMS)) == {"not-dicom": "1 file(s) are not DICOM."}
    with pytest.raises(SourceMissing):
        scan(tmp_path / "b", PSEUDONYMS)
