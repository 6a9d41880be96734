"""Series for benches: a head as CT and as MR, with the noise that decides how well it compresses, and full headers."""

import sys
from pathlib import Path
from typing import TypeAlias

import numpy as np
from bench_readers import INTERCEPTS, SIDES, Series
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from support.dicom_maker import Grid, classic, compress, enhanced, write

Floats: TypeAlias = NDArray[np.float32]
Stored: TypeAlias = NDArray[np.uint16]

# How a series can come: what a table calls it, and its transfer syntax.
SYNTAXES = {
    "uncompressed": uid.ExplicitVRLittleEndian,
    "enhanced": uid.ExplicitVRLittleEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "RLE": uid.RLELossless,
    "JPEG lossless": uid.JPEGLosslessSV1,
    "JPEG-LS": uid.JPEGLSLossless,
    "JPEG 2000": uid.JPEG2000Lossless,
}
_DESCRIPTION = {
    "StudyDescription": "HEAD",
    "SeriesDescription": "HEAD THIN",
    "ProtocolName": "HEAD ROUTINE",
    "PatientPosition": "HFS",
    "BodyPartExamined": "HEAD",
    "SoftwareVersions": "VB20A",
    "DeviceSerialNumber": "4711",
    "StudyDate": "20260101",
    "SeriesDate": "20260101",
    "AcquisitionDate": "20260101",
    "ContentDate": "20260101",
    "StudyTime": "101112.130000",
    "SeriesTime": "101212.130000",
    "AcquisitionTime": "101312.130000",
    "ContentTime": "101312.130000",
    "WindowCenter": ["40", "600"],
    "WindowWidth": ["80", "2800"],
    "WindowCenterWidthExplanation": ["WINDOW1", "WINDOW2"],
}
_CT = {"KVP": "120", "XRayTubeCurrent": "230", "ExposureTime": "1000", "ConvolutionKernel": ["Hr40f", "3"]}
_MR = {
    "ScanningSequence": "GR",
    "SequenceVariant": ["SK", "SP", "MP"],
    "MRAcquisitionType": "3D",
    "RepetitionTime": "2300",
    "EchoTime": "2.98",
    "FlipAngle": "9",
    "MagneticFieldStrength": "3",
}
# What a Siemens scanner writes beside the image; a reader has to step over it.
_PRIVATE_BYTES = 12_000


def make(folder: Path, modality: str, slices: int, way: str) -> Series:
    """One file a slice, in the syntax named `way`; "enhanced" is one file. The head is the same in every way."""
    side = SIDES[modality]
    grid = Grid(side, side, slices, between_rows=240 / side, between_columns=240 / side, step=1.0)
    stored = _ct(grid) if modality == "CT" else _mr(grid)
    attributes = _DESCRIPTION | (_CT if modality == "CT" else _MR)
    if way == "enhanced":
        images = [enhanced(modality, [grid], voxels=stored, **attributes)]
        (shared,) = images[0].SharedFunctionalGroupsSequence
        shared.PixelValueTransformationSequence[0].RescaleIntercept = INTERCEPTS[modality]
    else:
        images = classic(modality, grid, stored, **attributes)
    for image in images:
        _add_private(image)
    if SYNTAXES[way].is_encapsulated:
        compress(images, SYNTAXES[way])
    write(folder, images, SYNTAXES[way])
    return Series(folder, modality, slices, way)


def _add_private(image: Dataset) -> None:
    block = image.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x08, "CS", "IMAGE NUM 4")
    block.add_new(0x20, "OB", bytes(_PRIVATE_BYTES))


def _radius(grid: Grid) -> Floats:
    """How far each voxel lies from the middle of an oval head whose skull ends at 1."""
    z, y, x = np.meshgrid(
        *(np.linspace(-1.3, 1.3, side) for side in (grid.slices, grid.rows, grid.columns)), indexing="ij"
    )
    away: Floats = np.sqrt(x**2 * 1.5 + y**2 + z**2 * 0.8).astype(np.float32)
    return away


def _smoothed_noise(shape: tuple[int, ...], strength: float) -> Floats:
    """Noise as a reconstruction leaves it: neighbours in a slice are alike."""
    noise = np.random.default_rng(7).standard_normal(shape, np.float32)
    for axis in (1, 2):
        noise = 0.5 * noise + 0.25 * (np.roll(noise, 1, axis) + np.roll(noise, -1, axis))
    scaled: Floats = noise * (strength / noise.std())
    return scaled


def _ct(grid: Grid) -> Stored:
    """Air, scalp, skull, brain and ventricles in Hounsfield units + 1024, as unsigned 12 bit."""
    away = _radius(grid)
    hounsfield = np.select(
        [away < 0.2, away < 0.88, away < 0.92, away < 1, away < 1.06], [8.0, 35, 300, 1100, 40], -1000.0
    )
    stored: Stored = np.rint(np.clip(hounsfield + _smoothed_noise(away.shape, 12) + 1024, 0, 4095)).astype(np.uint16)
    return stored


def _mr(grid: Grid) -> Stored:
    """A T1-weighted head: magnitude of a signal with complex noise, uneven coils."""
    away = _radius(grid)
    signal = np.select([away < 0.2, away < 0.6, away < 0.88, away < 1, away < 1.06], [120.0, 420, 300, 30, 500], 0.0)
    signal *= 1 + 0.3 * np.cos(2 * away)
    noisy = np.hypot(signal + _smoothed_noise(away.shape, 8), _smoothed_noise(away.shape[::-1], 8).T)
    stored: Stored = np.rint(noisy).astype(np.uint16)
    return stored


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
