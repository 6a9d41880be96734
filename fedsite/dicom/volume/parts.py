"""Dividing a series into the volumes that it holds, by what is known to tell them apart.

Scanners put several volumes into one series: b0, directions, trace and ADC of a diffusion scan, the echoes of a
field map, magnitude and phase, a localizer before the slices. Each becomes a part of its own. Position in time and
acquisition number tell copies apart too, but parts by them would be repeats of one image, of which nothing says
which to learn from: such series are refused as a whole (see `series`).
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

from fedsite.dicom.model import Frame, Vector

# Maps that are computed from diffusion images: they have no b-value of their own, whatever their header says.
DIFFUSION_MAPS = frozenset({"ADC", "EADC", "FA", "COLFA", "EXPONENTIAL", "TENSOR", "DIFFUSION_TENSOR"})

PROJECTIONS = frozenset({"MIP", "MINIP", "MNIP", "MAX IP", "MIN IP", "PROJECTION IMAGE", "VRT", "SSD"})
# An original image may be called so too: scanners that reconstruct a volume name its planes MPR.
REFORMATS = frozenset({"MPR", "CSA MPR", "CSA RESAMPLED", "REFORMATTED", "RESAMPLED", "CURVED MPR", "CURVED", "CPR"})

# Words of ImageType (0008,0008) that make an image another kind of image than its neighbours in the series, the
# telling ones first.
_KINDS = ("LOCALIZER", "MOSAIC", *sorted(DIFFUSION_MAPS), "TRACEW", *sorted(PROJECTIONS))

ECHO_TOLERANCE_MS = 0.1
B_TOLERANCE = 1.0  # s/mm2
DIRECTION_TOLERANCE = 0.02
# More than any scan has are not compared with each other, only rounded.
MOST_DIRECTIONS = 1000
GREY = frozenset({"MONOCHROME1", "MONOCHROME2", ""})


Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Part:
    """Some frames of a series that may form a volume. `label` says what tells them from the rest ("" for all)."""

    label: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class _Contrast:
    """What an image shows, as far as the header says it: images that differ in it belong to different volumes."""

    kind: str
    b_value: float | None
    directionality: str | None
    direction: Vector | None
    echo_ms: float | None

    def label(self, varying: Iterable[str]) -> str:
        """The values of the attributes that vary within the series, for people and for the pseudonym."""
        directionality = (self.directionality or "NONE").lower()
        texts = {
            "kind": self.kind.lower(),
            "b_value": "" if self.b_value is None else f"b={round(self.b_value)}",
            "directionality": directionality.removeprefix("none"),
            "direction": "" if self.direction is None else "({:.2f} {:.2f} {:.2f})".format(*self.direction),
            "echo_ms": "" if self.echo_ms is None else f"echo {self.echo_ms:g} ms",
        }
        return " ".join(texts[name] for name in texts if name in varying and texts[name]) or "rest"


@dataclass(frozen=True)
class _Alike:
    """What stands for values that differ by rounding only, so that rounding tears no volume apart."""

    echoes: dict[float, float]
    b_values: dict[float, float]
    directions: dict[Vector, Vector]

    @staticmethod
    def of(frames: Sequence[Frame]) -> "_Alike":
        """The values that occur in a series."""
        return _Alike(
            _runs({frame.echo_time for frame in frames if frame.echo_time is not None}, ECHO_TOLERANCE_MS),
            _runs({frame.b_value for frame in frames if frame.b_value is not None}, B_TOLERANCE),
            _neighbours({_rounded(frame.direction) for frame in frames if frame.direction is not None}),
        )


def kind_of(frame: Frame) -> str:
    """What kind of image a frame is where that is out of the ordinary, else ""."""
    instance = frame.instance
    if instance.refusal:
        return instance.refusal
    if instance.pixels.samples != 1 or instance.pixels.photometric not in GREY:
        return "colour"
    return _kind_in(frame.image_type)


@lru_cache(maxsize=1024)  # the frames of a series have few image types
def _kind_in(image_type: tuple[str, ...]) -> str:
    kinds = (*_KINDS, *sorted(REFORMATS)) if _says_reformat(image_type) else _KINDS
    return next((kind for kind in kinds if kind in image_type), "")


def is_reformat(frame: Frame) -> bool:
    """Whether a frame was cut from another volume."""
    return _says_reformat(frame.image_type)


def _says_reformat(image_type: tuple[str, ...]) -> bool:
    return "DERIVED" in image_type[:1] and not REFORMATS.isdisjoint(image_type)


def divide(frames: Sequence[Frame], repeats: Callable[[Sequence[Frame]], bool]) -> list[Part]:
    """The parts of one series: by kind and contrast, then, where `repeats` finds slices twice, by image type."""
    alike = _Alike.of(frames)
    by_contrast = _grouped(frames, lambda frame: _contrast(frame, alike))
    names = _Contrast.__dataclass_fields__
    varying = [name for name in names if len({getattr(contrast, name) for contrast in by_contrast}) > 1]
    parts: list[Part] = []
    for contrast, members in by_contrast.items():
        label = contrast.label(varying) if len(by_contrast) > 1 else ""
        by_type = _grouped(members, lambda frame: frame.image_type)
        if len(by_type) > 1 and repeats(members):
            parts += [Part(f"{label} {'/'.join(words)}".strip(), tuple(own)) for words, own in by_type.items()]
        else:
            parts.append(Part(label, tuple(members)))
    return _distinct(parts)


def _contrast(frame: Frame, alike: _Alike) -> _Contrast:
    kind = kind_of(frame)
    echo = None if frame.echo_time is None else alike.echoes[frame.echo_time]
    if frame.instance.refusal or kind == "colour":
        return _Contrast(kind, None, None, None, None)
    if kind in DIFFUSION_MAPS or frame.b_value is None:
        return _Contrast(kind, None, None, None, echo)
    direction = None if frame.direction is None else alike.directions[_rounded(frame.direction)]
    return _Contrast(kind, alike.b_values[frame.b_value], frame.directionality, direction, echo)


def _runs(values: set[float], tolerance: float) -> dict[float, float]:
    """Each value with the first of its run: neighbours within the tolerance are one."""
    groups: dict[float, float] = {}
    first = previous = float("-inf")
    for value in sorted(values):
        first = value if value - previous > tolerance else first
        groups[value] = first
        previous = value
    return groups


def _rounded(direction: Vector) -> Vector:
    x, y, z = (round(value, 2) + 0.0 for value in direction)  # + 0.0 makes zero of minus zero
    return x, y, z


def _neighbours(directions: set[Vector]) -> dict[Vector, Vector]:
    """Each rounded direction with the one that stands for it: some lie on both sides of where rounding changes."""
    if len(directions) > MOST_DIRECTIONS:
        return {direction: direction for direction in directions}
    groups: dict[Vector, Vector] = {}
    for direction in sorted(directions):
        same = (known for known in groups.values() if math.dist(known, direction) < DIRECTION_TOLERANCE)
        groups[direction] = next(same, direction)
    return groups


def _grouped(frames: Iterable[Frame], key: Callable[[Frame], Key]) -> dict[Key, list[Frame]]:
    groups: dict[Key, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(key(frame), []).append(frame)
    return groups


def _distinct(parts: list[Part]) -> list[Part]:
    """Labels name a part: two that read alike get a number."""
    seen: dict[str, int] = {}
    result = []
    for part in parts:
        seen[part.label] = seen.get(part.label, 0) + 1
        numbered = f"{part.label} ({seen[part.label]})" if seen[part.label] > 1 else part.label
        result.append(replace(part, label=numbered))
    return result
