"""Reading the voxels of one volume: decoded, rescaled, as float32, one slice at a time into one array.

Uncompressed slices are read straight from the file, at the place that the scan found; the rest goes through pydicom
with one fixed codec per transfer syntax. Values are those of the modality LUT (PS3.3 C.11.1): Hounsfield units for
CT, the scanner's units for MR. Display transformations (window, MONOCHROME1, presentation LUT) are not applied.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut

from fedsite.dicom import regrid
from fedsite.dicom.checks import VolumeRefused, finding
from fedsite.dicom.model import Frame, Instance, PixelLayout, Volume
from fedsite.dicom.opening import open_file
from fedsite.dicom.pixeldata import CODECS, NATIVE
from fedsite.dicom.values import tolerant_reading
from fedsite.errors import SourceMissing

Plane = NDArray[Any]


def read_volume(volume: Volume) -> NDArray[np.float32]:
    """The voxels of an accepted volume as float32 [column, row, slice], on the grid that `volume.affine` describes.

    The array is a view in Fortran order: each slice is contiguous in memory.
    Raises VolumeRefused when the volume was refused, its pixel data cannot be decoded or hold no image;
    SourceMissing when a file is gone.
    """
    errors = tuple(each for each in volume.findings if each.severity == "error")
    if errors:
        raise VolumeRefused(errors)
    pixels = volume.frames[0].instance.pixels
    stack = np.empty((len(volume.frames), pixels.rows, pixels.columns), np.float32)
    try:
        with tolerant_reading():
            lowest, highest = _fill(stack, volume.frames)
    except FileNotFoundError as error:
        raise SourceMissing(
            f"Files of volume {volume.id} are no longer there.", "Make the source available and run the command again."
        ) from error
    except Exception as error:  # a codec given damaged data raises nearly anything: one finding
        raise VolumeRefused((finding("undecodable-pixels", volume.id),)) from error
    if lowest == highest:
        raise VolumeRefused((finding("constant-image", volume.id),))
    if volume.regrid:
        stack = regrid.apply(volume.regrid, stack)
    return stack.transpose(2, 1, 0)


def stored_plane(frame: Frame) -> Plane:
    """The stored values of one frame, [row, column], before any rescaling.

    Raises whatever the codec raises on damaged data. Must run inside `values.tolerant_reading`.
    """
    return next(_planes(frame.instance, [frame.index]))


def _fill(stack: NDArray[np.float32], frames: Sequence[Frame]) -> tuple[float, float]:
    """Reads every frame into its slice of the stack; each file is opened once. Gives the lowest and highest value."""
    slots: dict[Instance, list[int]] = {}
    for slot, frame in enumerate(frames):
        slots.setdefault(frame.instance, []).append(slot)
    lowest, highest = np.inf, -np.inf
    for instance, own in slots.items():
        planes = _planes(instance, [frames[slot].index for slot in own])
        for slot, plane in zip(own, planes, strict=True):
            # While the slice is in the cache: its scale, and its part of the extremes.
            _rescale(plane, frames[slot].rescale, stack[slot])
            lowest, highest = min(lowest, stack[slot].min()), max(highest, stack[slot].max())
    return float(lowest), float(highest)


def _rescale(plane: Plane, rescale: tuple[float, float] | None, out: NDArray[np.float32]) -> None:
    slope, intercept = rescale or (1.0, 0.0)
    if slope == 1:
        np.copyto(out, plane, casting="unsafe")
    else:
        np.multiply(plane, np.float32(slope), out=out, casting="unsafe")
    if intercept:
        out += np.float32(intercept)


def _planes(instance: Instance, indices: Sequence[int]) -> Iterator[Plane]:
    """The stored values of some frames of a file, as [row, column]."""
    pixels = instance.pixels
    swapped_bytes = instance.transfer_syntax == uid.ExplicitVRBigEndian and pixels.bits_allocated == 8
    if instance.transfer_syntax in NATIVE and not swapped_bytes and not instance.has_modality_lut:
        return _native_planes(instance, indices)
    return _decoded_planes(instance, indices)


def _native_planes(instance: Instance, indices: Sequence[int]) -> Iterator[Plane]:
    pixels = instance.pixels
    assert pixels.offset is not None
    order = ">" if instance.transfer_syntax == uid.ExplicitVRBigEndian else "<"
    dtype = np.dtype(f"{order}{'i' if pixels.signed else 'u'}{pixels.bits_allocated // 8}")
    with open_file(instance.path, instance.member) as file:
        for index in indices:
            file.seek(pixels.offset + index * pixels.frame_bytes)
            plane = np.frombuffer(bytearray(file.read(pixels.frame_bytes)), dtype)
            yield _without_unused_bits(plane.reshape(pixels.rows, pixels.columns), pixels)


def _decoded_planes(instance: Instance, indices: Sequence[int]) -> Iterator[Plane]:
    with open_file(instance.path, instance.member) as file:
        dataset = pydicom.dcmread(file)
    pixels, syntax = instance.pixels, instance.transfer_syntax
    compressed = syntax in CODECS
    planes = get_decoder(syntax).iter_array(
        dataset,
        indices=indices,
        raw=True,
        decoding_plugin=CODECS.get(uid.UID(syntax), ""),
        correct_unused_bits=compressed,
    )
    for plane, _ in planes:
        if plane.shape != (pixels.rows, pixels.columns):
            raise ValueError("a frame of another size than its header says")
        stored = plane if compressed else _without_unused_bits(plane.copy(), pixels)
        yield apply_modality_lut(stored, dataset) if instance.has_modality_lut else stored


def _without_unused_bits(plane: Plane, pixels: PixelLayout) -> Plane:
    """Clears, in place, what stands beside the stored bits (once used for overlays), and extends the sign."""
    if pixels.bits_stored < pixels.bits_allocated:
        plane <<= pixels.bits_allocated - pixels.high_bit - 1
        plane >>= pixels.bits_allocated - pixels.bits_stored
    return plane
