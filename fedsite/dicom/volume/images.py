"""What concerns the images of a volume as such, and is no matter of where they lie: kind, pixels, scale, remarks."""

from collections.abc import Callable, Iterator, Sequence

from fedsite.dicom.checks import RULES, Finding, finding
from fedsite.dicom.header import pixeldata
from fedsite.dicom.model import Frame
from fedsite.dicom.volume.parts import DIFFUSION_MAPS, PROJECTIONS, is_reformat, kind_of
from fedsite.dicom.voxels import hounsfield
from fedsite.dicom.voxels.codecs import COMPRESSED

# 8.6 GB as float32: no scan of a head is larger, and a file must not make a site allocate what it claims.
MAX_VOXELS = 1 << 31
MAX_SCALE = 1e9

_REFUSED_WORDS = {
    "LOCALIZER": "localizer",
    "MOSAIC": "mosaic",
    **dict.fromkeys(PROJECTIONS, "projection"),
}
# Volume Based Calculation Technique (0008,9207), PS3.3 C.8.16.2.1.3.
_TECHNIQUES = {
    "MAX_IP": "projection",
    "MIN_IP": "projection",
    "VOLUME_RENDER": "projection",
    "SURFACE_RENDER": "projection",
    "MPR": "reformat",
    "CURVED_MPR": "reformat",
}
_BITS_ALLOCATED = (8, 16, 32)
_DIFFUSION_WORDS = frozenset({"DIFFUSION", "TRACEW", "TRACE"})
# Patient Position (0018,5100), PS3.3 C.7.3.1.1.2, without HFS: head first and on the back, as in nearly every scan of a
# head. Only these terms are repeated in a message: whatever else stands there may be about somebody.
_UNUSUAL_POSITIONS = frozenset("HFP HFDR HFDL FFDR FFDL FFP FFS LFP LFS RFP RFS AFDR AFDL PFDR PFDL".split())


def refused_as(frames: Sequence[Frame]) -> list[str]:
    """The rules by which the kind of image alone is refused."""
    rules = {kind_of(frame) for frame in frames}
    rules |= {_REFUSED_WORDS.get(word, "") for frame in frames for word in frame.image_type}
    rules |= {_TECHNIQUES.get(frame.technique, "") for frame in frames}
    if any(is_reformat(frame) for frame in frames):
        rules.add("reformat")
    return sorted(rule for rule in rules if rule in RULES)


def image_findings(frames: Sequence[Frame]) -> Iterator[Finding]:
    """What the rules of this module find about the frames of one volume."""
    for check in _CHECKS:
        yield from check(frames)


def _pixel_faults(frames: Sequence[Frame]) -> Iterator[Finding]:
    instances = list(dict.fromkeys(frame.instance for frame in frames))
    faults = [instance.pixels.fault for instance in instances if instance.pixels.fault]
    for fault in sorted(set(faults)):
        yield finding(fault, count=faults.count(fault))
    for pixels in dict.fromkeys(instance.pixels for instance in instances):
        consistent = 0 < pixels.bits_stored <= pixels.high_bit + 1 <= pixels.bits_allocated
        empty = pixels.rows < 1 or pixels.columns < 1
        if pixels.bits_allocated not in _BITS_ALLOCATED or not consistent or empty:
            size = f"{pixels.columns} x {pixels.rows} pixels"
            stored = f"{size}, {pixels.bits_stored} of {pixels.bits_allocated} bits, high bit {pixels.high_bit}"
            yield finding("pixel-format", format=stored)
            break
    known = pixeldata.NATIVE | pixeldata.DEFLATED | COMPRESSED
    if any(instance.transfer_syntax not in known for instance in instances):
        yield finding("transfer-syntax")
    voxels = sum(frame.instance.pixels.rows * frame.instance.pixels.columns for frame in frames)
    if voxels > MAX_VOXELS:
        yield finding("too-large", voxels=voxels, limit=MAX_VOXELS)


def _rescale(frames: Sequence[Frame]) -> Iterator[Finding]:
    scales = {frame.rescale for frame in frames}
    has_lut = any(frame.instance.has_modality_lut for frame in frames)
    if None in scales and not has_lut and frames[0].instance.modality == "CT":
        yield finding("no-rescale")
    # Written so that NaN fails.
    if not all(0 < abs(scale[0]) < MAX_SCALE and abs(scale[1]) < MAX_SCALE for scale in scales if scale):
        yield finding("rescale-not-finite")
        return
    if len(scales) > 1:
        yield finding("rescale-varying")
    if frames[0].instance.modality == "CT":
        yield from _hounsfield_slope({scale[0] for scale in scales if scale})


def _hounsfield_slope(slopes: set[float]) -> Iterator[Finding]:
    odd = [slope for slope in slopes if not hounsfield.LEAST_SLOPE <= slope <= hounsfield.GREATEST_SLOPE]
    if odd:
        yield finding("hu-out-of-range", reason=f"a rescale slope of {odd[0]:g}")


def _remarks(frames: Sequence[Frame]) -> Iterator[Finding]:
    """What concerns the images as such and is no matter of geometry."""
    instances = [frame.instance for frame in frames]
    if any(instance.burned_in for instance in instances):
        yield finding("burned-in-annotation")
    shown = {instance.shows_text for instance in instances} - {""}
    if shown:
        yield finding("text-in-pixels", what=", ".join(sorted(shown)))
    if any(instance.lossy for instance in instances):
        yield finding("lossy-compression")
    if any(instance.pixels.photometric == "MONOCHROME1" for instance in instances):
        yield finding("inverted-display")
    references = {instance.frame_of_reference for instance in instances}
    if len(references) > 1:
        yield finding("mixed-frame-of-reference", count=len(references))
    elif "" in references:
        yield finding("no-frame-of-reference")
    words = set(frames[0].image_type)
    if words & _DIFFUSION_WORDS and frames[0].b_value is None and not words & DIFFUSION_MAPS:
        yield finding("b-value-unknown")


def _patient(frames: Sequence[Frame]) -> Iterator[Finding]:
    """How the patient lay, and what was injected."""
    positions = {frame.instance.patient_position for frame in frames} & _UNUSUAL_POSITIONS
    if positions:
        yield finding("patient-position", position=", ".join(sorted(positions)))
    if any(frame.instance.contrast for frame in frames):
        yield finding("contrast-agent")


_CHECKS: tuple[Callable[[Sequence[Frame]], Iterator[Finding]], ...] = (_pixel_faults, _rescale, _remarks, _patient)
