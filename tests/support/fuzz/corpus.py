"""The series that are mutated: made ones of every kind that fedsite reads, and real ones where they are at hand.

Small, so that a case takes milliseconds; always the same bytes, so that a case can be made again.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from zlib import crc32

import gdcm
import numpy as np
from pydicom import uid
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from support import dicom_maker
from support.dicom_maker import AXIAL, CORONAL, SAGITTAL, Grid, Names, classic, compress, diffusion_group, enhanced
from support.fuzz.draft import Corpus
from support.fuzz.elements import PIXEL_DATA, Element, Fragments, parse, walk
from support.label_maker import PLANTED, box, on_slice, segmentation, structure_set

GRID = Grid(columns=20, rows=16, slices=6)
LARGER = replace(GRID, columns=32, rows=32)  # the least that the encoder of JPEG 2000 takes
OBLIQUE = replace(GRID, row=(0.8, 0.6, 0.0), column=(0.0, 0.0, -1.0))
LOCALIZERS = [replace(GRID, slices=3, row=row, column=column) for row, column in (AXIAL, SAGITTAL, CORONAL)]

_ROOT = "1.2.826.0.1.3680043.10.1234"
_CHANCE = "1.2.826.0.1.3680043."
_CLOCK = {"DA": "20200202", "TM": "020202", "DT": "20200202020202"}
_BIRTH_DATE = 0x00100030

Maker = Callable[[Names], Iterable[Dataset]]

_MAKERS: dict[str, tuple[Maker, str]] = {}

# Attributes that say who is in the picture; PS3.15 table E.1-1 has more, these are what messages could repeat.
IDENTIFYING = frozenset(
    {0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00080050, 0x00080090, 0x00080080, 0x00101000, 0x00101001}
    | {0x00080018, 0x0020000D, 0x0020000E, 0x00200052, 0x00081048, 0x00081050, 0x00081070, 0x00101040}
)
REAL = "real:"
MOST_SLICES, MOST_BYTES = 4, 3_600_000


def made() -> Corpus:
    """The series made here."""
    return {name: _files(name) for name in _MAKERS}


def real(folder: Path) -> Corpus:
    """Real series that a reader must load, from the folder of test data; of long ones, some neighbouring slices."""
    truth = json.loads((folder / "truth.json").read_text())
    found = {}
    for series in truth:
        name = series["series"]
        if series["expect"] == "load":
            paths = sorted(path for path in folder.joinpath(*name.split("__", 1)).iterdir() if path.is_file())
            contents = [content for path in paths if (content := path.read_bytes())[128:132] == b"DICM"]
            found[REAL + name] = tuple(_neighbours(contents))
    return {name: files for name, files in found.items() if 0 < sum(map(len, files)) < MOST_BYTES}


def secrets(files: Sequence[bytes]) -> frozenset[str]:
    """What no message may repeat: the values of identifying attributes in these files."""
    found = set()
    for content in files:
        for _, element in walk(parse(content).dataset):
            if element.tag in IDENTIFYING:
                found.add(_text(element))
    return frozenset(secret for secret in found if len(secret) > 5)


def _text(element: Element) -> str:
    return element.content.rstrip(b"\0 ").decode("latin-1")


def _neighbours(contents: list[bytes]) -> list[bytes]:
    """Some slices from the middle of the stack, where there are more (along z, which is good enough for that)."""
    if len(contents) <= MOST_SLICES:
        return contents

    def height(content: bytes) -> tuple[float, ...]:
        (position, *_) = parse(content).find(0x00200032)
        return tuple(float(part) for part in reversed(position.content.split(b"\\")))

    def leaning(content: bytes) -> tuple[float, ...]:
        return height(content)[::-1]

    spread = [len({key(content)[0] for content in contents}) for key in (height, leaning)]
    ordered = sorted(contents, key=height if spread[0] >= spread[1] else leaning)
    middle = len(ordered) // 2 - MOST_SLICES // 2
    return ordered[middle : middle + MOST_SLICES]


def _makes(syntax: str = uid.ExplicitVRLittleEndian) -> Callable[[Maker], Maker]:
    def register(maker: Maker) -> Maker:
        _MAKERS[maker.__name__] = maker, syntax
        return maker

    return register


@cache
def _files(name: str) -> tuple[bytes, ...]:
    """The bytes of one made series, under UIDs that depend on its name alone."""
    own = f"{_ROOT}.{crc32(name.encode())}"
    maker, syntax = _MAKERS[name]
    images = list(maker(Names(f"{own}.1", f"{own}.2", f"{own}.3", patient=f"PAT-{crc32(name.encode())}")))
    for number, image in enumerate(images):
        _fix(image, f"{own}.5.{number}")
        image.SOPInstanceUID = f"{own}.4.{number}"
        if hasattr(image, "file_meta"):
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    with tempfile.TemporaryDirectory() as folder:
        return tuple(path.read_bytes() for path in dicom_maker.write(Path(folder), images, syntax))


def _fix(image: Dataset, own: str) -> None:
    """Gives what was made up by chance or by the clock values that are always the same."""
    known: dict[str, str] = {}

    def fix(_: Dataset, element: DataElement) -> None:
        if element.VR == "UI" and str(element.value).startswith(_CHANCE) and not str(element.value).startswith(_ROOT):
            element.value = known.setdefault(str(element.value), f"{own}.{len(known)}")
        elif element.VR in _CLOCK and element.value and element.tag != _BIRTH_DATE:
            element.value = _CLOCK[element.VR]

    image.walk(fix)


def _smooth(grid: Grid) -> np.ndarray:
    """Voxels that compress, with some texture: [slice, row, column]."""
    z, y, x = np.indices((grid.slices, grid.rows, grid.columns))
    return (900 + 20 * x + 30 * y + 50 * z + grid.voxels() % 16).astype(np.uint16)


def _jpeg_lossless(image: Dataset) -> Dataset:
    """An image compressed by GDCM: pydicom has no encoder for this syntax."""
    with tempfile.TemporaryDirectory() as folder:
        (plain,) = dicom_maker.write(Path(folder), [image])
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(plain))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        packed = Path(folder) / "packed"
        writer.SetFileName(str(packed))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        pixels = parse(packed.read_bytes()).first(PIXEL_DATA)
    assert pixels
    assert isinstance(pixels.value, Fragments)
    image.PixelData = encapsulate(pixels.value.parts[1:])
    image["PixelData"].is_undefined_length = True
    image.file_meta.TransferSyntaxUID = uid.JPEGLosslessSV1
    return image


@_makes()
def ct(who: Names) -> Iterable[Dataset]:
    return classic("CT", GRID, _smooth(GRID), who)


@_makes()
def mr_oblique(who: Names) -> Iterable[Dataset]:
    return classic("MR", OBLIQUE, _smooth(OBLIQUE), who)


@_makes(uid.ImplicitVRLittleEndian)
def mr_implicit(who: Names) -> Iterable[Dataset]:
    return classic("MR", GRID, _smooth(GRID), who)


@_makes(uid.ExplicitVRBigEndian)
def ct_big_endian(who: Names) -> Iterable[Dataset]:
    return classic("CT", GRID, _smooth(GRID), who)


@_makes(uid.DeflatedExplicitVRLittleEndian)
def ct_deflated(who: Names) -> Iterable[Dataset]:
    return classic("CT", GRID, _smooth(GRID), who)


@_makes()
def ct_signed(who: Names) -> Iterable[Dataset]:
    return classic(
        "CT", GRID, _smooth(GRID).astype(np.int16) - 1024, who, BitsStored=16, HighBit=15, RescaleIntercept=0
    )


@_makes()
def mr_slope(who: Names) -> Iterable[Dataset]:
    return classic("MR", GRID, _smooth(GRID), who, RescaleSlope="1.7", RescaleIntercept="-3.5")


@_makes()
def ct_rle(who: Names) -> Iterable[Dataset]:
    return compress(classic("CT", GRID, _smooth(GRID), who), uid.RLELossless)


@_makes()
def mr_jpeg_ls(who: Names) -> Iterable[Dataset]:
    return compress(classic("MR", GRID, _smooth(GRID), who), uid.JPEGLSLossless)


@_makes()
def mr_jpeg_2000(who: Names) -> Iterable[Dataset]:
    return compress(classic("MR", LARGER, _smooth(LARGER), who), uid.JPEG2000Lossless)


@_makes()
def ct_jpeg_lossless(who: Names) -> Iterable[Dataset]:
    return map(_jpeg_lossless, classic("CT", GRID, _smooth(GRID), who))


@_makes()
def mr_enhanced(who: Names) -> Iterable[Dataset]:
    return [enhanced("MR", [GRID], voxels=_smooth(GRID), who=who)]


@_makes()
def ct_enhanced(who: Names) -> Iterable[Dataset]:
    image = enhanced("CT", [OBLIQUE], voxels=_smooth(OBLIQUE), who=who)
    image.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleIntercept = -1024
    return [image]


@_makes()
def mr_enhanced_rle(who: Names) -> Iterable[Dataset]:
    return compress([enhanced("MR", [GRID], voxels=_smooth(GRID), who=who)], uid.RLELossless)


@_makes()
def mr_enhanced_diffusion(who: Names) -> Iterable[Dataset]:
    groups = [diffusion_group(0, "NONE"), diffusion_group(1000, "DIRECTIONAL", (1, 0, 0))]
    return [enhanced("MR", [GRID, GRID], groups, who=who)]


@_makes()
def mr_diffusion(who: Names) -> Iterable[Dataset]:
    """b0 and trace in one series, as Siemens writes them."""
    series = []
    for number, b_value in enumerate((0, 1000)):
        images = classic("MR", GRID, _smooth(GRID), who, 1 + number * GRID.slices)
        for image in images:
            block = image.private_block(0x0019, "SIEMENS MR HEADER", create=True)
            block.add_new(0x0C, "IS", str(b_value))
            block.add_new(0x0D, "CS", "NONE" if b_value else "DIRECTIONAL")
        series += images
    return series


def _labelled(who: Names) -> list[Dataset]:
    """Images that a label can refer to: their UIDs stay as they are."""
    images = classic("MR", GRID, _smooth(GRID), who)
    root = who.series.rpartition(".")[0]
    for number, image in enumerate(images):
        image.SOPInstanceUID = f"{root}.4.{number}"
    return images


@_makes()
def mr_segmentation(who: Names) -> Iterable[Dataset]:
    images = _labelled(who)
    marked = np.zeros((GRID.slices, GRID.rows, GRID.columns), np.uint8)
    marked[2:4, 3:7, 10:17] = 1
    return [*images, segmentation(images, marked)]


@_makes()
def mr_structure_set(who: Names) -> Iterable[Dataset]:
    images = _labelled(who)
    contours = {PLANTED[1]: [on_slice(GRID, index, box((4.5, 4.5), (9.5, 8.5))) for index in (2, 3)]}
    return [*images, structure_set(images, contours)]


@_makes()
def ct_tilted(who: Names) -> Iterable[Dataset]:
    return classic("CT", replace(GRID, shear=(0.0, 0.7, 0.0)), _smooth(GRID), who)


@_makes()
def mr_4d(who: Names) -> Iterable[Dataset]:
    times = (classic("MR", GRID, GRID.voxels(time), who, 1, TemporalPositionIdentifier=time) for time in (1, 2))
    return [image for images in times for image in images]


@_makes()
def localizer(who: Names) -> Iterable[Dataset]:
    return [image for grid in LOCALIZERS for image in classic("MR", grid, None, who)]
