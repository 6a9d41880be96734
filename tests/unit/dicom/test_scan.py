"""Walking a folder, telling DICOM from rubbish, and saying nothing about patients on the way."""

import logging
import os
import random
import socket
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from pydicom import uid
from support.dicom_maker import Grid, classic, compress, enhanced, names, write

from fedsite.dicom.header import frames
from fedsite.dicom.model import Inventory
from fedsite.dicom.scan import scan
from fedsite.dicom.voxels import reading
from fedsite.dicom.voxels.reading import read_volume
from fedsite.errors import SourceMissing
from fedsite.site.pseudonyms import Pseudonyms

PSEUDONYMS = Pseudonyms(b"k" * 32)


def test_a_tree_with_rubbish(tmp_path: Path) -> None:
    who = names()
    images = classic(who=who)
    write(tmp_path / "a" / "b", images[:3])
    write(tmp_path / "c", images[3:])
    (tmp_path / "Thumbs.db").write_bytes(random.Random(1).randbytes(5000))
    (tmp_path / "c" / "report.dcm").write_text("a text under a DICOM name " * 30)
    (tmp_path / "c" / "short").write_bytes(b"\x08\x00\x05")
    (tmp_path / "empty.dcm").touch()
    inventory = scan(tmp_path, PSEUDONYMS)
    (volume,) = inventory.volumes
    assert (volume.verdict, volume.shape) == ("accepted", (8, 6, 5))
    assert {each.id: each.message for each in inventory.findings} == {
        "not-dicom": "3 file(s) are not DICOM.",
        "empty-file": "1 file(s) are empty.",
    }
    assert inventory.files == len(images) + 4


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing) as missing:
        scan(tmp_path / "Miller^Anna", PSEUDONYMS)
    assert "Miller" not in str(missing.value)


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    (path,) = write(tmp_path, [enhanced()])
    assert [volume.verdict for volume in scan(path, PSEUDONYMS).volumes] == ["accepted"]


def test_links_are_followed_but_never_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", classic())
    source = tmp_path / "source"
    source.mkdir()
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "again").symlink_to(source)
    inventory = scan(source, PSEUDONYMS)
    assert inventory.files == 5
    assert [volume.verdict for volume in inventory.volumes] == ["accepted"]


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path, classic())
    os.mkfifo(tmp_path / "pipe")
    assert [each.id for each in scan(tmp_path, PSEUDONYMS).findings] == ["not-dicom"]


def test_a_socket_and_links_that_lead_nowhere_or_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, classic())
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        (tmp_path / "a").symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        (tmp_path / "c").symlink_to(tmp_path / "nowhere")
        inventory = scan(tmp_path, PSEUDONYMS)
    assert {each.id: each.message[:9] for each in inventory.findings} == {
        "missing-file": "1 file(s)",
        "not-dicom": "1 file(s)",
        "unreadable-file": "2 file(s)",
    }
    assert [volume.verdict for volume in inventory.volumes] == ["accepted"]


@pytest.mark.parametrize(
    ("error", "rule"), [(PermissionError(), "unreadable-file"), (FileNotFoundError(), "missing-file")]
)
def test_a_file_that_may_not_be_read_or_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, rule: str
) -> None:
    chosen = str(write(tmp_path, classic(grid=Grid(slices=6)))[5])
    opened = frames.open_file

    def refusing(path: str, member: str) -> BinaryIO:
        if path == chosen:
            raise error
        return opened(path, member)

    monkeypatch.setattr(frames, "open_file", refusing)
    inventory = scan(tmp_path, PSEUDONYMS)
    assert [each.id for each in inventory.findings] == [rule]
    assert [volume.shape[2] for volume in inventory.volumes] == [5]


def test_a_folder_that_vanishes_while_the_tree_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a", classic())
    (tmp_path / "b").mkdir()
    listed = os.scandir

    def vanishing(path: str) -> object:
        if str(path).endswith("a"):
            (tmp_path / "b").rmdir()
        return listed(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    inventory = scan(tmp_path, PSEUDONYMS)
    assert [each.id for each in inventory.findings] == ["unreadable-folder"]
    assert inventory.files == 5


def test_a_tree_deeper_than_the_stack(tmp_path: Path) -> None:
    here = Path.cwd()
    try:
        os.chdir(tmp_path)
        for _ in range(1100):
            Path("d").mkdir()
            os.chdir("d")
    finally:
        os.chdir(here)
    write(tmp_path / "d" / "d", classic())
    assert [volume.verdict for volume in scan(tmp_path, PSEUDONYMS).volumes] == ["accepted"]
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # pytest would not get to the bottom


def test_names_that_are_no_text(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"M\xfcller")
    for path in write(folder, classic()):
        path.rename(folder / (os.fsdecode(b"\xff") + path.name))
    inventory = scan(tmp_path, PSEUDONYMS)
    assert [volume.verdict for volume in inventory.volumes] == ["accepted"]
    assert read_volume(inventory.volumes[0]).shape == inventory.volumes[0].shape


def test_a_folder_that_cannot_be_listed_is_named_as_a_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, classic())
    (tmp_path / "locked").mkdir()
    listed = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", refusing)
    (found,) = scan(tmp_path, PSEUDONYMS).findings
    assert (found.id, found.message) == ("unreadable-folder", "1 folder(s) could not be listed.")


