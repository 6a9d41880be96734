"""Compressed frames: what they are in the file, which codec decodes them, and what becomes of damaged ones."""

import base64
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from support import jpeg_encoders
from support.dicom_maker import Grid, classic, compress

from fedsite.dicom.checks import VolumeRefused
from fedsite.dicom.model import Volume
from fedsite.dicom.voxels import decoder
from fedsite.dicom.voxels.codecs import COMPRESSED, Wanted, decode
from fedsite.dicom.voxels.decoder import Decoder, UndecodableFrame
from fedsite.dicom.voxels.encapsulated import compressed_frames
from fedsite.dicom.voxels.reading import read_volume

DELIMITER = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
ROWS, COLUMNS = 32, 40
PLANE = np.add.outer(np.arange(ROWS) * 40, np.arange(COLUMNS) * 7).astype(np.uint16)
SMALL = np.add.outer(np.arange(12) * 100, np.arange(16) * 7).astype(np.uint16)
# SMALL, encoded by OpenJPH and libjpeg-turbo: nothing that is installed here writes these.
HTJ2K = (
    "/0//UQApQAAAAAAQAAAADAAAAAAAAAAAAAAAEAAAAAwAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQkJCQ"
    "iIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAHcAAf+TwAAmg/wFB3QAAMAAEsAAEwD+AId0AK7+Aod0AMAAEsAAEwDeAAJ0APf9AAI0"
    "AMAAE8AAFWDu/qMjwnUAwIEDB/7AMYG+tgDAACqgABaIJEn+54Cnp0J3AMZGo9FoNBr6CEB79iEB7LoA/9k="
)
EXTENDED = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoKCgoKBggLDAsKDAkK"
    "Cgr/wQALDAAMABABAREA/8QAFgABAQEAAAAAAAAAAAAAAAAACAwN/8QAIRAAAAMIAwAAAAAAAAAAAAAAAAgoAwkKCyMzQ1FF0+L/2gAIAQEAAD8Axdkv"
    "8jhsJA1wXkOAv8jhsJA1wXkU1hf4SVyDQTBrOx6Q4C/wkrkGgmDWdj0j/9k="
)


def wanted(syntax: str, rows: int = ROWS, columns: int = COLUMNS, bits: int = 16) -> Wanted:
    return Wanted(syntax, rows, columns, bits)


