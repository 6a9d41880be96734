"""The own walk over a header finds what pydicom finds, and leaves to pydicom what is out of the ordinary."""

import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import data as pydicom_data
from pydicom import uid
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from support.dicom_maker import Grid, classic, enhanced, write

from fedsite.dicom.header import elements, frames
from fedsite.dicom.header.elements import Parsed
from fedsite.dicom.header.values import Header, flatten, number, numbers, text, tolerant_reading, value_at, whole, words

# What pydicom ships with itself, not what it would fetch.
BUNDLED = Path(pydicom_data.__file__).parent
SYNTAXES = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)


@pytest.fixture(autouse=True)
def _tolerant() -> Iterator[None]:
    with tolerant_reading():
        yield


def dicom_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.read_bytes()[128:132] == b"DICM"]


def parse(content: bytes, wanted: dict[int, BaseTag], own: bool = True) -> Parsed:
    reader = elements.read if own else elements.read_with_pydicom
    return reader(io.BytesIO(content), len(content), wanted, wanted)


def assert_same(content: bytes) -> None:
    """Both readers give the same: of the attributes that a scan wants, and of all that there are."""
    try:
        by_pydicom = parse(content, frames.WANTED, own=False)
    except Exception:  # noqa: BLE001 - whatever pydicom makes of damage
        with pytest.raises(Exception):  # noqa: B017
            parse(content, frames.WANTED)
        return
    every = {int(tag): BaseTag(tag) for tag in by_pydicom.tags}
    for wanted in (frames.WANTED, every):
        own, by_pydicom = parse(content, wanted), parse(content, wanted, own=False)
        for name in ("media_class", "syntax", "implicit", "little"):
            assert getattr(own, name) == getattr(by_pydicom, name), name
        assert set(own.tags) == set(by_pydicom.tags)
        assert {tag: bool(value) for tag, value in own.noted.items()} == {
            tag: bool(value) for tag, value in by_pydicom.noted.items()
        }
        assert own.dataset.keys() == by_pydicom.dataset.keys()
        if own.syntax != uid.DeflatedExplicitVRLittleEndian:  # else counted in the inflated data set
            assert (own.pixels, own.size) == (by_pydicom.pixels, by_pydicom.size)
        assert_same_values(own, by_pydicom)


def assert_same_values(own: Parsed, by_pydicom: Parsed) -> None:
    converted = {tag: value_at(by_pydicom.dataset, tag) for tag in by_pydicom.dataset.keys()}  # noqa: SIM118
    plain, converted_header = flatten(own.dataset), flatten(by_pydicom.dataset)
    assert plain.keys() == converted_header.keys()
    for keyword, value in converted_header.items():
        first = value[0] if isinstance(value, MultiValue | list) and len(value) else value
        for reading in (number, whole, vector) if isinstance(first, int | float) else (text, words, number):
            assert repr(reading(plain, keyword)) == repr(reading(converted_header, keyword)), keyword
    assert {tag: value_at(own.dataset, tag) for tag in converted} == converted


def vector(header: Header, keyword: str) -> tuple[float, ...] | None:
    return numbers(header, keyword, 3)


@pytest.mark.parametrize("path", dicom_files(BUNDLED), ids=lambda path: path.stem)
def test_files_of_pydicom(path: Path) -> None:
    assert_same(path.read_bytes())


