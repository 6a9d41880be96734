import dataclasses
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from support.case_maker import content_of

from fedsite.dataset import cases
from fedsite.errors import CannotWrite, DataNotFit, SourceMissing


@pytest.fixture
def image():
    return np.random.default_rng(0).normal(size=(2, 5, 6, 7)).astype(np.float16)


@pytest.fixture
def label():
    return np.random.default_rng(1).integers(0, 2, (5, 6, 7)).astype(np.uint8)


def test_a_case_comes_back_as_it_was(tmp_path: Path, image, label):
    file, digest = cases.write_case(tmp_path, "e-abc", content_of(image, label))
    case = cases.open_case(tmp_path / file)
    assert case.id == "e-abc"
    np.testing.assert_array_equal(case.image, image)
    np.testing.assert_array_equal(case.label, label)
    assert case.image.dtype == np.float16
    assert case.label.dtype == np.uint8
    cases.verify_case(tmp_path / file, digest)


def test_a_case_is_mapped_not_read(tmp_path: Path, image, label):
    file, _ = cases.write_case(tmp_path, "e-abc", content_of(image, label))
    case = cases.open_case(tmp_path / file)
    for array in (case.image, case.label):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_the_foreground_is_stored_in_order(tmp_path: Path, image, label):
    file, _ = cases.write_case(tmp_path, "e-abc", content_of(image, np.asfortranarray(label)))
    foreground = cases.open_case(tmp_path / file).foreground()
    assert foreground.dtype == np.int32
    np.testing.assert_array_equal(foreground, np.flatnonzero(label))


def test_the_mask_on_its_own_grid_comes_back(tmp_path: Path, image, label):
    drawn = np.zeros((9, 8, 4), np.uint8, order="F")
    drawn[2:5, 3, 1:3] = 3
    drawn[8, 7, 3] = 1
    affine = np.array([[-0.9, 0.1, 0, 80], [0.1, 0.9, 0, -70.123456789], [0, 0, 5, 1 / 3], [0, 0, 0, 1]])
    content = dataclasses.replace(content_of(image, label), source_label=drawn, source_affine=affine)
    file, _ = cases.write_case(tmp_path, "e-abc", content)
    case = cases.open_case(tmp_path / file)
    assert case.source_grid.shape == drawn.shape
    np.testing.assert_array_equal(case.source_grid.affine, affine)
    np.testing.assert_array_equal(case.affine, content.affine)
    np.testing.assert_array_equal(case.source_label(), drawn)
    assert case.source_label().dtype == np.uint8


def test_without_a_lesion_there_is_no_foreground(tmp_path: Path, image, label):
    file, _ = cases.write_case(tmp_path, "e-abc", content_of(image, np.zeros_like(label)))
    case = cases.open_case(tmp_path / file)
    assert case.foreground().size == 0
    assert not case.source_label().any()


@pytest.mark.parametrize("wanted", [("a",), ("c",), ("a", "b"), ("a", "c"), ("b", "d"), ("a", "b", "d"), ("d", "a")])
def test_inputs_are_picked_by_name(tmp_path: Path, label, wanted):
    image = np.random.default_rng(2).normal(size=(4, *label.shape)).astype(np.float16)
    content = dataclasses.replace(content_of(image, label, "abcd"), missing=("b",))
    file, _ = cases.write_case(tmp_path, "e-abc", content)
    (case,) = cases.CaseFiles([tmp_path / file], wanted)
    assert case.inputs == wanted
    assert case.missing == ("b",)
    expected = image[["abcd".index(name) for name in wanted]]
    np.testing.assert_array_equal(np.asarray(case.image, np.float32), expected.astype(np.float32))
    assert (case.image.shape, case.image.dtype, len(case.image)) == (expected.shape, np.float16, len(wanted))
    np.testing.assert_array_equal(case.image[:, 1:3, 2:, :4], expected[:, 1:3, 2:, :4])
    np.testing.assert_array_equal(case.image[0], expected[0])
    np.testing.assert_array_equal(list(case.image), expected)
    assert cases.open_case(tmp_path / file).inputs == tuple("abcd")
    with pytest.raises(DataNotFit, match="no input e"):
        cases.open_case(tmp_path / file, ["a", "e"])


def test_a_case_of_the_first_version_is_told(tmp_path: Path, image, label):
    path = tmp_path / "e-abc-000000000000.safetensors"
    save_file({"image": image, "label": label}, path)
    with pytest.raises(DataNotFit, match="earlier version") as caught:
        cases.open_case(path)
    assert "prepare-data" in caught.value.mend