def frame_of(syntax: str) -> tuple[np.ndarray, bytes]:
    """A plane of stored values, and its compressed frame."""
    if syntax in (uid.HTJ2K, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL):
        return SMALL, base64.b64decode(HTJ2K)
    if syntax == uid.JPEGExtended12Bit:
        return SMALL, base64.b64decode(EXTENDED)
    plane = (PLANE // 8).astype(np.uint8) if syntax == uid.JPEGBaseline8Bit else PLANE
    options = {"j2k_cr": [2]} if syntax == uid.JPEG2000 else {}
    (image,) = compress(classic("MR", Grid(COLUMNS, ROWS, 1), plane[None]), syntax, **options)
    return plane, next(compressed_frames(BytesIO(image.PixelData + DELIMITER), 0, 1, [0]))


LOSSY = {uid.JPEGBaseline8Bit: 3, uid.JPEGExtended12Bit: 60, uid.JPEG2000: 8}


@pytest.mark.parametrize("syntax", sorted(COMPRESSED))
def test_every_syntax_is_decoded(syntax: str) -> None:
    plane, frame = frame_of(syntax)
    stored = decode(frame, wanted(syntax, *plane.shape, bits=8 * plane.itemsize))
    read = np.frombuffer(stored.values, f"<u{stored.container}").reshape(plane.shape)
    np.testing.assert_allclose(read.astype(int), plane.astype(int), atol=LOSSY.get(uid.UID(syntax), 0))


def test_syntaxes_are_those_of_the_standard() -> None:
    names = {uid.UID(syntax).keyword for syntax in COMPRESSED}
    assert names == {
        "RLELossless",
        "JPEGBaseline8Bit",
        "JPEGExtended12Bit",
        "JPEGLossless",
        "JPEGLosslessSV1",
        "JPEGLSLossless",
        "JPEGLSNearLossless",
        "JPEG2000Lossless",
        "JPEG2000",
        "HTJ2KLossless",
        "HTJ2KLosslessRPCL",
        "HTJ2K",
    }


def test_twelve_bits_of_somebody_elses_extended_jpeg() -> None:
    content = Path(str(get_testdata_file("JPGExtended.dcm"))).read_bytes()
    frame = content[content.index(b"\xff\xd8\xff") :]
    stored = decode(frame, wanted(uid.JPEGExtended12Bit, 1024, 256))
    read = np.frombuffer(stored.values, "<u2").reshape(1024, 256)
    assert [int(read[420, 140]), int(read[420, 145]), int(read.sum())] == [244, 219, 3767007]  # libjpeg-turbo says so


@pytest.mark.parametrize("syntax", sorted(COMPRESSED - {uid.RLELossless}))
def test_a_stream_that_claims_another_size_is_not_decoded(syntax: str) -> None:
    frame = bytearray(frame_of(syntax)[1])
    if frame.startswith(b"\xff\x4f"):
        struct.pack_into(">LL", frame, 8, 60_000, 60_000)
    else:
        place = next(
            frame.index(marker) for marker in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc3", b"\xff\xf7") if marker in frame
        )
        struct.pack_into(">HH", frame, place + 5, 60_000, 60_000)
    started = time.process_time()
    with pytest.raises(ValueError, match="another size"):
        decode(bytes(frame), wanted(syntax))
    assert time.process_time() - started < 1


def test_run_lengths_give_no_more_than_a_plane() -> None:
    header = struct.pack("<16L", 2, 64, 84, *[0] * 13)
    endless = header + bytes((129, 7)) * 10 + bytes((129, 9)) * 50_000
    stored = decode(endless, wanted(uid.RLELossless))
    assert len(stored.values) == PLANE.nbytes


def test_runs_that_cannot_fill_the_plane() -> None:
    with pytest.raises(ValueError, match="fewer runs"):
        decode(struct.pack("<16L", 2, 64, 66, *[0] * 13) + b"\x81\x07" * 2, wanted(uid.RLELossless, 60_000, 60_000))


@pytest.fixture
def damaged() -> Callable[[int], bytes]:
    """JPEG lossless frames of the kind that GDCM dies of."""
    good = jpeg_encoders.lossless(PLANE, precision=12)

    def damage(seed: int) -> bytes:
        generator = random.Random(seed)
        frame = bytearray(good)
        for _ in range(3):
            frame[generator.randrange(20, len(frame))] = generator.randrange(256)
        return bytes(frame)

    return damage


GOOD = jpeg_encoders.lossless(PLANE)


@pytest.fixture
def own() -> Iterator[Decoder]:
    one = Decoder()
    yield one
    one.close()


def test_a_codec_that_dies_takes_nobody_with_it(own: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []

    class Dying(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: Any) -> None:
            started.append(command)
            super().__init__([sys.executable, "-c", "import os; os.abort()"], **options)

    with monkeypatch.context() as patch:
        patch.setattr(decoder.subprocess, "Popen", Dying)
        with pytest.raises(UndecodableFrame):
            own.decode(GOOD, wanted(uid.JPEGLosslessSV1))
    assert len(started) == 2
    assert own.decode(GOOD, wanted(uid.JPEGLosslessSV1)).precision == 16


def test_a_codec_that_somebody_ended_is_asked_again(own: Decoder) -> None:
    first = own.decode(GOOD, wanted(uid.JPEGLosslessSV1))
    assert own._child is not None
    os.kill(own._child.pid, signal.SIGKILL)
    assert bytes(own.decode(GOOD, wanted(uid.JPEGLosslessSV1)).values) == bytes(first.values)


def test_an_interrupt_is_the_parents_business(own: Decoder) -> None:
    own.decode(GOOD, wanted(uid.JPEGLosslessSV1))
    assert own._child is not None
    own._child.send_signal(signal.SIGINT)
    own.decode(GOOD, wanted(uid.JPEGLosslessSV1))
    assert own._child.poll() is None


def test_damaged_frames_end_in_an_exception(own: Decoder, damaged: Callable[[int], bytes]) -> None:
    refused = 0
    for seed in range(60):
        try:
            own.decode(damaged(seed), wanted(uid.JPEGLosslessSV1))
        except UndecodableFrame:
            refused += 1
    assert refused > 10
    assert own.decode(GOOD, wanted(uid.JPEGLosslessSV1))


def test_a_codec_that_hangs_is_ended(own: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    own.decode(GOOD, wanted(uid.JPEGLosslessSV1))
    child = own._child
    assert child is not None
    os.kill(child.pid, signal.SIGSTOP)
    monkeypatch.setattr(decoder, "SECONDS", 0.2)
    with pytest.raises(UndecodableFrame):
        own.decode(GOOD, wanted(uid.JPEGLosslessSV1))
    assert child.returncode == -signal.SIGKILL


def test_an_interrupted_answer_is_not_taken_for_the_next(own: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    own.decode(GOOD, wanted(uid.JPEGLosslessSV1))

    def interrupted(connection: Connection, *request: Any) -> bytes:
        asked(connection, *request)
        raise KeyboardInterrupt

    asked = decoder._ask
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "_ask", interrupted)
        with pytest.raises(KeyboardInterrupt):
            own.decode(GOOD, wanted(uid.JPEGLosslessSV1))
    assert own._child is None


def test_a_codec_gets_no_more_than_its_memory(own: Decoder) -> None:
    own.decode(GOOD, wanted(uid.JPEGLosslessSV1))
    assert own._child is not None
    limits = Path(f"/proc/{own._child.pid}/limits").read_text()
    (line,) = (line for line in limits.splitlines() if line.startswith("Max address space"))
    assert line.split()[3:5] == [str(decoder.MEMORY)] * 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_gets_its_own_child(own: Decoder) -> None:
    expected = bytes(own.decode(GOOD, wanted(uid.JPEGLosslessSV1)).values)
    assert own._child is not None
    theirs = own._child.pid
    forked = os.fork()
    if forked == 0:
        same = bytes(own.decode(GOOD, wanted(uid.JPEGLosslessSV1)).values) == expected
        fresh = own._child is not None and own._child.pid != theirs
        own.close()
        os._exit(0 if same and fresh else 1)
    assert os.waitpid(forked, 0)[1] == 0
    assert own._child.poll() is None
    assert bytes(own.decode(GOOD, wanted(uid.JPEGLosslessSV1)).values) == expected


def test_damage_is_a_finding_of_the_volume(only: Callable[..., Volume]) -> None:
    images = compress(classic(), uid.JPEGLosslessSV1)
    images[1].PixelData = images[1].PixelData.replace(b"\xff\xc4", b"\xff\xfe")  # its Huffman table
    with pytest.raises(VolumeRefused, match="cannot be decoded") as refusal:
        read_volume(only(images))
    assert [each.id for each in refusal.value.findings] == ["undecodable-pixels"]


def cut(frame: bytes, parts: int) -> list[bytes]:
    """A frame in fragments of even length."""
    step = len(frame) // parts // 2 * 2
    return [frame[place * step : None if place == parts - 1 else (place + 1) * step] for place in range(parts)]


def items(*contents: bytes) -> bytes:
    """Encapsulated pixel data; the first item is the basic offset table."""
    even = [content + b"\0" * (len(content) % 2) for content in contents]
    body = b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content for content in even)
    return body + DELIMITER


FRAMES = [jpeg_encoders.lossless(PLANE + 100 * index) for index in range(3)]


def frames_in(content: bytes, count: int = 3, picked: tuple[int, ...] = (0, 1, 2)) -> list[bytes]:
    found = compressed_frames(BytesIO(b"before" + content), 6, count, picked)
    return [frame.removesuffix(b"\0") if frame.endswith(b"\xd9\0") else frame for frame in found]


@pytest.mark.parametrize("has_table", [True, False])
@pytest.mark.parametrize("fragments", [1, 2])
def test_fragments_are_put_together(has_table: bool, fragments: int) -> None:
    content = encapsulate(FRAMES, fragments_per_frame=fragments, has_bot=has_table) + DELIMITER
    assert frames_in(content) == FRAMES
    assert frames_in(content, picked=(2,)) == FRAMES[2:]


def test_fragments_of_one_frame_belong_together() -> None:
    assert frames_in(items(b"", *cut(FRAMES[0], 5)), 1, (0,)) == FRAMES[:1]


def test_a_wrong_offset_table_does_no_harm_where_each_frame_is_one_fragment() -> None:
    assert frames_in(items(struct.pack("<3L", 0, 7, 9), *FRAMES)) == FRAMES


def test_frames_that_nothing_tells_apart() -> None:
    pieces = [piece for frame in FRAMES for piece in cut(frame, 2)]
    with pytest.raises(ValueError, match="number of frames"):
        frames_in(items(struct.pack("<2L", 0, len(FRAMES[0])), *pieces))