def test_real_data(real_data: Path) -> None:
    # The header differs little from slice to slice: of each folder the first, the last and one between.
    by_folder: dict[Path, list[Path]] = {}
    for path in dicom_files(real_data):
        by_folder.setdefault(path.parent, []).append(path)
    for paths in by_folder.values():
        for path in {paths[0], paths[len(paths) // 2], paths[-1]}:
            assert_same(path.read_bytes())


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_ordinary_files_need_no_pydicom(tmp_path: Path, syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = write(tmp_path, [enhanced("MR", [Grid(slices=3)])], syntax=syntax)
    assert_same(path.read_bytes())
    monkeypatch.setattr(elements, "read_with_pydicom", None)
    assert parse(path.read_bytes(), frames.WANTED).pixels != (0, 0)


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES[:3])
def test_sequences_are_stepped_over(tmp_path: Path, syntax: str, undefined: bool) -> None:
    image = enhanced("CT", [Grid(slices=3)])
    image.PerFrameFunctionalGroupsSequence.is_undefined_length = undefined
    for item in image.PerFrameFunctionalGroupsSequence:
        item.is_undefined_length_sequence_item = undefined
    (path,) = write(tmp_path, [image], syntax=syntax)
    assert_same(path.read_bytes())
    parsed = parse(path.read_bytes(), {0x00280010: BaseTag(0x00280010)})
    assert value_at(parsed.dataset, BaseTag(0x00280010)) == image.Rows
    assert {0x52009229, 0x52009230} <= set(parsed.tags)


def test_a_header_longer_than_a_block(tmp_path: Path) -> None:
    image = classic("MR")[0]
    image.add_new(0x00291010, "OB", b"\1" * 100_000)
    image.add_new(0x00190010, "LO", "SOMEBODY")
    (path,) = write(tmp_path, [image])
    assert_same(path.read_bytes())


def test_elements_out_of_order_are_left_to_pydicom(tmp_path: Path) -> None:
    (path,) = write(tmp_path, classic("MR")[:1])
    content = path.read_bytes()
    start = content.index(b"\x28\x00\x10\x00US")
    rows, rest = content[start : start + 10], content[start + 10 :]
    pixels = rest.index(b"\xe0\x7f\x10\x00OW")
    for moved in (rest[:10] + rows + rest[10:], rest[:pixels] + rows + rest[pixels:]):
        assert_same(content[:start] + moved)
        assert "Rows" in flatten(parse(content[:start] + moved, frames.WANTED).dataset)


def test_a_value_behind_the_end_is_left_to_pydicom(tmp_path: Path) -> None:
    (path,) = write(tmp_path, classic("MR")[:1])
    content = path.read_bytes()
    for stop in range(132, content.index(b"\xe0\x7f\x10\x00OW") + 12, 7):
        assert_same(content[:stop])


def test_sequences_within_sequences_without_end(tmp_path: Path) -> None:
    """Undefined lengths nested deeper than any object: neither reader may run out of stack."""
    (path,) = write(tmp_path, classic("MR")[:1])
    content = path.read_bytes()
    start = content.index(b"\xe0\x7f\x10\x00OW")
    nested = b"\x28\x00\x00\x99SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    (tmp_path / "deep").write_bytes(content[:start] + nested * 5000)
    assert frames.read_frames(str(tmp_path / "deep")) == "damaged-header"


def deflated(path: Path, change: bytes) -> bytes:
    """A deflated file whose data set goes on with `change`."""
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    data_set = zlib.decompress(content[start:], -zlib.MAX_WBITS) + change
    return content[:start] + deflate.compress(data_set) + deflate.flush()


def test_a_deflated_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "read_with_pydicom", None)
    (path,) = write(tmp_path, classic("MR")[:1], syntax=uid.DeflatedExplicitVRLittleEndian)
    for name, megabytes in (("fair", 1), ("bomb", 70)):
        (tmp_path / name).write_bytes(deflated(path, b"\xfc\xff\xfc\xffOB\0\0" + b"\0" * (megabytes << 20)))
    (fair,), (bomb,) = (frames.read_frames(str(tmp_path / name)) for name in ("fair", "bomb"))
    assert (fair.instance.pixels.fault, bomb.instance.pixels.fault) == ("", "wrong-length")


def test_a_few_deflated_bytes_are_no_large_image(tmp_path: Path) -> None:
    air = np.zeros((1, 4096, 2100), np.uint16)
    noise = np.random.default_rng(1).integers(0, 2, air.shape, np.uint16)
    for voxels, fault in ((air, "wrong-length"), (noise, "")):
        images = classic("MR", Grid(2100, 4096, 1), voxels)
        (path,) = write(tmp_path, images, syntax=uid.DeflatedExplicitVRLittleEndian)
        (frame,) = frames.read_frames(str(path))
        assert frame.instance.pixels.fault == fault


def test_a_deflated_data_set_that_breaks_off(tmp_path: Path) -> None:
    (path,) = write(tmp_path, classic("MR", Grid(rows=64, columns=64))[:1], syntax=uid.DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    (frame,) = frames.read_frames(str(path))
    assert frame.instance.pixels.fault == "truncated-pixels"


def restated(content: bytes, stored: bytes, otherwise: bytes) -> bytes:
    """The same bytes, with one element's VR another one."""
    assert content.count(stored) == 1
    return content.replace(stored, stored[:4] + otherwise)


@pytest.mark.parametrize("otherwise", [b"FD", b"FL", b"UL", b"SS", b"OB", b"SQ"])
def test_a_number_stated_as_something_else_is_none(tmp_path: Path, otherwise: bytes) -> None:
    """The bytes of `1.000000` are a double too, of 1.4e-76; what has a long length takes what follows into it."""
    (path,) = write(tmp_path, classic("MR", RescaleSlope="1.000000")[:1])
    content = restated(path.read_bytes(), b"\x28\x00\x53\x10DS", otherwise)
    if otherwise in (b"OB", b"SQ"):
        content = content.replace(otherwise + b"\x08\x00", otherwise + b"\0\0\x08\0\0\0")
    assert_same(content)
    assert repr(flatten(parse(content, frames.WANTED).dataset)["RescaleSlope"]) == "nan"


@pytest.mark.parametrize("otherwise", [b"DS", b"IS", b"LO", b"SH", b"ST", b"UN"])
def test_a_number_in_digits_is_the_same_in_any_text(tmp_path: Path, otherwise: bytes) -> None:
    (path,) = write(tmp_path, classic("MR", RescaleSlope="1.000000")[:1])
    content = restated(path.read_bytes(), b"\x28\x00\x53\x10DS", otherwise)
    if otherwise == b"UN":
        content = content.replace(b"UN\x08\x00", b"UN\0\0\x08\0\0\0")
    assert_same(content)
    assert number(flatten(parse(content, frames.WANTED).dataset), "RescaleSlope") == 1


def test_a_text_stated_as_a_number_is_absent(tmp_path: Path) -> None:
    (path,) = write(tmp_path, classic("MR", PatientID="ABCD")[:1])
    content = restated(path.read_bytes(), b"\x10\x00\x20\x00LO", b"FL")
    assert_same(content)
    assert "PatientID" not in flatten(parse(content, frames.WANTED).dataset)


@pytest.mark.parametrize(("otherwise", "fault"), [(b"OB", ""), (b"UN", ""), (b"OF", "no-pixel-data")])
def test_pixels_are_bytes_or_words(tmp_path: Path, otherwise: bytes, fault: str) -> None:
    (path,) = write(tmp_path, classic("MR")[:1])
    path.write_bytes(restated(path.read_bytes(), b"\xe0\x7f\x10\x00OW", otherwise))
    assert_same(path.read_bytes())
    (frame,) = frames.read_frames(str(path))
    assert frame.instance.pixels.fault == fault


@given(st.data())
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_headers_read_the_same(damageable: list[bytes], data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(damageable)))
    header = min(len(content), 2500) - 132
    for _ in range(data.draw(st.integers(1, 3))):
        place = 132 + data.draw(st.integers(0, header - 1))
        content[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    outcomes = [_outcome(bytes(content), own) for own in (True, False)]
    assert outcomes[0] == outcomes[1]


@pytest.fixture(scope="module")
def damageable() -> list[bytes]:
    names = ("CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm", "liver_1frame.dcm")
    return [path.read_bytes() for path in dicom_files(BUNDLED) if path.name in names]


def _outcome(content: bytes, own: bool) -> object:
    try:
        parsed = parse(content, frames.WANTED, own)
        header = flatten(parsed.dataset)
    except Exception as error:  # noqa: BLE001 - the kind of damage does not matter
        return error is not None
    known = sorted((keyword, number(header, keyword)) for keyword in header)
    texts = [text(header, keyword) for keyword, value in known if value is None]
    return parsed.media_class, parsed.syntax, parsed.implicit, parsed.little, parsed.pixels, repr((known, texts))
