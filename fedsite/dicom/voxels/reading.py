"""Reading the voxels of one volume: decoded, rescaled, as float32, one slice at a time into one array.

Uncompressed slices are read straight from the file, at the place that the scan found; compressed ones go through one
codec per transfer syntax (`codecs`), in a process of its own (`decoder`). Values are those of the modality LUT (PS3.3
C.11.1): Hounsfield units for CT, the scanner's units for MR (`scaling`). Padding (0028,0120) keeps the value that it
has. Display transformations (window, MONOCHROME1, presentation LUT) are not applied.
"""

from collections.abc import Iterator, Sequence
from io import BufferedIOBase
from itertools import repeat
from typing import Any, cast

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut

from fedsite.dicom import regrid
from fedsite.dicom.checks import VolumeRefused, finding
from fedsite.dicom.header.pixeldata import NATIVE
from fedsite.dicom.header.values import tolerant_reading
from fedsite.dicom.model import Frame, Instance, PixelLayout, Volume
from fedsite.dicom.source.opening import open_file
from fedsite.dicom.voxels import hounsfield
from fedsite.dicom.voxels.codecs import COMPRESSED, Wanted
from fedsite.dicom.voxels.decoder import DECODER
from fedsite.dicom.voxels.encapsulated import compressed_frames
from fedsite.errors import SourceMissing

_BLOCK = 1 << 16

Plane = NDArray[Any]
Stack = NDArray[np.float32]


def read_volume(volume: Volume) -> NDArray[np.float32]:
    """The voxels of an accepted volume as float32 [column, row, slice], on the grid that `volume.affine` describes.

    The array is a view in Fortran order: each slice is contiguous in memory.
    Raises VolumeRefused when the volume was refused, its pixel data cannot be decoded or hold no image, or those of a
    CT are no Hounsfield units; SourceMissing when a file is gone.
    """
    errors = tuple(each for each in volume.findings if each.severity == "error")
    if errors:
        raise VolumeRefused(errors)
    pixels = volume.frames[0].instance.pixels
    try:
        stack = np.empty((len(volume.frames), pixels.rows, pixels.columns), np.float32)
        with tolerant_reading():
            sample = _fill(stack, volume.frames)
    except FileNotFoundError as error:
        raise SourceMissing(
            f"Files of volume {volume.id} are no longer there.", "Make the source available and run the command again."
        ) from error
    except Exception as error:  # damaged data raise nearly anything: one finding
        raise VolumeRefused((finding("undecodable-pixels", volume.id),)) from error
    if all(plane.min() == plane.max() == stack[0, 0, 0] for plane in stack):
        raise VolumeRefused((finding("constant-image", volume.id),))
    if volume.modality == "CT" and (reason := hounsfield.doubt(sample)):
        raise VolumeRefused((finding("hu-out-of-range", volume.id, reason=reason),))
    if volume.regrid:
        stack = regrid.apply(volume.regrid, stack)
    return stack.transpose(2, 1, 0)


def _fill(stack: Stack, frames: Sequence[Frame]) -> NDArray[np.float32]:
    """Reads every frame into its slice of the stack; each file is opened once. Gives a sample of the valid voxels."""
    slots: dict[Instance, list[int]] = {}
    for slot, frame in enumerate(frames):
        slots.setdefault(frame.instance, []).append(slot)
    step = hounsfield.sampling_step(stack.size)
    valid = []
    for instance, own in slots.items():
        own.sort(key=lambda slot: frames[slot].index)
        planes = stored_planes(instance, [frames[slot].index for slot in own])
        for slot, plane in zip(own, planes, strict=True):
            # While the slice is in the cache: its scale, and the sample.
            _rescale(plane, frames[slot].rescale, stack[slot])
            padded = _padding(plane[::step, ::step], instance.pixels)
            valid.append(stack[slot, ::step, ::step][~padded])
    return np.concatenate(valid)


def _padding(plane: Plane, pixels: PixelLayout) -> NDArray[np.bool_]:
    """Where a plane of stored values is padding: what lies beyond the scanner's field of view."""
    if pixels.padding is None:
        return np.zeros(plane.shape, np.bool_)
    lowest, highest = pixels.padding
    return (plane >= lowest) & (plane <= highest)