def test_a_bare_data_set_without_file_header(tmp_path: Path) -> None:
    for index, path in enumerate(write(tmp_path, classic(), syntax=uid.ImplicitVRLittleEndian)):
        content = path.read_bytes()
        meta_length = int.from_bytes(content[140:144], "little")
        (tmp_path / f"bare{index}").write_bytes(content[144 + meta_length :])
        path.unlink()
    (volume,) = scan(tmp_path, PSEUDONYMS).volumes
    np.testing.assert_array_equal(read_volume(volume), Grid().voxels().transpose(2, 1, 0))


def test_progress_counts_files(tmp_path: Path) -> None:
    write(tmp_path, classic())
    steps: list[tuple[int, int]] = []
    scan(tmp_path, PSEUDONYMS, lambda done, total: steps.append((done, total)))
    assert steps == [(done, 5) for done in range(1, 6)]


def test_the_same_file_twice_is_one_image(tmp_path: Path) -> None:
    images = compress(classic(grid=Grid(rows=32, columns=32)), uid.RLELossless)
    write(tmp_path / "first", images)
    write(tmp_path / "second", images)
    (volume,) = scan(tmp_path, PSEUDONYMS).volumes
    assert volume.verdict == "accepted"
    assert [each.message for each in volume.findings] == ["5 image(s) are identical copies of others and were dropped."]


def test_the_same_image_in_two_syntaxes_is_one_image(tmp_path: Path) -> None:
    images = classic(grid=Grid(rows=32, columns=32))
    write(tmp_path / "plain", images)
    write(tmp_path / "compressed", compress(images, uid.JPEG2000Lossless))
    (volume,) = scan(tmp_path, PSEUDONYMS).volumes
    assert [each.id for each in volume.findings] == ["identical-duplicates"]


def test_copies_are_compared_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an archive every other frame would be inflated anew for each."""
    opened: list[str] = []
    true = reading.open_file
    monkeypatch.setattr(reading, "open_file", lambda *place: opened.append(place[0]) or true(*place))
    image = enhanced("MR", [Grid(slices=30)])
    write(tmp_path / "first", [image])
    write(tmp_path / "second", [image])
    (volume,) = scan(tmp_path, PSEUDONYMS).volumes
    assert [each.message for each in volume.findings] == [
        "30 image(s) are identical copies of others and were dropped."
    ]
    assert len(opened) == 4  # both for a place in the middle, both for all


def test_damaged_copies_are_kept_and_refused(tmp_path: Path) -> None:
    images = classic()
    write(tmp_path / "first", images)
    for path in write(tmp_path / "second", images):
        path.write_bytes(path.read_bytes()[:-10])
    (volume,) = scan(tmp_path, PSEUDONYMS).volumes
    assert [each.id for each in volume.findings] == ["truncated-pixels", "duplicate-positions"]


def test_frames_without_positions_are_refused_not_guessed(scanned: Callable[..., Inventory]) -> None:
    image = enhanced()
    image.PerFrameFunctionalGroupsSequence = image.PerFrameFunctionalGroupsSequence[:3]
    (volume,) = scanned([image]).volumes
    assert [each.message for each in volume.findings] == ["2 image(s) lack position, orientation or pixel spacing."]


def test_an_object_that_claims_a_billion_frames(scanned: Callable[..., Inventory]) -> None:
    image = enhanced()
    image.NumberOfFrames = 1_000_000_000
    (volume,) = scanned([image]).volumes
    assert volume.verdict == "refused"


def test_nothing_that_can_be_printed_holds_an_identifier(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    who = names()
    write(tmp_path / "Ünusual^Näme", classic(who=who, PatientID="PAT-4711"))
    write(tmp_path / "x", [enhanced(who=who)])
    caplog.set_level(logging.DEBUG)
    inventory = scan(tmp_path, PSEUDONYMS)
    printed = repr(inventory) + repr([volume.frames for volume in inventory.volumes]) + caplog.text
    for secret in (who.series, who.study, who.frame_of_reference, "PAT-4711", "nusual", "ACC-0815", str(tmp_path)):
        assert secret not in printed


def test_warnings_are_back_after_a_scan(tmp_path: Path) -> None:
    write(tmp_path, classic(SliceThickness="3.00000000000000000000001"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scan(tmp_path, PSEUDONYMS)
        assert caught == []
        warnings.warn("still heard", stacklevel=1)
    assert [str(each.message) for each in caught] == ["still heard"]


def test_pydicom_is_heard_again_after_a_scan(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, classic())
    scan(tmp_path, PSEUDONYMS, lambda done, total: logging.getLogger("pydicom").error("not heard"))
    logging.getLogger("pydicom").warning("still heard")
    assert caplog.messages == ["still heard"]