@pytest.mark.parametrize("inputs", ["a", "abd"])
def test_a_patch_touches_only_what_it_needs(tmp_path: Path, inputs):
    """Pages of the file that a patch in the middle brings into this process, 48 voxels a side of 160 x 200 x 160."""
    shape = (160, 200, 160)
    known = "a" if inputs == "a" else "abcd"
    empty = content_of(np.zeros((len(known), *shape), np.float16), np.zeros(shape, np.uint8), known)
    file, _ = cases.write_case(tmp_path, "e-abc", empty)
    # Out of the page cache, where it lies in large pieces; first onto the disk, also where our own fsync is none.
    subprocess.run(["sync", tmp_path / file], env={"PATH": os.environ["PATH"]}, check=True)
    with (tmp_path / file).open("rb") as stored:
        os.posix_fadvise(stored.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    case = cases.open_case(tmp_path / file, inputs)
    assert resident(tmp_path / file) == 0
    assert case.image[:, 56:104, 76:124, 56:104].sum() == 0
    assert 0 < resident(tmp_path / file) < 0.15 * (tmp_path / file).stat().st_size


def resident(path: Path) -> int:
    """Bytes of the mapped file that lie in this process's memory (proc(5), smaps)."""
    mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    ours = [mapping for mapping in mappings if mapping.partition("\n")[0].endswith(str(path))]
    return sum(1024 * int(re.search(r"^Rss: +(\d+) kB", mapping, re.MULTILINE)[1]) for mapping in ours)


def test_equal_content_gives_equal_bytes_and_name(tmp_path: Path, image, label):
    one = cases.encode_case("e-abc", content_of(image, label))
    # Another memory layout is the same content.
    other = cases.encode_case("e-abc", content_of(np.asfortranarray(image), np.asfortranarray(label)))
    assert one == other
    changed = label.copy()
    changed[0, 0, 0] ^= 1
    assert cases.encode_case("e-abc", content_of(image, changed)).file != one.file


def test_an_image_is_told_by_its_first_input(image, label):
    """The same patient under another id may have been exported without the second."""
    one = cases.encode_case("e-abc", content_of(image, label))
    image[1] = 0
    other = cases.encode_case("e-def", content_of(image, label))
    assert other.sha256 != one.sha256
    assert other.image_sha256 == one.image_sha256
    image[0, 0, 0, 0] += 1
    assert cases.encode_case("e-def", content_of(image, label)).image_sha256 != one.image_sha256


def test_a_case_holds_no_pickle_and_is_private(tmp_path: Path, image, label):
    file, _ = cases.write_case(tmp_path, "e-abc", content_of(image, label))
    path = tmp_path / file
    assert path.stat().st_mode & 0o777 == 0o600
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert content[8:9] == b"{"
    indices = 4 * np.count_nonzero(label)
    source = 5 * np.count_nonzero(label)
    assert len(content) == 8 + length + image.nbytes + label.nbytes + indices + source


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_float16_cannot_hold_is_refused(tmp_path: Path, image, label, value):
    image[0, 1, 2, 3] = value
    with pytest.raises(DataNotFit, match="float16"):
        cases.write_case(tmp_path, "e-abc", content_of(image, label))
    assert not (tmp_path / cases.FOLDER).exists()


def test_image_and_label_must_share_a_grid(tmp_path: Path, image, label):
    with pytest.raises(DataNotFit, match="one grid"):
        cases.write_case(tmp_path, "e-abc", content_of(image, label[:-1]))


def test_a_case_that_is_not_there(tmp_path: Path):
    with pytest.raises(SourceMissing):
        cases.open_case(tmp_path / "e-abc-000000000000.safetensors")


def test_another_content_fails_verification(tmp_path: Path, image, label):
    file, digest = cases.write_case(tmp_path, "e-abc", content_of(image, label))
    path = tmp_path / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataNotFit, match="checksum"):
        cases.verify_case(path, digest)


def test_no_room_for_cases(tmp_path: Path, image, label):
    (tmp_path / cases.FOLDER).write_text("a file where a folder must be")
    with pytest.raises(CannotWrite):
        cases.write_case(tmp_path, "e-abc", content_of(image, label))


@pytest.mark.parametrize("cut", [0, 3, 8, 40, -1])
def test_a_truncated_case_is_refused(tmp_path: Path, image, label, cut):
    file, _ = cases.write_case(tmp_path, "e-abc", content_of(image, label))
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataNotFit, match="damaged"):
        cases.open_case(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 900), value=st.integers(0, 255))
def test_a_damaged_header_is_refused_or_harmless(tmp_path: Path, position, value):
    image = np.zeros((1, 2, 2, 2), np.float16)
    content = bytearray(cases.encode_case("e-abc", content_of(image, image[0].astype(np.uint8))).content)
    content[position % len(content)] = value
    path = tmp_path / "e-abc-000000000000.safetensors"
    path.write_bytes(content)
    try:
        case = cases.open_case(path)
    except DataNotFit:
        return
    assert case.image.shape == (1, *case.label.shape)
    assert case.image.nbytes + case.label.nbytes == image.nbytes + 8
    case.source_label()


def test_many_cases_are_mapped_one_at_a_time(tmp_path: Path, image, label, monkeypatch):
    files = [cases.write_case(tmp_path, f"e-{number}", content_of(image, label))[0] for number in range(4)]
    opened = []
    original = cases.open_case
    monkeypatch.setattr(cases, "open_case", lambda path, inputs: opened.append(path) or original(path, inputs))
    many = cases.CaseFiles([tmp_path / file for file in files])
    assert len(many) == 4
    assert opened == []
    assert many[2].id == "e-2"
    assert len(opened) == 1
    assert [case.id for case in many[1:3]] == ["e-1", "e-2"]


def test_only_our_own_files_count_as_cases(tmp_path: Path, image, label):
    file, _ = cases.write_case(tmp_path, "e-abc", content_of(image, label))
    folder = tmp_path / cases.FOLDER
    (folder / "somebody-elses.safetensors").write_bytes(b"")
    (folder / "notes.txt").write_bytes(b"")
    assert cases.stored(folder) == [tmp_path / file]