def _rescale(plane: Plane, rescale: tuple[float, float] | None, out: NDArray[np.float32]) -> None:
    slope, intercept = rescale or (1.0, 0.0)
    if slope == 1:
        np.copyto(out, plane, casting="unsafe")
    else:
        np.multiply(plane, np.float32(slope), out=out, casting="unsafe")
    if intercept:
        out += np.float32(intercept)


def stored_planes(instance: Instance, indices: Sequence[int]) -> Iterator[Plane]:
    """The stored values of some frames (in ascending order) of a file, as [row, column], through its LUT if any.

    Each is good until the next is asked for. Raises whatever the codec raises on damaged data. Must run inside
    `values.tolerant_reading`.
    """
    pixels, syntax = instance.pixels, instance.transfer_syntax
    swapped_bytes = syntax == uid.ExplicitVRBigEndian and pixels.bits_allocated == 8
    if syntax in COMPRESSED:
        planes = _decoded_planes(instance, indices)
    elif syntax in NATIVE and not swapped_bytes:
        planes = _native_planes(instance, indices)
    else:
        planes = _inflated_planes(instance, indices)
    return map(apply_modality_lut, planes, repeat(_header(instance))) if instance.has_modality_lut else planes


def _header(instance: Instance) -> pydicom.FileDataset:
    with open_file(instance.path, instance.member) as file:
        return pydicom.dcmread(file, stop_before_pixels=True)


def _native_planes(instance: Instance, indices: Sequence[int]) -> Iterator[Plane]:
    pixels = instance.pixels
    assert pixels.offset is not None
    order = ">" if instance.transfer_syntax == uid.ExplicitVRBigEndian else "<"
    dtype = np.dtype(f"{order}{'i' if pixels.signed else 'u'}{pixels.bits_allocated // 8}")
    plane = np.empty((pixels.rows, pixels.columns), dtype)
    with cast("BufferedIOBase", open_file(instance.path, instance.member)) as file:
        for index in indices:
            file.seek(pixels.offset + index * pixels.frame_bytes)
            if file.readinto(plane.data.cast("B")) < plane.nbytes:
                raise EOFError("a file that ends before its pixel data do")
            yield _without_unused_bits(plane, pixels.bits_stored, pixels.high_bit)
        # An archive tells a damaged member by its checksum, which is held against it when its end has been read.
        while instance.member and file.read(_BLOCK):
            pass


def _decoded_planes(instance: Instance, indices: Sequence[int]) -> Iterator[Plane]:
    pixels = instance.pixels
    assert pixels.offset is not None
    wanted = Wanted(instance.transfer_syntax, pixels.rows, pixels.columns, pixels.bits_allocated)
    with open_file(instance.path, instance.member) as file:
        for frame in compressed_frames(file, pixels.offset, pixels.frames, indices):
            stored = DECODER.decode(frame, wanted)
            kind = "i" if stored.signed or pixels.signed else "u"
            plane = np.frombuffer(stored.values, f"<{kind}{stored.container}").reshape(pixels.rows, pixels.columns)
            if stored.signed:
                yield plane
            elif stored.precision <= pixels.bits_stored:
                yield _without_unused_bits(plane, stored.precision, stored.precision - 1)
            else:
                yield _without_unused_bits(plane, pixels.bits_stored, pixels.high_bit)


def _inflated_planes(instance: Instance, indices: Sequence[int]) -> Iterator[Plane]:
    """By pydicom: from a deflated data set, and bytes in big-endian words."""
    with open_file(instance.path, instance.member) as file:
        dataset = pydicom.dcmread(file)
    pixels = instance.pixels
    planes = get_decoder(instance.transfer_syntax).iter_array(
        dataset, indices=indices, raw=True, correct_unused_bits=False
    )
    for plane, _ in planes:
        yield _without_unused_bits(plane, pixels.bits_stored, pixels.high_bit)


def _without_unused_bits(plane: Plane, bits_stored: int, high_bit: int) -> Plane:
    """Clears what stands beside the stored bits (once used for overlays) and extends the sign, in place if it can."""
    bits = 8 * plane.itemsize
    if bits_stored == bits:
        return plane
    out = plane if plane.flags.writeable else np.empty_like(plane)
    np.left_shift(plane, bits - high_bit - 1, out=out)
    return np.right_shift(out, bits - bits_stored, out=out)
